"""The documentation is built as a site, with warnings as errors, and nothing in it comes from another host."""

from __future__ import annotations

import json
import re
import subprocess
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import pytest

NOT_INSTALLED_ANEW = ("-o", ".venv/.installed")
pytestmark = pytest.mark.slow


class Loaded(HTMLParser):
    """Collect what a page loads by itself: not where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in {"script", "img", "iframe", "source", "video"}:
            self.found.append(given.get("src") or "")
        if tag == "link" and given.get("rel") not in {"canonical", "next", "prev"}:
            self.found.append(given.get("href") or "")


@pytest.fixture(scope="module")
def site(docs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(["make", "-s", *NOT_INSTALLED_ANEW, "docs", f"DIST={folder}"], cwd=docs.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder / "docs"


def test_every_page_is_built_and_loads_nothing_of_another_host(site: Path) -> None:
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    expected = {"index.html", "tutorial.html", "codes.html", "reference/configuration.html", "reference/python.html", "decisions/index.html"}
    assert expected <= pages
    for page in pages:
        loaded = Loaded()
        loaded.feed((site / page).read_text())
        assert [place for place in loaded.found if re.match(r"(https?:)?//", place)] == [], page
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert re.findall(r"url\(\s*[\"']?(?:https?:)?//", styles) == []
    assert not re.search(r"@import[^;]*//", styles)


def test_what_is_made_from_the_code_is_found_by_the_search(site: Path) -> None:
    index = json.loads((site / "search/search_index.json").read_text())
    assert any("features.max_repeats" in entry["text"] or "max_repeats" in entry["text"] for entry in index["docs"])
    assert "LICENSE" not in {path.name for path in site.rglob("*")}


def test_the_list_of_parts_has_what_is_installed_with_versions_and_licences(docs: Path, tmp_path: Path) -> None:
    subprocess.run(["make", "-s", *NOT_INSTALLED_ANEW, "sbom", f"DIST={tmp_path}"], cwd=docs.parent, check=True, capture_output=True)
    found = json.loads((tmp_path / "sbom.json").read_text())
    assert found["bomFormat"] == "CycloneDX"
    assert found["metadata"]["component"]["name"] == "streamrec"
    parts = {part["name"].lower(): part for part in found["components"]}
    assert sum("licenses" in part for part in parts.values()) > 0.8 * len(parts)
    for name in ("ray", "torch", "pydantic", "confluent-kafka"):
        assert parts[name]["version"] == version(name)
        assert parts[name]["purl"].startswith(f"pkg:pypi/{name}@")
