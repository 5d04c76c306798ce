"""Show a stream at work: a picture that keeps up with the terminal's size, or a plain line now and then where there is none."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from jobs import cli
from jobs.live_facts import Facts
from streamrec.cli.telling import span
from streamrec.clock import Clock, SystemClock
from streamrec.config.teacher_names import CONTROL, STUDENT
from streamrec.telemetry import logs

WIDE = 80
"""Columns from which on two pairs share a line."""
LEAST_WIDTH = 44
"""Columns below which there is no room for bars."""
SHOWN_MARKS = 5
LINE_EVERY_S = 5.0
QUIET_EVERY_S = 60.0
"""A plain line comes at least so often, also where nothing happens."""

_BLOCKS = "▁▂▃▄▅▆▇█"
_NAMES = {CONTROL: "student, events only", "recent_popular": "recently popular", "own_history": "own history"}
_ALWAYS = (STUDENT, CONTROL)


@dataclass
class Situation:
    """Hold what the process itself knows, beside what the server tells.

    Attributes:
        title: What runs.
        places: Addresses by name, such as API and broker.
        phase: What is being done; empty while the stream runs.
        trouble: Why the server's numbers are not known; empty where they are.
        extra: Further rows by name, such as what was measured from outside.
        happened: What the process has to say of late, oldest first.
    """

    title: str
    places: dict[str, str] = field(default_factory=dict)
    phase: str = ""
    trouble: str = ""
    extra: dict[str, str] = field(default_factory=dict)
    happened: list[str] = field(default_factory=list)


class Picture:
    """Draw facts for whatever room there is at the moment.

    Args:
        facts: What the server tells.
        situation: What the process knows.
        since_s: For how long it has run.
    """

    def __init__(self, facts: Facts, situation: Situation, since_s: float) -> None:
        self._facts, self._situation, self._since_s = facts, situation, since_s

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Leave out what has no room: first what happened, then models, then the frame."""
        width, height = options.max_width, options.height or console.height
        flow, scores, happened = self._flow(width), self._scores(width), self._happened()
        for parts in ([flow, scores, happened], [flow, scores], [flow]):
            shown = [part for part in parts if part is not None]
            panel = self._framed(shown)
            if len(console.render_lines(panel, options.update(height=None), pad=False)) < height or parts == [flow]:
                break
        yield panel if height > 4 else flow

    def _framed(self, parts: list[RenderableType]) -> Panel:
        spaced: list[RenderableType] = []
        for part in parts:
            spaced += [Text(), part] if spaced else [part]
        title = f"streamrec {self._situation.title} · {span(self._since_s)}"
        return Panel(Group(*spaced), title=title, title_align="left", border_style="cyan", padding=(0, 1))

    def _flow(self, width: int) -> Table:
        whole = Table.grid()
        whole.add_row(_grid([*self._situation.places.items()], 1))  # An address is long, and of no use where it is cut.
        whole.add_row(_grid([*self._pairs().items(), *self._situation.extra.items()], 2 if width >= WIDE else 1))
        notes = [note for note in (self._situation.phase, self._situation.trouble, *self._facts.notes) if note]
        for note in notes:
            whole.add_row(Text(note, style="yellow"))
        return whole

    def _pairs(self) -> dict[str, RenderableType]:
        facts = self._facts
        live = Text("none yet", style="yellow") if facts.version is None else Text(facts.version, style="green")
        swap = (
            "-"
            if facts.swap_ms is None
            else f"{facts.swap_ms:.0f} ms to {'one replica' if facts.replicas == 1 else f'all {facts.replicas or 0} replicas'}"
        )
        errors = Text(f"{facts.errors} in the last minute", style="bold red" if facts.errors else "")
        times = "-" if facts.p50_ms is None else f"{facts.p50_ms:.1f} ms, 99 % {facts.p99_ms or 0:.1f} ms"
        return {
            "events/s": f"{_rate(facts.events_per_s)} {sparkline(facts.course[-20:])}".rstrip(),
            "lag": "-" if facts.lag is None else f"{facts.lag}",
            "live": live,
            "freshness": _freshness(facts),
            "last swap": swap,
            "versions": "-" if facts.promoted is None else f"{facts.promoted} promoted, {facts.rejected or 0} rejected",
            "requests/s": _rate(facts.requests_per_s),
            "answered in": times,
            "errors": errors,
            "learned": "-" if facts.learned is None else f"{facts.learned} events",
            "teachers add": _gain(facts.gain),
        }

    def _scores(self, width: int) -> RenderableType | None:
        scores = self._facts.scores
        if not scores:
            return None
        table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
        table.add_column("newest events, before they are learned", no_wrap=True, overflow="ellipsis")
        table.add_column("recall@20", justify="right")
        bar_width = max(0, min(30, width - LEAST_WIDTH - 13))
        if bar_width:
            table.add_column("")
        most = max(scores.values()) or 1.0
        for name, value in sorted(scores.items(), key=lambda pair: -pair[1]):
            style = {STUDENT: "bold green", CONTROL: "cyan"}.get(name, "")
            shown = [Text(_NAMES.get(name, name.replace("teachers.", "teacher ")), style=style), Text(f"{value:.4f}", style=style)]
            table.add_row(*shown, *([Text(bar(value / most, bar_width), style=style)] if bar_width else []))
        return table

    def _happened(self) -> RenderableType | None:
        lines = self._situation.happened[-SHOWN_MARKS:]
        return Text("\n".join(lines), style="dim", no_wrap=True, overflow="ellipsis") if lines else None


