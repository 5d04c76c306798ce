"""Say what a stream's state amounts to, from storage alone, and where two of them differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from deltalake import DeltaTable

from streamrec.clock import SystemClock
from streamrec.config import Config
from streamrec.errors import StorageError
from streamrec.log.base import TableReader
from streamrec.log.lake_table import lake_address
from streamrec.log.memory import MemoryLog
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.dead_letter_box import DeadLetterBox
from streamrec.pipeline.layout import checkpoint_url, lake_url, registry_url
from streamrec.pipeline.wiring import build_local
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage
from streamrec.testing.chaos.records import USERS


def fingerprint(config: Config, state_url: str, log: TableReader) -> dict[str, Any]:
    """Return by name everything that must not depend on what was killed.

    Args:
        config: Settings of the run.
        state_url: Storage address of its state, on which nothing runs any more.
        log: Holds the run's dead letters, in a topic that no other run has sent any to.

    Raises:
        StorageError: Nothing was ever committed.
    """
    loaded = CheckpointStore(open_storage(checkpoint_url(state_url))).load_newest()
    if loaded is None:
        what = "Chaos: the state has no commit"
        raise StorageError(what, got=state_url, do="look for what ended the run before its first commit")
    controller = build_local(config, MemoryLog(), state_url, SystemClock(), durable=False)
    components = controller.components()
    for name, component in components.items():
        base, *deltas = loaded.components[name]
        component.restore(base, deltas)
    registry = Registry(open_storage(registry_url(state_url)))
    rows = _lake_rows(config, state_url)
    return {
        **_derived(controller),
        **{f"component {name}": component.digest() for name, component in components.items()},
        "versions": {str(version): registry.manifest(version).digest for version in registry.versions()},
        "moves": [(move.action, move.version) for move in registry.history()],
        "live": registry.live(),
        "lake rows": rows,
        "events by namespace": dict(sorted(Counter(namespace for _, _, _, namespace, *_ in rows).items())),
        "dead letters": letter_places(log, config.log.dead_letter_topic),
        "receipts": receipts_of(state_url),
    }


def letter_places(log: TableReader, topic: str) -> list[tuple[str, int, int, str]]:
    """Return source topic, partition, offset and reason of each whole dead letter, in order: once, since delivery is at least once."""
    letters = [letter for letter in DeadLetterBox(log, topic).letters() if not letter.missing_parts]
    return sorted({(letter.place.topic, letter.place.partition, letter.place.offset, letter.reason) for letter in letters})


def receipts_of(state_url: str) -> dict[str, dict[str, Any]]:
    """Return every deletion's receipt by its key, without the addresses of lakes and letters, which differ from run to run."""
    storage = open_storage(state_url)
    receipts = {key: json.loads(storage.read(key)) for key in storage.list("deletions")}
    return {key: {**receipt, "lakes": list(receipt["lakes"].values()), "topics": list(receipt["topics"])} for key, receipt in receipts.items()}


def _derived(controller: Controller) -> dict[str, Any]:
    """Return the counts that a reader of a difference understands."""
    ingest, state = controller.ingest, controller.state
    keys = ingest.vocabulary.keys()
    counts = ingest.popularity.counts(len(keys))
    return {
        "books": dict(state.counts),
        "labels": dict(state.labels),
        "offsets": dict(state.offsets),
        "vocabulary": keys,
        "events by item": {key: float(count) for key, count in zip(keys, counts, strict=True)},
        "events by user": {user: [keys[row] for row in ingest.histories.get(*user).tolist()] for user in USERS},
        "tombstones": {name: column.tolist() for name, column in ingest.tombstones.snapshot().arrays.items()},
    }


def _lake_rows(config: Config, state_url: str) -> list[tuple[Any, ...]]:
    """Return place, batch and event of every row of the event lake, in order."""
    names = ("partition", "offset", "batch", "namespace", "user_id", "item_id", "event_id", "event_time")
    table = DeltaTable(lake_address(config.lake.address or lake_url(state_url))).to_pyarrow_table(columns=list(names))
    return sorted(zip(*(table[name].to_pylist() for name in names), strict=True))


def differences(wanted: Mapping[str, Any], got: Mapping[str, Any]) -> dict[str, str]:
    """Return what differs, by name, each with one sentence that shows the first difference."""
    return {name: _first(wanted.get(name), got.get(name)) for name in {**wanted, **got} if wanted.get(name) != got.get(name)}


def _first(wanted: Any, got: Any) -> str:
    if isinstance(wanted, list) and isinstance(got, list):
        lacking, extra = ([row for row in one if row not in other] for one, other in ((wanted, got), (got, wanted)))
        if lacking or extra:
            return f"lacks {str(lacking[:3])[:300]}, has besides {str(extra[:3])[:300]}"
    if isinstance(wanted, dict) and isinstance(got, dict):
        key = next(key for key in {**wanted, **got} if wanted.get(key) != got.get(key))
        return f"{key}: {_first(wanted.get(key), got.get(key))}"
    return f"wanted {str(wanted)[:200]}, got {str(got)[:200]}"
