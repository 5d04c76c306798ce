from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, GetTimeoutError, NodeDiedError, RayActorError, WorkerCrashedError

from streamrec import local_node
from streamrec.clock import ManualClock
from streamrec.config import parse_config
from streamrec.errors import BrokerError, BrokerUnavailable, ConfigError, Fenced, OperatorError, RetentionGap, RowCountMismatch, TopicMissing
from streamrec.log.offsets import no_topic
from streamrec.memory import EVERY_S, GivesBack
from streamrec.pipeline.driver import IDLE_WAIT_S, MAX_FAILURES, OUTAGE_LIMIT_S, Driver
from streamrec.pipeline.switches import Flip

INTERVAL_S = 0.5
# Waits of 0.2 to 6.4 s, and then of 10 s each, until they are `OUTAGE_LIMIT_S` together.
NUM_TRIES = 6 + 59 + 1
FULL = 100
REPORT: Any = object()
FINAL = [
    Fenced("Checkpoint: another writer owns the state"),
    ConfigError("Config: wrong"),
    RetentionGap("Log: gone"),
    RowCountMismatch("Log: fewer"),
    BrokerError("Kafka: refused"),
]


class Scripted:
    """A controller that does what a list says: a report, None, or an error."""

    def __init__(self, outcomes: list[Any], clock: ManualClock, step_s: float = 0.0) -> None:
        self.outcomes, self.clock, self.step_s = outcomes, clock, step_s
        self.parts = SimpleNamespace(checkpoints=None, clock=clock)
        self.config = parse_config({"pipeline": {"batch_interval_s": INTERVAL_S, "max_batch_events": FULL}})
        self.num_waiting, self.plan, self.num_recovered = 1, None, 0
        self.state = SimpleNamespace(batch=0)
        self.lag_error: Exception | None = None
        self.paused: Flip | None = None

    def recover(self) -> bool:
        self.num_recovered += 1
        return True

    def planned(self) -> object | None:
        return self.plan

    def lag(self) -> int:
        if self.lag_error is not None:
            raise self.lag_error
        return self.num_waiting

    def step(self) -> Any:
        outcome = self.outcomes.pop(0)
        self.clock.advance(self.step_s)
        if isinstance(outcome, Exception):
            raise outcome
        self.state.batch += outcome is not None
        return outcome


class Rig:
    """A driver, its clock, and what it waited and said."""

    def __init__(self, outcomes: list[Any], step_s: float = 0.0) -> None:
        self.clock, self.waited, self.said, self.built = ManualClock(0), [], [], []
        self.outcomes, self.step_s = outcomes, step_s
        self.driver = Driver(self.build, self.wait, self.said.append)  # type: ignore[arg-type]

    def build(self) -> Any:
        self.built.append(Scripted(self.outcomes, self.clock, self.step_s))
        return self.built[-1]

    def wait(self, seconds: float) -> None:
        self.waited.append(round(seconds, 6))
        self.clock.advance(seconds)


def test_a_micro_batch_begins_an_interval_after_the_one_before_so_that_events_gather() -> None:
    rig = Rig([REPORT] * 3, step_s=0.2)
    for _ in range(3):
        assert rig.driver.step() is REPORT
    assert rig.waited == [0.3, 0.3]


def test_a_slow_micro_batch_a_full_one_and_a_planned_one_are_not_waited_for() -> None:
    slow = Rig([REPORT] * 3, step_s=0.7)
    full, planned = Rig([REPORT] * 3), Rig([REPORT] * 3)
    full.built[0].num_waiting = FULL
    planned.built[0].plan = object()
    for rig in (slow, full, planned):
        for _ in range(3):
            rig.driver.step()
        assert rig.waited == []


def test_an_idle_stream_is_looked_at_again_soon_and_its_first_event_is_not_kept_waiting() -> None:
    rig = Rig([None, None, REPORT])
    for _ in range(3):
        rig.driver.step()
    assert rig.waited == [IDLE_WAIT_S] * 2


def test_only_steps_that_find_nothing_to_do_are_idleness() -> None:
    away = BrokerUnavailable("Broker: away")
    rig = Rig([None, None, away, away, RayActorError(), None, None, REPORT, None, None], step_s=1.0)
    idle = []
    while rig.outcomes:
        rig.driver.step()
        idle.append(round(rig.driver.idle_s(), 2))
    assert idle == [1.02, 2.04, 0.0, 0.0, 0.0, 1.02, 2.04, 0.0, 1.02, 2.04]


def test_a_broker_that_is_away_is_asked_again_after_growing_waits_by_the_same_controller() -> None:
    rig = Rig([BrokerUnavailable("Broker: nobody answers, got 127.0.0.1:9")] * 3 + [REPORT])
    assert [rig.driver.step() for _ in range(4)] == [None, None, None, REPORT]
    assert rig.waited == [0.2, 0.4, 0.8]
    assert "outage, try 3, trying again in 0.8 s: Broker: nobody answers, got 127.0.0.1:9" in rig.said[-1]
    assert len(rig.built) == 1


