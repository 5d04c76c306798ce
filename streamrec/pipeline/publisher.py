"""Publish the student's weights, ask the gate, and move the live alias."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamrec.config import Config
from streamrec.errors import Damaged, ModelRejected
from streamrec.features.vocabulary import Vocabulary
from streamrec.pipeline.tracing import LineTraces, VersionTraces
from streamrec.registry.gate import NO_DOUBTS, Decision, Gate, Health, Reason, Verdict, Window
from streamrec.registry.guard import Guarded
from streamrec.registry.registry import Registry
from streamrec.registry.usual import Doubts
from streamrec.registry.version import Probes, VersionFacts
from streamrec.serving.catalog import Catalog
from streamrec.serving.recommender import Recommender
from streamrec.serving.slot import check_finite, check_probes
from streamrec.soft_labels.say import Say
from streamrec.state import Arrays, pack_strings

logger = logging.getLogger(__name__)


class PromotionBoard(Protocol):
    """Whoever brings a promoted version to the replicas."""

    def publish(self, manifest: dict[str, Any], arrays: Arrays, meta: Mapping[str, Any], promotion: int | None = None) -> int:
        """Hand out a version; later promotions have higher numbers."""
        ...


class Publisher:
    """Turn exported weights into versions and decide on them.

    **Contract.** All methods may be called again with the same arguments after a crash: publishing the same weights under the same name,
    storing the same decision and promoting what is live change nothing.

    Args:
        config: The gate's settings, and which versions are kept.
        registry: Of one student.
        board: Gets promoted versions.
        traces: Tell of that student's versions.
    """

    def __init__(self, config: Config, registry: Registry, board: PromotionBoard | None, traces: LineTraces | None = None) -> None:
        self._config = config
        self._registry = registry
        self._board = board
        self._traces = traces or VersionTraces().of("")
        self._gate = Gate(config.registry)
        self._newest: tuple[str, dict[str, Any], Arrays, dict[str, Any]] | None = None
        self._health: dict[str, Health] = {}

    def publish(self, name: str, export: tuple[Arrays, dict[str, Any]], probes: Mapping[str, Any], items: ItemFacts, facts: VersionFacts) -> str:
        """Store a version, the learner's arrays plus ids and popularity, and return what it is called.

        That is ``name``, unless this step was taken before, and with other weights: it was not committed, and is taken again under other settings, by
        another release or on another machine.
        """
        began_ms = self._traces.now_ms()
        arrays, meta = {**export[0], **items.arrays(len(export[0]["item_bias"]))}, {**export[1], **items.meta()}
        facts = facts.model_copy(update={"probes": Probes.model_validate(dict(probes))})
        version = self._registry.free_name(name, arrays, meta)
        if version != name:
            what = "%s was published by an earlier run, with other settings, by another release or on another machine: this run's is %s"
            logger.warning(what, name, version, extra={"model_version": version})
        manifest = self._registry.publish(version, arrays, meta, facts)
        self._newest = (version, manifest.model_dump(mode="json"), arrays, meta)
        self._health[version] = _examine(version, arrays, meta, probes)
        self._traces.published(version, began_ms, facts.offsets)
        return version

    def decide(self, candidate: str, live: str | None, window: Window, is_idle: bool, doubts: Doubts = NO_DOUBTS) -> Decision:
        """Ask the gate, store its decision, and promote when it says so.

        Raises:
            Damaged: The registry has lost what is live.
        """
        trace = self._traces.gate(candidate)
        health = self._health.get(candidate) or self._reexamine(candidate)
        decision = self._gate.decide(health, Health(live) if live else None, window, is_idle=is_idle, doubts=doubts)
        if decision.verdict is Verdict.WAIT:
            return decision
        decision = self._registry.record_decision(decision)
        newest = self.live()
        if newest is None and live is not None:
            what = f"Registry: {live} is live by the stream, and what says so is gone, alias and history"
            do = "restore the registry from a copy, or make the state anew: python -m jobs.rebuild --anew"
            raise Damaged(what, got=f"nothing in {self._registry.history_address}", do=do)
        if decision.promote and self._registry.was_promoted(candidate):
            logger.info("version %s was promoted before a crash: %s stays live", candidate, newest)
            self._registry.complete()
        elif decision.promote and live is not None and newest != live:
            logger.info("version %s was compared with %s, but %s is live by an operator or an earlier run: the alias stays", candidate, live, newest)
        elif decision.promote:
            move = self._registry.promote(candidate, decision.reason, decision)
            if self._board is not None:
                manifest, arrays, meta = self._held(candidate)
                self._board.publish({**manifest, **trace.carried()}, arrays, meta, move.number)
        else:
            logger.warning("version %s is not promoted: %s", candidate, decision.reason, extra={"model_version": candidate})
        self._health.pop(candidate, None)
        trace.end(decision)
        return decision

    def live(self) -> str | None:
        """Return what is live in the registry, which a rollback may have moved: by the last move, because a crash may have left the alias behind."""
        return next((move.version for move in self._registry.history(1)), None)

    def put_back(self, version: str, reason: str) -> None:
        """Make a version live because an operator says so; see `Registry.promote`."""
        self._registry.promote(version, reason)

    def go_back(self, guarded: Guarded, batch: int) -> None:
        """Make a version live again because the one that is live leads to less; the decision says by which numbers. See `Registry.return_to`."""
        rejected = {"verdict": Verdict.REJECT, "code": Reason.LIVE_WORSE, "candidate": guarded.version, "live": guarded.to, "batch": batch}
        decision = Decision.model_validate({**rejected, "numbers": guarded.numbers, "reason": guarded.reason})
        self._registry.record_decision(decision)
        self._registry.return_to(guarded.to, guarded.version, guarded.reason)

    def load(self, version: str) -> tuple[Arrays, dict[str, Any]]:
        """Return a version's arrays and meta."""
        _, arrays, meta = self._held(version)
        return arrays, meta

    def forget_before(self, version: str, event_id: str) -> None:
        """Let nobody go back to a version older than this one; see `Registry.forget_before`."""
        self._registry.forget_before(version, event_id)

    def prune(self, now_ms: int, not_before: str | None = None, held: Collection[str | None] = ()) -> None:
        """Remove versions that the keep policy gives up, and refuse to go back behind a deletion; see `Registry.prune`."""
        if not_before is not None:  # Noted at the deletion, unless that was in a rebuild, which publishes nothing, or by an earlier streamrec.
            self._registry.forget_before(not_before)
        self._registry.prune(now_ms, self._config.registry, not_before, [version for version in held if version is not None])

    def _held(self, version: str) -> tuple[dict[str, Any], Arrays, dict[str, Any]]:
        if self._newest is not None and self._newest[0] == version:
            return self._newest[1:]
        stored = self._registry.load_named(version)
        return stored.manifest.model_dump(mode="json"), stored.arrays, stored.meta

    def _reexamine(self, version: str) -> Health:
        manifest, arrays, meta = self._held(version)
        return _examine(version, arrays, meta, manifest.get("probes") or {})


