"""Call objects that live in Ray actors; the twin of `streamrec.workers.LocalWorker`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import ray
from ray.exceptions import RayActorError, RayTaskError

from streamrec.awaiting import awaited
from streamrec.code_version import code_version
from streamrec.errors import StreamrecError

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")

LEAVE_WITHIN_S = 30.0
"""How long actors may take to end at their owner's word: they have nothing left to do."""
HURRY_S = 5.0
"""The same where a signal ends the start: a cluster that does not answer must not hold it up."""

logger = logging.getLogger(__name__)


class RayPending(Generic[T]):
    """A result on its way from an actor.

    Args:
        ref: Ray's reference to it.
        what: What is waited for, should it be long in coming.
    """

    def __init__(self, ref: ray.ObjectRef[T], what: str = "an actor") -> None:
        self._ref = ref
        self._what = what

    def result(self) -> T:
        """Wait for it.

        Raises:
            StreamrecError: The call raised it, as itself: Ray's wrapper is of a class of its own, and who catches errors asks for their class.
        """
        value: T = _answer(self._ref, self._what)
        return value


class RayWorker(Generic[C]):
    """Submit calls to a `streamrec.student.actor.Host`.

    The adoption is on its way when this returns, so that several actors start side by side; `adopted` waits for it.

    Args:
        handle: The actor.
        epoch: This driver's; the actor refuses others after it was adopted.
        build: Builds the object in the actor from ``args``.
        args: Arguments of ``build``.
        name: The actor's, for what is said while it does not answer.
    """

    def __init__(self, handle: ray.actor.ActorHandle[Any], epoch: int, build: Callable[..., C], *args: Any, name: str = "an actor") -> None:
        self.handle = handle
        self._name = name
        self._epoch = epoch
        self._adoption: ray.ObjectRef[str] = handle.adopt.remote(epoch, build, *args)

    def adopted(self) -> None:
        """Wait until the object is built, and raise what kept it from being built; say so where its node has other code than this driver."""
        there, here = _answer(self._adoption, f"{self._name} to be built"), code_version()
        if there != here:
            logger.warning("Actor: its node has other code (%s) than this driver (%s): install the same streamrec on all nodes", there, here)

    def leave(self) -> ray.ObjectRef[None]:
        """Ask the actor to end for good, unless another driver has adopted it by now; see `leave`."""
        asked: ray.ObjectRef[None] = self.handle.leave.remote(self._epoch)
        return asked

    def submit(self, method: Callable[Concatenate[C, P], T], *args: P.args, **kwargs: P.kwargs) -> RayPending[T]:
        """Send the call; see `streamrec.workers.Worker`."""
        asked: ray.ObjectRef[T] = self.handle.call.remote(self._epoch, method, *args, **kwargs)
        return RayPending(asked, f"{getattr(method, '__name__', 'a call')} of {self._name}")


def wait_until_adopted(workers: Collection[RayWorker[Any]]) -> None:
    """Wait for the adoption of all; where a signal ends the wait those that answer end, too."""
    try:
        for worker in workers:
            worker.adopted()
    except KeyboardInterrupt:
        leave(workers, HURRY_S)
        raise


def leave(workers: Iterable[object], within_s: float = LEAVE_WITHIN_S) -> None:
    """End the actors of workers that live in some and are still this driver's: they are detached, and would hold CPUs and memory for ever.

    One that another driver has adopted is left alone, and so is one that does not answer.
    """
    asked = [worker.leave() for worker in workers if isinstance(worker, RayWorker)]
    for left in ray.wait(asked, num_returns=len(asked), timeout=within_s)[0] if asked else []:
        with suppress(RayActorError):  # Its end is the answer.
            ray.get(left)


def release(workers: Iterable[object]) -> None:
    """End the actors of workers that live in some, for good: they are detached, and outlive a driver that nobody follows."""
    for handle in {worker.handle for worker in workers if isinstance(worker, RayWorker)}:
        ray.kill(handle, no_restart=True)


def _answer(ref: ray.ObjectRef[T], what: str) -> T:
    try:
        value = awaited(ref, what)
    except RayTaskError as error:
        if isinstance(error.cause, StreamrecError):
            raise error.cause from error
        raise
    except RayActorError as error:  # Ray knows the actor by a number.
        error.add_note(f"wanted: {what}")
        raise
    if isinstance(value, StreamrecError):  # The actor refused the call.
        raise value
    return value
