from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.exceptions import RayActorError

from jobs import bootstrap, cli, refresh_teachers, stream
from jobs.stream import describe
from streamrec.cli.replay import INTERRUPTED
from streamrec.clock import ManualClock
from streamrec.config import parse_config
from streamrec.errors import BrokerUnavailable, EmbeddedBrokerError, OperatorError
from streamrec.pipeline.alone import Seen
from streamrec.pipeline.driver import MAX_FAILURES
from streamrec.pipeline.plan import Plan, PlannedRange
from streamrec.pipeline.report import StepReport
from streamrec.telemetry import logs

REPORT = StepReport(
    Plan(batch=3, ranges=(PlannedRange(topic="t", partition=0, start=4, end=20),), now_ms=0, seed=0), committed=True, seconds={"read": 0.25}
)


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_steps_line_says_why_records_were_not_applied_and_nothing_of_what_is_0() -> None:
    assert describe(REPORT) == "batch 3, 16 records in 0.25 s, committed"
    applied = {"received": 16, "applied": 16, "duplicate": 0, "rejected": 0, "late": 0, "quarantined": 0}
    assert describe(REPORT, applied) == describe(REPORT)
    some = {**applied, "applied": 10, "duplicate": 2, "rejected": 1, "late": 3}
    assert describe(REPORT, some) == "batch 3, 16 records (2 duplicate, 1 rejected, 3 late) in 0.25 s, committed"


def test_a_steps_line_says_of_how_many_queries_its_recall_is() -> None:
    told = describe(replace(REPORT, num_queries=3, metrics={"student": {"recall@20": 2 / 3}}))
    assert told == "batch 3, 16 records in 0.25 s, recall@20 0.667 of 3 queries, committed"


