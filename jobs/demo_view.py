"""Show a running demo: a live picture in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from streamrec.pipeline.driver import Driver
from streamrec.pipeline.report import StepReport

LINE_EVERY_S = 5.0
KEPT_LINES = 6


class View:
    """Take step reports and what was measured from outside, and show both.

    Args:
        name: The input's name.
        rate: Events produced a second.
    """

    def __init__(self, name: str, rate: float) -> None:
        self._console = Console(stderr=True)
        self._name = name
        self._rate = rate
        self._began = time.monotonic()
        self._next_line = self._began
        self._recent: deque[tuple[float, int]] = deque()
        self._happened: deque[str] = deque(maxlen=KEPT_LINES)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True) if self._console.is_terminal else None

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, driver: Driver, report: StepReport | None, outside: dict[str, Any]) -> None:
        """Take in a step (None: there was nothing to do) and refresh what is shown."""
        now = time.monotonic()
        if report is not None:
            self._recent.append((now, report.plan.num_records))
            for line in _happened(report):
                self._happened.append(f"{now - self._began:5.0f} s  {line}")
                if self._live is None:
                    self._say(f"{now - self._began:5.0f} s  {line}")
        while self._recent and self._recent[0][0] < now - 5.0:
            self._recent.popleft()
        if self._live is not None and report is not None:
            self._live.update(self._picture(driver, outside))
        elif self._live is None and now >= self._next_line:
            self._next_line = now + LINE_EVERY_S
            self._say(f"{now - self._began:5.0f} s  {self._line(driver, outside)}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _events_per_s(self) -> float:
        return sum(num for _, num in self._recent) / 5.0

    def _line(self, driver: Driver, outside: dict[str, Any]) -> str:
        controller = driver.controller
        recent = controller.progressive.recent()
        scores = ", ".join(f"{name} {recent[name]['recall@20']:.3f}" for name in ("student", "student_events_only", "popular") if name in recent)
        freshness = f"state {_number(outside.get('state_ms_p50'))} ms, model {_number(outside.get('model_s_p50'), 2)} s"
        requests = f"{outside.get('sent', 0)} requests, {outside.get('failed', 0)} failed"
        return f"{self._events_per_s():.0f} events/s, lag {_lag(driver)}, live {controller.state.live}, recall@20 {scores}, {freshness}, {requests}"

    def _picture(self, driver: Driver, outside: dict[str, Any]) -> Panel:
        controller = driver.controller
        state, recent = controller.state, controller.progressive.recent()
        flow = Table.grid(padding=(0, 3))
        flow.add_row("events/s", f"{self._events_per_s():.0f} of {self._rate:.0f} produced", "lag", f"{_lag(driver)}")
        flow.add_row("live version", str(state.live), "versions", ", ".join(f"{num} {what}" for what, num in state.versions.items()))
        flow.add_row("requests", f"{outside.get('sent', 0)} sent, {outside.get('failed', 0)} failed", "p99", f"{_number(outside.get('p99_ms'))} ms")
        state_ms, model_s = _number(outside.get("state_ms_p50")), _number(outside.get("model_s_p50"), 2)
        flow.add_row("state freshness", f"{state_ms} ms", "model freshness", f"{model_s} s")
        scores = Table(box=None, padding=(0, 2))
        for column in ("newest events", "recall@20", "ndcg@20", "mrr@20"):
            scores.add_column(column, justify="left" if column == "newest events" else "right")
        for name, values in sorted(recent.items(), key=lambda item: -item[1]["recall@20"]):
            style = "bold green" if name == "student" else ""
            scores.add_row(name, *(f"{values[metric]:.4f}" for metric in ("recall@20", "ndcg@20", "mrr@20")), style=style)
        happened = Text("\n".join(self._happened), style="dim")
        return Panel(
            Group(flow, Text(), scores, Text(), happened), title=f"streamrec · {self._name} · {time.monotonic() - self._began:.0f} s", padding=(1, 2)
        )


def _happened(report: StepReport) -> list[str]:
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
