"""Look whether what jobs and servers read of a state at their start can be read: pointers, names, records, plans, live versions.

Changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass

from streamrec.errors import Damaged, StreamrecError
from streamrec.pipeline.checkpoint import Checkpoint, CheckpointStore, read_head
from streamrec.pipeline.layout import checkpoint_url, lineage_folder, lineage_number, registry_url, students_in
from streamrec.pipeline.lineage import NOTES, current_lineage, named_lineage, url_of
from streamrec.pipeline.lost_teachers import look_at_teachers
from streamrec.pipeline.plan import STUDENT
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.rebuild_record import read_record
from streamrec.pipeline.receipts import check_deletions_noted, torn_receipts
from streamrec.pipeline.stream_state import Line, StreamState
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage
from streamrec.teachers.store import TeacherStore


@dataclass(frozen=True)
class Committed:
    """Hold what the stream would start from.

    Attributes:
        checkpoint: The newest commit of the current lineage that is whole, with what the stream and the lake keep in it; None where there is none.
        state: The stream's own state in it.
        batch: The number of its last batch as the current lineage counts; 0 where there is no commit.
        error: What the stream would stop at instead.
    """

    checkpoint: Checkpoint | None = None
    state: StreamState | None = None
    batch: int = 0
    error: StreamrecError | None = None


_MADE_LATER = ("plans", "teachers", "deletions", NOTES)


def check_not_lost(lineage_url: str) -> None:
    """Return unless a lineage's checkpoint is gone, and what only a stream with one could have made is there: the state is damaged, not new.

    Raises:
        Damaged: As said, or the pointer is torn or lost.
        StorageError: It was written by a newer streamrec.
    """
    checkpoint, lineage = open_storage(checkpoint_url(lineage_url)), open_storage(lineage_url)
    if read_head(checkpoint)[0] is not None:
        return
    left = [f"{len(keys)} in {folder}/" for folder in _MADE_LATER if (keys := lineage.list(folder))]
    if left and read_head(checkpoint)[0] is None:  # Looked at again: the first writer may have begun since.
        what = f"Checkpoint: it is lost, {checkpoint.address}"
        raise Damaged(
            what, got=f"nothing there beside {', '.join(left)}", do="restore that folder from a copy; to begin anew rename the state's folder"
        )


def committed(state_url: str, also: Collection[str] = (), *, looks_at_all: bool = True) -> Committed:
    """Load what the stream would start from. Raises nothing of the state.

    Args:
        state_url: The state's address; nothing need be there.
        also: Components to load besides those of the stream and the lake.
        looks_at_all: Read every blob of the commit against its digest, one at a time.
    """
    try:
        current = current_lineage(state_url)
        check_not_lost(url_of(state_url, current.folder))
        store = CheckpointStore(open_storage(checkpoint_url(url_of(state_url, current.folder))))
        loaded = store.load_newest(only=("stream", "lake", *also), looks_at_all=looks_at_all)
    except StreamrecError as error:
        return Committed(error=error)
    if loaded is None:
        return Committed()
    state, counted = StreamState(), StreamState()
    for one in (state, counted):
        one.restore(loaded.components["stream"][0])
    counted.go_on_as(current)
    return Committed(loaded, state, counted.batch)


def _check_commit(held: Committed) -> None:
    """Raise what the stream would stop at, or, with the fact ``fallback``, that it would start from an older commit."""
    if held.error is not None:
        raise held.error
    if held.checkpoint is not None and held.checkpoint.skipped:
        what = f"Checkpoint: the stream would fall back to commit {held.checkpoint.id}"
        do = "restore what is damaged from a copy before the start, or let the stream go on from there: it executes again what came since"
        raise Damaged(what, got="; ".join(held.checkpoint.skipped), do=do, fallback=held.checkpoint.id)


def unreadable(state_url: str, held: Committed | None = None) -> Iterator[StreamrecError]:
    """Give an error for each thing of the current lineage, and of one that is being made, that can't be read; it says what to do.

    Of commits that are torn while an older one is whole the error has the fact ``fallback``: a job falls back by itself.

    Args:
        state_url: The state's address; nothing need be there.
        held: What `committed` gave; None to read it here.
    """
    try:
        current = current_lineage(state_url).folder
    except StreamrecError as error:  # Which folder the others lie in is not known then.
        yield error
        return
    url = url_of(state_url, current)
    begun = url_of(state_url, lineage_folder(lineage_number(current) + 1))
    commit = held or committed(state_url)
    looks: tuple[Callable[[], object], ...] = (
        lambda: _check_commit(commit),
        lambda: named_lineage(url),
        lambda: read_record(open_storage(url)),
        lambda: PlanStore(open_storage(url)).newest(),
        lambda: read_record(open_storage(begun)),
    )
    for look in looks:
        try:
            look()
        except StreamrecError as error:
            yield error
    yield from torn_receipts(open_storage(url))


@dataclass(frozen=True)
class Versions:
    """Say what can be read of a student's versions.

    Attributes:
        student: Its name.
        live: What is live; None where nothing is, or that can't be read.
        errors: What jobs and servers stop at.
        torn_alias: Names the alias where the history holds the same facts.
        behind: Names what is torn of versions that a rollback may go to.
    """

    student: str
    live: str | None
    errors: tuple[StreamrecError, ...] = ()
    torn_alias: StreamrecError | None = None
    behind: tuple[StreamrecError, ...] = ()


def versions_of_students(state_url: str, configured: Collection[str]) -> Iterator[Versions]:
    """Look at the registry of each student that is configured, and of each that is not and left versions."""
    storage = open_storage(registry_url(state_url))
    try:
        found = students_in(storage.list())
    except StreamrecError:  # Said by those that are looked at.
        found = []
    for student in dict.fromkeys([*configured, *found]):
        try:
            registry = Registry(storage, student)
        except StreamrecError as error:  # A folder that is no student's.
            yield Versions(student, None, (error,))
            continue
        errors, live, torn = [], None, None
        for look in (registry.check_live, registry.forgotten):
            try:
                look()
            except StreamrecError as error:
                errors.append(error)
        with suppress(StreamrecError):  # Said already.
            live, torn = registry.live(), registry.alias_damage()
            live = None if live is not None and registry.is_withdrawn(live) else live
        if live is not None and not errors:
            try:
                check_deletions_noted(open_storage(state_url), registry)
                registry.load_named(live)
            except StreamrecError as error:
                errors.append(error)
        behind = _torn_behind(registry) if live is not None else ()
        yield Versions(student, live, tuple(errors), None if str(torn) in map(str, errors) else torn, tuple(behind))


def _torn_behind(registry: Registry) -> Iterator[Damaged]:
    """Give an error for each torn manifest of the live move's trail; a version that is not there is passed by."""
    try:
        move, forgotten = registry.alias(), registry.forgotten()
    except StreamrecError:  # Said already.
        return
    for version in move.trail if move is not None else ():
        if forgotten is None or version >= forgotten.version:
            try:
                registry.manifest(version)
            except Damaged as error:
                yield error
            except StreamrecError:
                continue


