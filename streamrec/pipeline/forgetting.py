"""Carry out deletions inside a step, and leave a receipt of each: what was removed where, what is exact and what is approximate."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamrec.features.dedupe import hash_key
from streamrec.log.lake_deletion import Deleted
from streamrec.migrations import number_of
from streamrec.pipeline.former_students import WITHDRAWN
from streamrec.pipeline.ingest import Ingest, Request
from streamrec.pipeline.lake_writer import LakeWriter, gone_by_ms
from streamrec.pipeline.other_lakes import Reached
from streamrec.pipeline.parts import Parts
from streamrec.pipeline.plan import Plan, version_name
from streamrec.pipeline.receipts import receipt_key
from streamrec.pipeline.students import Students
from streamrec.soft_labels.store import LabelStore
from streamrec.state import Component
from streamrec.teachers.linear import LinearStatistics

logger = logging.getLogger(__name__)

EXACT = {
    "histories": "the user's history, here and in the replicas' views, which follow the log",
    "labels": "the user's queries, and what teachers said of them",
    "neighbours": "the user's session, which no other user's label comes from any more",
    "window": "the user's events in what transformers are trained on from now on",
    "dedupe": "the user's event ids; the tombstone drops what comes again",
    "shown": "the answers to the user that wait for what comes of them; sums over all users keep those whose time was over",
    "checkpoints": "the commit of the step writes what is small whole, what is large is joined with its deltas beside the stream, one component a "
    "commit; what was before is gone three commits later, and these follow at the checkpoint interval whether events come or not",
    "items": "of what the user is known to have touched, items that nobody else holds and no catalogue describes: rows, vectors, counts, sums",
}

APPROXIMATE = {
    "student": "weights: the rows of items that others have touched too got corrective steps on what those others did",
    "popularity": "counts keep what the user did longer ago than the window and the history reach",
    "repeats, transitions": "sums over all users keep the user's share",
    "teachers": "versions in use were trained with the user; each begins a refresh without the user by the time that is named",
    "versions": "nothing goes back to versions of before from now on; they are removed as soon as none older is in use, but "
    "pinned ones stay until they are unpinned: `streamrec receipt` names those of the moment as `pinned`",
    "log": "records of the raw topic and dead letters stay until their topic's retention ends; `streamrec dlq` shows and sends no such letter",
}

LAKE = "the user's rows in the lakes that `lakes` names; files that hold them are deleted by the vacuum, and a lake's log never names a user"
"""Exact, where the state has a lake."""

MUTE = (
    "events of the user that come from now on with a time up to `taken_for_old_until_ms` can't be told from copies of old ones: they are duplicates"
)
"""Exact, where that time lies ahead."""

SUMS = "linear_statistics"
"""Exact or approximate, by what is known of the user's queries; see `_say_sums`."""


@dataclass(frozen=True)
class _Open:
    """What a deletion waits with for the end of the step: the rows that the user touched, and their generations then.

    ``queries_left`` is what `LinearStatistics.take_back` returned, None without a linear teacher.
    """

    request: Request
    rows: NDArray[np.int32]
    generations: NDArray[np.int32]
    removed: Mapping[str, int]
    queries_left: int | None