class ItemFacts:
    """Hold what a version says of items besides weights: ids, namespaces, popularity, who expects them.

    Args:
        vocabulary: Names rows.
        popularity: How much their uses count. [V]
        counted: How that was counted; see `streamrec.features.recent_uses.RecentUses.facts`.
        say: Returns what teachers say of items; asked once, when a version is made.
    """

    def __init__(
        self, vocabulary: Vocabulary, popularity: NDArray[np.float32], counted: Mapping[str, float], say: Callable[[], Say | None] = lambda: None
    ) -> None:
        self._vocabulary = vocabulary
        self._popularity = popularity
        self._counted = dict(counted)
        self._say = cache(say)

    def without_say(self) -> ItemFacts:
        """Return the same for a version that learned from no teacher."""
        return ItemFacts(self._vocabulary, self._popularity, self._counted)

    def meta(self) -> dict[str, Any]:
        """Return what belongs to the arrays."""
        say = self._say()
        labels = {} if say is None else {"labels": {"teachers": dict(say.versions), "queries": say.num_queries}}
        return {"popularity": self._counted, **labels}

    def arrays(self, num_rows: int) -> dict[str, NDArray[Any]]:
        """Return the arrays for the first ``num_rows`` rows."""
        ids = self._vocabulary.packed_ids()
        names, name_offsets = pack_strings(self._vocabulary.namespaces)
        say = self._say()
        known = slice(0, 0 if say is None else int(np.searchsorted(say.rows, num_rows)))
        said: dict[str, NDArray[Any]] = {} if say is None else {"label_rows": say.rows[known], "label_parts": say.parts[known]}
        return {
            **said,
            "item_id_bytes": ids.data[: ids.offsets[num_rows]],
            "item_id_offsets": ids.offsets[: num_rows + 1],
            "namespace_bytes": names,
            "namespace_offsets": name_offsets,
            "popularity": self._popularity[:num_rows],
        }


def _examine(version: str, arrays: Arrays, meta: dict[str, Any], probes: Mapping[str, Any]) -> Health:
    """Check that the weights are finite and that serving's own code answers the probes as the learner does."""
    try:
        check_finite(arrays)
    except ModelRejected as error:
        return Health(version, is_finite=False, detail=str(error))
    try:
        # Whether the formula agrees: a large catalogue's index takes seconds to make, and is the replicas' to judge.
        check_probes(Recommender(arrays, meta, Catalog(arrays), exact_rows=len(arrays["item_bias"])), probes)
    except ModelRejected as error:
        return Health(version, probes_pass=False, detail=str(error))
    return Health(version)
