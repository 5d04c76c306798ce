from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamrec

DOCS = Path(streamrec.__file__).parents[1] / "docs"


@pytest.fixture(scope="session")
def docs() -> Path:
    """The folder of the documentation."""
    return DOCS


@pytest.fixture(autouse=True, scope="session")
def _site_is_importable() -> Iterator[None]:
    """As MkDocs does for its hooks."""
    sys.path.insert(0, str(DOCS / "site"))
    yield
    sys.path.remove(str(DOCS / "site"))
