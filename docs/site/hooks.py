"""Hooks of MkDocs: pages that are made from the code, and links that leave the documentation."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from reference import PAGES

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_DECISION = re.compile(r"docs/decisions/(\d{4})-.*\.md")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that are made from the code, and the list of decisions."""
    for place, make in PAGES.items():
        files.append(File.generated(config, place, content=make()))
    files.append(File.generated(config, "decisions/index.md", content=decisions()))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Turn links that leave the documentation, such as those to the code, into the path that they lead to: the site has no repository's address."""
    return inside(markdown, page.file.src_uri)


def inside(markdown: str, page: str) -> str:
    """Return a page with links inside the documentation alone.

    Args:
        markdown: The page.
        page: Its path below ``docs``.
    """

    def kept(found: re.Match[str]) -> str:
        text, target = found[1], found[2]
        place = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target.partition("#")[0]))
        if re.match(r"[a-z]+:|#", target) or place == "docs" or place.startswith("docs/"):
            return found[0]
        return f"{text} (`{place}`)" if place not in text and posixpath.basename(place) not in text else f"`{place}`"

    return _LINK.sub(kept, markdown)


def decisions() -> str:
    """Return the page that lists all decisions, the newest first."""
    lines = ["# Design decisions", "", "What was decided against the design or between real alternatives, and why; the newest first.", ""]
    for path in sorted((ROOT / "docs/decisions").glob("[0-9]*.md"), reverse=True):
        title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        lines.append(f"* [{title}]({path.name})")
    return "\n".join([*lines, ""])
