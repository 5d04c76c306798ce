"""Make a state anew, with other settings, beside the stream that goes on: a new lineage from lake and log, which then becomes the current one.

1. **begin**: a record fixes what is read (`streamrec.pipeline.rebuild_record`); whoever asked to be forgotten is carried over.
2. **learn**: the old lineage's lake from its beginning, then the log from the offset where the lake ends; a commit with each step.
3. **train** the first teachers.
4. **catch up** with the log, as a stream does, until less than a full micro-batch is left.
5. **take over**: the old driver is fenced, the pointer moves, the new lineage publishes its version and brings it live.

**Contract.** Nothing of the old lineage is changed before the take-over, and then only who may commit to it; but deletions that are read here
reach its lake. A run that was cut off is taken up by the next one with the same settings: before the pointer moved the new lineage goes on from
its last commit, or is begun anew where the settings are others; after it moved, the version is brought live. One whose lineage is removed
while it runs stops at its next commit and says so. Nothing in here sleeps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from streamrec.config import Config
from streamrec.errors import ConfigError, Damaged, OperatorError, StreamrecError
from streamrec.log.base import LogWriter, TableReader
from streamrec.log.lake_log import LakeThenLog
from streamrec.pipeline.bootstrap import OnStep, bootstrap, check_learned, learn, plan_of, train_first
from streamrec.pipeline.checkpoint import CheckpointStore, has_commit
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.layout import LINEAGES, checkpoint_url, lineage_folder, lineage_number, registry_url
from streamrec.pipeline.lineage import Current, current_lineage, make_current, noted_lakes, url_of
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.rebuild_gap import BEGIN_ANEW, check_no_gap, gaps_of
from streamrec.pipeline.rebuild_lake import check_room, make_room
from streamrec.pipeline.rebuild_record import (
    Record,
    differences,
    has_record,
    holds_state,
    lake_to,
    load_source,
    made_with,
    new_record,
    read_record,
    remove_lineage,
    remove_record,
)
from streamrec.pipeline.receipts import withdraw_receipts
from streamrec.registry.registry import Registry
from streamrec.registry.version import batch_of
from streamrec.state import ComponentState
from streamrec.storage import open_storage, tidy

logger = logging.getLogger(__name__)

NUMBERS_LEFT_OUT = 1000
"""The new lineage's first batch as the current one is so far above the old one's last: a driver that has not heard yet may still plan a few."""


class Build(Protocol):
    """Make a controller, not yet recovered."""

    def __call__(self, lineage_url: str, reader: TableReader, *, publishes: bool) -> Controller:
        """Wire a lineage's controller.

        Args:
            lineage_url: The lineage's folder.
            reader: What it reads.
            publishes: Whether its versions go to the registry.
        """
        ...


class Rebuild:
    """Carry out one rebuild; see the module's contract.

    Args:
        config: The new settings.
        state_url: The state's address.
        log: The event log.
        build: Wires controllers.
        dead_letters: Where records of the log go that are rejected; what the lake holds was accepted once and goes nowhere.
        on_step: Called after each step.
        say: Gets a line as each phase begins.
    """

    def __init__(
        self,
        config: Config,
        state_url: str,
        log: TableReader,
        build: Build,
        *,
        dead_letters: LogWriter | None,
        on_step: OnStep,
        say: Callable[[str], None],
    ) -> None:
        self._config = config
        self._state_url = state_url
        self._log = log
        self._build = build
        self._dead_letters = dead_letters
        self._on_step = on_step
        self._say = say

    def run(self, *, anew: bool = False, from_log: bool = False, skip_lost: bool = False) -> Controller | None:
        """Make the new lineage and let it take over; return its controller, or None where the current one was made with these settings.

        Args:
            anew: Make one nevertheless, and begin it anew where an earlier run could be taken up.
            from_log: Read the log alone from its beginning, so that what the old lineage did not apply is judged once more.
            skip_lost: Where the log begins behind what the old lineage, or the one that was begun, has committed: take for lost what the lake does
                not have either.

        Raises:
            ConfigError: One has taken over with other settings, and its version is not live yet.
            OperatorError: There is no state to rebuild, the log was made anew, something foreign lies where the new lake is to go, or the lineage was
                removed while it was made.
            DataError: The lake lacks events, or is not to be read, that the log does not have any more.
            RetentionGap: The log begins behind what is committed, and that is not to be skipped.
            StorageError: Another rebuild has taken this one's lineage over, or moved the pointer.
        """
        current = current_lineage(self._state_url)
        done = read_record(open_storage(url_of(self._state_url, current.folder))) if current.folder else None
        if done is not None and not self._is_live(current.folder):
            self._check_same(current.folder, done)
            if anew:
                self._say(f"nothing is made anew: {current.folder} has taken over and goes live first, run it once more after that")
            return self._go_live(current.folder)
        if done is not None and done.made_with == made_with(self._config) and not anew:
            self._say(f"{current.folder}, which is current, was made with these settings: nothing to do")
            return None
        folder = lineage_folder(lineage_number(current.folder) + 1)
        record = self._begin(folder, current.folder, anew=anew, from_log=from_log, skip_lost=skip_lost)
        with self._told_if_removed(folder):
            controller = self._learned(folder, record)
            self._catch_up(controller)
            self._take_over(controller, folder, current, record)
        return self._go_live(folder)

    def _begin(self, folder: str, source: str, *, anew: bool, from_log: bool, skip_lost: bool) -> Record:
        storage = open_storage(url_of(self._state_url, folder))
        record, lake = read_record(storage), lake_to(self._config)
        began_at = lake if record is None or record.lake_to is None else record.lake_to
        anew |= from_log and record is not None and record.lake_address is not None
        is_same = record is not None and record.made_with == made_with(self._config) and began_at == lake
        if record is not None and is_same and not anew and self._can_go_on(folder, record, skip_lost=skip_lost):
            self._say(f"going on with {folder}, which an earlier run began")
            return record
        # Refused before anything goes.
        new = new_record(self._config, self._state_url, source, self._log, from_log=from_log, skip_lost=skip_lost, say=self._say)
        _empty(self._config, self._state_url, folder, self._say)
        if record is not None:
            self._say(f"{folder}, which an earlier run began, is removed")
        new.write(storage)
        self._say(f"beginning {folder} from {'the lake and the log' if new.lake_address is not None else 'the log'}")
        return new

    def _can_go_on(self, folder: str, record: Record, *, skip_lost: bool) -> bool:
        """Return whether the log still has what comes next in a lineage that was begun; False where that is to be skipped, by beginning anew."""
        facts = CheckpointStore(open_storage(checkpoint_url(url_of(self._state_url, folder)))).kept_facts()
        committed = {int(partition): int(offset) for partition, offset in (facts[0]["offsets"] if facts else {}).items()}
        wanted = {**committed, **{partition: max(end, committed.get(partition, 0)) for partition, end in record.ends.items()}}
        topic = self._config.log.events_topic
        earliest = self._log.earliest(topic)
        if skip_lost and gaps_of(wanted, earliest):
            return False
        check_no_gap(topic, wanted, earliest, BEGIN_ANEW)
        return True

    @contextmanager
    def _told_if_removed(self, folder: str) -> Iterator[None]:
        """Say so where what has failed is a lineage that `drop_unfinished` has removed meanwhile."""
        storage = open_storage(url_of(self._state_url, folder))
        try:
            yield
        except StreamrecError as error:
            if has_record(storage):
                raise
            what = f"Rebuild: {folder} was removed while it was made"
            do = "run python -m jobs.rebuild --drop once more: what was written since goes too; or begin it again without --drop"
            raise OperatorError(what, do=do) from error

    def _check_begun(self, folder: str) -> None:
        if not has_record(open_storage(url_of(self._state_url, folder))):
            what = "Rebuild: the lineage's record is gone"
            raise OperatorError(what, got=folder, do="begin it again")

    def _learned(self, folder: str, record: Record) -> Controller:
        """Learn the backlog and train the first teachers."""
        lake = record.lake(self._config, self._state_url)
        reader = self._log if lake is None else LakeThenLog(lake, self._log, record.begins, record.ends)
        controller = self._build(url_of(self._state_url, folder), reader, publishes=False)
        controller.parts.obeys_pause = False
        if not controller.recover():
            self._carry_over(controller, record)
        self._check_begun(folder)  # It may have been removed before this one had begun to commit.
        controller.intake.ends()
        self._say("learning the log" if lake is None else "learning what the lake holds, then the log")
        controller.parts.dead_letters = None
        learn(controller, record.ends, record.chunk, self._on_step, commits=True)
        controller.parts.dead_letters = self._dead_letters
        learn(controller, record.until, record.chunk, self._on_step, commits=True)
        check_learned(controller)
        if set(controller.config.teachers.refreshed) - controller.state.teachers.keys():
            self._say("training the first teachers")
            train_first(controller, self._on_step)
        return controller

    def _carry_over(self, controller: Controller, record: Record) -> None:
        """Begin a new state with those who must not come back, durably."""
        source = load_source(record.source_url(self._state_url))
        base, *deltas = source.components.get("tombstones", (ComponentState(),))
        controller.ingest.tombstones.restore(base, deltas)
        controller.state.topic_id = str(source.components["stream"][0].meta.get("topic_id", ""))
        if controller.parts.other_lakes is not None:  # What the old driver has deleted, and is fenced before it tidies, goes nevertheless.
            controller.parts.other_lakes.expect_garbage()
        controller.run(plan_of(controller, checkpoint=True, lost=record.lost))

    def _catch_up(self, controller: Controller) -> None:
        self._say("catching up with the log")
        while controller.planned() is not None or controller.lag() >= self._config.pipeline.max_batch_events:
            report = controller.step()
            if report is not None:
                self._on_step(report)
        controller.finish()

    def _take_over(self, controller: Controller, folder: str, current: Current, record: Record) -> None:
        """Fence the old driver, learn what it has applied, whose deletions must not be undone, then move the pointer."""
        self._say(f"{folder} takes over from {current.folder or 'the first lineage'}")
        old_url = url_of(self._state_url, current.folder)
        CheckpointStore(open_storage(checkpoint_url(old_url))).acquire(f"the state is rebuilt as {folder}")
        source = load_source(old_url).components["stream"][0].meta
        applied = {int(partition): int(offset) for partition, offset in source["offsets"].items()}
        while any(controller.state.offsets.get(partition, 0) < offset for partition, offset in applied.items()) and controller.lag():
            report = controller.step()
            if report is not None:
                self._on_step(report)
        controller.finish()
        if record.lost:  # Deletions of steps that no commit covers may be among what is lost.
            for event_id in withdraw_receipts(open_storage(old_url), int(source["batch"])):
                self._say(f"the receipt of deletion {event_id} is withdrawn, its step is given up: ask for it again, unless the log still has it")
        newest = PlanStore(open_storage(old_url)).batches()[-1:]
        registry = open_storage(registry_url(self._state_url))
        versions = [batch_of(name) for student in ("default", *self._config.students) for name in Registry(registry, student).versions()]
        last = max([controller.state.batch, int(source["batch"]), *newest, *versions])
        first = (last // NUMBERS_LEFT_OUT + 2) * NUMBERS_LEFT_OUT
        self._check_begun(folder)
        make_current(self._state_url, Current(folder, first, int(source.get("forgot_batch", 0))), current)

    def _go_live(self, folder: str) -> Controller:
        """Publish the new lineage's version and bring it live."""
        self._say(f"{folder} is current: its version goes live")
        controller = self._build(url_of(self._state_url, folder), self._log, publishes=True)
        controller.parts.obeys_pause = False
        if not controller.recover():
            what = "Rebuild: the lineage that is current has no commit"
            raise OperatorError(what, got=folder, do="restore it from a copy")
        controller.parts.dead_letters = self._dead_letters
        bootstrap(controller, controller.state.offsets, self._on_step)
        return controller

    def _check_same(self, folder: str, record: Record) -> None:
        """Return if a lineage that has taken over was made with these settings."""
        found = differences(record.made_with, made_with(self._config))
        if found:
            what = f"Rebuild: {folder} has taken over with other settings, and its version is not live yet"
            got, allowed = (", ".join(f"{name}={values[place]}" for name, values in found.items()) for place in (1, 0))
            do = "run python -m jobs.rebuild with those settings, so that it goes live; then once more with these"
            raise ConfigError(what, got=got, allowed=allowed, do=do)

    def _is_live(self, folder: str) -> bool:
        facts = CheckpointStore(open_storage(checkpoint_url(url_of(self._state_url, folder)))).kept_facts()
        return bool(facts and facts[0].get("versions", {}).get("live"))


