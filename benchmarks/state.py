"""Measure what a large state costs: the stall of a commit, the bytes it writes, a user's history in memory and its way back from disk.

    python -m benchmarks.state [--quick]

One million users with 50 interactions each and one million items with vectors of 64 dimensions lie in the components of a stream, and are
committed whole once. Then micro-batches of 4,096 interactions (users uniform, items by a Zipf law) go through histories, window, popularity
and student, and after each one everything is committed: the stall is how long the stream waits for that, writing goes on beside it. At the end
bases and deltas are joined beside the stream as well. The last line is one flat JSON object: commit_stall_ms (median),
commit_bytes_per_changed_row (a row is a user, an item of each kind of state, a replayed example or a window's event), history_bytes_per_user
(process memory, the index included), history_restore_s (from bytes), vocabulary_ids_tried, vocabulary_rows. ``--quick`` has sizes of its
own, and what was not measured at full size is null.
"""

from __future__ import annotations

import gc
import logging
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks._common import arguments, facts, finish
from streamrec.config import FeaturesConfig, SoftLabelsConfig, StudentConfig, TeachersConfig
from streamrec.evaluation.baselines import Popularity
from streamrec.features.dedupe import Dedupe, EventKeys, hash_key
from streamrec.features.examples import Examples
from streamrec.features.histories import Histories, HistoryEvents
from streamrec.features.item_keys import ItemKeys
from streamrec.features.vocabulary import Vocabulary
from streamrec.pipeline import saving
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.compaction import CompactionProcess, Compactor
from streamrec.pipeline.saving import Saver
from streamrec.soft_labels.ensemble import mix
from streamrec.soft_labels.schema import Answer
from streamrec.soft_labels.store import LabelStore
from streamrec.state import Component, ComponentState, from_bytes, pack_strings, to_bytes
from streamrec.storage import LocalStorage
from streamrec.student.learner import Learner
from streamrec.student.lesson import Lesson
from streamrec.teachers.window import EventWindow

LENGTH, DIM, WORDS, BATCH, START_MS = 50, 64, 12, 4096, 1_700_000_000_000
FULL, QUICK = (1_000_000, 1_000_000, 5_000_000), (50_000, 50_000, 100_000)
TOP_K = SoftLabelsConfig().top_k
MAX_ITEMS = 100_000
"""Bound of the vocabulary that gets more ids than it may hold."""
BARS = {
    "commit_stall_ms": "at most 300 at 1M users and 1M items",
    "history_bytes_per_user": "at most 1,073 (1 GiB for 1M users with 50 interactions)",
    "history_restore_s": "under 20",
}
Result = dict[str, float | int | None]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def batch_of(numbers: NDArray[np.int64], rows: NDArray[np.int64], first_ms: int) -> HistoryEvents:
    """One interaction a row, of the user whose number stands there."""
    unique, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(unique), np.int64)
    place[order] = np.arange(len(unique))
    num, zeros = len(numbers), np.zeros(len(numbers), np.int32)
    times = first_ms + np.arange(num, dtype=np.int64)
    users = [("default", f"user-{number}") for number in unique[order].tolist()]
    return HistoryEvents(users, place[inverse], rows.astype(np.int32), times, zeros.astype(np.int8), np.ones(num, np.float32), zeros)


def items_of(rng: np.random.Generator, num: int, num_items: int) -> NDArray[np.int64]:
    """Item rows by a Zipf law (exponent 1), the popular ones spread over the table."""
    return np.asarray(np.exp(rng.random(num) * np.log(num_items)).astype(np.int64) * 7919 % num_items)


def history_bytes(num_users: int, num_items: int) -> bytes:
    """Return what a commit holds of full histories: millions of events through `Histories.advance` would take most of the benchmark's time."""
    names = [f"user-{number}" for number in range(num_users)]
    user_bytes, user_offsets = pack_strings(names)
    arrays: dict[str, NDArray[Any]] = {
        "touched": np.arange(num_users) // BATCH + 1, "namespace": np.zeros(num_users, np.int32),
        "hash": np.fromiter((hash_key("default", name) for name in names), np.int64, num_users),
        "user_bytes": user_bytes, "user_offsets": user_offsets,
        "entry_rows": items_of(np.random.default_rng(0), num_users * LENGTH, num_items).astype(np.int32),
        "entry_times": START_MS + np.tile(np.arange(LENGTH), num_users), "entry_offsets": np.arange(num_users + 1) * LENGTH,
    }  # fmt: skip
    return to_bytes(ComponentState(arrays, {"clock": num_users, "namespaces": ["default"]}))


