"""Make the pieces that sections are made of: cards, tables, legends; what comes in as a cell or a note is HTML already."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from streamrec.report.plots import Stroke, sample
from streamrec.report.words import text


@dataclass(frozen=True)
class Column:
    """Describe a column: its title, and the classes of its cells."""

    title: str
    css: str = ""


NUMBER = "num"
_CODE = re.compile("`([^`]*)`")
_PICTURE = '<span class="hidden">Picture</span>'


def table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first cells name their rows.

    Args:
        caption: What it holds, for those who do not see the page.
        columns: One for each cell.
        rows: HTML of cells.
    """
    head = "".join(f'<th scope="col"{_css(column)}>{text(column.title) or _PICTURE}</th>' for column in columns)
    body = "".join(f"<tr>{_cells(columns, row)}</tr>" for row in rows)
    return f"<table><caption class='hidden'>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _css(column: Column) -> str:
    return f' class="{column.css}"' if column.css else ""


def _cells(columns: Sequence[Column], row: Sequence[str]) -> str:
    first, *rest = row
    cells = "".join(f"<td{_css(column)}>{cell}</td>" for column, cell in zip(columns[1:], rest, strict=True))
    return f'<th scope="row"{_css(columns[0])}>{first}</th>{cells}'


def folded(summary: str, inside: str) -> str:
    """Return what is shown when asked for; what is too wide or long scrolls by itself, also by the keyboard."""
    region = f'<div class="scroll" tabindex="0" role="region" aria-label="{text(summary)}">{inside}</div>'
    return f"<details><summary>{text(summary)}</summary>{region}</details>"


def scrolled(name: str, inside: str) -> str:
    """Return what scrolls by itself where it is too wide or long."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{text(name)}">{inside}</div>'


def legend(title: str, strokes: Sequence[Stroke], newest: Sequence[str]) -> str:
    """Return the names of lines with their newest values."""
    entries = "".join(
        f"<li>{sample(stroke)}<span>{text(stroke.name)}</span><b>{value}</b></li>" for stroke, value in zip(strokes, newest, strict=True)
    )
    return f'<ul class="legend" aria-label="{text(title)}">{entries}</ul>'


def card(title: str, lead: str, *inside: str) -> str:
    """Return a section; ``lead`` is plain text."""
    name = "-".join("".join(letter if letter.isalnum() else " " for letter in title.lower()).split())
    return f'<section class="card" aria-labelledby="{name}"><h2 id="{name}">{text(title)}</h2><p>{text(lead)}</p>{"".join(inside)}</section>'


def note(why: str) -> str:
    """Return that something is not there, and why, as plain text with `code`."""
    said = _CODE.sub(r"<code>\1</code>", text(why[:1].upper() + why[1:]))
    return f'<p class="note">{said}.</p>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return names (plain text) and what is said of them (HTML)."""
    return f'<dl class="facts">{"".join(f"<dt>{text(name)}</dt><dd>{said}</dd>" for name, said in pairs)}</dl>'


def tiles(found: Iterable[tuple[str, str, str]]) -> str:
    """Return the figures that come first: name, value and what more there is to say; the latter two are HTML."""
    inside = "".join(f'<div><dt>{text(name)}</dt><dd>{value}</dd><dd class="more">{more}</dd></div>' for name, value, more in found)
    return f'<dl class="tiles">{inside}</dl>'
