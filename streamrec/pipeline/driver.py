"""Step a controller until told to stop, and bring it back after a failure."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from ray.exceptions import GetTimeoutError, NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError

from streamrec import local_node
from streamrec.errors import BrokerUnavailable, OperatorError, StreamrecError, TopicMissing
from streamrec.memory import GivesBack
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.report import StepReport
from streamrec.pipeline.switches import Flip
from streamrec.telemetry.logs import about

logger = logging.getLogger(__name__)

# A broker that starts or stops still answers, but knows no topic.
_AWAY = (BrokerUnavailable, TopicMissing)

# What Ray raises when a process or a node is gone, or an actor not back yet; and a call that an actor refused after its restart.
_LOST = (RayActorError, ObjectLostError, WorkerCrashedError, NodeDiedError, GetTimeoutError, OperatorError)

# What ends by itself when a broker, a node or an actor is back, which takes minutes where a pod is made anew.
_OUTAGES = (*_AWAY, RayActorError, ObjectLostError, WorkerCrashedError, NodeDiedError, GetTimeoutError)

IDLE_WAIT_S = 0.02
MAX_FAILURES = 10
"""Failures after which the driver gives up and says why, when the step that failed last, or a later one, has not succeeded between them; outages
don't count."""
OUTAGE_LIMIT_S = 600.0
"""The driver gives up what is away when it has waited for it so long in all, what the attempts themselves took not counted."""


