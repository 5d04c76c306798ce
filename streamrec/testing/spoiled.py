"""Spoil teachers, to hold that the student never loses by them: whatever they say, it stays within noise of the same student on events alone."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from streamrec.features.examples import Examples
from streamrec.pipeline.controller import Controller
from streamrec.soft_labels.scorer import Scorer
from streamrec.teachers.counted import CountedTeacher
from streamrec.teachers.protocol import LoadedTeacher
from streamrec.workers import LocalWorker

Spoiling = Literal["random", "inverted", "stale", "missing"]
SPOILINGS: tuple[str, ...] = get_args(Spoiling)


class SpoiledTeacher:
    """Answer other logits than the teacher's: ``random`` ones, ``inverted`` ones, or none at all (``missing``); see `LoadedTeacher`."""

    def __init__(self, teacher: LoadedTeacher, spoiling: Spoiling, seed: int) -> None:
        self._teacher, self._spoiling = teacher, spoiling
        self._rng = np.random.default_rng(seed)
        self.generations = teacher.generations

    def score(self, histories: NDArray[np.int32], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return spoiled logits where the teacher has any, -inf elsewhere."""
        found = self._teacher.score(histories, candidates)
        if self._spoiling == "missing":
            return np.full_like(found, -np.inf)
        other = -found if self._spoiling == "inverted" else self._rng.standard_normal(found.shape, np.float32)
        return np.where(np.isneginf(found), found, other)

    def represent(self, histories: NDArray[np.int32]) -> NDArray[np.float32] | None:
        """Return what the teacher returns."""
        return self._teacher.represent(histories)


class SpoiledScorer(Scorer):
    """Load spoiled teachers; a ``stale`` one keeps its first version for ever."""

    def __init__(self, storage_url: str, top_k: int, spoiling: Spoiling, seed: int) -> None:
        super().__init__(storage_url, top_k)
        self._spoiling, self._seed = spoiling, seed
        self._first: dict[str, LoadedTeacher] = {}

    def _teacher(self, name: str, version: str) -> LoadedTeacher:
        if self._spoiling == "stale":
            return self._first.setdefault(name, super()._teacher(name, version))
        return SpoiledTeacher(super()._teacher(name, version), self._spoiling, self._seed)


class SpoiledCounted:
    """Answer other lists than a teacher that counts; it has no versions, so ``stale`` leaves it as it is. See `CountedTeacher`."""

    def __init__(self, teacher: CountedTeacher, spoiling: Spoiling, seed: int) -> None:
        self._teacher, self._spoiling = teacher, spoiling
        self._rng = np.random.default_rng(seed)
        self.leaves_own_out = teacher.leaves_own_out

    @property
    def num_queries(self) -> int:
        """Return 0 while it has no answer."""
        return 0 if self._spoiling == "missing" else self._teacher.num_queries

    def answer(self, examples: Examples, top: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the same rows, the least likely ones first (``inverted``), or any rows (``random``). [Q, K] each."""
        rows, values = self._teacher.answer(examples, top)
        if self._spoiling == "stale":
            return rows, values
        if self._spoiling == "random":
            rows = np.where(rows >= 0, self._rng.integers(0, max(1, int(rows.max(initial=0)) + 1), rows.shape), -1).astype(np.int32)
        other = np.where((rows >= 0) & (values > 0), 1.0 / np.maximum(values, 1e-30), 0.0).astype(np.float32)
        order = np.argsort(-other, 1, kind="stable")
        return np.take_along_axis(rows, order, 1), np.take_along_axis(other, order, 1)

    def update(self, examples: Examples) -> None:
        """Let the teacher learn."""
        self._teacher.update(examples)


def spoil(controller: Controller, state_url: str, spoiling: Spoiling) -> None:
    """Spoil every teacher of a controller whose workers are in this process, and whose teachers' versions are below ``state_url``."""
    config = controller.config
    controller.parts.scorer = LocalWorker(SpoiledScorer(state_url, config.soft_labels.top_k, spoiling, config.seed))
    counted = controller.labelling.counted
    counted.teachers = {name: SpoiledCounted(teacher, spoiling, config.seed) for name, teacher in counted.teachers.items()}
