"""Draw lines, bands and bars as SVG that takes its colours from the page; pure.

Each picture is drawn twice, for a wide page and for a phone, so that its letters have one size in both; the page shows one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape

from streamrec.report.words import NOTHING

Values = Sequence[float | None]
Label = Callable[[float], str]

WIDTHS = {"wide": 1024, "half": 480, "phone": 330}
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 26, 40
_LETTER = 6.6  # Pixels of a letter at 12 px, nearly.


@dataclass(frozen=True)
class Stroke:
    """Hold one line of a picture.

    Attributes:
        name: In the legend.
        css: Class with its colour.
        ys: Values; None leaves a gap.
        low: Lower end of its band; empty for none.
        high: Upper end.
        is_main: Drawn broader.
        dash: Of the line, as SVG has it.
    """

    name: str
    css: str
    ys: Values
    low: Values = ()
    high: Values = ()
    is_main: bool = False
    dash: str = ""

    def since(self, place: int) -> Stroke:
        """Return the line from a place on."""
        return replace(self, ys=self.ys[place:], low=self.low[place:], high=self.high[place:])


@dataclass(frozen=True)
class Flag:
    """Mark a place: a tick at the bottom where it has no label, else a line with it."""

    x: float
    label: str
    css: str


@dataclass(frozen=True)
class Whisker:
    """Hold a value with its error, of one of several kinds."""

    y: float
    error: float
    css: str
    bound: float | None = None


@dataclass(frozen=True)
class Axes:
    """Say how a picture is read.

    Attributes:
        title: What it shows, for those who do not see it.
        x: Name of the axis at the bottom.
        label_x: Writes its numbers.
        label_y: Writes those at the left.
        height: Of the picture.
        from_zero: Whether nothing lies below 0.
        most: Upper end of what is shown; None follows the values.
        has_zero: Whether a line is drawn at 0.
        is_whole: Whether what is at the bottom is counted, so that only whole numbers are marked.
    """

    title: str
    x: str
    label_x: Label
    label_y: Label
    height: int = 300
    from_zero: bool = False
    most: float | None = None
    has_zero: bool = False
    is_whole: bool = False


def ticks(low: float, high: float, most: int, *, is_whole: bool = False) -> list[float]:
    """Return round numbers between two, no more than ``most`` and one; with ``is_whole`` whole ones alone.

    Example:
        >>> ticks(0.0, 0.27, 4), ticks(0, 95_000, 5), ticks(1, 2, 9, is_whole=True)
        ([0.0, 0.1, 0.2], [0.0, 20000.0, 40000.0, 60000.0, 80000.0], [1.0, 2.0])
    """
    if high <= low:
        return [low]
    rough = max((high - low) / most, 1.0 if is_whole else 0.0)
    unit = 10.0 ** math.floor(math.log10(rough))
    steps = [unit * factor for factor in (1, 2, 2.5, 5, 10) if not is_whole or (unit * factor).is_integer()]
    step = next(step for step in steps if step >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


class _Frame:
    """Turn values into places, and draw what all pictures have: lines across, numbers at two sides."""

    def __init__(self, axes: Axes, width: int, xs: tuple[float, float], ys: tuple[float, float]) -> None:
        self.axes, self.width = axes, width
        self._xs, self._ys = xs, ys
        self.right, self.bottom = width - _RIGHT, axes.height - _BOTTOM

    def x(self, value: float) -> float:
        low, high = self._xs
        return round(_LEFT + (self.right - _LEFT) * ((value - low) / (high - low) if high > low else 0.5), 1)

    def y(self, value: float) -> float:
        low, high = self._ys
        inside = min(high, max(low, value))
        return round(self.bottom - (self.bottom - _TOP) * ((inside - low) / (high - low) if high > low else 0.5), 1)

    def zero(self) -> str:
        return f'<line class="zero" x1="{_LEFT}" y1="{self.y(0)}" x2="{self.right}" y2="{self.y(0)}"/>'

    def drawn(self, kind: str, inside: str) -> str:
        """Return the picture with axes and what is inside of them."""
        parts = []
        for value in ticks(*self._ys, max(2, (self.bottom - _TOP) // 48)):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y}" x2="{self.right}" y2="{y}"/>')
            parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(self.axes.label_y(value))}</text>')
        for value in ticks(*self._xs, max(2, (self.right - _LEFT) // 90), is_whole=self.axes.is_whole):
            x = self.x(value)
            anchor = "end" if x > self.right - 20 else "middle"
            parts.append(f'<text x="{x}" y="{self.bottom + 18}" text-anchor="{anchor}">{escape(self.axes.label_x(value))}</text>')
        parts.append(f'<text x="{self.right}" y="{self.axes.height - 4}" text-anchor="end">{escape(self.axes.x)}</text>')
        size = f'viewBox="0 0 {self.width} {self.axes.height}" width="{self.width}" height="{self.axes.height}"'
        return f'<svg class="plot {kind}" {size} role="img" aria-label="{escape(self.axes.title)}">{"".join(parts)}{inside}</svg>'


def lines(axes: Axes, xs: Sequence[float], strokes: Sequence[Stroke], flags: Sequence[Flag] = (), size: str = "wide") -> str:
    """Return a picture of lines over one axis, in both widths; it begins where the first line does."""
    begin = next((place for place in range(len(xs)) if any(stroke.ys[place] is not None for stroke in strokes)), 0)
    xs, strokes = xs[begin:], [stroke.since(begin) for stroke in strokes]
    values = [value for stroke in strokes for value in stroke.ys if value is not None]
    low, high = _range([*values, 0.0] if axes.has_zero else values, axes)

    def drawn(kind: str) -> str:
        frame = _Frame(axes, WIDTHS[kind], (min(xs, default=0.0), max(xs, default=1.0)), (low, high))
        inside = "".join(_band(frame, xs, stroke) for stroke in strokes) + _flags(frame, [flag for flag in flags if flag.x >= xs[0]])
        inside += frame.zero() if axes.has_zero else ""
        # The main line comes last, so that it lies above the others.
        inside += "".join(_line(frame, xs, stroke) for stroke in sorted(strokes, key=lambda stroke: stroke.is_main))
        return frame.drawn("phone" if kind == "phone" else "wide", inside)

    return drawn(size) + drawn("phone")


def whiskers(axes: Axes, found: Sequence[Whisker]) -> str:
    """Return a picture of values with their errors, side by side, in both widths."""
    edges = [one.y + sign * one.error for one in found for sign in (-1, 1)] + [one.bound for one in found if one.bound is not None]
    low, high = _range([*edges, 0.0], axes)

    def drawn(kind: str) -> str:
        frame = _Frame(axes, WIDTHS[kind], (1, max(2, len(found))), (low, high))
        parts = [frame.zero()]
        for place, one in enumerate(found, 1):
            x, y = frame.x(place), frame.y(one.y)
            if one.bound is not None:
                parts.append(f'<line class="bound" x1="{x - 3}" y1="{frame.y(one.bound)}" x2="{x + 3}" y2="{frame.y(one.bound)}"/>')
            parts.append(f'<line class="{one.css} thin" x1="{x}" y1="{frame.y(one.y - one.error)}" x2="{x}" y2="{frame.y(one.y + one.error)}"/>')
            parts.append(_symbol(one.css, x, y))
        return frame.drawn("phone" if kind == "phone" else "wide", "".join(parts))

    return drawn("wide") + drawn("phone")


def _symbol(css: str, x: float, y: float) -> str:
    """Return a shape by kind, so that colour is not all that tells them apart."""
    if css == "reject":
        return f'<path class="{css} line" d="M{x - 4} {y - 4}L{x + 4} {y + 4}M{x - 4} {y + 4}L{x + 4} {y - 4}"/>'
    return f'<circle class="{css} dot" cx="{x}" cy="{y}" r="3.5"/>'


def bar(value: float | None, most: float, css: str, low: float | None = None, high: float | None = None) -> str:
    """Return a bar as a part of a table's row, with a whisker where there is an error; the number stands beside it."""
    if value is None or most <= 0:
        return NOTHING

    def place(number: float) -> str:
        return f"{100 * min(1.0, max(0.0, number / most)):.2f}"

    parts = f'<rect class="{css} fill" x="0" y="2" width="{place(value)}" height="8" rx="0.6"/>'
    if low is not None and high is not None and high > low:
        parts += f'<line class="whisker" x1="{place(low)}" y1="6" x2="{place(high)}" y2="6"/>'
    return f'<svg class="bar" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">{parts}</svg>'