def fill_histories(num_users: int, num_items: int) -> tuple[Histories, float, float]:
    """Return full histories, the bytes of process memory a user takes, and the seconds that a restore from bytes takes."""
    gc.collect()
    before = resident_bytes()
    data = history_bytes(num_users, num_items)
    histories = Histories(LENGTH, num_users)
    began = time.perf_counter()
    histories.restore(from_bytes(data))
    seconds = time.perf_counter() - began
    del data
    gc.collect()
    return histories, (resident_bytes() - before) / num_users, seconds


def fill_student(num_items: int) -> Learner:
    """Return a student that knows all items, without drawing their first vectors one by one."""
    config, features = StudentConfig(dim=DIM), FeaturesConfig(history_length=LENGTH, words_per_item=WORDS)
    student = Learner(config, features, TOP_K, seed=0)
    vectors = np.random.default_rng(1).standard_normal((num_items, DIM), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ones = np.zeros(num_items, np.float32)
    table = {name: ones if "bias" in name else np.zeros_like(vectors) for name in ("vectors_m", "vectors_v", "bias", "bias_m", "bias_v")}
    words = np.full((num_items, WORDS), -1, np.int64)
    student.tables.restore({"vectors": vectors, **table, "words": words, "namespace": np.zeros(num_items, np.int32)})
    return student


class Stream:
    """Everything that a commit of the stream holds and that grows, without a log, teachers and serving."""

    def __init__(self, histories: Histories, num_users: int, num_items: int, folder: str) -> None:
        self.num_users, self.num_items, self.histories = num_users, num_items, histories
        self.student, self.popularity, self.window = fill_student(num_items), Popularity(), EventWindow(500_000)
        self.vocabulary, self.dedupe = Vocabulary(WORDS), Dedupe(num_users)
        self.vocabulary.rows_for(["default"] * num_items, [f"item-{number}" for number in range(num_items)])
        self.vocabulary.take_changed()
        self.rng, self.batch = np.random.default_rng(2), 0
        self.store = LabelStore(StudentConfig().replay_capacity, LENGTH, TOP_K)
        parts: list[Component] = [self.vocabulary, histories, self.popularity, self.window, self.dedupe, self.student, self.store]
        self.components = {part.name: part for part in parts}
        self.compactor = Compactor(lambda blobs: CompactionProcess(folder, blobs))
        self.saver = Saver(CheckpointStore(LocalStorage(folder)), self.components, compactor=self.compactor)
        self.saver.restore()

    def advance(self) -> int:
        """Apply a micro-batch and return how many rows of the state it changed."""
        self.batch += 1
        numbers, rows = self.rng.integers(0, self.num_users, BATCH), items_of(self.rng, BATCH, self.num_items)
        events = batch_of(numbers, rows, START_MS + self.batch * 10_000)
        examples = self.histories.advance(events)
        hashes = np.fromiter((hash_key(*user) for user in events.users), np.int64, len(events.users))
        self.window.add(hashes[events.user_of_event], events.rows, events.times)
        self.vocabulary.take_in(ItemKeys([], [], np.zeros(0, np.int64)), self._keys(rows), hashes[events.user_of_event])
        ids = self.rng.integers(0, 2**63, BATCH).astype(np.uint64)
        self.dedupe.remember(EventKeys(ids, hashes[events.user_of_event].astype(np.uint64), events.times))
        self.popularity.update(examples.target_rows, examples.query_of_target)
        old = self.store.examples(self.store.draw(len(examples), self.batch))
        self.student.step(Lesson(Examples.concat([examples, old]), None, len(examples), self.batch))
        answers = {name: self._answer(len(examples)) for name in TeachersConfig().enabled}
        self.store.add(examples, mix(answers, len(examples), TOP_K, 1.0), answers)
        return len(events.users) + self.student.tables.changed.count() + 2 * len(np.unique(rows)) + len(examples) + 2 * BATCH

    def _answer(self, num: int) -> Answer:
        rows = items_of(self.rng, num * TOP_K, self.num_items).reshape(num, TOP_K)
        chances, ones = self.rng.random((num, TOP_K)) / TOP_K, np.ones(num, np.float32)
        return Answer(("v1",), rows.astype(np.int32), chances, ones, np.zeros(num, np.int32), ones / np.float32(len(TeachersConfig().enabled)))

    def _keys(self, rows: NDArray[np.int64]) -> ItemKeys:
        return ItemKeys.of(["default"] * len(rows), [f"item-{row}" for row in rows.tolist()])

    def component_ms(self, name: str) -> float:
        """Return how long the stream stands for one component."""
        began = time.perf_counter()
        component = self.components[name]
        if component.delta() is None:
            component.snapshot()
        return round(1000 * (time.perf_counter() - began), 1)


def written_bytes(folder: str, known: set[str]) -> int:
    """Return the bytes of the blobs that are new, and know them from now on."""
    paths = [path for path in (Path(folder) / "blobs").iterdir() if path.name not in known]
    known.update(path.name for path in paths)
    return sum(path.stat().st_size for path in paths)


@dataclass
class Commits:
    """Figures of commits: milliseconds that the stream stood, until the commit was durable, bytes a changed row, changed rows."""

    stall_ms: list[float] = field(default_factory=list)
    durable_ms: list[float] = field(default_factory=list)
    bytes_per_row: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


def measure_commits(stream: Stream, folder: str, num: int) -> tuple[Commits, Commits]:
    """Return the figures of commits, and of some more while bases are joined."""
    known: set[str] = set()
    stream.saver.commit(0, {})
    stream.saver.wait()
    written_bytes(folder, known)
    usual, joining = Commits(), Commits()
    for number in range(num + 3):
        changed = stream.advance()
        if number == num:
            saving.MAX_DELTAS = 1  # From here on the largest components are joined, one after the other.
        into = joining if number > num else usual
        began = time.perf_counter()
        stream.saver.commit(stream.batch, {})
        into.stall_ms.append(1000 * (time.perf_counter() - began))
        stream.saver.wait()
        into.durable_ms.append(1000 * (time.perf_counter() - began))
        into.bytes_per_row.append(written_bytes(folder, known) / changed)
        into.rows.append(changed)
    return usual, joining


def try_vocabulary(num_ids: int) -> tuple[int, int]:
    """Return (ids tried, rows then) of a vocabulary of at most `MAX_ITEMS` items, all of them announced so that each is taken in."""
    vocabulary = Vocabulary(WORDS, MAX_ITEMS)
    for start in range(0, num_ids, BATCH):
        ids = [f"item-{number}" for number in range(start, min(start + BATCH, num_ids))]
        vocabulary.rows_for(["default"] * len(ids), ids)
    return num_ids, len(vocabulary)


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "")
    logging.getLogger("streamrec").setLevel(logging.ERROR)
    torch.set_num_threads(1)  # As in the actors.
    num_users, num_items, num_ids = QUICK if options.quick else FULL
    print(f"sizes {num_users} users x {LENGTH} interactions, {num_items} items x {DIM}, {BATCH} events a commit, {num_ids} ids", flush=True)
    histories, per_user, restore_s = fill_histories(num_users, num_items)
    print(f"histories {per_user:.0f} bytes a user, restored in {restore_s:.2f} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="streamrec-bench-") as folder:
        stream = Stream(histories, num_users, num_items, folder)
        usual, joining = measure_commits(stream, folder, 3 if options.quick else 5)
        stream.advance()
        parts = {name: stream.component_ms(name) for name in stream.components}
        while stream.compactor.is_busy:  # It writes into the folder, which goes now.
            stream.compactor.take()
            time.sleep(0.05)
    for what, figures in (("usual", usual), ("while bases are joined", joining)):
        said = {name: [round(value) for value in values] for name, values in vars(figures).items()}
        print(f"commits {what}: {said}", flush=True)
    tried, rows = try_vocabulary(num_ids)
    result: Result = {
        "commit_stall_ms": statistics.median(usual.stall_ms),
        "commit_bytes_per_changed_row": statistics.median(usual.bytes_per_row),
        "history_bytes_per_user": per_user,
        "history_restore_s": restore_s,
        "vocabulary_ids_tried": tried,
        "vocabulary_rows": rows,
    }
    about = facts(users=num_users, items=num_items, dim=DIM, stall_max_ms=round(max(usual.stall_ms + joining.stall_ms)), component_ms=parts)
    if options.quick:
        print("quick " + " ".join(f"{name} {value}" for name, value in result.items()) + " at the sizes above")
        result = dict.fromkeys(result)
    finish(result, about, BARS)


if __name__ == "__main__":
    main()
