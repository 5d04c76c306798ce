"""Say numbers and names as people do, as HTML that holds nothing else's markup."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from html import escape

from streamrec.config.teacher_names import CONTROL, STUDENT

_MODELS = {
    STUDENT: "Student",
    CONTROL: "Student without teachers",
    "popular": "Popular items",
    "recent_popular": "Popular of late",
    "own_history": "Own history",
    "teachers.ensemble": "All teachers",
}
NOTHING = "–"


def model_name(name: str) -> str:
    """Return a model's name.

    Example:
        >>> model_name("teachers.linear"), model_name("students.small"), model_name("student")
        ('Teacher linear', 'Student small', 'Student')
    """
    if name in _MODELS:
        return _MODELS[name]
    for prefix, word in (("teachers.", "Teacher"), ("students.", "Student")):
        if name.startswith(prefix):
            return f"{word} {name.removeprefix(prefix)}"
    return name


def text(value: object) -> str:
    """Return a value as text of a page, whatever it holds.

    Example:
        >>> text("</script><b>")
        '&lt;/script&gt;&lt;b&gt;'
    """
    return escape(str(value))


def data(value: float | None, shown: str) -> str:
    """Return a number as people read it, and exactly for programs."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f'<data value="{json.dumps(value)}">{escape(shown)}</data>'


def three(value: float | None) -> str:
    """Return a score with three decimals."""
    return NOTHING if value is None else data(value, f"{value:.3f}")


def signed(value: float | None) -> str:
    """Return a difference of scores with its sign."""
    return NOTHING if value is None else data(value, signed_text(value))


def signed_text(value: float) -> str:
    """Return a difference as plain text, with a true minus.

    Example:
        >>> signed_text(-0.0123), signed_text(0.5)
        ('−0.0123', '+0.5000')
    """
    return f"{'−' if value < 0 else '+'}{abs(value):.4f}"


def tick_text(value: float) -> str:
    """Return a difference at an axis, as short as it can be.

    Example:
        >>> tick_text(0.05), tick_text(-0.0), tick_text(-0.025)
        ('+0.05', '0', '−0.025')
    """
    return f"{value:+.4g}".replace("-", "−") if value else "0"


def whole(value: float | None) -> str:
    """Return a count."""
    return NOTHING if value is None else data(value, f"{value:,.0f}")


def percent(value: float | None) -> str:
    """Return a share in per cent."""
    return NOTHING if value is None else data(value, percent_text(value))


def percent_text(value: float) -> str:
    """Return a share as plain text.

    Example:
        >>> percent_text(0.0123), percent_text(0.5), percent_text(0.0)
        ('1.2 %', '50 %', '0 %')
    """
    return f"{100 * value:.{1 if 0 < value < 0.0995 else 0}f} %"


def seconds(value: float | None) -> str:
    """Return a duration."""
    return NOTHING if value is None else data(value, seconds_text(value))


def seconds_text(value: float) -> str:
    """Return a duration in its largest units, as plain text.

    Example:
        >>> seconds_text(0.0042), seconds_text(0.25), seconds_text(7.31), seconds_text(90), seconds_text(7_260), seconds_text(86_400)
        ('4.2 ms', '250 ms', '7.3 s', '1 min 30 s', '2 h 1 min', '24 h')
    """
    if value < 0.9995:
        return f"{1000 * value:.{1 if value < 0.0095 else 0}f} ms"
    if value < 60:
        return f"{value:.1f} s" if value < 9.95 and value != int(value) else f"{value:.0f} s"
    large, small, unit, less = (value // 60, round(value % 60), "min", "s") if value < 3600 else (value // 3600, int(value % 3600 // 60), "h", "min")
    return f"{large:.0f} {unit}" + (f" {small} {less}" if small else "")


def moment(at_ms: int | None) -> str:
    """Return a time in UTC."""
    if at_ms is None:
        return NOTHING
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return f'<time datetime="{at:%Y-%m-%dT%H:%M:%SZ}">{at:%Y-%m-%d %H:%M:%S}</time>'
