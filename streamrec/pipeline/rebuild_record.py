"""Fix what a rebuild is made from before its first step, so that one that was cut off goes on and takes the same steps."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from streamrec.config import Config
from streamrec.errors import DataError, OperatorError
from streamrec.log.base import TableReader
from streamrec.log.lake import EventLake
from streamrec.migrations import number_of
from streamrec.pipeline.bootstrap import chunk_of
from streamrec.pipeline.checkpoint import Checkpoint, CheckpointStore
from streamrec.pipeline.lake_writer import open_lake
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.lineage import NOTES, known_lineage, read_small, url_of
from streamrec.pipeline.rebuild_gap import BEGIN_HERE, Gap, check_no_gap, find_gaps
from streamrec.storage import Storage, open_storage, tidy

logger = logging.getLogger(__name__)

_KEY = "REBUILD"
_MAKING = ("seed", "events", "features", "student", "teachers", "soft_labels")
_PARTS = ("checkpoint", "plans", "teachers", "lake")
_BY_PARTITION = ("begins", "ends", "until")


@dataclass(frozen=True)
class Record:
    """Say what a lineage is made from.

    Attributes:
        source: Folder of the lineage that it is made from.
        lake_address: Of that lineage's lake, as its configuration had it; None reads the log alone.
        begins: Partition to the first offset of the lake.
        ends: Partition to the offset where the lake ends and the log begins (exclusive).
        until: Partition to the offset up to which the backlog is learned; what comes later is caught up with.
        chunk: Records of a step over the backlog.
        made_with: The settings that shape what is learned.
        lake_to: ``lake.address`` as it was configured, beside which the new lake goes; empty for one within the lineage, or none; None in
            records of before this was kept.
        lost: Records that left the log before they were committed, less those that the lake has; counted where the operator has said so.
    """

    source: str
    lake_address: str | None
    begins: Mapping[int, int]
    ends: Mapping[int, int]
    until: Mapping[int, int]
    chunk: int
    made_with: Mapping[str, Any]
    lake_to: str | None
    lost: int = 0

    def write(self, storage: Storage) -> None:
        """Keep the record in its lineage's folder, once."""
        values = asdict(self)
        by_partition = {name: {str(partition): offset for partition, offset in values[name].items()} for name in _BY_PARTITION}
        storage.write_new(_KEY, json.dumps({"format": number_of("rebuild"), **values, **by_partition}, sort_keys=True, indent=1).encode())

    def source_url(self, state_url: str) -> str:
        """Return the address of the lineage that this one is made from."""
        return url_of(state_url, self.source)

    def lake(self, config: Config, state_url: str) -> EventLake | None:
        """Open the source's lake, if it is read."""
        return None if self.lake_address is None else _lake(config, self.source_url(state_url), self.lake_address)


def read_record(storage: Storage) -> Record | None:
    """Return the record of a lineage's folder; None where no rebuild was begun, or it was begun and is being removed.

    Raises:
        Damaged: It can't be read.
    """
    remedy = "restore it from a copy; without one remove it, and a rebuild that has not taken over begins anew"
    return read_small(storage, _KEY, "rebuild", _record, remedy)


def _record(values: dict[str, Any]) -> Record:
    by_partition = {name: {int(partition): offset for partition, offset in values[name].items()} for name in _BY_PARTITION}
    return Record(**{**{name: value for name, value in values.items() if name != "format"}, **by_partition})


def has_record(storage: Storage) -> bool:
    """Return whether a lineage's folder has a record, torn or not."""
    return storage.exists(_KEY)


def remove_record(storage: Storage) -> None:
    """Remove a lineage's record: nobody goes on with it from here on."""
    storage.delete(_KEY)


def remove_lineage(storage: Storage, *, receipts: bool) -> None:
    """Remove what lies in a lineage's folder, the record first: whatever is left then is removed by whoever comes next.

    Args:
        storage: The folder's.
        receipts: Remove receipts of deletions and notes of lakes elsewhere too, which only a lineage that never became current may lose.
    """
    remove_record(storage)
    for folder in (*_PARTS, *(("deletions", NOTES) if receipts else ())):
        for key in storage.list(folder):
            storage.delete(key)
        tidy(storage, folder)
    tidy(storage)


def holds_state(storage: Storage) -> bool:
    """Return whether a lineage's folder has anything that `remove_lineage` removes in any case."""
    return has_record(storage) or any(storage.list(folder) for folder in _PARTS)


def made_with(config: Config) -> dict[str, Any]:
    """Return the settings that shape what is learned, as JSON values."""
    values = config.model_dump(mode="json", include=set(_MAKING))
    return dict(json.loads(json.dumps(values)))


def lake_to(config: Config) -> str:
    """Return the configured place beside which a rebuilt lineage's lake goes; see `Record`."""
    return config.lake.address if config.lake.enabled else ""


