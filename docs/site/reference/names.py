"""Describe the public names of Python by their signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import streamrec
import streamrec.client
from reference.markdown import code, plain, table
from streamrec import errors
from streamrec.errors import StreamrecError

_SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Example")
_INTRODUCTION = """
`import streamrec as sr` loads nothing; each name is loaded when it is first used. Everything runs in this process, by the code of the stream: no
Ray cluster, no broker, no server. [How to work in a notebook](../how-to.md#work-in-a-notebook) shows them together.

This page is made from the code, and its examples are run by the tests.
"""
_CLIENT = "An application asks a server with these; [how, and what happens when something is wrong](../api.md#from-python)."
_ERRORS = "Every error is one of these, in [streamrec.errors](../codes.md#errors-of-python), and survives pickling. Catch `StreamrecError` for all."


def names_page() -> str:
    """Return the page of public names."""
    lines = ["# Python", "", _INTRODUCTION.strip(), ""]
    for name in (name for name in streamrec.__all__ if not name.startswith("_") and name != "Client"):
        lines += [f"## {name}", "", *described(getattr(streamrec, name), name), ""]
    client = [(code(name), first_line(getattr(streamrec.client, name))) for name in streamrec.client.__all__]
    lines += ["## Client", "", _CLIENT, "", *table(("name of `streamrec.client`", "what it is"), client)]
    lines += ["## Errors", "", _ERRORS, "", *table(("error", "below", "when"), _errors())]
    return "\n".join(lines)


def first_line(found: object) -> str:
    """Return what a name's docstring begins with, up to the first full stop."""
    return plain((inspect.getdoc(found) or "").split("\n\n")[0])


def described(found: object, name: str) -> Iterator[str]:
    """Return the lines that describe a function."""
    signature = inspect.signature(found)  # type: ignore[arg-type]
    yield from ("```python", f"{name}{_without_quotes(str(signature))}", "```", "")
    for title, text in _parts(inspect.getdoc(found) or ""):
        if title == "Example":
            yield from ("```pycon", inspect.cleandoc(f"\n{text}"), "```", "")
        elif title in {"Args", "Attributes", "Raises"}:
            yield from (f"**{title}**", "", *(f"* {code(item)}: {plain(told)}" for item, told in _items(text)), "")
        else:
            yield from ((f"**{title}**", "") if title else ())
            yield from (plain(text), "")


def _errors() -> Iterator[tuple[str, str, str]]:
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, StreamrecError):
            yield code(name), code(kind.__base__.__name__) if kind.__base__ else "", first_line(kind)


def _without_quotes(signature: str) -> str:
    """Return a signature whose annotations are not in quotes, as those are that are read late."""
    return re.sub(r"(?<=: |> )'([^']*)'", r"\1", signature)


def _parts(doc: str) -> Iterator[tuple[str, str]]:
    """Return a docstring's parts by title, the one before the first title without."""
    found = re.split(rf"^({'|'.join(_SECTIONS)}):\n", f"{doc}\n", flags=re.MULTILINE)
    yield "", found[0]
    yield from zip(found[1::2], found[2::2], strict=True)


def _items(text: str) -> Iterator[tuple[str, str]]:
    """Return the entries of a section of names, whose texts may go on in deeper lines."""
    for entry in re.split(r"\n(?=\S)", inspect.cleandoc(f"\n{text}")):
        name, _, told = entry.partition(":")
        yield name, told