def sample(stroke: Stroke) -> str:
    """Return a line's piece for the legend."""
    dash = f' stroke-dasharray="{stroke.dash}"' if stroke.dash else ""
    main = " main" if stroke.is_main else ""
    line = f'<line class="{stroke.css} line{main}" x1="1" y1="4" x2="21" y2="4"{dash}/>'
    return f'<svg class="sample" viewBox="0 0 22 8" aria-hidden="true">{line}</svg>'


def _range(values: Sequence[float], axes: Axes) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    pad = max((high - low) * 0.08, abs(high) * 0.02, 1e-9)
    return 0.0 if axes.from_zero else low - pad, high + pad if axes.most is None else axes.most


def _runs(*columns: Values) -> list[list[int]]:
    """Return the places at which all columns have values, cut at the gaps."""
    runs: list[list[int]] = [[]]
    for place in range(len(columns[0])):
        if all(column[place] is not None for column in columns):
            runs[-1].append(place)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _line(frame: _Frame, xs: Sequence[float], stroke: Stroke) -> str:
    css = f"{stroke.css} line{' main' if stroke.is_main else ''}"
    dash = f' stroke-dasharray="{stroke.dash}"' if stroke.dash else ""
    parts = []
    for run in _runs(stroke.ys):
        points = [(frame.x(xs[place]), frame.y(value)) for place in run if (value := stroke.ys[place]) is not None]
        if len(points) == 1:
            parts.append(f'<circle class="{stroke.css} dot" cx="{points[0][0]}" cy="{points[0][1]}" r="3"/>')
        else:
            parts.append(f'<polyline class="{css}"{dash} points="{" ".join(f"{x},{y}" for x, y in points)}"/>')
    return "".join(parts)


