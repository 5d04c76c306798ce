"""Learn continually: one pass over new examples and replay at each step. Pure torch; the actor is a thin shell around this."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from streamrec.config import FeaturesConfig, StudentConfig
from streamrec.features.examples import Examples
from streamrec.models.student import StudentModel
from streamrec.state import ROWS, Arrays, ComponentState, digest_of, merge
from streamrec.student import rates
from streamrec.student.frozen import FrozenStudent
from streamrec.student.lesson import Lesson, StepMetrics
from streamrec.student.likeness import Likeness, likeness
from streamrec.student.losses import Batch, LossParts, Weights, element_dropout_at, full_softmax_loss, localise, sampled_softmax_loss, shuffled
from streamrec.student.returns import Returns
from streamrec.student.tables import ItemTables, adam_step

logger = logging.getLogger(__name__)

CURRENT = "current"
_MOMENTS = ("m", "v")

RATES = {"own_bias": 10.0, "position_logits": 10.0, "recent_projection": 0.2}
"""Factors on the learning rate of parameters: some have far to go, a bias on the user's own items of 2 to 4 is usual; where the order of a history
says nothing, as in baskets, fast projections of its items would learn the training set by heart (docs/experiments.md)."""

_FASTER = "faster/"
PROJECTION = "projection."
"""What parameters are named that only losses on representations need; no version has them."""

ANNEALED = 0.7
"""A step of several passes, as of a bootstrap or an offline protocol, has taken so much off its learning rate by its end; a stream has no end."""


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed what torch draws on CPU. `torch.manual_seed` also writes down its caller for each kind of device, which takes longer than a small step."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class Learner:
    """Hold a student and its optimiser; which queries it learns, new and replayed, a `Lesson` says.

    The same class is the control: a learner that is given no labels.

    While it begins, with steps of several passes, another one learns the same beside it, ``faster_rate`` times as fast. Before the fourth such step
    the better of the two goes on alone, by what either finds of that step's queries, the faster one slowing down; the first step of one pass ends
    the comparison.

    **Contract.** `step`: the same state, batch and seed give the same result bit for bit on CPU with the same number of threads.
    `ranks` never changes the state. Versions given to `hold` are only read.
    """

    def __init__(self, student: StudentConfig, features: FeaturesConfig, top_k: int, seed: int, name: str = "student") -> None:
        self.name = name
        self.config = student
        self.seed = seed
        with _seeded(seed):
            self.model = StudentModel(student.dim, features.history_length, features.word_buckets, student.scale, student.ordered_items)
        self.tables = ItemTables(student.dim, features.words_per_item, seed)
        self._features, self._top_k = features, top_k
        self._element_dropout = element_dropout_at(student.element_dropout, student.dim)
        self._dense: dict[str, nn.Parameter] = dict(self.model.named_parameters())
        self._moments = {f"{name}_{part}": torch.zeros_like(p) for name, p in self._dense.items() for part in _MOMENTS}
        self._num_steps = 0
        self._pace = 1.0
        self._faster: Learner | None = None
        self._num_judged = 0
        self._had_faster = False
        self._held: dict[str, FrozenStudent] = {}
        self._remembered: ComponentState | None = None
        self.returns = Returns()

    def put_items(
        self, rows: NDArray[np.int32], words: NDArray[np.int32], namespaces: NDArray[np.int32], generations: NDArray[np.int32] | None = None
    ) -> None:
        """Add or describe item rows; see `ItemTables.put_items`. The current weights cover them at once, held versions never do."""
        self.tables.put_items(rows, words, namespaces, generations)
        self._held.pop(CURRENT, None)
        if self._faster is not None:
            self._faster.put_items(rows, words, namespaces, generations)

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Clear rows whose items have left, also in versions that are held, and return how many of them held one."""
        self._held.pop(CURRENT, None)
        for frozen in self._held.values():
            frozen.forget_rows(rows)
        if self._faster is not None:
            self._faster.forget_rows(rows)
        return self.tables.forget_rows(rows)

    def remember(self) -> None:
        """Copy the weights, so that `go_back` can."""
        self._remembered = self._state(self.tables.state())

    def go_back(self) -> None:
        """Take the weights that were remembered; versions that are held stay."""
        assert self._remembered is not None
        held = {name: frozen for name, frozen in self._held.items() if name != CURRENT}
        self.restore(self._remembered)
        self.forget_copy()
        self._held = held
        self.tables.changed.mark_first(self.tables.num_rows)

    def forget_copy(self) -> None:
        """Let go of what was remembered."""
        self._remembered = None

    def keep(self, version: str) -> None:
        """Remember this state, which a version was made of, until the gate has decided on it."""
        self.returns.keep(version, self._state(self.tables.state()))

    def remembered(self) -> Returns:
        """Return what is remembered."""
        return self.returns

    def settle(self, version: str) -> None:
        """Let the state of a version that was promoted be the one to `return_to`."""
        self.returns.settle(version)

    def keep_these(self, versions: Sequence[str]) -> None:
        """Remember the states of these versions, as far as they are remembered now, when later ones are promoted; until others are named."""
        self.returns.keep_these(versions)

    def return_to(self, version: str) -> bool:
        """Take the weights and moments that a promoted version was made of; False where they are not remembered.

        Items stay those of now, and so do versions that are held; an item that was not known then begins anew.
        """
        state = self.returns.of(version)
        if state is None:
            return False
        held = {name: frozen for name, frozen in self._held.items() if name != CURRENT}
        self._restore_dense(state)
        self.tables.take_back({name.removeprefix("table/"): array for name, array in state.arrays.items() if name.startswith("table/")})
        self._held = held
        return True

    def forget_before(self, version: str) -> None:
        """Let go of remembered states older than a version, which knew a user who is deleted."""
        self.returns.forget_before(version)

    def knows(self, num_rows: int) -> bool:
        """Return whether it has been told of as many item rows."""
        return self.tables.num_rows >= num_rows

    def step(self, lesson: Lesson) -> StepMetrics:
        """Learn one pass."""
        num, total = lesson.num_new, len(lesson.examples)
        if total == 0:
            return StepMetrics(0, 0, 0, 0.0, 0.0)
        self._try_faster(lesson)
        if self._faster is not None:
            self._faster.step(lesson)
        labels = lesson.labels_or_none(self._top_k)
        for teacher, vectors in labels.representations.items() if self.config.losses.on_representations else ():
            self._project(teacher, vectors.shape[1])
        sums, trained = np.zeros(2), 0
        pace = self._pace * self.config.bootstrap_rate if lesson.num_passes > 1 else 1.0
        with _seeded(lesson.seed * 1000 + lesson.number):
            for index in shuffled(total, self.config.batch_size, lesson.seed * 1000 + lesson.number):
                batch = Batch.of(lesson.examples.take(index), labels.take(index), self.config.history_dropout, self._element_dropout)
                done = (lesson.number + trained / total) / lesson.num_passes if lesson.num_passes > 1 else 0.0
                parts = self._descend(batch, pace * (1.0 - ANNEALED * done))
                sums += np.asarray([parts.hard, parts.soft]) * len(index)
                trained += len(index)
        self._held.pop(CURRENT, None)
        return StepMetrics(num, trained, int((labels.probs[:num].sum(1) > 0).sum()), *(sums / trained).tolist())

    def _try_faster(self, lesson: Lesson) -> None:
        """Begin with another one that is faster, judge the two, or let one go; see the class."""
        if lesson.num_passes == 1:
            if lesson.num_new:  # A correction after a deletion has none.
                self._faster, self._num_judged = None, 0
        elif lesson.number == 0 and self._faster is not None:
            self._num_judged += 1
            if self._num_judged == rates.STEPS:
                self._go_on_with_the_better(rates.queries_of(lesson.examples, lesson.num_new))
        elif lesson.number == 0 and self._pace > 1:
            self._pace = max(1.0, rates.SLOWER * self._pace)
        elif lesson.number == 0 and self._num_steps == 0 and self.config.faster_rate != 1 and self.tables.num_rows <= rates.MOST_ROWS:
            self._faster = self._another(self._state(self.tables.state()))

    def _another(self, state: ComponentState) -> Learner:
        given = self.config.model_copy(update={"bootstrap_rate": self.config.faster_rate * self.config.bootstrap_rate, "faster_rate": 1.0})
        other = Learner(given, self._features, self._top_k, self.seed, self.name)
        other.restore(state)
        return other

    def _go_on_with_the_better(self, examples: Examples) -> None:
        other, self._faster, self._num_judged = self._faster, None, 0
        assert other is not None
        found = rates.verdict(examples, self.ranks(examples, [CURRENT])[CURRENT], other.ranks(examples, [CURRENT])[CURRENT])
        times, taken = self.config.faster_rate, "taken" if found.is_better else "not taken"
        how = "%s: %.4f of the next %d queries' targets are found, %.4f at %g times the learning rate, which is %s"
        logger.info(how, self.name, found.found, len(examples), found.found_faster, times, taken)
        if found.is_better:
            self._restore_dense(other._state({}))
            self._pace, self.tables = self.config.faster_rate, other.tables
            self.tables.changed.mark_first(self.tables.num_rows)
            self._held.pop(CURRENT, None)

    def _project(self, teacher: str, width: int) -> None:
        """See that there is a projection to a teacher's representation; another width is another teacher."""
        name, dim = f"{PROJECTION}{teacher}", self.config.dim
        if name in self._dense and self._dense[name].shape[1] == width:
            return
        drawn = np.random.default_rng([self.seed, *teacher.encode()]).normal(0.0, dim**-0.5, (dim, width))
        self._add_dense(name, torch.from_numpy(drawn.astype(np.float32)))

    def _add_dense(self, name: str, values: torch.Tensor) -> None:
        self._dense[name] = nn.Parameter(values)
        self._moments |= {f"{name}_{part}": torch.zeros_like(values) for part in _MOMENTS}

    def _descend(self, batch: Batch, factor: float = 1.0) -> LossParts:
        self._num_steps += 1
        tables, learning_rate = self.tables, factor * self.config.learning_rate
        projections = {name.removeprefix(PROJECTION): p for name, p in self._dense.items() if name.startswith(PROJECTION)}
        weights = Weights(self.config.distill_weight, self.config.losses, projections)
        rows: torch.Tensor | None = None
        if tables.num_rows > self.config.full_softmax_items:
            rows, batch, sampled = localise(batch, tables.num_rows, self.config.num_negatives, tables.rows("namespace"))
        vectors = (tables.rows("vectors") if rows is None else tables.tensors["vectors"].index_select(0, rows)).detach().requires_grad_()
        bias = (tables.rows("bias") if rows is None else tables.tensors["bias"].index_select(0, rows)).detach().requires_grad_()
        words = tables.rows("words") if rows is None else tables.tensors["words"].index_select(0, rows)
        resolved = vectors + self.model.content(words)
        if rows is None:
            parts = full_softmax_loss(self.model, resolved, bias, batch, tables.rows("namespace"), weights)
        else:
            parts = sampled_softmax_loss(self.model, resolved, bias, batch, sampled, weights)
        names = list(self._dense)
        inputs = [vectors, bias, *(self._dense[name] for name in names)]
        # Without words, or with histories of one item, a parameter has no part in the loss.
        grads = torch.autograd.grad(parts.total, inputs, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            tables.step(rows, grads[0], grads[1], learning_rate, self._num_steps)
            for name, grad in zip(names, grads[2:], strict=True):
                rate = learning_rate * RATES.get(name, 1.0)
                adam_step(self._dense[name], grad, self._moments[f"{name}_m"], self._moments[f"{name}_v"], rate, self._num_steps)
        return parts

    def export(self) -> tuple[Arrays, dict[str, Any]]:
        """Return the version arrays (docs/formats.md), less what the vocabulary and popularity add, and their meta."""
        frozen = self._frozen(CURRENT)
        return {**frozen.arrays, **self._content()}, frozen.meta

    def _content(self) -> dict[str, NDArray[Any]]:
        """Return what was learned of words, and which ones each item has, so that others can place items by them; nothing where no item has any."""
        words = self.tables.rows("words").numpy()
        if not (words >= 0).any():
            return {}
        # Two bytes a word where they are enough.
        kind = np.int16 if len(self.model.words) <= np.iinfo(np.int16).max else np.int32
        return {"word_vectors": self.model.words.detach().numpy().copy(), "item_words": words.astype(kind)}

    def hold(self, version: str, arrays: Arrays, meta: dict[str, Any], kept: Iterable[str] | None = None) -> None:
        """Keep a published version for `ranks`, and of those held before only ``kept`` if given; it does not know rows that have another item now."""
        frozen = self._held[version] = FrozenStudent(arrays, meta)
        mine = self.tables.rows("generation").numpy()[: frozen.num_rows]
        frozen.forget_rows(np.flatnonzero(frozen.generations[: len(mine)] != mine).astype(np.int32))
        if kept is not None:
            self._let_go({version, *kept})

    def hold_current(self, version: str, kept: Iterable[str] = ()) -> None:
        """Keep the current weights under a version's name, and of the versions held before only those in ``kept``."""
        self._held[version] = self._frozen(CURRENT)
        self._let_go({version, *kept})

    def likeness(self, examples: Examples, version: str, other: str) -> Likeness | None:
        """Compare what two versions that are held answer to some of the histories; see `streamrec.student.likeness.likeness`."""
        with torch.no_grad():
            return likeness(examples, self._frozen(version), self._frozen(other))

    def _let_go(self, kept: set[str]) -> None:
        self._held = {name: frozen for name, frozen in self._held.items() if name == CURRENT or name in kept}

    def ranks(self, examples: Examples, versions: Iterable[str], seen: list[NDArray[np.int32]] | None = None) -> dict[str, NDArray[np.int32]]:
        """Rank the targets by each version; ``CURRENT`` is the newest weights. Equal weights are scored once."""
        done: dict[int, NDArray[np.int32]] = {}
        result = {}
        with torch.no_grad():
            for version in versions:
                frozen = self._frozen(version)
                if id(frozen) not in done:
                    done[id(frozen)] = frozen.ranks(examples, seen)
                result[version] = done[id(frozen)]
        return result

    def target_log_probs(self, examples: Examples) -> NDArray[np.float32]:
        """Return the current weights' log-probability of each target. [T] float32."""
        with torch.no_grad():
            return self._frozen(CURRENT).target_log_probs(examples)

    def probes(self, examples: Examples) -> dict[str, list[list[float]]]:
        """Return probe histories with the current weights' answers."""
        with torch.no_grad():
            return self._frozen(CURRENT).probes(examples)

    def _frozen(self, version: str) -> FrozenStudent:
        if version == CURRENT and CURRENT not in self._held:
            with torch.no_grad():
                resolved = self.tables.rows("vectors") + self.model.content(self.tables.rows("words"))
            arrays: dict[str, NDArray[Any]] = {
                "item_vectors": resolved.numpy(),
                "item_bias": self.tables.rows("bias").numpy().copy(),
                "item_namespace": self.tables.rows("namespace").numpy().copy(),
                "item_generation": self.tables.rows("generation").numpy().copy(),
            }
            for name in ("position_logits", "own_bias", "pool_projection"):
                arrays[name] = self._dense[name].detach().numpy().copy()
            arrays["last_projection"] = torch.cat([self._dense["last_projection"], self._dense["recent_projection"]]).detach().numpy()
            meta = {"scale": self.config.scale, "history_length": len(arrays["own_bias"]), "dim": self.config.dim}
            self._held[CURRENT] = FrozenStudent(arrays, meta)
        return self._held[version]

    def num_parameters(self) -> dict[str, int]:
        """Return how many parameters the item tables and the shared part have."""
        return {"items": self.tables.num_rows * (self.config.dim + 1), "shared": sum(p.numel() for p in self._dense.values())}

    def snapshot(self) -> ComponentState:
        """Return weights, moments and the step count."""
        self.tables.changed.take()
        self._had_faster = self._faster is not None
        return self._state(self.tables.state())

    def _state(self, tables: Arrays, suffix: str = "") -> ComponentState:
        arrays: dict[str, NDArray[Any]] = {f"table/{name}{suffix}": array for name, array in tables.items()}
        arrays |= {f"dense/{name}": p.detach().numpy().copy() for name, p in self._dense.items()}
        arrays |= {f"moment/{name}": m.numpy().copy() for name, m in self._moments.items()}
        meta = {"num_steps": self._num_steps, "pace": self._pace, "num_judged": self._num_judged}
        if self._faster is not None:
            arrays |= {f"{_FASTER}{name}": array for name, array in self._faster._state(self._faster.tables.state()).arrays.items()}
        return ComponentState(arrays, meta)

    def delta(self) -> ComponentState | None:
        """Return the item rows that changed since the last snapshot or delta, and what is shared by all; None when most rows changed."""
        # A delta takes no array away, so while the other one is there, and once more after it, the whole is told.
        if self._faster is not None or self._had_faster or 2 * self.tables.changed.count() > self.tables.num_rows:
            return None
        rows = self.tables.changed.take()
        state = self._state(self.tables.pick(rows), "@values")
        return ComponentState({ROWS: rows, **state.arrays}, state.meta)

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        state = merge(base, deltas)
        self._held.clear()
        if not state.arrays:
            return
        self.tables.restore({name.removeprefix("table/"): array for name, array in state.arrays.items() if name.startswith("table/")})
        self._restore_dense(state)

    def _restore_dense(self, state: ComponentState) -> None:
        """Replace what all rows share, and the step count."""
        arrays: Mapping[str, NDArray[Any]] = state.arrays
        for name in [name for name in self._dense if name.startswith(PROJECTION)]:
            del self._dense[name], self._moments[f"{name}_m"], self._moments[f"{name}_v"]
        for name, values in arrays.items():
            if name.startswith(f"dense/{PROJECTION}"):
                self._add_dense(name.removeprefix("dense/"), torch.zeros(values.shape))
        with torch.no_grad():
            for name, parameter in self._dense.items():
                _fill(parameter, arrays.get(f"dense/{name}"))
        for name, moment in self._moments.items():
            _fill(moment, arrays.get(f"moment/{name}"))
        self._num_steps, self._pace = int(state.meta["num_steps"]), float(state.meta.get("pace", 1.0))
        faster = {name.removeprefix(_FASTER): array for name, array in arrays.items() if name.startswith(_FASTER)}
        self._faster, self._num_judged = None, int(state.meta.get("num_judged", 0))
        self._had_faster = bool(faster)
        if faster:
            self._faster = self._another(ComponentState(faster, {"num_steps": self._num_steps}))

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Return 0: the weights keep no users; what they are taught from does."""
        return 0

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self._state(self.tables.state()))


def _fill(values: torch.Tensor, stored: NDArray[Any] | None) -> None:
    """Take what a state has; 0 where it has none or less, as of items beyond the newest one, which once had no projections."""
    values.zero_()
    if stored is not None:
        values[: len(stored)] = torch.from_numpy(np.array(stored))[: len(values)]
