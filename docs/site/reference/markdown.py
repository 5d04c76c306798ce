"""Write pieces of Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table; columns that are empty in every row are left out."""
    rows = list(rows)
    kept = [at for at in range(len(head)) if any(row[at] for row in rows)]
    if not kept:
        return []
    lines = [[head[at] for at in kept], ["---"] * len(kept), *([cell(row[at]) for at in kept] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def cell(text: str) -> str:
    """Return a text as it stands in a table's cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def code(text: object) -> str:
    """Return a text as code; nothing for nothing."""
    return f"`{text}`" if text not in (None, "") else ""


def plain(text: str) -> str:
    """Return a docstring's text as Markdown: code in single marks, one line a paragraph, no links to other hosts."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(" ".join(part.split()) for part in paragraphs).replace("``", "`")


def anchor(title: str) -> str:
    """Return the name by which a heading is linked to, as the site makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
