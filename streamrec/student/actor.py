"""Host an object in a Ray actor: the continual-distillation actor, and its fellows that score or sum up.

The actor is detached, named and restartable, and keeps nothing by itself: its state comes from the checkpoint. A driver adopts it with an
epoch of its own and restores it; calls of another epoch, from a driver that is dead or replaced, are refused, and so are calls after a
restart until somebody adopts it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import ray
import torch

from streamrec.clock import SystemClock
from streamrec.errors import OperatorError
from streamrec.memory import GivesBack

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")

NAMESPACE = "streamrec"


class Host(Generic[C]):
    """Hold an object in the actor's process and call it, one call at a time.

    **Contract.** `adopt` may be called at any time and builds the object anew; whoever called it last owns it. `call` runs in order of
    arrival from one driver.
    """

    def __init__(self) -> None:
        # One thread: results are the same bits everywhere, and serving keeps its cores.
        torch.set_num_threads(1)
        self._target: C | None = None
        self._epoch = 0
        self._memory = GivesBack(SystemClock())

    def adopt(self, epoch: int, build: Callable[..., C], *args: Any) -> None:
        """Build the object from ``args`` and make ``epoch`` (not 0) the only one whose calls are answered."""
        self._target, self._epoch = build(*args), epoch

    def call(self, epoch: int, method: Callable[Concatenate[C, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``method(object, …)``.

        Raises:
            OperatorError: The epoch is not the owner's.
        """
        if epoch != self._epoch or self._target is None:
            what = "Actor: the call is not its owner's"
            allowed = self._epoch or "none since its restart"
            raise OperatorError(what, got=f"epoch {epoch}", allowed=allowed, do="adopt the actor and restore it from the checkpoint")
        result = method(self._target, *args, **kwargs)
        self._memory.after_work()
        return result


def host(name: str | None, num_cpus: float) -> ray.actor.ActorHandle[Any]:
    """Get the named detached actor, or make it.

    Args:
        name: Name in the Ray namespace `NAMESPACE`; None makes an actor that ends with this driver.
        num_cpus: Logical CPUs it occupies.
    """
    options: dict[str, Any] = {"num_cpus": num_cpus, "max_restarts": -1, "max_task_retries": 0}
    if name is not None:
        options |= {"name": name, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    make: Any = ray.remote(Host)  # Ray's types lose the class through options()
    handle: ray.actor.ActorHandle[Any] = make.options(**options).remote()
    return handle
