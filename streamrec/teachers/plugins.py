"""Run a teacher that a package brings: hand it what it needs, and check what it gives before anything depends on it."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from streamrec.config import TeachersConfig
from streamrec.errors import OperatorError, StreamrecError
from streamrec.state import ComponentState
from streamrec.teachers.protocol import Kind, Scoring, TeacherClass, Window, content_request
from streamrec.teachers.train_loop import GENERATION
from streamrec.teachers.training import Place

_PROBED = 8
"""Histories that a new version is asked about before it is published."""


class PluginTeacher:
    """Ask a package's teacher about the rows that its version knows, one question at a time, and check its answers; see `LoadedTeacher`.

    Raises:
        OperatorError: It can't load its version.
    """

    def __init__(self, name: str, scoring: Scoring, generations: NDArray[np.int32]) -> None:
        self._name, self._scoring = name, scoring
        self.generations = generations
        self._known = np.flatnonzero(generations >= 0).astype(np.int32)
        self._turn = Lock()

    def score(self, histories: NDArray[np.int32], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return raw logits; rows that the version does not know are neither shown to the teacher nor asked of it.

        Raises:
            OperatorError: They are of another shape, or neither numbers nor -inf.
        """
        place = np.flatnonzero(np.isin(candidates, self._known))
        shown = np.where(np.isin(histories, self._known), histories, np.int32(-1))
        with self._turn:
            scores = np.asarray(self._scoring.score(shown, candidates[place]))
        self._check("scores", scores, (len(histories), len(place)))
        result = np.full((len(histories), len(candidates)), -np.inf, np.float32)
        result[:, place] = scores
        return result

    def represent(self, histories: NDArray[np.int32]) -> NDArray[np.float32] | None:
        """Return its vectors, if it has any; raises as `score` does."""
        represent = getattr(self._scoring, "represent", None)
        if represent is None:
            return None
        shown = np.where(np.isin(histories, self._known), histories, np.int32(-1))
        with self._turn:
            vectors = np.asarray(represent(shown), np.float32)
        self._check("vectors", vectors, (len(histories), vectors.shape[-1] if vectors.ndim == 2 else 0))
        return vectors

    def _check(self, what: str, values: NDArray[np.float32], shape: tuple[int, int]) -> None:
        if values.shape != shape:
            raise _broken(self._name, f"its {what} have another shape", values.shape, shape)
        if values.dtype.kind != "f" or np.isnan(values).any() or np.isposinf(values).any():
            got = f"{values.dtype} with {int(np.isnan(values).sum())} NaN" if values.dtype.kind == "f" else values.dtype
            raise _broken(self._name, f"its {what} are no numbers", got, "float32 without NaN and +inf")


def plugin_kind(name: str, load: Callable[[], TeacherClass]) -> Kind:
    """Return the kind of a package's teacher.

    Args:
        name: Of the entry point.
        load: Imports it; called where it works, in the refresh's task and the scorer's actor.
    """

    def refresh(
        payload: ComponentState, previous: ComponentState | None, config: TeachersConfig, seed: int, place: Place | None
    ) -> tuple[ComponentState, dict[str, object]]:
        window = Window.of(payload, seed, config.plugins.get(name, {}))
        made = load().refresh(window, previous)
        if not isinstance(made, ComponentState) or not all(isinstance(array, np.ndarray) for array in made.arrays.values()):
            raise _broken(name, "its refresh returned no version", type(made).__name__, "a ComponentState of numpy arrays and a JSON meta")
        generations = np.asarray(made.arrays.get(GENERATION, window.generations), np.int32)
        if len(generations) != window.num_items or (generations[generations >= 0] != window.generations[generations >= 0]).any():
            raise _broken(name, "its version says that it knows other items", f"{len(generations)} rows", "the window's generations, or -1")
        state = ComponentState({**made.arrays, GENERATION: generations}, {**made.meta, "kind": name})
        _probe(name, loaded(state), window)
        return state, {"num_sequences": len(window.sequences)}

    def loaded(state: ComponentState) -> PluginTeacher:
        return PluginTeacher(name, load()(state), np.asarray(state.arrays[GENERATION]))

    def check(config: TeachersConfig) -> None:
        load()

    return Kind(content_request, refresh, loaded, check)


def _probe(name: str, teacher: PluginTeacher, window: Window) -> None:
    """Ask a new version about a few histories, so that one that can't answer is never used."""
    newest_first = window.sequences[:_PROBED, ::-1]
    histories = np.concatenate([newest_first, np.full((1, newest_first.shape[1]), -1)]).astype(np.int32)
    teacher.score(histories, np.arange(window.num_items, dtype=np.int32))
    teacher.represent(histories)


def _broken(name: str, what: str, got: object, allowed: object) -> StreamrecError:
    do = "mend the package, or leave it out of teachers.enabled"
    return OperatorError(f"Teacher: {what}", got=f"{got} from the plug-in {name}", allowed=allowed, do=do)
