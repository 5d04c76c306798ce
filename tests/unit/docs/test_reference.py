"""The pages that are made from the code have all that is in the code, and each thing says what it is."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import streamrec
import streamrec.client
from serve.operations import OPERATIONS
from streamrec.cli import app
from streamrec.cli.order import ORDER


@pytest.fixture(scope="module")
def reference() -> Any:
    return importlib.import_module("reference")


@pytest.fixture(scope="module")
def pages(reference: Any) -> dict[str, str]:
    return {place.rpartition("/")[2]: make() for place, make in reference.PAGES.items()}


def test_every_setting_has_a_type_a_default_and_a_meaning() -> None:
    configuration = importlib.import_module("reference.configuration")
    rows = {
        ".".join((*path, name)): configuration.row(path, name, model) for path, model in configuration.sections() for name in configuration.own(model)
    }
    assert len(rows) > 150
    assert [name for name, row in rows.items() if not (row[1] and row[4])] == []
    assert rows["log.connect_limit_s"][1:4] == ("duration", '`"2m"`', "at least 0")
    assert rows["student.replay_kind"][1] == "`uniform` or `recency` or `quota`"
    assert rows["teachers.enabled"][2] == '`["transformer", "linear", "repeats"]`'
    assert rows["features.max_items"][4] == "So many items have rows; the coldest leave first."
    assert rows["student.losses.hints"][4].startswith("How far the student's query, seen through a")
    assert rows["registry.gate_error"][4].startswith("The share of candidates no worse than `gate_tolerance`")


def test_what_is_said_of_settings_beside_the_code_names_settings_that_there_are() -> None:
    configuration = importlib.import_module("reference.configuration")
    meanings = importlib.import_module("reference.meanings").MEANINGS
    there = {".".join((*path, name)) for path, model in configuration.sections() for name in model.model_fields}
    assert set(meanings) - there == set()


def test_every_verb_is_there_with_what_it_does_and_each_of_its_options(pages: dict[str, str]) -> None:
    page = pages["command-line.md"]
    headings = re.findall(r"^## streamrec (\S+)", page, re.MULTILINE)
    assert list(dict.fromkeys(headings)) == list(ORDER)
    verbs = importlib.import_module("reference.verbs").verbs
    sections = dict(zip(re.findall(r"^## (.+)$", page, re.MULTILINE), re.split(r"^## .+$", page, flags=re.MULTILINE)[1:], strict=True))
    for words, command in verbs(get_command(app)):
        section = sections[" ".join(words)]
        assert command.help.split("\n")[0].split("`")[0] in section
        for part in command.params:
            assert part.name == "help" or (part.opts[-1] if part.param_type_name == "option" else part.name.upper()) in section
    assert "| `--speed 600x\\|max` |" in sections["streamrec replay"]


def test_every_route_is_there_with_its_fields_and_an_example(pages: dict[str, str]) -> None:
    page = pages["http.md"]
    assert re.findall(r"^## (\S+) (\S+)$", page, re.MULTILINE) == [(one.method, one.path) for one in OPERATIONS]
    assert page.count("```json") == len(OPERATIONS)
    assert "| `categories` | list of string" in page
    assert "Scope of the key: `admin`." in page


def test_every_public_name_of_python_is_there(pages: dict[str, str]) -> None:
    page = pages["python.md"]
    for name in streamrec.__all__:
        assert name.startswith("_") or f"## {name}\n" in page
    for name in streamrec.client.__all__:
        assert f"| `{name}` |" in page
    assert "distil(events: Dataset, settings: Config | None = None" in page
    assert "* `path`: The file, or a folder that holds one." in page


@pytest.mark.parametrize(
    ("page", "link", "found"),
    [
        ("cli.md", "[x](../streamrec/state.py)", "x (`streamrec/state.py`)"),
        ("cli.md", "[state.py](../streamrec/state.py)", "`streamrec/state.py`"),
        ("cli.md", "[x](api.md#from-python)", "[x](api.md#from-python)"),
        ("decisions/0001-a.md", "[x](../api.md)", "[x](../api.md)"),
        ("decisions/0001-a.md", "[x](../../serve/app.py)", "x (`serve/app.py`)"),
        ("cli.md", "![x](pictures/a.png) [y](https://example.org)", "![x](pictures/a.png) [y](https://example.org)"),
    ],
)
def test_links_to_the_code_become_paths_and_others_stay(page: str, link: str, found: str) -> None:
    assert importlib.import_module("hooks").inside(link, page) == found


def test_every_decision_is_in_the_list(docs: Path) -> None:
    listed = re.findall(r"\]\((\d{4}-.+\.md)\)$", importlib.import_module("hooks").decisions(), re.MULTILINE)
    assert listed == sorted((path.name for path in (docs / "decisions").glob("*.md")), reverse=True)