def test_a_topic_that_a_stopping_broker_no_longer_knows_is_asked_for_again_and_the_address_is_said() -> None:
    rig = Rig([no_topic("events", "127.0.0.1:9")] * 2 + [REPORT])
    assert [rig.driver.step() for _ in range(3)] == [None, None, REPORT]
    assert rig.waited == [0.2, 0.4]
    assert "outage, try 2, trying again in 0.4 s: Log: topic 'events' does not exist at 127.0.0.1:9" in rig.said[-1]
    assert len(rig.built) == 1


def test_a_topic_that_stays_away_is_raised_at_last() -> None:
    rig = Rig([no_topic("events")] * NUM_TRIES)
    for _ in range(NUM_TRIES - 1):
        rig.driver.step()
    with pytest.raises(TopicMissing, match="'events' does not exist"):
        rig.driver.step()
    assert OUTAGE_LIMIT_S <= sum(rig.waited) < OUTAGE_LIMIT_S + 10


@pytest.mark.parametrize("error", [BrokerUnavailable("Broker: away"), no_topic("events")])
def test_the_lag_of_a_broker_that_is_away_is_the_last_known_one_and_nobody_is_caught_up(error: Exception) -> None:
    rig = Rig([error, REPORT])
    controller = rig.built[0]
    controller.lag_error = error
    assert rig.driver.lag() is None
    assert not rig.driver.is_caught_up()
    controller.lag_error, controller.num_waiting = None, 0
    assert rig.driver.is_caught_up()
    assert rig.driver.lag() == 0
    controller.num_waiting = 7
    rig.driver.step()  # It fails: the broker is not asked again before one succeeded.
    assert rig.driver.lag() == 0
    assert not rig.driver.is_caught_up()
    rig.driver.step()
    assert rig.driver.lag() == 7


def test_a_dead_actor_gives_a_new_controller_that_is_recovered() -> None:
    rig = Rig([RayActorError(), REPORT])
    assert [rig.driver.step(), rig.driver.step()] == [None, REPORT]
    assert [controller.num_recovered for controller in rig.built] == [1, 1]
    assert rig.driver.controller is rig.built[-1]


class Restarting(Rig):
    """A rig whose controllers can't be built for a while, because an actor is restarting."""

    def __init__(self, outcomes: list[Any], failures: list[int]) -> None:
        self.failures = failures  # For each controller, how often building it fails first.
        super().__init__(outcomes)

    def build(self) -> Any:
        if self.failures and self.failures[0]:
            self.failures[0] -= 1
            what = "the actor is restarting"
            raise ActorUnavailableError(what, None)
        self.failures[:1] = []
        return super().build()


def test_an_actor_that_is_still_restarting_is_waited_for_when_a_controller_is_built() -> None:
    rig = Restarting([RayActorError(), REPORT], [2, 3])
    assert rig.waited == [0.2, 0.4]
    assert [rig.driver.step(), rig.driver.step()] == [None, REPORT]
    assert len(rig.built) == 2


def test_an_actor_that_does_not_come_back_is_given_up() -> None:
    with pytest.raises(ActorUnavailableError):
        Restarting([], [NUM_TRIES])


def test_a_signal_while_actors_are_away_ends_the_stream_at_its_last_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Restarting([RayActorError(), REPORT], [0, NUM_TRIES - 2])
    tries: list[float] = []

    def told_to_stop(seconds: float) -> bool:
        tries.append(seconds)
        return len(tries) == 3

    monkeypatch.setattr(rig.driver, "_wait", told_to_stop)
    with pytest.raises(KeyboardInterrupt):
        rig.driver.step()
    assert len(tries) == 3


def test_a_node_that_takes_minutes_to_come_back_is_waited_for() -> None:
    rig = Restarting([RayActorError(), REPORT], [0, NUM_TRIES - 2])
    assert [rig.driver.step(), rig.driver.step()] == [None, REPORT]
    assert sum(rig.waited) > 300


def test_an_actor_that_ray_knows_by_a_number_is_said_with_what_was_wanted_of_it() -> None:
    error = RayActorError()
    error.add_note("wanted: learn of streamrec-student")
    rig = Rig([error, REPORT])
    rig.driver.step()
    assert rig.said[0].startswith("outage, try 1,")
    assert rig.said[0].endswith("; wanted: learn of streamrec-student")


def test_what_follows_from_the_end_of_the_drivers_own_cluster_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended() -> None:
        what = "Ray: raylet of this process's own cluster has ended"
        raise OperatorError(what)

    rig = Rig([RayActorError()])
    monkeypatch.setattr(local_node, "check", ended)
    with pytest.raises(OperatorError, match="own cluster has ended"):
        rig.driver.step()
    assert rig.said == []