class Forgetting:
    """Remove users from all components, and what only they had touched.

    **Contract.** `remove` acts before anything later in the log is applied, `correct` after the step has learned, and then on the lakes, which
    hold the step's rows by then; both are functions of the state and the plan. A receipt is written once: a step that is executed again
    after a crash finds it there.

    Args:
        parts: Students and their workers; ``receipts`` is where receipts go, under ``deletions/``.
        ingest: Components that events go into.
        components: All of them by name.
        store: Has the users' queries.
        students: Are told of items, and learn once more.
    """

    def __init__(self, parts: Parts, ingest: Ingest, components: Mapping[str, Component], store: LabelStore, students: Students) -> None:
        self._parts, self._ingest, self._components = parts, ingest, components
        self._store, self._students = store, students
        self._open: list[_Open] = []

    def remove(self, request: Request) -> None:
        """Remove a user from all components and remember what the receipt needs."""
        user = (request.namespace, request.user_id)
        own = [self._ingest.histories.get(*user), self._ingest.window.rows_of(*user), self._store.rows_of(*user)]
        rows = np.unique(np.concatenate(own)).astype(np.int32)
        in_history, *learned = [np.bincount(np.searchsorted(rows, part), minlength=len(rows)) for part in own]
        most = self._parts.config.features.max_repeats
        # Repeats beyond that are in the history and were not counted; window and store hold only what was.
        share = np.max([np.minimum(in_history, most) if most else in_history, *learned], axis=0, initial=0)
        self._ingest.take_back(rows, share)
        left = None
        if self._parts.linear is not None:
            left = self._parts.linear.submit(LinearStatistics.take_back, self._store.of_user(*user), hash_key(*user)).result()
        removed = {name: component.delete_user(*user) for name, component in self._components.items() if name != LakeWriter.name}
        self._open.append(_Open(request, rows, self._ingest.vocabulary.generation_of_rows()[rows], removed, left))
        logger.info("deletion: removed %s", {name: num for name, num in removed.items() if num})

    def forget_rows(self, rows: NDArray[np.int32]) -> None:
        """Remove rows whose items have left from all components."""
        if self._parts.linear is not None:  # What is left of these queries is no longer what the sums hold of them.
            self._parts.linear.submit(LinearStatistics.doubt, self._store.users_of(rows)).result()
        removed = {name: component.forget_rows(rows) for name, component in self._components.items()}
        logger.info("vocabulary: %d items left, removed %s", len(rows), {name: num for name, num in removed.items() if num})

    def correct(self, plan: Plan) -> int:
        """Let the models forget what the step's users have taught them, write the receipts, and return how many there were."""
        done, self._open = self._open, []
        reached = self._reach_lakes([one.request for one in done], plan.batch) if done else []
        for number, one in enumerate(done):
            # Another deletion of this step may have released a row, and a full vocabulary given it to another item.
            same = self._ingest.vocabulary.generation_of_rows()[one.rows] == one.generations
            rows = one.rows[same]
            alone = rows[~self._held_by_others(rows)]
            known = self._ingest.vocabulary.is_described(alone)
            if len(alone):
                self._ingest.vocabulary.release(alone[~known])
                self.forget_rows(alone)
                self._ingest.vocabulary.tell_again(alone[known])
                self._students.put_items()
            shared = np.setdiff1d(rows, alone)
            num_steps = self._students.correct(shared, (plan.seed * 31 + number) % 2**31) if len(shared) else 0
            items = {"released": int((~known).sum()), "begun_anew": int(known.sum()), "shared": len(shared)}
            self._write(one, plan, items, num_steps, reached[number])
        return len(done)

    def _held_by_others(self, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return which rows somebody else holds, or is still counted with."""
        if not len(rows):
            return np.zeros(0, bool)
        counted = self._ingest.popularity.counts(len(self._ingest.vocabulary))[rows] > 0
        held = self._ingest.histories.held(rows) | self._ingest.window.held(rows) | counted
        return np.asarray(held | self._store.held(rows))

    def _write(self, one: _Open, plan: Plan, items: Mapping[str, int], num_steps: int, reached: Reached) -> None:
        request, config = one.request, self._parts.config
        exact, approximate = _say_sums(one.queries_left)
        lakes, missed, removed = reached.rows, reached.refused, dict(one.removed)
        if self._parts.lake is not None:
            removed[self._parts.lake.name] = lakes[self._parts.lake.lake.address]
        former = self._forget_versions(version_name(plan.batch), request.event_id)
        until_ms = self._taken_for_old_until_ms(request, plan.now_ms)
        said = (
            ({"lake": LAKE} if lakes else {})
            | ({"former_students": WITHDRAWN} if former else {})
            | ({} if until_ms is None else {"tombstones": MUTE})
        )
        receipt = {
            "format": number_of("receipt"),
            "event_id": request.event_id,
            "namespace": request.namespace,
            "tombstone": f"{self._ingest.tombstones.hash_of(request.namespace, request.user_id) % 2**64:016x}",
            "event_time": request.time_ms,
            "place": {"topic": config.log.events_topic, "partition": request.partition, "offset": request.offset},
            "batch": plan.batch,
            "at_ms": plan.now_ms,
            "removed": {name: num for name, num in removed.items() if num},
            "items": dict(items),
            "corrective_steps": num_steps,
            "lakes": lakes,
            "out_of_reach": missed,
            "exact": EXACT | exact | said,
            "approximate": APPROXIMATE | approximate,
            "queries_left": one.queries_left,
            "teachers_refresh_by_ms": plan.now_ms + round(config.teachers.forget_within_s * 1000),
            "lake_files_gone_by_ms": gone_by_ms(plan.now_ms, config) if lakes else None,
            "topics": {"events": config.log.events_topic, "dead_letters": config.log.dead_letter_topic},
            "versions_not_before": version_name(plan.batch),
            "former_students": former,
            "taken_for_old_until_ms": until_ms,
        }
        if self._parts.receipts is not None:
            self._parts.receipts.write_new(receipt_key(request.namespace, request.event_id), json.dumps(receipt, indent=1, sort_keys=True).encode())

    def _taken_for_old_until_ms(self, request: Request, now_ms: int) -> int | None:
        """Return the time up to which the user's new events are taken for old ones; None unless it lies after the request or ahead of the clock."""
        until_ms = self._ingest.tombstones.until_ms(request.namespace, request.user_id)
        return until_ms if until_ms > min(request.time_ms, now_ms) else None

    def _forget_versions(self, version: str, event_id: str) -> dict[str, int]:
        """Let nobody go back to versions of before; return how many such the students have that are configured no more."""
        for publisher in self._parts.publishers():
            publisher.forget_before(version, event_id)
        former = self._parts.former_students()
        return {} if former is None else former.forget_before(version, event_id)

    def _reach_lakes(self, requests: Sequence[Request], batch: int) -> list[Reached]:
        """Remove a step's users from all lakes, each in one go; return address to rows, and what was not touched to why and what to do, of each."""
        reached = [Reached() for _ in requests]
        if self._parts.lake is not None:
            asked = [Deleted(request.namespace, request.user_id) for request in requests]
            address = self._parts.lake.lake.address
            reached = [Reached({address: num}) for num in self._parts.lake.delete_users(asked, batch)]
        if self._parts.other_lakes is None:
            return reached
        others, held = self._parts.other_lakes.delete_before(requests, batch), self._parts.other_lakes.out_of_reach()
        return [Reached(one.rows | other.rows, held | other.refused) for one, other in zip(reached, others, strict=True)]


def _say_sums(queries_left: int | None) -> tuple[dict[str, str], dict[str, str]]:
    """Return what a receipt says of the linear teacher's sums: (as exact, as approximate)."""
    if queries_left is None:
        return {}, {}
    if queries_left == 0:
        return {SUMS: "the user's queries were taken out of the sums over items that others have touched too, up to float rounding"}, {}
    if queries_left < 0:
        reason = "how many is not known: the statistics left items out, being full, or are older than the count of queries"
    else:
        reason = (
            f"at most {queries_left}: they had left the store of labels, or were changed there when items left it, or had more items than it keeps"
        )
    return {}, {SUMS: f"of the user's queries those in the store of labels were taken out of the sums; some of before may be left, {reason}"}
