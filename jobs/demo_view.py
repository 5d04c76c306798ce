"""Show a running demo: a live picture in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from jobs.live_reader import LiveReader
from jobs.live_view import LiveView, Situation
from streamrec.config.teacher_names import CONTROL, STUDENT
from streamrec.pipeline.driver import Driver
from streamrec.pipeline.report import StepReport

RATE_OVER_S = 5.0


class View:
    """Take step reports and what was measured from outside, and show both.

    Args:
        name: The input's name.
        rate: Events produced a second.
        url: The server's.
        broker: The event log's address.
        key: A key that may read, where the server asks for one.
    """

    def __init__(self, name: str, rate: float, url: str, broker: str, key: str | None = None) -> None:
        self._recent: deque[tuple[float, int]] = deque()
        situation = Situation(f"demo · {name}", {"API, dashboard": f"{url}/", "events": f"{rate:.0f} a second to {broker}"})
        self._reader = LiveReader(url, key)
        self._view = LiveView(self._reader.facts, situation)

    def __enter__(self) -> View:
        if self._view.is_live:  # Plain lines need nothing of the server.
            self._reader.__enter__()
        self._view.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._view.__exit__(None, None, None)
        if self._view.is_live:
            self._reader.__exit__(None, None, None)

    def update(self, driver: Driver, report: StepReport | None, outside: dict[str, Any]) -> None:
        """Take in a step (None: there was nothing to do) and refresh what is shown."""
        now = time.monotonic()
        if report is not None:
            self._recent.append((now, report.plan.num_records))
            for line in happenings(report):
                self._view.happened(line)
        while self._recent and self._recent[0][0] < now - RATE_OVER_S:
            self._recent.popleft()
        self._view.situation.extra = {
            "state freshness": f"{_number(outside.get('state_ms_p50'))} ms",
            "model freshness": f"{_number(outside.get('model_s_p50'), 2)} s",
            "asked from outside": f"{outside.get('sent', 0)} requests, {outside.get('failed', 0)} failed",
            "99 % within": f"{_number(outside.get('p99_ms'))} ms",
        }
        self._view.tick(lambda: self._line(driver, outside))

    def _events_per_s(self) -> float:
        return sum(num for _, num in self._recent) / RATE_OVER_S

    def _line(self, driver: Driver, outside: dict[str, Any]) -> str:
        controller = driver.controller
        recent = controller.progressive.recent()
        scores = ", ".join(f"{name} {recent[name]['recall@20']:.3f}" for name in (STUDENT, CONTROL, "popular") if name in recent)
        freshness = f"state {_number(outside.get('state_ms_p50'))} ms, model {_number(outside.get('model_s_p50'), 2)} s"
        requests = f"{outside.get('sent', 0)} requests, {outside.get('failed', 0)} failed"
        return f"{self._events_per_s():.0f} events/s, lag {_lag(driver)}, live {controller.state.live}, recall@20 {scores}, {freshness}, {requests}"


def happenings(report: StepReport) -> list[str]:
    """Return the step's rarer events; versions come all the time and are counted instead."""
    lines = report.about_teachers()
    if report.decision is not None and report.decision.verdict.value == "reject":
        lines.append(f"{report.decision.candidate} rejected: {report.decision.reason}")
    return lines


def _lag(driver: Driver) -> str:
    lag = driver.lag()
    return "-" if lag is None else str(lag)


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
