from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import streamrec
from streamrec.cli import app
from streamrec.cli.order import ORDER

DOCS = Path(streamrec.__file__).parents[1] / "docs"


def test_help_lists_every_verb_in_the_order_in_which_one_needs_it() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout.partition("Commands:")[2]
    verbs = re.findall(r"^  ([a-z-]+) ", shown, re.MULTILINE)
    assert verbs == list(ORDER)
    assert verbs[0] == "init"
    assert set(verbs) == set(get_command(app).commands)


def test_the_page_of_the_command_line_has_every_verb_in_that_order() -> None:
    rows = [line.split("|")[1] for line in (DOCS / "cli.md").read_text().splitlines() if line.startswith("| `")]
    assert re.findall(r"`([a-z-]+)`", " ".join(rows)) == list(ORDER)


def test_links_of_the_page_lead_somewhere() -> None:
    titles = re.findall(r"^#+ (.+)$", (DOCS / "operations.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"operations\.md#([a-z0-9-]+)", (DOCS / "cli.md").read_text())) <= anchors


@pytest.mark.parametrize(("words", "found"), [("mod", {"models"}), ("models ", {"list", "show", "diff", "promote"}), ("dlq re", {"replay"})])
def test_a_shell_completes_verbs_and_their_subcommands(words: str, found: set[str]) -> None:
    typed = f"streamrec {words}"
    asked = {"_STREAMREC_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split(" ")) - 1)}
    code = "from streamrec.cli import app; app(prog_name='streamrec')"
    completed = subprocess.run([sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=True)
    assert set(completed.stdout.split()) == found


@pytest.mark.parametrize("words", [["bogus"], ["replay"], ["plan", "--users", "many"], ["models", "list", "--bogus"]])
def test_a_wrong_command_line_is_status_2(words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, result.stdout) == (2, "")
