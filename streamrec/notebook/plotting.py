"""Draw what a backtest found as a picture of lines, without a library: a notebook shows it, a file keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from pathlib import Path

from streamrec.errors import ConfigError
from streamrec.evaluation.ranking import METRICS
from streamrec.pipeline.backtest import BacktestResult

_WIDTH, _HEIGHT = 760, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 190, 34, 40
_COLOURS = ("#0b6bcb", "#c4480e", "#1a7f37", "#8250df", "#9a6700", "#bf3989", "#57606a", "#0e8a8a")
_DASHES = ("", "6 3", "2 3")  # Beyond the colours, so that nobody needs to tell similar ones apart.


@dataclass(frozen=True)
class Picture:
    """Hold a picture.

    Attributes:
        svg: As SVG text, which draws alike in the light and in the dark.
    """

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> None:
        """Write the picture to a file."""
        Path(path).write_text(self.svg, encoding="utf-8")


def plot(result: BacktestResult, metric: str = "recall@20", models: Sequence[str] | None = None) -> Picture:
    """Draw a metric of each model over a backtest's blocks.

    Args:
        result: What `backtest` returns.
        metric: One of a result's metrics, such as ``recall@20`` or ``mrr@20``.
        models: Which; None draws all, the best first.

    Raises:
        ConfigError: The result has no such metric or model.

    Example:
        >>> import streamrec as sr
        >>> quick = sr.settings(student={"dim": 8, "control": False}, teachers={"enabled": []})
        >>> picture = sr.plot(sr.backtest(sr.sample_events(num_events=800), quick, max_blocks=2))
        >>> picture.svg.count("<polyline")
        4
        >>> picture.save("backtest.svg")
    """
    lines = _lines(result, metric, models)
    top = _round_up(max((value for line in lines.values() for _, value in line), default=0.0))
    shapes = [*_axes(metric, result.protocol, len(result.blocks), top), *_drawn(lines, len(result.blocks), top)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img"'
    told = f"{metric} of each block, {result.protocol}: " + ", ".join(f"{name} {line[-1][1]:.4f} at last" for name, line in lines.items() if line)
    style = 'font-family="system-ui, sans-serif" font-size="12" fill="#768390"'
    return Picture(f"{head} {style}><title>{escape(told)}</title>{''.join(shapes)}</svg>")


def _lines(result: BacktestResult, metric: str, models: Sequence[str] | None) -> dict[str, list[tuple[int, float]]]:
    """Return the points of each model, numbers of blocks from 1 and values."""
    if metric not in METRICS:
        what = "Plot: there is no such metric"
        raise ConfigError(what, got=repr(metric), allowed=", ".join(METRICS))
    unknown = [name for name in models or () if name not in result.metrics]
    if unknown:
        what = "Plot: the backtest has no such model"
        raise ConfigError(what, got=", ".join(unknown), allowed=", ".join(result.metrics))
    chosen = models or sorted(result.metrics, key=lambda name: -result.metrics[name][metric])
    return {name: [(number, block[name][metric]) for number, block in enumerate(result.blocks, 1) if name in block] for name in chosen}


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 2.5, 5 and 10 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** floor(log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value)


def _x(number: float, num_blocks: int) -> float:
    return round(_LEFT + (number - 1) / max(num_blocks - 1, 1) * (_WIDTH - _LEFT - _RIGHT), 1)


def _y(value: float, top: float) -> float:
    return round(_HEIGHT - _BOTTOM - value / top * (_HEIGHT - _TOP - _BOTTOM), 1)


def _axes(metric: str, protocol: str, num_blocks: int, top: float) -> Iterator[str]:
    yield f'<text x="{_LEFT}" y="18">{escape(metric)} of each test block, {escape(protocol)}</text>'
    for part in range(5):
        value = top * part / 4
        height = _y(value, top)
        yield f'<path d="M{_LEFT} {height}H{_WIDTH - _RIGHT}" stroke="#768390" stroke-opacity=".3"/>'
        yield f'<text x="{_LEFT - 8}" y="{height + 4}" text-anchor="end">{value:.3g}</text>'
    every = max(1, ceil(num_blocks / 10))
    for number in range(1, num_blocks + 1, every):
        yield f'<text x="{_x(number, num_blocks)}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{number}</text>'


def _drawn(lines: dict[str, list[tuple[int, float]]], num_blocks: int, top: float) -> Iterator[str]:
    for at, (name, line) in enumerate(lines.items()):
        colour, dash = _COLOURS[at % len(_COLOURS)], _DASHES[at // len(_COLOURS) % len(_DASHES)]
        stroke = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"' if dash else f'stroke="{colour}" stroke-width="2"'
        points = " ".join(f"{_x(number, num_blocks)},{_y(value, top)}" for number, value in line)
        height = _TOP + 8 + 18 * at
        yield f'<polyline points="{points}" fill="none" {stroke}/>'
        yield f'<path d="M{_WIDTH - _RIGHT + 14} {height}h20" {stroke}/>'
        yield f'<text x="{_WIDTH - _RIGHT + 40}" y="{height + 4}">{escape(name)}</text>'
