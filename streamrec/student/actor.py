"""Host an object in a Ray actor: the continual-distillation actor, and its fellows that score or sum up.

The actor is detached, named and restartable, and keeps nothing by itself: its state comes from the checkpoint. A driver adopts it with an
epoch of its own and restores it; calls of another epoch, from a driver that is dead or replaced, are refused, and so are calls after a
restart until somebody adopts it again.

It outlives the job that made it, and keeps that job's code. A driver with other code ends it and makes another one under its name.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import ray
import torch
from ray.exceptions import RayActorError

from streamrec.awaiting import awaited
from streamrec.clock import SystemClock
from streamrec.code_version import code_version
from streamrec.errors import OperatorError
from streamrec.memory import GivesBack

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")

NAMESPACE = "streamrec"

ENDS_WITHIN_S = 30.0
"""How long the name of an actor that was ended may take to be free: the cluster's head notes its end within milliseconds."""

logger = logging.getLogger(__name__)


class Host(Generic[C]):
    """Hold an object in the actor's process and call it, one call at a time.

    **Contract.** `adopt` may be called at any time and builds the object anew; whoever called it last owns it. `call` runs in order of
    arrival from one driver.

    Args:
        environment: What `environment_of_job` gave to whoever made this actor, and what it takes of its node.
        niceness: By how much others go before it where cores are short.
    """

    def __init__(self, environment: str = "", niceness: int = 0) -> None:
        os.nice(niceness)
        self._environment = environment
        # Now, when it has just been imported: an installation may be replaced below a process that runs.
        self._code = code_version()
        # One thread: results are the same bits everywhere, and serving keeps its cores.
        torch.set_num_threads(1)
        self._target: C | None = None
        self._epoch = 0
        self._memory = GivesBack(SystemClock())

    def runs(self) -> tuple[str, str]:
        """Return which code this process runs, and the environment of the job that made it."""
        return self._code, self._environment

    def adopt(self, epoch: int, build: Callable[..., C], *args: Any) -> str:
        """Build the object from ``args``, make ``epoch`` (not 0) the only one whose calls are answered, and return which code runs here."""
        self._target, self._epoch = build(*args), epoch
        return self._code

    def leave(self, epoch: int) -> None:
        """End this actor for good if ``epoch`` is its owner's; the caller sees it die. Another's call changes nothing."""
        if epoch == self._epoch:
            end: Any = ray.actor.exit_actor  # Ray ships it untyped, and the context's method too
            end()

    def call(self, epoch: int, method: Callable[Concatenate[C, P], T], *args: P.args, **kwargs: P.kwargs) -> T | OperatorError:
        """Call ``method(object, …)``; where the epoch is not the owner's, return the error that says so, with the fact ``refused``.

        A value: of an error that is raised, and that a driver which ends has not asked for, Ray prints the traceback.
        """
        if epoch != self._epoch or self._target is None:
            what = "Actor: the call is not its owner's"
            allowed = self._epoch or "none since its restart"
            do = "a stream that runs takes it back, else start the job again"
            return OperatorError(what, got=f"epoch {epoch}", allowed=allowed, do=do, refused=True)
        result = method(self._target, *args, **kwargs)
        self._memory.after_work()
        return result


def environment_of_job() -> str:
    """Return a digest of the environment that Ray gives this driver's job, such as the package of its working folder."""
    context: Any = ray.get_runtime_context()
    return hashlib.sha256(str(context.get_runtime_env_string()).encode()).hexdigest()[:12]


def host(
    name: str | None,
    num_cpus: float,
    check_owner: Callable[[], None] = lambda: None,
    niceness: int = 0,
    resources: Mapping[str, float] = MappingProxyType({}),
    role: str = Host.__name__,
) -> ray.actor.ActorHandle[Any]:
    """Get the named detached actor that runs this driver's code in its job's environment and takes what it is to take, or make it.

    Args:
        name: Name in the Ray namespace `NAMESPACE`; None makes an actor that ends with this driver.
        num_cpus: Logical CPUs it occupies.
        check_owner: Raises where another driver owns the state: called before an actor with other code is ended.
        niceness: See `Host`.
        resources: Ray's custom resources that it occupies: it runs on a node that has them.
        role: What the process is called where processes are listed.

    Raises:
        OperatorError: An actor that was ended keeps its name.
    """
    takes = {"CPU": num_cpus, **resources}
    environment = f"{environment_of_job()} {' '.join(f'{key}={amount:g}' for key, amount in sorted(takes.items()))}"
    options: dict[str, Any] = {"num_cpus": num_cpus, "resources": dict(resources), "max_restarts": -1, "max_task_retries": 0}
    if name is not None:
        options |= {"name": name, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
        _end_other_code(name, (code_version(), environment), check_owner)
    # Ray gives a process its class' name. Ray's types lose the class through options().
    make: Any = ray.remote(type(role, (Host,), {"__module__": Host.__module__}))
    handle: ray.actor.ActorHandle[Any] = make.options(**options).remote(environment, niceness)
    return handle


def _end_other_code(name: str, wanted: tuple[str, str], check_owner: Callable[[], None]) -> None:
    """End the named actor, if it is there and does not run the wanted code, and wait until its name is free."""
    held = _held(name)
    if held is None:
        return
    runs: tuple[str, ...] = (
        tuple(awaited(held.runs.remote(), f"{name} to say which code it runs")) if hasattr(held, "runs") else ("an older streamrec",)
    )
    if runs == wanted:
        return
    check_owner()
    logger.info("Actor: %s runs other code (%s) than this driver (%s), it is ended and made anew", name, " ".join(runs), " ".join(wanted))
    ray.kill(held, no_restart=True)
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + ENDS_WITHIN_S
    while _held(name) == held:
        if clock.monotonic_s() > deadline_s:
            what = f"Actor: {name} was ended, and its name is not free"
            raise OperatorError(what, got=f"{ENDS_WITHIN_S:g} s", do="look at the cluster's head, then start again")
        with suppress(RayActorError):  # Answers while it lives, and fails as soon as it is known to be dead.
            ray.get(held.__ray_ready__.remote())


def _held(name: str) -> Any:
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None
