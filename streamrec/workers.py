"""Call an object here or in an actor through one typed seam.

The controller never knows where a student or a scorer lives: it submits a method and later asks for the result. `LocalWorker` calls at
once in this process; the Ray twin (`streamrec.pipeline.ray_workers.RayWorker`) calls an actor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, Generic, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)


class Pending(Protocol[T_co]):
    """A result that may still be under way."""

    def result(self) -> T_co:
        """Wait for the result and return it, or raise what the call raised."""
        ...


class Done(Generic[T]):
    """A result that is there."""

    def __init__(self, value: T) -> None:
        self._value = value

    def result(self) -> T:
        """Return the value."""
        return self._value


class Worker(Protocol[C_co]):
    """Where an object of class ``C`` lives.

    **Contract.** Submitted calls run one at a time in the order of submission. Arguments and results may be shared, not copied: neither
    side changes them afterwards.
    """

    def submit(self, method: Callable[Concatenate[C_co, P], T], *args: P.args, **kwargs: P.kwargs) -> Pending[T]:
        """Call ``method`` (an unbound method of ``C``) on the object; does not wait when the object lives elsewhere."""
        ...


class LocalWorker(Generic[C]):
    """Hold the object in this process and call it at once."""

    def __init__(self, target: C) -> None:
        self.target = target

    def submit(self, method: Callable[Concatenate[C, P], T], *args: P.args, **kwargs: P.kwargs) -> Pending[T]:
        """Call now; an exception is raised here rather than at `Pending.result`."""
        return Done(method(self.target, *args, **kwargs))