def _band(frame: _Frame, xs: Sequence[float], stroke: Stroke) -> str:
    parts = []
    for run in _runs(stroke.low, stroke.high) if stroke.low else []:
        upper = [(frame.x(xs[place]), frame.y(value)) for place in run if (value := stroke.high[place]) is not None]
        lower = [(frame.x(xs[place]), frame.y(value)) for place in run if (value := stroke.low[place]) is not None]
        if len(run) == 1:
            (x, top), (_, end) = upper[0], lower[0]
            parts.append(f'<line class="{stroke.css} thin" x1="{x}" y1="{top}" x2="{x}" y2="{end}"/>')
        else:
            parts.append(f'<polygon class="{stroke.css} band" points="{" ".join(f"{x},{y}" for x, y in [*upper, *lower[::-1]])}"/>')
    return "".join(parts)


def _flags(frame: _Frame, flags: Sequence[Flag]) -> str:
    parts, free = [], -math.inf
    for flag in flags:
        x = frame.x(flag.x)
        top = _TOP if flag.label else frame.bottom - 6
        parts.append(f'<line class="{flag.css} flag" x1="{x}" y1="{top}" x2="{x}" y2="{frame.bottom}"/>')
        wide = _LETTER * len(flag.label) + 8
        left = min(x, frame.right - wide)
        if flag.label and left >= free:
            parts.append(f'<text class="{flag.css}" x="{left:.1f}" y="{_TOP - 6}">{escape(flag.label)}</text>')
            free = left + wide
    return "".join(parts)
