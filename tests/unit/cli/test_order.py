from __future__ import annotations

import errno
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
from streamrec.cli.output import told_output

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


@pytest.mark.parametrize(("words", "is_unbuffered"), [("version", False), ("config show", False), ("config show", True), ("--help", True)])
def test_an_output_that_cannot_be_written_is_told_in_a_sentence(words: str, is_unbuffered: bool, tmp_path: Path) -> None:
    asked = {**os.environ, "PYTHONUNBUFFERED": "1" if is_unbuffered else ""}
    with Path("/dev/full").open("w") as full:
        run = [sys.executable, "-m", "streamrec", *words.split()]
        ended = subprocess.run(run, cwd=tmp_path, env=asked, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "Output: it can't be written (No space left on device), make room, or send it elsewhere\n")


def test_an_output_that_nobody_reads_any_more_is_left_in_silence(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        run = [sys.executable, "-m", "streamrec", "config", "show"]
        ended = subprocess.run(run, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_a_failure_that_is_not_the_outputs_stays_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="of a socket"), told_output():
        raise OSError(errno.ENOSPC, "of a socket")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("words", [["bogus"], ["replay"], ["plan", "--users", "many"], ["models", "list", "--bogus"]])
def test_a_wrong_command_line_is_status_2(words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, result.stdout) == (2, "")