def damaged_teachers(state_url: str, held: Committed) -> Iterator[StreamrecError]:
    """Give what is wrong with the teachers' versions that the commit names, in use or compared; their weights are read.

    The fact ``lost`` is true where the stream goes on by itself; at all else it stops.
    """
    if held.state is None:
        return
    try:
        storage = open_storage(url_of(state_url, current_lineage(state_url).folder))
        yield from look_at_teachers(TeacherStore(storage).load, PlanStore(storage), held.state)
    except StreamrecError as error:  # A storage, or a plan.
        yield error


def lost_versions(state_url: str, held: Committed, configured: Collection[str], *, reads_weights: bool = True) -> Iterator[Damaged]:
    """Give what is wrong with the versions that the newest commit compares: live when it was made, and waiting for the gate.

    What is live now is looked at by `versions_of_students`. The fact ``lost`` is true of a candidate: the stream goes on without it.
    """
    if held.state is None:
        return
    storage = open_storage(registry_url(state_url))
    for name in configured:
        line: StreamState | Line = held.state if name == STUDENT else held.state.lines.get(name, Line())
        with suppress(StreamrecError):  # What can't be read of the registry itself is said by `versions_of_students`.
            registry = Registry(storage, name)
            for version in sorted({version for version in (line.live, line.candidate) if version is not None} - {registry.live()}):
                try:
                    registry.load_named(version) if reads_weights else registry.manifest_named(version)
                except Damaged as error:
                    waits = version != line.live
                    do = "restore it from a copy" if waits else "restore it from a copy, or make the state anew: python -m jobs.rebuild --anew"
                    yield Damaged(str(error).removesuffix(f", {error.remedy}"), do=do, **({"lost": True} if waits else {}))


def newest_plan_ms(state_url: str, held: Committed | None = None) -> int | None:
    """Return the processing time of the newest plan of the current lineage, stored or committed; None when there is none that can be read."""
    with suppress(StreamrecError):
        url = url_of(state_url, current_lineage(state_url).folder)
        newest = PlanStore(open_storage(url)).newest()
        if newest is not None and "now_ms" in newest[1]:
            return int(newest[1]["now_ms"])
        state = (held or committed(state_url)).state
        return state.planned_ms or None if state is not None else None
    return None
