"""Measure what soft labels, a large catalogue and one more week cost, as ratios of medians of one run.

    python -m benchmarks.distil [--quick]

**Soft labels.** `Learner.step` over a micro-batch and its replay, of the student with labels and of its control, which gets none: with negatives
(10,000 items) and with the full softmax (4,000). ``kd_step_ratio`` is the larger of the two. With negatives a control has room for labels that it
does not get, and pays for it; ``kd_step_ratio_no_room`` is to a student without it.

**Items.** The same step with labels at 1,000,000 and at 10,000 items; rows by a Zipf law, and uniform, as nobody takes items: a step then
touches as many different rows as it can. ``items_step_ratio_1m`` is by the Zipf law. Bytes of the tables an item, at both sizes.

**Linear teacher.** Statistics over a year of weeks, then one more: ``linear_statistics_ratio`` is the update by that week to rebuilding them
from all, ``linear_refresh_ratio`` update and solve to rebuilding and solve. The solve is reported apart (``linear_solve_to_rebuild``). Then,
at fewer items, conjugate gradients for the same equations to a residual of 1e-4, from nothing and from the week before
(``linear_warm_to_cold``), each beside the factorisation (``linear_warm_to_factor``).

Contestants take turns. Everything is one thread, as in the actors, and its own time is measured, which other programs do not take. The last line
is one flat JSON object.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks._common import arguments, facts, finish
from streamrec.config import FeaturesConfig, LinearConfig, SoftLabelsConfig, StudentConfig
from streamrec.features.examples import Examples
from streamrec.models.linear import solve_ridge
from streamrec.soft_labels.schema import SoftLabels
from streamrec.student.learner import Learner
from streamrec.student.lesson import Lesson
from streamrec.teachers.linear import LinearStatistics
from streamrec.teachers.linear_version import solve_version

FEW, MANY, DENSE = 10_000, 1_000_000, 4_000
BATCH = 1024
TOP_K = SoftLabelsConfig().top_k
FEATURES = FeaturesConfig()
WEEKS = 52
EVERY = 7919
"""Prime: spreads the popular rows over a table."""
TOLERANCE = 1e-4
BARS = {
    "kd_step_ratio": "at most 1.5",
    "items_step_ratio_1m": "at most 3",
    "items_memory_ratio": "about 1: linear",
    "linear_statistics_ratio": "at most 0.1",
    "linear_refresh_ratio": "at most 0.5",
}
Result = dict[str, float | int | str | None]


@dataclass
class Popular:
    """Draw item rows by a Zipf law of exponent 1, or uniformly."""

    num_items: int
    is_uniform: bool = False

    def draw(self, rng: np.random.Generator, *shape: int) -> NDArray[np.int32]:
        """Return rows of this shape."""
        if self.is_uniform:
            return rng.integers(0, self.num_items, shape).astype(np.int32)
        return np.asarray(np.exp(rng.random(shape) * np.log(self.num_items)).astype(np.int64) * EVERY % self.num_items, np.int32)


def examples_of(rng: np.random.Generator, items: Popular, num: int) -> Examples:
    """Return queries with histories of 1 to 50 items and one target each."""
    length = FEATURES.history_length
    kept = np.arange(length)[None, :] < rng.integers(1, length + 1, num)[:, None]
    history = np.where(kept, items.draw(rng, num, length), -1).astype(np.int32)
    zeros = np.zeros(num, np.int32)
    return Examples(history, np.arange(num + 1), items.draw(rng, num), np.ones(num, np.float32), np.arange(num), zeros)


def labels_of(rng: np.random.Generator, items: Popular, num: int) -> SoftLabels:
    """Return labels on different rows, the best first, that count in part."""
    rows = items.draw(rng, num, TOP_K)
    ordered = np.sort(rows, 1)
    again = np.concatenate([np.zeros((num, 1), bool), np.diff(ordered, axis=1) == 0], 1)
    rows = np.where(again, -1, ordered).astype(np.int32)
    probs = np.where(rows >= 0, 0.8 / np.arange(2, TOP_K + 2), 0.0)
    return SoftLabels(rows, (0.8 * probs / probs.sum(1, keepdims=True)).astype(np.float32), {"teacher": "v1"})


def student_of(num_items: int, top_k: int = TOP_K) -> Learner:
    """Return a student that knows all items, without drawing their first vectors one by one."""
    config = StudentConfig()
    made = Learner(config, FEATURES, top_k, seed=0)
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((num_items, config.dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    empty = np.zeros(0, np.float32)  # `restore` leaves what it is not given at zero.
    words = rng.integers(-1, FEATURES.word_buckets, (num_items, FEATURES.words_per_item))
    table = {"vectors": vectors, "vectors_m": empty, "vectors_v": empty, "bias": np.zeros(num_items, np.float32), "bias_m": empty, "bias_v": empty}
    zeros = np.zeros(num_items, np.int32)
    made.tables.restore({**table, "words": words, "namespace": zeros, "generation": zeros})
    return made


def in_turn(contestants: Mapping[str, Callable[[int], None]], rounds: int) -> dict[str, float]:
    """Return the median of each contestant's seconds; they take turns, and the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            began = time.thread_time()
            run(number)
            seconds[name].append(time.thread_time() - began)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def stepper(made: Learner, items: Popular, *, with_labels: bool = True) -> Callable[[int], None]:
    """Return what takes one step of new and replayed queries, the same ones whoever asks."""
    rng = np.random.default_rng(3)
    parts = [(examples_of(rng, items, BATCH), labels_of(rng, items, BATCH)) for _ in range(4)]

    def step(number: int) -> None:
        (examples, labels), (old, old_labels) = parts[number % len(parts)], parts[(number + 1) % len(parts)]
        joined = SoftLabels.concat([labels, old_labels]) if with_labels else None
        made.step(Lesson(Examples.concat([examples, old]), joined, BATCH, number))

    return step


