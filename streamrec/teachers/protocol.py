"""Define what a teacher is: refresh(window, previous) → version; score(histories, candidates) → logits; represent(histories) → vectors.

Shapes: ``Q`` queries, ``N`` history length, ``V`` item rows, ``C`` candidates, ``D`` dimensions, ``U`` sequences of ``S`` items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamrec.config import TeachersConfig
from streamrec.errors import ConfigError
from streamrec.features.item_content import VECTORS
from streamrec.state import ComponentState, unpack_strings
from streamrec.teachers.train_loop import GENERATION
from streamrec.teachers.training import Place
from streamrec.teachers.window import EventWindow


class Scoring(Protocol):
    """Answer with one version's weights.

    **Contract.** `score` is a function of the version and its arguments. What it returns belongs to the caller. Another package's is asked one
    question at a time, by one thread or another. A teacher that also has ``represent(histories)`` returns a vector of each history there.
    [Q, D] float32
    """

    def score(self, histories: NDArray[np.int32], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return raw logits, -inf where it does not know.

        Args:
            histories: Item rows, newest first, -1 pads. A history may hold nothing that the version knows. [Q, N]
            candidates: Item rows, ascending. [C]

        Returns:
            [Q, C] float32
        """
        ...


class LoadedTeacher(Scoring, Protocol):
    """A teacher version ready to score, whatever its kind.

    **Contract.** Scoring changes nothing: several threads ask at a time.

    Attributes:
        generations: Generation of the item that it learned on each row, -1 on rows that it does not know. [rows] int32
    """

    generations: NDArray[np.int32]

    def represent(self, histories: NDArray[np.int32]) -> NDArray[np.float32] | None:
        """Return a vector of each history [Q, D], zeros for one of unknown items; None where teachers of this kind have none."""
        ...


@dataclass(frozen=True)
class Window:
    """Hold what a refresh is made from.

    Attributes:
        sequences: Each user's newest items, oldest first, padded with -1 on the right, at least two items a sequence. [U, S] int32
        generations: Generation of each row's item, -1 where the row is free. [V] int32
        namespaces: Namespace code of each row, -1 where it is free. [V] int32
        texts: Title and categories of each row's item, "" where nothing was said. [V]
        vectors: Modality to the vectors that item updates gave, zeros where none did. [V, D] each, float32
        seed: Of everything random.
        settings: What ``teachers.plugins`` has under the teacher's name.
    """

    sequences: NDArray[np.int32]
    generations: NDArray[np.int32]
    namespaces: NDArray[np.int32]
    texts: Sequence[str] = ()
    vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_items(self) -> int:
        """Number of rows, V."""
        return len(self.generations)

    def known(self, previous: ComponentState) -> NDArray[np.bool_]:
        """Return which rows hold the item that they held when an earlier version was made: its weights for the others are another item's. [V]."""
        then = previous.arrays[GENERATION][: self.num_items]
        held = np.zeros(self.num_items, bool)
        held[: len(then)] = (then >= 0) & (then == self.generations[: len(then)])
        return held

    @staticmethod
    def of(payload: ComponentState, seed: int, settings: Mapping[str, Any]) -> Window:
        """Return the window that `content_request` put into a payload."""
        arrays = payload.arrays
        texts = unpack_strings(arrays["text_bytes"], arrays["text_offsets"])
        vectors = {name.removeprefix(VECTORS): arrays[name] for name in sorted(arrays) if name.startswith(VECTORS)}
        return Window(arrays["sequences"], arrays[GENERATION], arrays["namespace"], texts, vectors, seed, settings)


class TeacherClass(Protocol):
    """What a package brings: a class, or two functions in one callable object.

    Example:
        class MyTeacher:
            @staticmethod
            def refresh(window: Window, previous: ComponentState | None) -> ComponentState: ...
            def __init__(self, version: ComponentState) -> None: ...
            def score(self, histories, candidates): ...
    """

    def refresh(self, window: Window, previous: ComponentState | None) -> ComponentState:
        """Make a version: arrays, and a meta of JSON values; a function of its arguments."""
        ...

    def __call__(self, version: ComponentState) -> Scoring:
        """Make a version ready to score."""
        ...


@dataclass(frozen=True)
class Material:
    """Hold the state that requests are put together from; each kind takes what it needs.

    Attributes:
        window: The newest interactions.
        generations: As in `Window`.
        namespaces: As in `Window`.
        statistics: Copies the linear teacher's sums; None without one.
        content: Copies what is known of the first rows, as `streamrec.features.item_content.ItemContent.of_rows`; None where it is not kept.
    """

    window: EventWindow
    generations: NDArray[np.int32]
    namespaces: NDArray[np.int32]
    statistics: Callable[[], ComponentState] | None = None
    content: Callable[[int], dict[str, NDArray[Any]]] | None = None


def _nothing(config: TeachersConfig) -> None:
    """Find nothing wrong."""


@dataclass(frozen=True)
class Kind:
    """Say how teachers of one kind come to a version and answer with it.

    Attributes:
        request: Puts together what a refresh is made from, so that it can be done again with the same outcome.
        refresh: Makes (a version, facts about it) from that, the previous version or None, the settings, a seed, and a place among Ray Train's
            workers or None. A function of these.
        load: Makes a version ready to score.
        check: Raises what would keep every refresh from being made here, as far as that can be told at once.
        keeps_request: What a refresh is made from goes to storage before it begins; else a crash loses it, so a commit waits for the refresh.
        on_ray_train: The refresh is a fit of Ray Train.
    """

    request: Callable[[Material, TeachersConfig], ComponentState]
    refresh: Callable[[ComponentState, ComponentState | None, TeachersConfig, int, Place | None], tuple[ComponentState, dict[str, object]]]
    load: Callable[[ComponentState], LoadedTeacher]
    check: Callable[[TeachersConfig], None] = _nothing
    keeps_request: bool = True
    on_ray_train: bool = False


def window_request(material: Material, config: TeachersConfig) -> ComponentState:
    """Return the newest interactions as sequences, with what rows hold."""
    # The number of items travels with the sequences: both are kept, and a restart later in the stream must train the same version.
    held = material.window.sequences(config.transformer.sequence_length).state()
    arrays = {**held.arrays, GENERATION: material.generations, "namespace": material.namespaces}
    return ComponentState(arrays, {**held.meta, "num_items": len(material.generations)})


def content_request(material: Material, config: TeachersConfig) -> ComponentState:
    """Return `window_request` with what items say of themselves.

    Raises:
        ConfigError: That is not kept.
    """
    if material.content is None:
        what = "Teacher: nothing is kept of what items say"
        raise ConfigError(what, got="a refresh that reads it", do="have the teacher among teachers.enabled when the stream starts")
    window = window_request(material, config)
    return ComponentState({**window.arrays, **material.content(len(material.generations))}, window.meta)
