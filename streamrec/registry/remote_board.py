"""Talk to the board from a driver or a command line; blocking."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from streamrec.code_version import code_version
from streamrec.registry.board import Board
from streamrec.registry.board_names import BOARD_NAMESPACE, board_name
from streamrec.registry.deltas import Delta
from streamrec.registry.version import ROWS, VALUES
from streamrec.state import Arrays
from streamrec.telemetry.numbers import Taken

logger = logging.getLogger(__name__)


class RemoteBoard:
    """Talk to the board actor; blocking, for drivers and command lines.

    Args:
        actor: Handle of a `Board`.
        timeout_s: Longest wait for an answer.

    Example:
        board = RemoteBoard.get_or_create(registry_url)
        move = registry.promote(version, "not worse than the live one")
        board.publish(manifest.model_dump(mode="json"), arrays, meta, promotion=move.number)
    """

    def __init__(self, actor: ActorHandle[Any], timeout_s: float = 30.0) -> None:
        self.actor = actor
        self._timeout_s = timeout_s
        # Digest and arrays of what the board was given last.
        self._given: tuple[str, Arrays] = ("", {})

    @classmethod
    def get_or_create(cls, registry_url: str | None = None, student: str = "default", log_format: str = "plain") -> RemoteBoard:
        """Return the board of a student's registry; the first call creates it, detached, so that it outlives its creator."""
        options = {
            "name": board_name(registry_url, student),
            "namespace": BOARD_NAMESPACE,
            "lifetime": "detached",
            "get_if_exists": True,
            "num_cpus": 0,
            "max_restarts": -1,
            # Every method may be repeated, so a call that a restart interrupted is sent again.
            "max_task_retries": 3,
        }
        return cls(cast("ActorHandle[Any]", ray.remote(Board).options(**options).remote(registry_url, student, log_format)))

    @classmethod
    def exists(cls, registry_url: str | None = None, student: str = "default") -> bool:
        """Return whether the cluster has this board."""
        try:
            ray.get_actor(board_name(registry_url, student), namespace=BOARD_NAMESPACE)
        except ValueError:
            return False
        return True

    def publish(self, manifest: dict[str, Any], arrays: Arrays, meta: Mapping[str, Any], promotion: int | None = None) -> int:
        """Make a version the newest promoted one, by what changed since the last one where that is little; see `Board.publish`."""
        digest, seq = str(manifest.get("digest") or ""), None
        # An older streamrec's board takes no deltas, and one that was made anew may hold another version: then it gets the whole.
        delta = Delta.between(*self._given, digest, arrays, meta) if hasattr(self.actor, "publish_delta") else None
        if delta is not None:
            seq = self._get(self.actor.publish_delta.remote(manifest, delta, dict(meta), promotion))
        if seq is None:
            seq = self._get(self.actor.publish.remote(manifest, dict(arrays), dict(meta), promotion))
        self._given = digest, {name: self._kept(name, array, delta) for name, array in arrays.items()}
        return int(seq)

    def _kept(self, name: str, array: NDArray[Any], delta: Delta | None) -> NDArray[Any]:
        """Return an array as it was given, for the next delta to be against: a copy, brought up to date or new, where others may write to it."""
        if not array.flags.writeable:
            return array
        copy, changed = self._given[1].get(name), delta.change.arrays if delta is not None else {}
        if copy is None or not copy.flags.writeable or copy.shape != array.shape or name + ROWS not in changed:
            return array.copy()
        copy[changed[name + ROWS]] = changed[name + VALUES]
        return copy

    def promote_from_registry(self, version_id: str | None = None) -> int:
        """Publish what is live in the registry; see `Board.promote_from_registry`."""
        return int(self._get(self.actor.promote_from_registry.remote(version_id)))

    def live(self) -> tuple[int, str]:
        """Return the live promotion's number and version id; (0, "") when nothing was promoted."""
        seq, version = self._get(self.actor.live.remote())
        return int(seq), str(version)

    def swap_report(self) -> list[dict[str, Any]]:
        """Return for each promotion how long it took until all live replicas answered with it; see `Swap.report`."""
        return list(self._get(self.actor.swap_report.remote()))

    def other_code(self) -> str:
        """Return which code the board runs if that is not this process's; "" where it is, or where the board does not answer."""
        if not hasattr(self.actor, "code"):
            return "an older streamrec"
        try:
            runs = str(self._get(self.actor.code.remote()))
        except RayError:
            return ""
        return "" if runs == code_version() else runs

    def tell(self, source: str, numbers: Taken) -> None:
        """Tell the board what a source counts; returns at once."""
        if hasattr(self.actor, "tell"):  # An older streamrec's takes none.
            self.actor.tell.remote(source, numbers)

    def told_age_s(self, source: str) -> float | None:
        """Return how long ago a source has told its numbers; None where it never has, or the board does not say."""
        try:
            told = self._get(self.actor.told.remote())
        except (AttributeError, RayError):
            return None
        ages = [taken.get("streamrec_told_age_seconds", {}).get((source,)) for taken in told]
        return next((float(age.value) for age in ages if age is not None), None)

    def claim(self, server: str, *, made: bool) -> None:
        """Note which server answers with this board's versions; see `Board.claim`."""
        if hasattr(self.actor, "claim"):  # An older streamrec's has none.
            self._get(self.actor.claim.remote(server, made))

    def claimed(self) -> tuple[str, bool]:
        """Return the newest server, and whether a server made the board; ("", False) where the board does not answer."""
        try:
            server, made = self._get(self.actor.claimed.remote())
        except (AttributeError, RayError):
            return "", False
        return str(server), bool(made)

    def kill(self) -> None:
        """End the board for good."""
        ray.kill(self.actor, no_restart=True)

    def _get(self, reference: Any) -> Any:
        return ray.get(reference, timeout=self._timeout_s)