def drop_unfinished(config: Config, state_url: str, say: Callable[[str], None]) -> bool:
    """Remove the lineage that an unfinished rebuild has begun, its lakes and all; return whether there was any.

    A rebuild that still runs is fenced: it stops at its next commit, and what it has written by then is removed by the next call.

    Raises:
        OperatorError: Something foreign lies where its lake is, or it has become current meanwhile.
    """
    folder = lineage_folder(lineage_number(current_lineage(state_url).folder) + 1)
    if not open_storage(url_of(state_url, folder)).list():
        tidy(open_storage(state_url), folder)
        tidy(open_storage(state_url), LINEAGES)
        say("no rebuild is unfinished")
        return False
    say(f"removing {folder}, whose rebuild was not finished")
    _empty(config, state_url, folder, say)
    tidy(open_storage(state_url), LINEAGES)
    return True


def _empty(config: Config, state_url: str, folder: str, say: Callable[[str], None]) -> None:
    """Remove everything of a lineage that never became current, its lakes at other addresses too; nothing where something foreign lies there."""
    url = url_of(state_url, folder)
    storage = open_storage(url)
    record, lake = read_record(storage), lake_to(config)
    places = sorted({lake, record.lake_to or "" if record is not None else "", *noted_lakes(storage)} - {""})
    for place in places:
        check_room(config, url, place)
    _fence(state_url, folder)
    remove_record(storage)  # Nobody goes on with it; the notes know of its lakes until these are gone.
    for place in places:
        if place != lake:
            say(f"its lake beside {place} goes too: lake.address is {lake or 'empty'} now")
        make_room(url, place)
    remove_lineage(storage, receipts=True)


def _fence(state_url: str, folder: str) -> None:
    """Refuse the commits of whoever still makes a lineage that is to be removed."""
    checkpoint = open_storage(checkpoint_url(url_of(state_url, folder)))
    with suppress(Damaged):  # It stops by itself.
        if has_commit(checkpoint):
            CheckpointStore(checkpoint).acquire(f"{folder} is removed")
    if current_lineage(state_url).folder == folder:
        what = f"Rebuild: {folder} has become current meanwhile, so it is not removed"
        raise OperatorError(what, do="run python -m jobs.rebuild with its settings, so that its version goes live")


def remove_old(state_url: str, say: Callable[[str], None]) -> None:
    """Remove the lineages before the current one, but for receipts and what lies in the shared registry; lakes elsewhere stay."""
    current = current_lineage(state_url)
    num_removed = 0
    for number in range(1, lineage_number(current.folder)):
        storage = open_storage(url_of(state_url, lineage_folder(number)))
        if holds_state(storage):
            num_removed += 1
            say(f"removing {lineage_folder(number) or 'the first lineage'}")
        remove_lineage(storage, receipts=False)  # Also where one before has left empty folders.
    if not num_removed:
        say("nothing is there of lineages before the current one")
