"""Name every boundary between two effects of a step, and tell a listener when a controller passes one.

The production code knows nothing of this: `observed` wraps the collaborators that a controller is wired with, so failpoints exist only where a
test or the chaos runner puts them, and nothing can arm one by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import pyarrow as pa

from streamrec.log.base import LogWriter, Record, TableReader
from streamrec.log.lake import EventLake
from streamrec.log.lake_deletion import Asked, Deleted
from streamrec.log.offsets import OffsetRange
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.commit import CommitId
from streamrec.pipeline.layout import checkpoint_url, registry_url
from streamrec.pipeline.parts import Parts
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.publisher import PromotionBoard, Publisher
from streamrec.registry.registry import Registry
from streamrec.state import Arrays
from streamrec.storage import Storage, Token, open_storage
from streamrec.student.learner import Learner
from streamrec.teachers.linear import LinearStatistics
from streamrec.teachers.requests import Refresher, RefreshRequest
from streamrec.workers import Pending, Worker

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")


class Failpoint(StrEnum):
    """A place between two effects, in the order of a step; a process can die at each."""

    PLAN_DURABLE = "the plan is durable"
    REFRESH_IN_USE = "a planned teacher version is there"
    READ = "the range is read"
    DEAD_LETTERS_SENT = "the dead letters are sent"
    EVALUATED = "the students are evaluated"
    DECISION_STORED = "the gate's decision is stored"
    MOVE_STORED = "the promotion is in the history, the alias not moved"
    ALIAS_MOVED = "the alias is moved, the board not told"
    BOARD_TOLD = "the board is told"
    LABELLED = "the labels are mixed"
    LEARNED = "everything has learned, nothing is accounted"
    USERS_LEFT_LAKE = "the rows of deleted users are out of the lake, nothing says so"
    BEFORE_RECEIPT = "nobody goes back behind a deletion, its receipt is not written"
    RECEIPT_WRITTEN = "a deletion's receipt is written"
    VERSION_BLOBS = "a version's blobs are written, its manifest not"
    VERSION_MANIFEST = "a version's manifest is written"
    REFRESH_STARTED = "a refresh is requested"
    LAKE_APPENDED = "rows are in the lake, no commit knows of them"
    LAKE_VACUUMED = "files that the lake does not need are deleted, nothing is committed"
    BEFORE_COMMIT = "the state is collected, nothing written"
    BLOBS_WRITTEN = "a commit's blobs are written, its file not"
    COMMIT_WRITTEN = "the commit's file is written, HEAD not moved"
    HEAD_MOVED = "HEAD is moved, nothing pruned"
    PRUNED = "everything is pruned"


Reach = Callable[[Failpoint, int], None]
"""Gets each failpoint that is passed and the batch of the step (0 while a controller recovers); it may raise or kill this process."""


def observed(parts: Parts, state_url: str, board: PromotionBoard | None, listener: Reach) -> Parts:
    """Return the parts of a controller that tells ``listener`` each failpoint that it passes.

    Args:
        parts: Those of a controller that was just built with plans, checkpoints and publisher on ``state_url``.
        state_url: Storage address of the state.
        board: The board that the publisher told.
        listener: Gets them.
    """
    reach = _Step(listener)
    commits = _ObservedStorage(
        open_storage(checkpoint_url(state_url)),
        reach,
        {"commits/": (Failpoint.BLOBS_WRITTEN, Failpoint.COMMIT_WRITTEN)},
        {"HEAD": Failpoint.HEAD_MOVED},
    )
    versions = _ObservedStorage(
        open_storage(registry_url(state_url)),
        reach,
        {
            "/versions/": (Failpoint.VERSION_BLOBS, Failpoint.VERSION_MANIFEST),
            "/decisions/": (None, Failpoint.DECISION_STORED),
            "/history/": (None, Failpoint.MOVE_STORED),
        },
        {"/alias/": Failpoint.ALIAS_MOVED},
    )
    told = _ObservedBoard(board, reach)
    receipts = {"deletions/": (Failpoint.BEFORE_RECEIPT, Failpoint.RECEIPT_WRITTEN)}
    if parts.lake is not None:
        parts.lake.lake = _ObservedLake(parts.lake.lake, reach)
    student: dict[Callable[..., Any], Around] = {Learner.ranks: (None, Failpoint.EVALUATED), Learner.put_items: (Failpoint.LABELLED, None)}
    return replace(
        parts,
        plans=_ObservedPlans(open_storage(state_url), reach),
        checkpoints=_ObservedCheckpoints(commits, reach),
        publisher=Publisher(parts.config, Registry(versions, clock=parts.clock), told),
        reader=_ObservedReader(parts.reader, reach),
        dead_letters=_ObservedWriter(parts.dead_letters, reach) if parts.dead_letters is not None else None,
        student=_ObservedWorker(parts.student, reach, student),
        linear=_ObservedWorker(parts.linear, reach, {LinearStatistics.update: (None, Failpoint.LEARNED)}) if parts.linear is not None else None,
        refresher=_ObservedRefresher(parts.refresher, reach),
        receipts=_ObservedStorage(parts.receipts, reach, receipts) if parts.receipts is not None else None,
    )


class _Step:
    """Add the batch to each failpoint."""

    def __init__(self, listener: Reach) -> None:
        self._listener = listener
        self.batch = 0

    def __call__(self, failpoint: Failpoint) -> None:
        self._listener(failpoint, self.batch)


class _ObservedPlans(PlanStore):
    def __init__(self, storage: Storage, reach: _Step) -> None:
        super().__init__(storage)
        self._reach = reach

    def write(self, plan: Mapping[str, Any], batch: int) -> dict[str, Any]:
        stands = super().write(plan, batch)
        self._reach.batch = batch
        self._reach(Failpoint.PLAN_DURABLE)
        return stands


Around = tuple[Failpoint | None, Failpoint | None]
"""What is passed before a call, and after it."""


class _ObservedStorage:
    """Tell of new objects by a part of their key, and of a pointer's move where new objects came before it."""

    def __init__(self, inner: Storage, reach: _Step, writes: Mapping[str, Around], moves: Mapping[str, Failpoint] | None = None) -> None:
        self._inner = inner
        self._reach = reach
        self._writes = writes
        self._moves = moves or {}
        self._has_written = False  # Becoming the writer moves the pointer too; that is no commit.

    @property
    def address(self) -> str:
        return self._inner.address

    def write_new(self, key: str, data: bytes) -> bool:
        before, after = next((around for part, around in self._writes.items() if part in key), (None, None))
        if before is not None:
            self._reach(before)
        is_written = self._inner.write_new(key, data)
        self._has_written = True
        if after is not None:
            self._reach(after)
        return is_written

    def swap(self, key: str, new: bytes, expected: Token | None) -> Token | None:
        token = self._inner.swap(key, new, expected)
        moved = next((failpoint for part, failpoint in self._moves.items() if part in key), None)
        if moved is not None and self._has_written:
            self._reach(moved)
        return token

    def read(self, key: str) -> bytes:
        return self._inner.read(key)

    def read_with_token(self, key: str) -> tuple[bytes, Token] | None:
        return self._inner.read_with_token(key)

    def list(self, folder: str = "") -> Sequence[str]:
        return self._inner.list(folder)

    def delete(self, key: str) -> None:
        self._inner.delete(key)

    def exists(self, key: str) -> bool:
        return self._inner.exists(key)