@pytest.mark.parametrize(("num", "said"), [(1, "1 deletion"), (2, "2 deletions")])
def test_a_steps_line_says_how_many_deletions_it_carried_out(num: int, said: str) -> None:
    assert describe(replace(REPORT, deletions=num)) == f"batch 3, 16 records in 0.25 s, {said}, committed"


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_event_is_set_by_signals(number: int) -> None:
    cli.stop_on_signals(stop := threading.Event())
    assert not stop.is_set()
    os.kill(os.getpid(), number)
    assert stop.wait(5)
    os.kill(os.getpid(), number)  # As `timeout` sends it, to the process and to its group.


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_step_that_does_not_come_back(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_APART_S", 0.0)
    cli.stop_on_signals(threading.Event())
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_job_without_steps_with_its_cleaning_up_and_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    cleaned = []

    def job() -> int:
        cli.end_on_signals()
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            cleaned.append(True)
        return 0

    assert cli.run(job) == INTERRUPTED
    assert cleaned == [True]
    assert capsys.readouterr().err == "stopped by a signal before its end\n"


def test_what_ray_has_lost_is_one_paragraph_in_a_job_that_does_not_go_on_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    def job() -> int:
        error = RayActorError()
        error.add_note("wanted: step of streamrec-1-student")
        raise error

    assert cli.run(job) == 1
    told = capsys.readouterr().err
    assert told.startswith("Ray: an actor or a node has died, and this job does not go on without it")
    assert "wanted: step of streamrec-1-student" in told
    assert told.replace("\n", " ").rstrip().endswith("start it again: it goes on from the last commit")
    assert "Traceback" not in told


def test_where_lines_are_json_all_that_a_job_says_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def job() -> int:
        cli.resolve(None, ["telemetry.log_format=json", f"state={tmp_path}"])
        tell = stream.teller(cast("Any", SimpleNamespace(state=SimpleNamespace(counts={}))))
        tell(replace(REPORT, published="v00000003"))
        cli.say("WARNING: the board\nis old")
        what = "Stream: broken"
        raise OperatorError(what, do="mend it")

    try:
        assert cli.run(job) == 1
    finally:
        logs.set_up("plain", "test")
    step, warning, error = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (step["level"], step["message"]) == ("info", "batch 3, 16 records in 0.25 s, published v00000003, committed")
    assert (step["batch"], step["offsets"], step["model_version"], step["process"]) == (3, {"0": 20}, "v00000003", "job")
    assert (warning["level"], warning["message"]) == ("warning", "WARNING: the board\nis old")
    assert (error["level"], error["message"]) == ("error", "Stream: broken, mend it")


def test_a_wrong_duration_is_one_paragraph(capsys: pytest.CaptureFixture[str]) -> None:
    assert stream.main(["--until-idle", "abc"]) == 1
    assert "--until-idle is no duration, got 'abc', allowed a number with a unit" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("job", [stream.main, refresh_teachers.main])
def test_a_state_that_was_never_bootstrapped_is_told_before_anything_is_started(
    job: Callable[[list[str]], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (stream, refresh_teachers):
        monkeypatch.setattr(module, "open_session", lambda *_: pytest.fail("a session was opened"))
    assert job(["--set", f"state={tmp_path / 'new'}"]) == 2
    assert "the state was never bootstrapped, run python -m jobs.bootstrap first" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "new").exists()


class Unheard:
    """Numbers that nobody hears."""

    def __call__(self, *_: object) -> None:
        pass

    def ended(self, *_: object) -> None:
        pass


class Told:
    """A controller that has records to read and whose steps do what a list says."""

    def __init__(self, outcomes: list[Any], clock: ManualClock) -> None:
        self.outcomes, self.clock = outcomes, clock
        self.left: list[object] = []
        self.paused = None
        self.parts = SimpleNamespace(checkpoints=None, clock=clock, learners=lambda: {"student": "student"}, scorer="scorer", linear=None)
        self.config = parse_config({})
        self.state = SimpleNamespace(batch=0, live="v00000001", counts={})
        self.num_unread = sum(report.plan.num_records for report in outcomes if isinstance(report, StepReport))

    def recover(self) -> bool:
        return True

    def planned(self) -> None:
        return None

    def lag(self) -> int:
        return self.num_unread

    def step(self) -> StepReport | None:
        self.clock.advance(0.5)
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, Exception):
            self.clock.advance(30.0)
            raise outcome
        if outcome is not None:
            self.state.batch += 1
            self.num_unread -= outcome.plan.num_records
        return outcome

    def finish(self) -> None:
        pass


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Told]]:
    """Run ``jobs.stream --until-idle 3s`` with a controller whose steps do what a list says; the exit status and the controller."""

    def run(
        outcomes: list[Any], broker_ended: Callable[[], Exception | None] = lambda: None, made: type[Told] = Told, options: Sequence[str] = ()
    ) -> tuple[int, Told]:
        clock = ManualClock(0)
        controller = made(outcomes, clock)

        @contextmanager
        def opened(*_: object) -> Iterator[SimpleNamespace]:
            yield SimpleNamespace(controller=lambda: controller, broker_ended=broker_ended, numbers=Unheard)

        monkeypatch.setattr(stream, "open_session", opened)
        monkeypatch.setattr(stream, "has_commits", lambda _: True)
        monkeypatch.setattr(stream, "check_alone", lambda _: Seen.ENDED)  # Whoever works here may run one.
        monkeypatch.setattr(cli, "waiter", lambda _: clock.advance)
        monkeypatch.setattr(cli, "summary", lambda _: {"unread": controller.num_unread})
        monkeypatch.setattr(stream, "leave", lambda actors, *_: controller.left.extend(actors))
        monkeypatch.setattr("time.monotonic", clock.monotonic_s)
        return stream.main(["--until-idle", "3s", *options]), controller

    return run


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("error", [BrokerUnavailable("Broker: away"), OperatorError("Actor: the call is not its owner's")])
def test_until_idle_is_not_until_the_steps_fail(streamed: Callable[[list[Any]], tuple[int, Told]], error: Exception) -> None:
    status, controller = streamed([REPORT, error, error, REPORT])
    assert (status, controller.num_unread, controller.outcomes) == (0, 0, [])
    assert controller.left == ["student", "scorer", None]


@pytest.mark.usefixtures("handlers")
def test_what_a_stream_reads_again_after_a_failure_does_not_count_twice_towards_its_end(streamed: Callable[..., tuple[int, Told]]) -> None:
    steps = [replace(REPORT, plan=REPORT.plan.model_copy(update={"batch": batch})) for batch in range(1, 6)]
    lost = OperatorError("Actor: the call is not its owner's")
    status, controller = streamed([*steps[:2], lost, *steps], options=["--max-events", str(4 * REPORT.plan.num_records)])
    assert (status, controller.outcomes) == (0, steps[4:])