def test_refusals_between_two_outages_count_on() -> None:
    refused: Any = OperatorError("Actor: it was restarted")
    rig = Rig([WorkerCrashedError(), refused] * MAX_FAILURES)
    for _ in range(2 * MAX_FAILURES - 1):
        rig.driver.step()
    with pytest.raises(OperatorError):
        rig.driver.step()


@pytest.mark.parametrize("error", [WorkerCrashedError(), NodeDiedError("gone"), GetTimeoutError("no answer")])
def test_a_lost_process_or_node_gives_a_new_controller(error: Exception) -> None:
    rig = Rig([error, REPORT])
    assert [rig.driver.step(), rig.driver.step()] == [None, REPORT]
    assert len(rig.built) == 2


@pytest.mark.parametrize("error", [BrokerUnavailable("Log: away"), no_topic("events", "localhost"), RayActorError(), NodeDiedError("gone")])
def test_a_first_version_that_an_outage_breaks_off_is_begun_anew_by_another_controller_after_growing_waits(error: Exception) -> None:
    rig, learned = Rig([error, error, REPORT, error, REPORT]), []
    for _ in range(2):
        rig.driver.begin(lambda controller: learned.append(controller.step()))
    assert (len(rig.built), rig.waited, learned) == (3, [0.2, 0.4], [])
    assert rig.driver.controller is rig.built[-1]
    assert rig.built[-1].num_recovered == 1
    rig.driver.begin(lambda controller: learned.append(controller.step()))
    assert (len(rig.built), learned) == (3, [REPORT])
    rig.driver.begin(lambda controller: learned.append(controller.step()))
    assert rig.waited == [0.2, 0.4, 0.2]


def test_a_first_version_that_nothing_can_be_learned_from_says_so() -> None:
    rig = Rig([ConfigError("Config: wrong")])
    with pytest.raises(ConfigError):
        rig.driver.begin(lambda controller: controller.step())


def test_after_many_failures_in_a_row_the_last_one_is_raised_and_a_success_starts_the_count_anew() -> None:
    failures: list[Any] = [BrokerUnavailable("Broker: away")] * (NUM_TRIES - 1)
    rig = Rig([*failures, REPORT, *failures, BrokerUnavailable("Broker: still away")])
    for _ in range(2 * len(failures) + 1):
        rig.driver.step()
    with pytest.raises(BrokerUnavailable, match="still away"):
        rig.driver.step()


@pytest.mark.parametrize("error", FINAL)
def test_an_error_that_trying_again_can_not_mend_is_raised_at_once(error: Exception) -> None:
    rig = Rig([error])
    with pytest.raises(type(error)):
        rig.driver.step()
    assert rig.waited == []


def test_another_operators_error_is_tried_again_from_the_last_commit() -> None:
    rig = Rig([OperatorError("Refresh: a version is missing"), REPORT])
    assert [rig.driver.step(), rig.driver.step()] == [None, REPORT]
    assert len(rig.built) == 2


def test_a_step_that_fails_for_good_is_given_up_although_the_steps_before_it_succeed_each_time() -> None:
    rig = Rig([REPORT, REPORT, OperatorError("Refresh: a version that the plan names is missing")] * MAX_FAILURES)
    for _ in range(3 * MAX_FAILURES - 1):
        rig.driver.step()
    with pytest.raises(OperatorError):
        rig.driver.step()
    assert rig.said[-1].startswith(f"failure {MAX_FAILURES - 1} of {MAX_FAILURES}")


def test_once_the_step_that_failed_succeeds_the_count_starts_anew_and_on_the_way_there_the_lag_is_known() -> None:
    rig = Rig([REPORT, WorkerCrashedError(), REPORT, REPORT, WorkerCrashedError(), REPORT])
    for _ in range(3):
        rig.driver.step()
    assert rig.driver.lag() == 1
    for _ in range(2):
        rig.driver.step()
    assert ["outage, try 1," in line for line in rig.said] == [True, True]


def test_a_driver_gives_memory_back_now_and_then_idle_or_not() -> None:
    rig, given = Rig([REPORT] * 30 + [None] * 30, step_s=1.0), []
    rig.driver._memory = GivesBack(rig.clock, lambda: given.append(rig.clock.monotonic_s()))
    for _ in range(60):
        rig.driver.step()
    assert [round(second // EVERY_S) for second in given] == [1, 2, 3, 4, 5, 6]


def test_a_paused_stream_is_not_idle_and_the_driver_says_once_who_has_paused_it() -> None:
    rig = Rig([None] * 6)
    (controller,) = rig.built
    controller.paused = Flip(by="ann@host", reason="incident 12", at_ms=0)
    for _ in range(3):
        rig.driver.step()
    assert rig.driver.idle_s() == 0.0
    assert rig.said == ["paused since 1970-01-01 00:00:00Z by ann@host: incident 12; 1 records behind"]
    controller.paused = None
    for _ in range(2):
        rig.driver.step()
    assert rig.said[1:] == ["goes on: the pause is over"]
    assert rig.driver.idle_s() > 0.0
