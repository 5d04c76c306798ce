"""Solve the linear teacher's statistics for a version, and score with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamrec.config import LinearConfig, TeachersConfig
from streamrec.errors import ConfigError
from streamrec.models.linear import solve_ridge
from streamrec.models.low_rank import LowRank, Scores, solve_low_rank
from streamrec.models.sparse_sums import Rows, split
from streamrec.state import ComponentState
from streamrec.teachers.protocol import Kind, Material
from streamrec.teachers.train_loop import GENERATION
from streamrec.teachers.training import Place

Arrays = Mapping[str, NDArray[Any]]


def solve_version(matrices: ComponentState, config: LinearConfig, seed: int = 0) -> ComponentState:
    """Return a version from what `LinearStatistics.matrices` gave, with the item row of each slot ``rows`` [M] and its ``generation`` [M].

    Of square matrices it has B as ``weights`` [M, M]; of entries B as `streamrec.models.low_rank.LowRank` holds it: ``left`` [M, r],
    ``right`` [r, M] and ``near_starts`` [M + 1], ``near_columns`` and ``near_values`` [E].
    """
    rows = matrices.arrays["rows"]
    generations = matrices.arrays.get(GENERATION, np.zeros(len(rows), np.int32))
    if "gram" in matrices.arrays:
        arrays = _dense(matrices.arrays, config)
    else:
        arrays, order = _low_rank(matrices.arrays, config, seed), np.argsort(rows)
        rows, generations = rows[order], generations[order]
    arrays |= {"rows": rows, GENERATION: generations}
    return ComponentState(arrays, {"kind": "linear", "decay": config.history_decay, "num_queries": matrices.meta["num_queries"]})


def _dense(arrays: Arrays, config: LinearConfig) -> dict[str, NDArray[Any]]:
    gram, cross = (torch.tensor(arrays[name]) for name in ("gram", "cross"))
    return {"weights": solve_ridge(gram, cross, config.ridge).numpy()}


def _low_rank(arrays: Arrays, config: LinearConfig, seed: int) -> dict[str, NDArray[Any]]:
    """Return B with its rows and columns by item row, ascending: scores then go to ascending candidates, which takes a fifth of the time."""
    num = len(arrays["rows"])
    number = np.empty(num, np.int64)
    number[np.argsort(arrays["rows"])] = np.arange(num)
    (one, other), (history, target) = ((number[part] for part in split(arrays[f"{name}_places"])) for name in ("gram", "cross"))
    apart, upper, values = one != other, arrays["gram_values"], arrays["cross_values"]
    both = np.concatenate([one, other[apart]]), np.concatenate([other, one[apart]]), np.concatenate([upper, upper[apart]])
    cross, cross_columns = Rows.of(history, target, values, num), Rows.of(target, history, values, num)
    found = solve_low_rank(Rows.of(*both, num), cross, cross_columns, config.ridge, config.rank, seed)
    near = {f"near_{name}": values.numpy() for name, values in found.near._asdict().items()}
    return {**near, "near_columns": near["near_columns"].astype(np.int32), "left": found.left.numpy(), "right": found.right.numpy()}


Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Gives scores [Q, M] of histories by slots, -1 for gaps, and what each place counts, 0 for gaps: [Q, N] each."""


def _product_with(arrays: Arrays) -> Product:
    if "weights" in arrays:
        weights = torch.tensor(np.array(arrays["weights"]))
        # The history's few rows of the weights, summed: the same as the decayed history times the weights.
        return lambda slots, decay: torch.nn.functional.embedding_bag(slots.clamp(min=0), weights, per_sample_weights=decay, mode="sum")
    starts, columns, values = (torch.tensor(np.array(arrays[f"near_{name}"])) for name in Rows._fields)
    left, right = (torch.tensor(np.array(arrays[name])) for name in ("left", "right"))
    return Scores(LowRank(Rows(starts, columns.long(), values), left, right)).of


class LinearTeacher:
    """Score with the closed-form item-item weights; see `streamrec.teachers.protocol.LoadedTeacher`."""

    def __init__(self, state: ComponentState) -> None:
        self._product = _product_with(state.arrays)
        self._rows = np.asarray(state.arrays["rows"], np.int64)
        self._decay = float(state.meta["decay"])
        self._slot = np.full(int(self._rows.max(initial=-1)) + 1, -1, np.int64)
        self._slot[self._rows] = np.arange(len(self._rows))
        self.generations = np.full(len(self._slot), -1, np.int32)
        self.generations[self._rows] = state.arrays.get(GENERATION, 0)

    def score(self, histories: NDArray[np.int32], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the decayed history times the weights."""
        result = np.full((len(histories), len(candidates)), -np.inf, np.float32)
        known = (histories >= 0) & (histories < len(self._slot))
        slots = torch.from_numpy(np.where(known, self._slot[np.where(known, histories, 0)], -1) if len(self._slot) else np.full(known.shape, -1))
        inside = slots >= 0
        if not len(self._rows):
            return result
        decay = self._decay ** torch.arange(slots.shape[1], dtype=torch.float32) * inside
        scores = self._product(slots, decay).numpy()
        place = np.searchsorted(candidates, self._rows)
        asked = place < len(candidates)
        asked[asked] = candidates[place[asked]] == self._rows[asked]
        result[:, place[asked]] = scores if asked.all() else scores[:, asked]
        result[~inside.any(1).numpy()] = -np.inf
        return result

    def represent(self, histories: NDArray[np.int32]) -> None:
        """Return None: it has no vectors."""


def _request(material: Material, config: TeachersConfig) -> ComponentState:
    if material.statistics is None:
        what = "Teacher: there are no statistics to solve"
        raise ConfigError(what, got="a refresh of linear", do="have linear among teachers.enabled when the stream starts")
    held = material.statistics()
    return ComponentState({**held.arrays, GENERATION: material.generations[held.arrays["rows"]]}, held.meta)


def _refresh(
    payload: ComponentState, previous: ComponentState | None, config: TeachersConfig, seed: int, place: Place | None
) -> tuple[ComponentState, dict[str, object]]:
    return solve_version(payload, config.linear, seed), {}


LINEAR = Kind(_request, _refresh, LinearTeacher, keeps_request=False)
"""Its request is as large as its statistics, and lives in memory only."""
