"""Call objects that live in Ray actors; the twin of `streamrec.workers.LocalWorker`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from streamrec.code_version import code_version
from streamrec.errors import StreamrecError

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")

LEAVE_WITHIN_S = 30.0
"""How long an actor may take to end at its owner's word: it has nothing left to do."""

logger = logging.getLogger(__name__)


class RayPending(Generic[T]):
    """A result on its way from an actor."""

    def __init__(self, ref: ray.ObjectRef[T]) -> None:
        self._ref = ref

    def result(self) -> T:
        """Wait for it.

        Raises:
            StreamrecError: The call raised it, as itself: Ray's wrapper is of a class of its own, and who catches errors asks for their class.
        """
        value: T = _answer(self._ref)
        return value


class RayWorker(Generic[C]):
    """Submit calls to a `streamrec.student.actor.Host`.

    The adoption is on its way when this returns, so that several actors start side by side; `adopted` waits for it.

    Args:
        handle: The actor.
        epoch: This driver's; the actor refuses others after it was adopted.
        build: Builds the object in the actor from ``args``.
        args: Arguments of ``build``.
    """

    def __init__(self, handle: ray.actor.ActorHandle[Any], epoch: int, build: Callable[..., C], *args: Any) -> None:
        self.handle = handle
        self._epoch = epoch
        self._adoption: ray.ObjectRef[str] = handle.adopt.remote(epoch, build, *args)

    def adopted(self) -> None:
        """Wait until the object is built, and raise what kept it from being built; say so where its node has other code than this driver."""
        there, here = _answer(self._adoption), code_version()
        if there != here:
            logger.warning("Actor: its node has other code (%s) than this driver (%s): install the same streamrec on all nodes", there, here)

    def leave(self) -> ray.ObjectRef[None]:
        """Ask the actor to end for good, unless another driver has adopted it by now; see `leave`."""
        asked: ray.ObjectRef[None] = self.handle.leave.remote(self._epoch)
        return asked

    def submit(self, method: Callable[Concatenate[C, P], T], *args: P.args, **kwargs: P.kwargs) -> RayPending[T]:
        """Send the call; see `streamrec.workers.Worker`."""
        return RayPending(self.handle.call.remote(self._epoch, method, *args, **kwargs))


def leave(workers: Iterable[object]) -> None:
    """End the actors of workers that live in some and are still this driver's: they are detached, and would hold CPUs and memory for ever.

    One that another driver has adopted is left alone, and so is one that does not answer.
    """
    for asked in [worker.leave() for worker in workers if isinstance(worker, RayWorker)]:
        with suppress(RayActorError, GetTimeoutError):  # Its end is the answer.
            ray.get(asked, timeout=LEAVE_WITHIN_S)


def release(workers: Iterable[object]) -> None:
    """End the actors of workers that live in some, for good: they are detached, and outlive a driver that nobody follows."""
    for handle in {worker.handle for worker in workers if isinstance(worker, RayWorker)}:
        ray.kill(handle, no_restart=True)


def _answer(ref: ray.ObjectRef[T]) -> T:
    try:
        value: T = ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, StreamrecError):
            raise error.cause from error
        raise
    if isinstance(value, StreamrecError):  # The actor refused the call.
        raise value
    return value