def measure_steps(rounds: int) -> Result:
    """Measure the student's steps."""
    contestants: dict[str, Callable[[int], None]] = {}
    students: dict[int, Learner] = {}
    for num_items in (DENSE, FEW, MANY):
        items = Popular(num_items)
        students[num_items] = student_of(num_items)
        contestants[f"labels {num_items}"] = stepper(students[num_items], items)
        if num_items != MANY:
            contestants[f"events {num_items}"] = stepper(student_of(num_items), items, with_labels=False)
    contestants[f"no room {FEW}"] = stepper(student_of(FEW, top_k=1), Popular(FEW), with_labels=False)
    for num_items in (FEW, MANY):
        contestants[f"uniform {num_items}"] = stepper(student_of(num_items), Popular(num_items, is_uniform=True))
    seconds = in_turn(contestants, rounds)
    for name, value in seconds.items():
        print(f"step  {name:<16} {1e3 * value:7.1f} ms")
    sampled, full = (seconds[f"labels {size}"] / seconds[f"events {size}"] for size in (FEW, DENSE))
    bytes_an_item = {size: sum(part.nbytes for part in students[size].tables.state().values()) / size for size in (FEW, MANY)}
    print(f"bytes an item: {bytes_an_item[FEW]:.0f} at {FEW}, {bytes_an_item[MANY]:.0f} at {MANY}")
    return {
        "kd_step_ratio": max(sampled, full),
        "kd_step_ratio_sampled": sampled,
        "kd_step_ratio_full": full,
        "kd_step_ratio_no_room": seconds[f"labels {FEW}"] / seconds[f"no room {FEW}"],
        "items_step_ratio_1m": seconds[f"labels {MANY}"] / seconds[f"labels {FEW}"],
        "items_step_ratio_1m_uniform": seconds[f"uniform {MANY}"] / seconds[f"uniform {FEW}"],
        "items_memory_ratio": bytes_an_item[MANY] / bytes_an_item[FEW],
        "bytes_per_item": bytes_an_item[MANY],
    }


def week_of(number: int, items: Popular, num_users: int, each: int = 10) -> Examples:
    """Return a week's queries: ``each`` of every user, one after the other, on their newest 50 items."""
    length = FEATURES.history_length
    taken = items.draw(np.random.default_rng([5, number]), num_users, length + each)
    windows = np.lib.stride_tricks.sliding_window_view(taken, length, axis=1)[:, :each, ::-1]  # [users, each, N], newest first
    num = num_users * each
    users = np.repeat(np.arange(num_users), each)
    targets = taken[:, length:].reshape(num)
    history, zeros = np.ascontiguousarray(windows.reshape(num, length)), np.zeros(num, np.int32)
    return Examples(history, np.arange(num + 1), targets, np.ones(num, np.float32), users, zeros)