class Silent(Told):
    """Recovers from actors that never answer; a signal comes."""

    def recover(self) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return True


@pytest.mark.usefixtures("handlers")
def test_a_signal_ends_a_stream_at_once_whose_actors_do_not_answer_at_its_start(
    streamed: Callable[..., tuple[int, Told]], capsys: pytest.CaptureFixture[str]
) -> None:
    status, controller = streamed([REPORT], made=Silent)
    assert (status, controller.state.batch, controller.left) == (INTERRUPTED, 0, ["student", "scorer", None])
    out, err = capsys.readouterr()
    assert (out, err) == ("", "stopped by a signal before its end\n")


@pytest.mark.usefixtures("handlers")
def test_a_stream_that_fails_until_it_gives_up_is_no_success_although_it_should_end_when_idle(
    streamed: Callable[[list[Any]], tuple[int, Told]], capsys: pytest.CaptureFixture[str]
) -> None:
    status, controller = streamed([REPORT, *[OperatorError("Refresh: a version is missing")] * MAX_FAILURES, REPORT])
    assert (status, controller.num_unread, controller.left) == (1, 16, [])
    assert f"failure {MAX_FAILURES - 1} of {MAX_FAILURES}" in capsys.readouterr().err


@pytest.mark.usefixtures("handlers")
def test_a_stream_whose_own_broker_has_ended_says_so_at_the_first_failure(
    streamed: Callable[..., tuple[int, Told]], capsys: pytest.CaptureFixture[str]
) -> None:
    away, ended = BrokerUnavailable("Broker: away"), EmbeddedBrokerError("Embedded Kafka: it ended by itself")
    status, controller = streamed([REPORT, away, away, REPORT], lambda: ended)
    assert (status, controller.outcomes) == (1, [away, REPORT])
    assert "outage, try 1," in (said := capsys.readouterr().err)
    assert said.rstrip().endswith("Embedded Kafka: it ended by itself")


@pytest.mark.parametrize(("cluster", "key", "is_told"), [("auto", None, True), ("auto", "secret", False), (None, None, False)])
def test_a_state_that_begins_on_a_cluster_under_the_key_that_everybody_knows_is_told_so_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cluster: str | None, key: str | None, is_told: bool
) -> None:
    for name, value in (("RAY_ADDRESS", cluster), ("STREAMREC_TOMBSTONE_KEY", key)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    what = "Broker: nobody answers"
    away = BrokerUnavailable(what)

    def no_broker(*_: object) -> None:
        raise away

    monkeypatch.setattr("streamrec.pipeline.session.log_address", no_broker)
    assert bootstrap.main(["--set", f"state={tmp_path / 'new'}"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("WARNING: STREAMREC_TOMBSTONE_KEY is not set in this process") == is_told
    assert ("--runtime-env-json" in told) == is_told
    assert told.rstrip().endswith(what)


def test_a_misspelt_teacher_is_told_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert refresh_teachers.main(["--teacher", "linera"]) == 1
    assert "got linera, allowed" in (said := capsys.readouterr().err.replace("\n", " "))
    assert "did you mean 'linear'?" in said


@pytest.mark.parametrize("number", ["0", "-3"])
def test_a_bootstrap_of_no_events_is_refused(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bootstrap.main(["--data", "ratings.csv", "--max-events", number])
    assert f"--max-events: got {number}, allowed 1 or more" in capsys.readouterr().err


def test_every_line_says_what_the_books_counted_since_the_line_before(capsys: pytest.CaptureFixture[str]) -> None:
    controller = SimpleNamespace(state=SimpleNamespace(counts={"received": 5, "late": 5}))
    tell = stream.teller(controller)  # type: ignore[arg-type]
    for late in (9, 0):
        controller.state.counts = {"received": 21, "late": controller.state.counts["late"] + late}
        tell(REPORT)
    first, second = capsys.readouterr().err.split("batch 3")[1:]
    assert "9 late: older than features.lateness_s" in first.replace("\n", " ")
    assert "late" not in second
