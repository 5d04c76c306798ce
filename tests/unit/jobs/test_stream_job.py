from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from jobs import cli, stream
from jobs.stream import describe
from streamrec.cli.replay import INTERRUPTED
from streamrec.pipeline.plan import Plan, PlannedRange
from streamrec.pipeline.report import StepReport

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


@pytest.mark.usefixtures("handlers")
def test_an_event_is_set_by_signals_again_after_another_program_took_them() -> None:
    stop = cli.stop_on_signals()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert cli.stop_on_signals(stop) is stop
    assert not stop.is_set()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.wait(5)


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


def test_a_wrong_duration_is_one_paragraph(capsys: pytest.CaptureFixture[str]) -> None:
    assert stream.main(["--until-idle", "abc"]) == 1
    assert "--until-idle is no duration, got 'abc', allowed a number with a unit" in capsys.readouterr().err.replace("\n", " ")
