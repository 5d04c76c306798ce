from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamrec

CHECKOUT = Path(streamrec.__file__).parents[1]
FILES = sorted(path for folder in ("streamrec", "jobs", "serve") for path in (CHECKOUT / folder).rglob("*.py"))
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def name_of(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def definitions(tree: ast.Module) -> Iterator[tuple[str, Definition]]:
    """Classes and functions of a module and of its classes, not of functions."""
    waiting: list[tuple[str, ast.Module | ast.ClassDef]] = [("", tree)]
    while waiting:
        prefix, parent = waiting.pop()
        for node in parent.body:
            if isinstance(node, Definition):
                yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                waiting.append((f"{prefix}{node.name}.", node))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_everything_public_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    public = [(name, node) for name, node in definitions(tree) if not any(part.startswith("_") for part in name.split("."))]
    assert [name for name, node in public if not ast.get_docstring(node)] == []


PACKAGES = [path for path in FILES if path.name == "__init__.py" and path.parent.parent != CHECKOUT]


@pytest.mark.parametrize("path", PACKAGES, ids=name_of)
def test_a_package_says_in_three_sentences_what_it_is_for_what_comes_in_and_what_goes_out(path: Path) -> None:
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
    sentences = [part for part in text.replace(". ", ".\n").splitlines() if part]
    assert len(sentences) >= 3, sentences


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    functions = [(name, node) for name, node in definitions(ast.parse(text)) if not isinstance(node, ast.ClassDef)]
    assert [name for name, node in functions if (node.end_lineno or 0) - node.lineno + 1 > 70] == []


def test_tests_have_no_packages() -> None:
    assert list((CHECKOUT / "tests").rglob("__init__.py")) == []