def _grid(pairs: Sequence[tuple[str, RenderableType]], by_line: int) -> Table:
    table = Table.grid(padding=(0, 2), expand=False)
    for _ in range(by_line):
        table.add_column(style="dim", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
    for at in range(0, len(pairs), by_line):
        table.add_row(*(cell for pair in pairs[at : at + by_line] for cell in pair))
    return table


class LiveView:
    """Keep a picture up to date, four times a second, or say plain lines.

    Args:
        facts: Gives what the server tells now.
        situation: What the process knows; it changes it as it goes.
        console: Where to; None is the error output.
        clock: Processing time.
    """

    def __init__(
        self,
        facts: Callable[[], Facts],
        situation: Situation,
        console: Console | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.console = console or Console(stderr=True)
        self._is_own = console is None
        self.situation = situation
        self._facts, self._clock = facts, clock or SystemClock()
        self._began_s = self._clock.monotonic_s()
        self._next_line_s, self._told, self._told_s = self._began_s, "", self._began_s
        self._marked_ms = -1
        self._moved: list[logging.StreamHandler[Any]] = []
        self._live = Live(console=self.console, refresh_per_second=4, transient=True, get_renderable=self.picture) if self.is_live else None

    @property
    def is_live(self) -> bool:
        """Return whether there is a terminal that can be drawn on."""
        return self.console.is_terminal and not self.console.is_dumb_terminal and not logs.is_json()

    def __enter__(self) -> LiveView:
        if self._live is not None:
            before = sys.stderr
            self._live.start()  # From here on what is written to sys.stderr comes above the picture.
            self._moved = [handler for handler in logging.root.handlers if isinstance(handler, logging.StreamHandler) and handler.stream is before]
            for handler in self._moved:
                handler.setStream(sys.stderr)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
            for handler in self._moved:
                handler.setStream(sys.stderr)

    def picture(self) -> Picture:
        """Return what is drawn now."""
        return Picture(self._heard(), self.situation, self._since_s)

    def _heard(self) -> Facts:
        """Return what the server tells, and note what has happened since the last time."""
        facts = self._facts()
        for at_ms, what in facts.marks:
            if at_ms > self._marked_ms:
                self._marked_ms = at_ms
                self.happened(what)
        return facts

    def happened(self, what: str) -> None:
        """Note something rare: a line of its own where there is no picture."""
        line = f"{self._since_s:5.0f} s  {what}"
        self.situation.happened = [*self.situation.happened, line][-SHOWN_MARKS:]
        if self._live is None:
            self._say(line)

    def enter(self, phase: str) -> None:
        """Say what is done from now on; a plain line says so at once."""
        self.situation.phase, self._next_line_s = phase, self._clock.monotonic_s()
        self.tick()

    def tick(self, line: Callable[[], str] | None = None) -> None:
        """Say a plain line if one is due; a picture needs no word.

        Args:
            line: Makes it, whatever it says; without one it is what the server tells, and is left out while that stays the same.
        """
        now_s = self._clock.monotonic_s()
        if self._live is not None or now_s < self._next_line_s:
            return
        self._next_line_s = now_s + LINE_EVERY_S
        if line is not None:
            self._say(f"{self._since_s:5.0f} s  {line()}")
            return
        facts = self._heard()
        told = self.situation.phase or self.situation.trouble or line_of(facts)
        if told != self._told or now_s - self._told_s >= QUIET_EVERY_S:
            self._told, self._told_s = told, now_s
            self._say(f"{self._since_s:5.0f} s  {told}")

    @property
    def _since_s(self) -> float:
        return self._clock.monotonic_s() - self._began_s

    def _say(self, line: str) -> None:
        if self._is_own:
            cli.say(line)
        else:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def line_of(facts: Facts) -> str:
    """Return facts as one line, which does not change while nothing happens."""
    scores = ", ".join(f"{name} {facts.scores[name]:.3f}" for name in _ALWAYS if name in facts.scores)
    parts = [
        f"{_rate(facts.events_per_s)} events/s",
        f"lag {'-' if facts.lag is None else facts.lag}",
        f"learned and live in {_within(facts.model_s)}" if facts.model_s is not None else "",
        f"live {facts.version}",
        f"recall@20 {scores}" if scores else "",
        f"teachers add {_gain(facts.gain)}" if facts.gain is not None else "",
        f"{_rate(facts.requests_per_s)} requests/s",
        f"{facts.errors} errors in the last minute" if facts.errors else "",
        *facts.notes,
    ]
    return ", ".join(part for part in parts if part)


def sparkline(values: tuple[float, ...]) -> str:
    """Return a line of blocks, the greatest value full.

    Example:
        >>> sparkline((0.0, 5.0, 10.0)), sparkline(())
        ('▁▄█', '')
    """
    most = max(values, default=0.0)
    return "".join(_BLOCKS[round((len(_BLOCKS) - 1) * value / most) if most > 0 else 0] for value in values)


def bar(share: float, width: int) -> str:
    """Return a bar of so many columns at the most.

    Example:
        >>> bar(0.5, 6)
        '━━━'
    """
    return "━" * round(max(0.0, min(1.0, share)) * width)


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _gain(gain: tuple[float, float] | None) -> str:
    return "-" if gain is None else f"{gain[0]:+.4f} ± {gain[1]:.4f}"


def _freshness(facts: Facts) -> str:
    """Return within what half of the events are in histories, and in the model that answers; while none came how old that one is."""
    known = (("", facts.state_s), ("model ", facts.model_s))
    told = ", ".join(f"{name}{_within(value)}" for name, value in known if value is not None)
    return told or ("-" if facts.age_s is None else f"made {span(facts.age_s)} ago")


def _within(seconds: float) -> str:
    return span(seconds) if seconds >= 1 else f"{1000 * seconds:.0f} ms"
