"""Describe the command line as its parser knows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from reference.markdown import code, plain, table
from streamrec.cli import app

_INTRODUCTION = """
All verbs with all their options, in the order in which one needs them. What goes to which output, exit statuses and completion: [the command
line](../cli.md). Jobs on Ray have options of their own: `python -m jobs.NAME --help`.

This page is made from the code.
"""


def verbs_page() -> str:
    """Return the page of all verbs."""
    lines = ["# Verbs and options", "", _INTRODUCTION.strip(), ""]
    for words, command in verbs():
        lines += [f"## {' '.join(words)}", "", *_usage(words, command), "", plain(command.help or ""), "", *_options(command), ""]
    return "\n".join(lines)


def verbs(command: Any = None, words: tuple[str, ...] = ("streamrec",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Return each verb that does something, with the words that call it."""
    command = command or get_command(app)
    if not hasattr(command, "list_commands"):
        yield words, command
        return
    for name in command.list_commands(None):
        yield from verbs(command.get_command(None, name), (*words, name))


def _usage(words: tuple[str, ...], command: Any) -> list[str]:
    given = [_argument(part) for part in command.params if part.param_type_name == "argument"]
    has_options = any(part.param_type_name == "option" for part in command.params)
    return ["```", " ".join([*words, *(["[OPTIONS]"] if has_options else []), *given]), "```"]


def _argument(part: Any) -> str:
    name = (part.metavar or part.name).upper()
    name = f"{name}..." if part.nargs == -1 else name
    return name if part.required else f"[{name}]"


def _options(command: Any) -> list[str]:
    rows = []
    for part in command.params:
        if part.name == "help" or getattr(part, "hidden", False):
            continue
        is_argument = part.param_type_name == "argument"
        names = _argument(part) if is_argument else ", ".join([*part.opts, *part.secondary_opts])
        value = "" if is_argument or getattr(part, "is_flag", False) else f" {part.metavar or part.name.upper()}"
        rows.append((code(f"{names}{value}"), "yes" if part.required else "", plain(getattr(part, "help", None) or ""), _default(part)))
    return table(("option", "required", "what it does", "default"), rows)


def _default(part: Any) -> str:
    value = part.default
    if value is None or value is False or value in ((), [], "") or callable(value) or part.required:
        return ""
    return code(value)