class _ObservedCheckpoints(CheckpointStore):
    def __init__(self, storage: Storage, reach: _Step) -> None:
        super().__init__(storage)
        self._reach = reach

    def commit(self, *args: Any, **options: Any) -> CommitId:
        self._reach(Failpoint.BEFORE_COMMIT)
        return super().commit(*args, **options)


class _ObservedBoard:
    def __init__(self, inner: PromotionBoard | None, reach: _Step) -> None:
        self._inner = inner
        self._reach = reach

    def publish(self, manifest: dict[str, Any], arrays: Arrays, meta: Mapping[str, Any], promotion: int | None = None) -> int:
        number = self._inner.publish(manifest, arrays, meta, promotion) if self._inner is not None else 0
        self._reach(Failpoint.BOARD_TOLD)
        return number


class _ObservedReader:
    def __init__(self, inner: TableReader, reach: _Step) -> None:
        self._inner = inner
        self._reach = reach

    def read_table(self, ranges: Sequence[OffsetRange]) -> pa.Table:
        table = self._inner.read_table(ranges)
        self._reach(Failpoint.READ)
        return table

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _ObservedWriter:
    def __init__(self, inner: LogWriter, reach: _Step) -> None:
        self._inner = inner
        self._reach = reach

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        places = self._inner.append(topic, records)
        self._reach(Failpoint.DEAD_LETTERS_SENT)
        return places

    def close(self) -> None:
        self._inner.close()


class _ObservedWorker(Generic[C]):
    def __init__(self, inner: Worker[C], reach: _Step, calls: Mapping[Callable[..., Any], Around]) -> None:
        self._inner = inner
        self._reach = reach
        self._calls = calls

    def submit(self, method: Callable[Concatenate[C, P], T], *args: P.args, **kwargs: P.kwargs) -> Pending[T]:
        before, after = self._calls.get(method, (None, None))
        if before is not None:
            self._reach(before)
        pending = self._inner.submit(method, *args, **kwargs)
        return pending if after is None else _ObservedPending(pending, lambda: self._reach(after))


class _ObservedPending(Generic[T]):
    def __init__(self, inner: Pending[T], then: Callable[[], None]) -> None:
        self._inner = inner
        self._then = then

    def result(self) -> T:
        value = self._inner.result()
        self._then()
        return value


class _ObservedLake(EventLake):
    def __init__(self, inner: EventLake, reach: _Step) -> None:
        super().__init__(inner.address, lambda: inner.app.partition("/")[2], inner.target_bytes)
        self._reach = reach

    def append(self, events: pa.Table, batch: int) -> int:
        num = super().append(events, batch)
        self._reach(Failpoint.LAKE_APPENDED)
        return num

    def delete_users(self, users: Sequence[Deleted], before_batch: int | None = None, asked: Asked | None = None) -> list[int]:
        nums = super().delete_users(users, before_batch, asked)
        self._reach(Failpoint.USERS_LEFT_LAKE)
        return nums

    def vacuum(self, keep_for_s: float) -> int:
        num = super().vacuum(keep_for_s)
        self._reach(Failpoint.LAKE_VACUUMED)
        return num


class _ObservedRefresher:
    def __init__(self, inner: Refresher, reach: _Step) -> None:
        self._inner = inner
        self._reach = reach

    def start(self, request: RefreshRequest) -> None:
        self._inner.start(request)
        self._reach(Failpoint.REFRESH_STARTED)

    def finished(self) -> dict[str, str]:
        return self._inner.finished()

    def failed(self) -> dict[tuple[str, str], str]:
        return self._inner.failed()

    def cost_s(self, teacher: str, version: str) -> float:
        return self._inner.cost_s(teacher, version)

    def wait(self, teacher: str, version: str) -> None:
        self._inner.wait(teacher, version)
        self._reach(Failpoint.REFRESH_IN_USE)

    def prune(self, oldest: Mapping[str, str]) -> None:
        self._inner.prune(oldest)
        self._reach(Failpoint.PRUNED)
