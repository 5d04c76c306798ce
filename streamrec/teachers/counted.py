"""Hold the teachers that learn by counting: they have no versions and no refresh, each micro-batch brings them up to date."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamrec.config import TeachersConfig
from streamrec.features.examples import Examples
from streamrec.state import Component
from streamrec.teachers.neighbours import Neighbours
from streamrec.teachers.repeats import Repeats
from streamrec.teachers.transitions import Transitions


class CountedTeacher(Protocol):
    """A teacher whose state is sums and lists.

    Attributes:
        leaves_own_out: Whether an answer to a query that it has learned is as if it had not, so that the query may be labelled anew.

    **Contract.** `answer` changes nothing and must not know the examples' targets: it is asked before `update` gets them. Of equal answers and
    updates in equal order the state has the same bits.
    """

    leaves_own_out: bool

    @property
    def num_queries(self) -> int:
        """Return 0 while it has learned nothing and so has no answer."""
        ...

    def answer(self, examples: Examples, top: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return each query's candidates, -1 pads, and how much speaks for each, best first. [Q, K] each."""
        ...

    def update(self, examples: Examples) -> None:
        """Learn from a batch."""
        ...


MAKERS: Mapping[str, Callable[[TeachersConfig], Repeats | Transitions | Neighbours]] = {
    "repeats": lambda config: Repeats(),
    "transitions": lambda config: Transitions(config.transitions),
    "neighbours": lambda config: Neighbours(config.neighbours),
}
"""All of them, by name."""


class CountedTeachers:
    """Hold the enabled ones, by name in the configuration's order.

    Attributes:
        teachers: Name to teacher.
    """

    def __init__(self, config: TeachersConfig) -> None:
        made = {name: MAKERS[name](config) for name in config.enabled if name in MAKERS}
        self.teachers: Mapping[str, CountedTeacher] = dict(made)
        self._components: list[Component] = []
        for teacher in made.values():
            self._components += teacher.components() if isinstance(teacher, Neighbours) else [teacher]

    def components(self) -> list[Component]:
        """Return their state."""
        return list(self._components)

    def update(self, examples: Examples) -> None:
        """Let all of them learn from a batch."""
        for teacher in self.teachers.values():
            teacher.update(examples)
