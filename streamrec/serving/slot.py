"""Hold the live version: load beside it, verify, warm up, swap one reference, keep the previous."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamrec.clock import Clock, SystemClock
from streamrec.errors import Damaged, ModelRejected, StreamrecError
from streamrec.registry.deltas import Delta, NotFollowing, join
from streamrec.serving.recommender import Recommender, check_shapes
from streamrec.state import Arrays

# Learner and server add in another order and, with another BLAS, in another precision; scores are a few units large.
SCORE_TOLERANCE = 2e-3
# An approximate index misses few of the best for usual histories and more for such as nobody has; one that is broken finds hardly any.
FOUND_AT_LEAST = 0.5


@dataclass(frozen=True)
class LiveModel:
    """Everything an answer takes from a version, behind one reference, so that no answer mixes two versions.

    Attributes:
        version: Version id.
        recommender: Ranks.
        digest: SHA-256 over the resolved arrays, as the manifest states it.
        created_ms: When the version was made, processing time.
        offsets: {topic: {partition: next offset, exclusive}} that the version learned up to.
        manifest: What the registry says about the version.
    """

    version: str
    recommender: Recommender
    digest: str
    created_ms: int
    offsets: Mapping[str, Mapping[str, int]]
    manifest: Mapping[str, Any]


@dataclass
class SlotCounters:
    """Count what the slot did since the process started."""

    loads: int = 0
    rejected: int = 0
    swaps: int = 0
    rollbacks: int = 0


@dataclass(frozen=True)
class Rejection:
    """Say which version was refused, why and when (processing time)."""

    version: str
    reason: str
    at_ms: int


def _accept(_: LiveModel) -> None:
    return None


@dataclass
class ModelSlot:
    """Serve one version and replace it while it serves.

    Args:
        warm_up: Called with the verified version before the swap, in the loading thread; whatever must be ready at the first answer.
        swapped: Called with the version that answers from now on, right after a swap, in the same thread.
        digest_of: Computes the digest of (arrays, meta); None skips the check, for versions whose bytes were checked on the way.
        clock: Processing time.

    **Contract.** `load`, `load_deltas`, `settle` and `rollback` are called by one thread at a time; `current` may be read by any thread at any
    time and is replaced by one assignment. A failed load raises, leaves the live version serving and keeps its reason in `last_rejection`.
    """

    warm_up: Callable[[LiveModel], None] = _accept
    swapped: Callable[[LiveModel], None] = _accept
    digest_of: Callable[[Arrays, Mapping[str, Any]], str] | None = None
    clock: Clock = field(default_factory=SystemClock)
    current: LiveModel | None = None
    previous: LiveModel | None = None
    last_rejection: Rejection | None = None
    counters: SlotCounters = field(default_factory=SlotCounters)

    def load(self, manifest: Mapping[str, Any], arrays: Arrays, meta: Mapping[str, Any]) -> LiveModel:
        """Verify a version and make it the live one; the one that was live becomes `previous`.

        Loading the version that is live already changes nothing; loading the previous one is a rollback.

        Args:
            manifest: The registry's manifest; ``version`` is needed, ``digest`` and ``probes`` are checked when there.
            arrays: The resolved arrays.
            meta: ``scale``, ``history_length``, ``dim``.

        Raises:
            ModelRejected: The version is incomplete, not finite, has another digest than stated or answers a probe otherwise.
        """
        return self._take(manifest, lambda version: self._build(version, manifest, arrays, meta))

    def load_deltas(self, manifest: Mapping[str, Any], deltas: Sequence[Delta]) -> LiveModel:
        """Make a version from one of `held`, verify it and make it the live one; see `load`.

        Args:
            manifest: The registry's manifest, with its ``digest``.
            deltas: What changed since the version that is held, in order; none where the version is held under another name.

        Raises:
            NotFollowing: They lead from none of `held` to the version, or don't fit. The whole is needed; nothing was refused.
            ModelRejected: What changed is not finite, or a probe is answered otherwise.
        """
        return self._take(manifest, lambda version: self._update(version, manifest, deltas))

    @property
    def held(self) -> list[str]:
        """Return the digests of the versions that deltas can follow."""
        return [model.digest for model in (self.current, self.previous) if model is not None and model.digest]

    def _take(self, manifest: Mapping[str, Any], build: Callable[[str], LiveModel]) -> LiveModel:
        version = str(manifest.get("version") or "")
        identity = version, str(manifest.get("digest") or "")
        if self.current is not None and identity == (self.current.version, self.current.digest):
            return self.current
        if self.previous is not None and identity == (self.previous.version, self.previous.digest):
            return self.rollback()
        self.counters.loads += 1
        try:
            candidate = build(version)
            # The same weights under another name are warm, and answer requests in another thread.
            if self.current is None or candidate.recommender is not self.current.recommender:
                check_probes(candidate.recommender, manifest.get("probes") or {})
                self.warm_up(candidate)
        except NotFollowing:
            raise
        except (StreamrecError, ValueError, TypeError, KeyError, IndexError) as error:
            self.counters.rejected += 1
            self.last_rejection = Rejection(version, str(error), self.clock.now_ms())
            if isinstance(error, ModelRejected):
                raise
            what = f"Model: version {version} can't be loaded ({type(error).__name__}: {error})"
            raise ModelRejected(what, do="publish the version again", version=version) from error
        self._swap(candidate)
        return candidate

    def settle(self) -> bool:
        """Do a few milliseconds of what the last delta left for later; False when nothing is left. See `streamrec.serving.index.Index.settle`."""
        return any(model is not None and model.recommender.settle() for model in (self.current, self.previous))

    def rollback(self) -> LiveModel:
        """Make the previous version live again; it is still warm.

        Raises:
            ModelRejected: There is none.
        """
        if self.previous is None:
            what = "Model: there is no previous version to go back to"
            raise ModelRejected(what, got=self.current.version if self.current else "no version", do="promote a version first")
        self.counters.rollbacks += 1
        self._swap(self.previous)
        assert self.current is not None
        return self.current

    def _swap(self, candidate: LiveModel) -> None:
        self.previous, self.current = self.current, candidate
        self.counters.swaps += 1
        self.swapped(candidate)

    def _build(self, version: str, manifest: Mapping[str, Any], arrays: Arrays, meta: Mapping[str, Any]) -> LiveModel:
        if not version:
            what = "Model: the manifest names no version"
            raise ModelRejected(what, got=sorted(manifest), do="publish through the registry")
        check_shapes(arrays, meta)
        check_finite(arrays)
        stated = str(manifest.get("digest") or "")
        if stated and self.digest_of is not None:
            found = self.digest_of(arrays, meta)
            if found != stated:
                what = f"Model: version {version} is not the one that its manifest describes"
                raise ModelRejected(what, got=f"digest {found}", allowed=stated, do="publish the version again", version=version)
        recommender = Recommender(arrays, meta) if self.current is None else self.current.recommender.followed_by(arrays, meta)
        return _live(version, manifest, recommender)

    def _update(self, version: str, manifest: Mapping[str, Any], deltas: Sequence[Delta]) -> LiveModel:
        digest = str(manifest.get("digest") or "")
        start = deltas[0].base if deltas else digest
        base = next((model for model in (self.current, self.previous) if model is not None and digest and model.digest == start), None)
        if base is None:
            what = f"Model: version {version} follows one that is not held"
            raise NotFollowing(
                what, got=start[:12], allowed=", ".join(held[:12] for held in self.held) or "none is held", do="ask for the whole version"
            )
        if not deltas:
            return _live(version, manifest, base.recommender)
        change = join(start, deltas, digest)
        check_finite(change.arrays)
        try:
            return _live(version, manifest, base.recommender.updated(change))
        except Damaged as error:
            what = f"Model: version {version} can't be made from a delta ({error})"
            raise NotFollowing(what, do="ask for the whole version") from error


def _live(version: str, manifest: Mapping[str, Any], recommender: Recommender) -> LiveModel:
    digest, offsets = str(manifest.get("digest") or ""), manifest.get("offsets") or {}
    return LiveModel(version, recommender, digest, int(manifest.get("created_ms") or 0), offsets, manifest)


def check_finite(arrays: Arrays) -> None:
    """Refuse arrays with a NaN or an infinity.

    Raises:
        ModelRejected: With the array and how many values are not finite.
    """
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int((~np.isfinite(array)).sum())
            what = f"Model: array {name} is not finite"
            raise ModelRejected(what, got=f"{bad} NaN or infinite values", allowed="none", do="return to the last good version")


def check_probes(recommender: Recommender, probes: Mapping[str, Any], tolerance: float = SCORE_TOLERANCE) -> None:
    """Ask the probe histories and compare the answers with what the learner expected.

    Args:
        recommender: The candidate.
        probes: ``history`` (rows, newest first), ``top`` (rows, best first) and ``score``, one list per probe; ``namespace`` (name per
            probe) where a version has several. Items whose scores lie within ``tolerance`` of each other may change places, and an approximate
            index may miss some.
        tolerance: Allowed difference of a score.

    Raises:
        ModelRejected: A probe is answered otherwise.
    """
    namespaces = probes.get("namespace") or []
    num_wanted = num_found = 0
    for number, (history, expected, scores) in enumerate(zip(probes.get("history", []), probes.get("top", []), probes.get("score", []), strict=True)):
        namespace = namespaces[number] if number < len(namespaces) else _namespace_of(recommender, expected)
        asked, wanted = np.asarray(history, np.int32), np.asarray(scores, np.float32)
        rows, values = recommender.rank(asked, len(expected), namespace=namespace)
        if not recommender.is_exact(namespace):
            # What is searched approximately lacks some of the best, but what it scores it scores exactly.
            num_wanted, num_found = num_wanted + len(expected), num_found + len(set(expected) & set(rows.tolist()))
            rows, values = np.asarray(expected, np.int32), recommender.score(asked, np.asarray(expected, np.int32))
        if len(values) != len(wanted) or not np.allclose(values, wanted, rtol=0, atol=tolerance):
            _refuse(number, f"scores {values.tolist()}", wanted.tolist())
        boundary = wanted[-1] + 2 * tolerance if len(wanted) else np.float32(0)
        firm = {row for row, score in zip(expected, scores, strict=True) if score > boundary}
        if not firm <= set(rows.tolist()):
            _refuse(number, f"items {rows.tolist()}", list(expected))
    if num_found < FOUND_AT_LEAST * num_wanted:
        what = "Model: the index does not find the items that probes expect"
        raise ModelRejected(what, got=f"{num_found} of {num_wanted}", allowed=f"{FOUND_AT_LEAST:.0%}", do="check the index of large catalogues")


def _namespace_of(recommender: Recommender, rows: list[int]) -> str:
    return next((name for name in recommender.namespaces if rows and recommender.holds(name, rows[0])), "default")


def _refuse(number: int, got: str, allowed: object) -> None:
    what = f"Model: probe {number} is answered otherwise than the learner expected"
    raise ModelRejected(what, got=got, allowed=allowed, do="check that learner and server use the same formula")