def differences(held: Mapping[str, Any], mine: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the settings, by dotted name, that two sets of JSON values have otherwise: what is held, then what is mine; None where one has none."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in sorted({*held, *mine}):
        one, other = held.get(name), mine.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found |= differences(one, other, f"{prefix}{name}.")
        elif one != other:
            found[f"{prefix}{name}"] = (one, other)
    return found


def new_record(
    config: Config,
    state_url: str,
    source: str,
    log: TableReader,
    *,
    from_log: bool = False,
    skip_lost: bool = False,
    say: Callable[[str], None] = logger.info,
) -> Record:
    """Look at the source's newest commit, its lake and the log, and return what a lineage is to be made from.

    Args:
        config: The new settings.
        state_url: The state's address.
        source: Folder of the lineage that it is made from.
        log: The event log.
        from_log: Read the log alone from its beginning, whatever the lake holds.
        skip_lost: Where the log begins behind what is committed, take from the lake what it holds up to there, and the rest for lost.
        say: Gets a line for each partition with such a gap.

    Raises:
        OperatorError: There is no state to rebuild, or its topic was made anew once.
        RetentionGap: The log begins behind what is committed, and that is not to be skipped.
        DataError: The lake lacks events that the log does not have any more, or is not to be read.
    """
    loaded = load_source(url_of(state_url, source))
    topic = config.log.events_topic
    until = log.latest(topic)
    address = None if from_log else _whole_lake(loaded, config, url_of(state_url, source))
    begins: dict[int, int] = {}
    ends: dict[int, int] = {}
    gaps: list[Gap] = []
    if address is not None:
        stream = loaded.components["stream"][0].meta
        ends = {int(partition): int(offset) for partition, offset in stream["offsets"].items()}
        lake = _lake(config, url_of(state_url, source), address)
        gaps = find_gaps(lake, ends, log.earliest(topic))
        if not skip_lost:
            check_no_gap(topic, {gap.partition: gap.held for gap in gaps}, log.earliest(topic), BEGIN_HERE)
        for gap in gaps:
            ends[gap.partition] = gap.start
            say(f"{topic}[{gap.partition}] {gap}")
        begins = _begins(lake, ends, is_of_two=bool(stream.get("topic_batch", 0)))
    elif lost := {partition: offset for partition, offset in log.earliest(topic).items() if offset}:
        lacks = "the lake is not to be read" if from_log else "the lake does not hold every event that the state has applied"
        what = f"Rebuild: {lacks}, and the log has dropped its first ones"
        do = "leave out --from-log" if from_log else "begin a new `state` with python -m jobs.bootstrap"
        raise DataError(what, got=f"earliest offsets {lost}", do=do)
    starts = {partition: begins.get(partition, 0) for partition in until}
    num_lost = sum(gap.num_lost for gap in gaps)
    return Record(source, address, begins, ends, until, chunk_of(starts, until), made_with(config), lake_to(config), num_lost)


def load_source(source_url: str) -> Checkpoint:
    """Load what a rebuild needs of a lineage's newest commit: where its lake ends, and who must not come back.

    Raises:
        OperatorError: Nothing was committed there.
    """
    loaded = CheckpointStore(open_storage(checkpoint_url(source_url))).load_newest(only=("stream", "lake", "tombstones"))
    if loaded is None or loaded.components["stream"][0].meta.get("live") is None:
        what = "Rebuild: there is no state that was bootstrapped"
        raise OperatorError(what, got=source_url, do="run python -m jobs.bootstrap")
    return loaded


def _whole_lake(loaded: Checkpoint, config: Config, source_url: str) -> str | None:
    """Return the address of a lake that holds every event that the commit has applied, None where there is none."""
    manifest = dict(loaded.components["lake"][0].meta) if "lake" in loaded.components else {}
    address: str | None = manifest.get("address")
    if address is None or manifest["left_out"]["earlier"]:
        logger.info("rebuild: the state keeps no lake of all its events, so the log is read from its beginning")
        return None
    held = _lake(config, source_url, address).last_batch()
    if held < manifest["batch"]:
        logger.warning("rebuild: the lake is older than the checkpoint (batch %d, not %d), so the log is read alone", held, manifest["batch"])
        return None
    return address


def _begins(lake: EventLake, ends: Mapping[int, int], *, is_of_two: bool) -> dict[int, int]:
    """Return where each partition begins in the lake. Offsets of one topic that are there twice are the same event's, which learning takes once."""
    extent = lake.extent()
    repeated = sorted(partition for partition, (_, num) in extent.items() if num)
    if repeated and not is_of_two:
        logger.warning("rebuild: the lake holds events of partitions %s twice, which count once", repeated)
    if repeated and is_of_two:
        what = "Rebuild: the lake holds events of two topics, of which one was made anew, so their order can't be told from offsets"
        raise OperatorError(what, got=f"partitions {repeated}", do="begin a new `state` with python -m jobs.bootstrap")
    return {partition: extent[partition][0] if partition in extent else end for partition, end in ends.items()}


def _lake(config: Config, source_url: str, address: str) -> EventLake:
    as_it_was = config.model_copy(update={"lake": config.lake.model_copy(update={"address": address})})
    return open_lake(as_it_was, source_url, lambda: known_lineage(source_url))