class Driver:
    """Drive one controller; a new one is built from the last commit when an actor has died.

    **Contract.** `step` waits by itself only through ``wait``. It returns None when nothing was to do, and raises the last failure when
    `MAX_FAILURES` came in a row that were no outage, or when it has waited for what is away for `OUTAGE_LIMIT_S` in a row. Steps that a rebuilt
    controller repeats on its way to the one that failed do not end the row: or a step that fails for good would be tried for ever. A broker that is
    away, or does not know the topic, is asked again after growing waits; what it acknowledged is never asked for twice. `lag` and `is_caught_up`
    raise nothing because of a broker that is away, and do not ask it before a step succeeded.

    Args:
        build: Makes a controller, not yet recovered.
        wait: Waits so many seconds.
        say: Gets a line about each failure.
        tell: Is told of each step that did not fail, and of each look that found nothing to do; see `streamrec.pipeline.stream_numbers`.
    """

    def __init__(
        self,
        build: Callable[[], Controller],
        wait: Callable[[float], bool | None],
        say: Callable[[str], None],
        tell: Callable[[Controller, StepReport | None, Callable[[], int | None]], None] = lambda *_: None,
    ) -> None:
        self._build = build
        self._wait = wait
        self._say = say
        self._tell = tell
        self._end_row()
        self._failed_batch = 0
        self._is_down = False
        self._due_s = -math.inf
        self._lag: int | None = None
        self._idle_since_s: float | None = None
        self.controller, self.recovered = self._renewed()
        self._memory = GivesBack(self.controller.parts.clock)
        self._told_pause: Flip | None = None
        self._tell(self.controller, None, lambda: None)

    def begin(self, learn: Callable[[Controller], object]) -> None:
        """Let a controller learn its first version; one that what is away breaks off is dropped, and the next call has a new one begin anew."""
        try:
            learn(self.controller)
        except (*_AWAY, *_LOST) as error:
            if isinstance(error, _AWAY):
                self._again(error)
            self.controller, _ = self._renewed(None if isinstance(error, _AWAY) else error)
        else:
            self._is_down = False
            self._end_row()

    def step(self) -> StepReport | None:
        """Do one step, or wait a moment when there is nothing to do."""
        batch = self.controller.state.batch + 1
        idle_since_s, self._idle_since_s = self._idle_since_s, None  # A step that fails has seen nothing, so what came before it counts no more.
        try:
            self._let_gather()
            began_s = self.controller.parts.clock.monotonic_s()
            with about(batch=batch):
                report = self.controller.step()
        except _AWAY as error:
            self._failed_batch = max(batch, self._failed_batch)
            self._again(error)
            return None
        except _LOST as error:
            self._failed_batch = max(batch, self._failed_batch)
            self.controller, _ = self._renewed(error)
            return None
        self._is_down = False
        if batch >= self._failed_batch:
            self._end_row()
        self._tell_pause(paused := self.controller.paused)
        if report is None:
            if paused is None:  # What waits in the log is not read: that is no idleness.
                self._idle_since_s = began_s if idle_since_s is None else idle_since_s
            self._wait(IDLE_WAIT_S)
        else:
            self._due_s = began_s + self.controller.config.pipeline.batch_interval_s
        self._memory.after_work()
        self._tell(self.controller, report, self.lag)
        return report

    def _tell_pause(self, paused: Flip | None) -> None:
        """Say once that the stream is paused, and once that it goes on."""
        if paused != self._told_pause:
            self._say(f"paused {paused}; {self.lag()} records behind" if paused is not None else "goes on: the pause is over")
            self._told_pause = paused

    def idle_s(self) -> float:
        """Return for how long each step has found nothing to do: the log was read to its end, and no step failed."""
        return 0.0 if self._idle_since_s is None else self.controller.parts.clock.monotonic_s() - self._idle_since_s

    def lag(self) -> int | None:
        """Return how many records of the log have not been read, as last known: None when the broker has not answered yet."""
        self._ask_lag()
        return self._lag

    def is_caught_up(self) -> bool:
        """Return whether every record of the log has been read; False while the broker is away, because nobody knows."""
        return self._ask_lag() == 0

    def _ask_lag(self) -> int | None:
        """Return the lag and remember it; None while the broker is away."""
        if self._is_down:  # Asking would wait for the broker once more, and `step` does so already.
            return None
        try:
            self._lag = self.controller.lag()
        except _AWAY:
            return None
        return self._lag

    def _let_gather(self) -> None:
        """Wait until the next micro-batch is due, unless a full one is there or an earlier run has planned it."""
        controller = self.controller
        pipeline, clock = controller.config.pipeline, controller.parts.clock
        wait_s = self._due_s - clock.monotonic_s()
        if wait_s > 0 and controller.planned() is None and controller.lag() < pipeline.max_batch_events:
            self._wait(wait_s)

    def _renewed(self, error: Exception | None = None) -> tuple[Controller, bool]:
        """Return a new controller and whether there was a commit to recover it from; asks again while actors are restarting."""
        if error is not None and not _is_final(error):
            self._check_owner()  # Once: what is built below takes the state over, from the controller that failed too.
        while True:
            if error is not None:
                if _is_final(error):
                    raise error
                if self._again(error):  # Told to stop, and nobody is there who could commit: the last commit stands.
                    raise KeyboardInterrupt
            try:
                controller = self._build()
                return controller, controller.recover()
            except _LOST as raised:
                error = raised

    def _check_owner(self) -> None:
        """Raise `Fenced` where another driver owns the state: its adoption of the actors is what failed the step, and must not be undone."""
        held = getattr(self, "controller", None)
        if held is not None and held.parts.checkpoints is not None:
            held.parts.checkpoints.check_owner()

    def _end_row(self) -> None:
        self._num_tries, self._failures, self._waited_s = 0, 0, 0.0

    def _again(self, error: Exception) -> bool:
        """Wait before the next try and return whether to stop; raise the error where there have been enough, or another where the cluster is gone."""
        local_node.check()
        self._num_tries, self._is_down = self._num_tries + 1, True
        is_outage = isinstance(error, _OUTAGES)
        self._failures += not is_outage
        reason = "; ".join([str(error).strip().splitlines()[-1], *getattr(error, "__notes__", ())])
        if self._failures >= MAX_FAILURES or self._waited_s >= OUTAGE_LIMIT_S:
            logger.error("giving up after %d failures in a row and %.0f s of waiting: %s", self._num_tries, self._waited_s, reason)
            raise error
        wait_s = min(0.1 * 2**self._num_tries, 10.0)
        which = f"outage, try {self._num_tries}" if is_outage else f"failure {self._failures} of {MAX_FAILURES}"
        self._say(f"{which}, trying again in {wait_s:.1f} s: {reason}")
        is_stopped = bool(self._wait(wait_s))
        self._waited_s += wait_s
        return is_stopped


def _is_final(error: Exception) -> bool:
    """Return whether trying again can't help: the storage refused or another writer owns the state."""
    return isinstance(error, StreamrecError) and type(error) is not OperatorError
