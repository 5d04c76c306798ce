"""Write numbers as people read them: times gone by, sizes, tables that are whole in a pipe."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console

PLAIN_WIDTH = 200
"""Columns of a table that goes to a file: none is cut off."""

_SPANS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))
_SIZES = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def span(seconds: float) -> str:
    """Return a duration in its largest unit.

    Example:
        >>> span(3.24), span(90), span(7_200), span(200_000)
        ('3.2 s', '1.5 min', '2.0 h', '2.3 d')
    """
    return next((f"{seconds / unit:.1f} {name}" for unit, name in _SPANS if abs(seconds) >= unit), f"{seconds:.1f} s")


def ago(then_ms: int | None, now_ms: int) -> str:
    """Return how long ago something was.

    Example:
        >>> ago(1_000, 61_000), ago(2_000, 1_000), ago(None, 5)
        ('1.0 min ago', 'in 1.0 s', 'at an unknown time')
    """
    if then_ms is None:
        return "at an unknown time"
    passed_s = (now_ms - then_ms) / 1000
    return f"{span(passed_s)} ago" if passed_s >= 0 else f"in {span(-passed_s)}"


def size(num_bytes: float) -> str:
    """Return a size in its largest decimal unit.

    Example:
        >>> size(512), size(1_500_000)
        ('512 B', '1.5 MB')
    """
    return next((f"{num_bytes / unit:.1f} {name}" for unit, name in _SIZES if num_bytes >= unit), f"{num_bytes:.0f} B")


def out_console() -> Console:
    """Return the console for results: as wide as the terminal, or wide enough for a table in a pipe."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=PLAIN_WIDTH)


def lines_of(pairs: Iterable[tuple[str, str]], width: int = 13) -> str:
    """Return names and what is said of them, a line each, one below the other."""
    return "".join(f"{name:<{width}} {said}".rstrip() + "\n" for name, said in pairs)
