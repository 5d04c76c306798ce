"""When the first events are enough to begin with, and what happens until then."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs import dev
from jobs.live_facts import Facts
from jobs.live_view import LiveView, Situation
from streamrec.cli import app
from streamrec.clock import ManualClock
from streamrec.config import parse_config
from streamrec.errors import DataError, EmbeddedBrokerError
from streamrec.pipeline.plan import Plan
from streamrec.pipeline.report import StepReport


@pytest.fixture
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def begins_after(nums: list[int]) -> float:
    """Return after how many seconds the first events are enough, a look every half second; the last number stays."""
    clock = ManualClock(0)
    gathering = dev.Gathering(clock)
    for _ in range(200):
        if gathering.is_done(nums.pop(0) if len(nums) > 1 else nums[0]):
            return clock.monotonic_s()
        clock.advance(0.5)
    return float("inf")


def test_the_first_events_are_learned_when_no_more_come_or_after_a_while() -> None:
    assert begins_after([0]) == float("inf")
    assert begins_after([0, 0, 3]) == 1.0 + dev.QUIET_S
    assert begins_after([1, 1, 1, 9]) == 1.5 + dev.QUIET_S
    assert begins_after([*range(1, 100)]) == dev.LONGEST_S


class Stub:
    """A driver whose log gets events as it is asked, and whose first events teach nothing."""

    def __init__(self, nums: list[int]) -> None:
        self.nums, self.clock = nums, ManualClock(0)
        self.state = SimpleNamespace(live=None)
        self.controller = SimpleNamespace(parts=SimpleNamespace(clock=self.clock), state=self.state, config=parse_config({}))

    def begin(self, learn: Callable[[Any], object]) -> None:
        learn(self.controller)

    def lag(self) -> int | None:
        self.clock.advance(1.0)
        return self.nums.pop(0) if len(self.nums) > 1 else self.nums[0]


def first(
    driver: Stub, monkeypatch: pytest.MonkeyPatch, learns: list[Any], ended: Any = None, numbers: Callable[..., None] = lambda *_: None
) -> tuple[list[str], LiveView]:
    stop, said = threading.Event(), []
    view = LiveView(Facts, Situation("dev"), clock=driver.clock)
    monkeypatch.setattr(stop, "wait", lambda _: False)
    monkeypatch.setattr(dev.cli, "say", said.append)

    def bootstrap(controller: Any, _: Any, on_step: Callable[[Any], None]) -> None:
        learned = learns.pop(0)
        on_step(StepReport(Plan(batch=1, ranges=(), now_ms=0, seed=0)))
        if isinstance(learned, Exception):
            raise learned
        controller.state.live = learned

    monkeypatch.setattr(dev, "bootstrap", bootstrap)
    session = SimpleNamespace(broker_ended=lambda: ended, reader=SimpleNamespace(latest=lambda _: {0: 1}))
    dev._first(session, driver, view, stop, numbers)  # type: ignore[arg-type]
    return said, view


@pytest.mark.usefixtures("_handlers")
def test_events_that_teach_nothing_are_told_and_more_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Stub([0, 2])
    said, view = first(driver, monkeypatch, [DataError("Bootstrap: the log has nothing to learn from"), "v00000002"])
    lines = [line.partition(" s  ")[2] or line for line in said]
    learning = "learning the first 2 events, training the first teachers"
    assert lines == [dev.WAITING, learning, "Bootstrap: the log has nothing to learn from; waiting for more"]
    assert (driver.state.live, view.situation.phase) == ("v00000002", "")


@pytest.mark.usefixtures("_handlers")
def test_whoever_looks_at_a_server_hears_of_the_stream_before_its_first_version_too(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[bool, int | None]] = []

    def numbers(_: Any, report: StepReport | None, lag: Callable[[], int | None]) -> None:
        told.append((report is not None, lag()))

    first(Stub([0, 0, 2]), monkeypatch, ["v00000002"], numbers=numbers)
    assert (told[0], told[-1]) == ((False, 0), (True, 2))
    assert len(told) > 2


@pytest.mark.usefixtures("_handlers")
def test_a_broker_of_its_own_that_ends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EmbeddedBrokerError):
        first(Stub([0]), monkeypatch, [], EmbeddedBrokerError("Embedded Kafka: it ended by itself"))


def test_in_a_pipe_its_end_is_told_as_in_a_terminal_and_the_summary_is_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    summary = {"books": {"applied": 12}, "live": "v00000003"}
    dev.ended(summary)
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == (summary, "stopped: 12 events are learned, v00000003 is live; the next start goes on from here\n")


def test_the_verbs_give_their_options_to_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    for job in ("dev", "demo"):
        monkeypatch.setattr(f"jobs.{job}.main", lambda words: given.append(words) or len(given) - 1)
    asked = CliRunner().invoke(app, ["dev", "--state", "runs/x", "--take-over", "--set", "a=1", "--set", "b=2"])
    assert (asked.exit_code, given[0]) == (0, ["--state", "runs/x", "--take-over", "--set", "a=1", "--set", "b=2"])
    asked = CliRunner().invoke(app, ["demo", "--max-events", "2000", "--forever"])
    assert (asked.exit_code, given[1]) == (1, ["--max-events", "2000", "--forever"])


def test_where_the_jobs_are_not_installed_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        msg = f"No module named {name!r}"
        raise ModuleNotFoundError(msg, name="jobs")

    monkeypatch.setattr("streamrec.cli.running.importlib.import_module", missing)
    asked = CliRunner().invoke(app, ["dev"])
    assert (asked.exit_code, asked.stdout) == (1, "")
    assert asked.stderr == "Dev: jobs is not installed here, install streamrec's wheel, which has jobs and serve, or run it in a checkout\n"