def seconds_of(run: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.thread_time()
    run()
    return time.thread_time() - began


def add_weeks(made: LinearStatistics, items: Popular, num_users: int, weeks: range) -> float:
    """Add weeks to statistics and return the seconds of the updates alone."""
    seconds = 0.0
    for number in weeks:
        examples = week_of(number, items, num_users)
        seconds += seconds_of(partial(made.update, examples))
    return seconds


def measure_refresh(num_users: int, num_items: int, rounds: int) -> Result:
    """Measure a refresh with one more week beside a fit from nothing."""
    config, items = LinearConfig(max_items=num_items), Popular(num_items)
    held = LinearStatistics(config)
    rebuild_s = add_weeks(held, items, num_users, range(WEEKS))
    updates, solves = [], []
    for number in range(WEEKS, WEEKS + rounds + 1):
        updates.append(add_weeks(held, items, num_users, range(number, number + 1)))
        solves.append(seconds_of(lambda: solve_version(held.matrices(), config)))
    # The rebuilding has one week less than what it is compared with.
    update, solve, rebuild = statistics.median(updates[1:]), statistics.median(solves[1:]), rebuild_s * (WEEKS + 1) / WEEKS
    num_queries = (WEEKS + 1) * len(week_of(0, items, num_users))
    print(f"linear teacher, {num_items} items, {num_queries} queries: rebuild {rebuild:.2f} s, one week {update:.3f} s, solve {solve:.2f} s")
    print(f"the solve costs as much as the statistics of {solve / rebuild * num_queries:.0f} queries: beyond these a refresh is half a fit at most")
    return {
        "linear_statistics_ratio": update / rebuild,
        "linear_refresh_ratio": (update + solve) / (rebuild + solve),
        "linear_solve_to_rebuild": solve / rebuild,
    }


def conjugate(gram: torch.Tensor, cross: torch.Tensor, ridge: float, weights: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Solve (G + λ I) W = C by conjugate gradients, all columns at once, to a residual of `TOLERANCE` of C.

    Returns:
        (W [M, M], products with G: the residual's, and one an iteration)
    """
    scale = gram.diagonal()[:, None] + ridge  # Jacobi's preconditioner.
    residual = cross - (gram @ weights + ridge * weights)
    direction = residual / scale
    weights, energy, products = weights.clone(), (residual * direction).sum(0), 1
    while residual.norm() > TOLERANCE * cross.norm():
        moved = gram @ direction + ridge * direction
        rate = energy / (direction * moved).sum(0).clamp(min=1e-30)
        weights += rate * direction
        residual -= rate * moved
        scaled = residual / scale
        energy, before = (residual * scaled).sum(0), energy
        direction = scaled + energy / before.clamp(min=1e-30) * direction
        products += 1
    return weights, products


def measure_iteration(num_users: int, num_items: int, rounds: int) -> Result:
    """Measure conjugate gradients from nothing and from the week before, beside the factorisation."""
    config, items = LinearConfig(max_items=num_items), Popular(num_items)
    held = LinearStatistics(config)
    add_weeks(held, items, num_users, range(WEEKS))
    before = solve_version(held.matrices(), config)
    add_weeks(held, items, num_users, range(WEEKS, WEEKS + 1))
    state = held.matrices()
    gram, cross = (torch.from_numpy(state.arrays[name]) for name in ("gram", "cross"))
    start = torch.zeros_like(cross)
    start[: len(before.arrays["rows"]), : len(before.arrays["rows"])] = torch.from_numpy(before.arrays["weights"])
    products: dict[str, int] = {}

    def cold(_: int) -> None:
        products["cold"] = conjugate(gram, cross, config.ridge, torch.zeros_like(cross))[1]

    def warm(_: int) -> None:
        products["warm"] = conjugate(gram, cross, config.ridge, start)[1]

    def factor(_: int) -> None:
        solve_ridge(gram, cross, config.ridge)

    seconds = in_turn({"cold": cold, "warm": warm, "factor": factor}, rounds)
    print(f"conjugate gradients, {num_items} items: {products['cold']} products with G from nothing, {products['warm']} from the week before")
    return {
        "linear_cold_products": products["cold"],
        "linear_warm_products": products["warm"],
        "linear_warm_to_cold": seconds["warm"] / seconds["cold"],
        "linear_warm_to_factor": seconds["warm"] / seconds["factor"],
    }


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    result = measure_steps(3 if options.quick else 12)
    result |= measure_refresh(500 if options.quick else 4000, 2048 if options.quick else 4096, 2 if options.quick else 4)
    result |= measure_iteration(300, 768 if options.quick else 1536, 2)
    finish(result, facts(weeks=WEEKS, batch=BATCH, dim=StudentConfig().dim, top_k=TOP_K), BARS)


if __name__ == "__main__":
    main()
