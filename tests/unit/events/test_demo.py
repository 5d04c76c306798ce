from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from streamrec.errors import DatasetError
from streamrec.events import demo
from streamrec.events.datasets import load_dataset

CONTENT = {
    "ml-100k.inter": b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t3\t881250949\n",
    "ml-100k.item": b"item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n2\tA\t1995\tX\n",
}
INSIDE = "recbole/dataset_example/ml-100k/"


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "FILES", {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()})
    monkeypatch.setattr(shutil, "which", lambda name, path=None: f"/somewhere/{name}")


def as_wheel(folder: Path, content: dict[str, bytes]) -> None:
    with zipfile.ZipFile(folder / "recbole-1.2.1-py3-none-any.whl", "w") as archive:
        for name, data in content.items():
            archive.writestr(INSIDE + name, data)


def as_package(folder: Path, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        (folder / INSIDE).mkdir(parents=True, exist_ok=True)
        (folder / INSIDE / name).write_bytes(data)


def test_pip_brings_a_wheel_of_which_only_two_files_are_kept(tmp_path: Path) -> None:
    commands: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> str:
        commands.append(command)
        as_wheel(Path(command[-2]), CONTENT)
        return ""

    folder = demo.demo_dataset(tmp_path / "cache", run)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"ml-100k"}
    assert {path.name for path in folder.iterdir()} == {*CONTENT, "SOURCE.txt"}
    assert "GroupLens" in (folder / "SOURCE.txt").read_text()
    assert load_dataset(folder).facts["events"] == 1
    assert len(commands) == 1
    assert "--no-deps" in commands[0]
    assert commands[0][-1] == "recbole==1.2.1"
    assert demo.demo_dataset(tmp_path / "cache", run) == folder
    assert len(commands) == 1


def test_uv_brings_the_package_where_pip_is_absent(tmp_path: Path) -> None:
    def run(command: Sequence[str]) -> str:
        if "uv" not in Path(command[0]).name:
            return "No module named pip"
        assert "--target" in command
        as_package(Path(command[-2]), CONTENT)
        return ""

    assert load_dataset(demo.demo_dataset(tmp_path, run)).facts["events"] == 1


def test_without_an_installer_or_network_the_error_says_what_was_tried_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"can't be had, got python.*: no network; .*uv: no network; pip: no network.*or give a file with --data"):
        demo.demo_dataset(tmp_path, lambda command: "no network")
    assert list(tmp_path.iterdir()) == []


def test_files_with_another_digest_are_refused_and_not_kept(tmp_path: Path) -> None:
    def run(command: Sequence[str]) -> str:
        as_wheel(Path(command[-2]), {**CONTENT, "ml-100k.inter": b"other"})
        return ""

    with pytest.raises(DatasetError, match=r"ml-100k.inter .* is not the expected file"):
        demo.demo_dataset(tmp_path, run)
    assert list((tmp_path / "ml-100k").iterdir()) == []


def test_a_wheel_without_the_files_is_refused(tmp_path: Path) -> None:
    def run(command: Sequence[str]) -> str:
        as_wheel(Path(command[-2]), {})
        return ""

    with pytest.raises(DatasetError, match="does not hold"):
        demo.demo_dataset(tmp_path, run)


def test_a_damaged_cached_file_is_brought_again(tmp_path: Path) -> None:
    def run(command: Sequence[str]) -> str:
        as_wheel(Path(command[-2]), CONTENT)
        return ""

    folder = demo.demo_dataset(tmp_path, run)
    (folder / "ml-100k.item").write_bytes(b"half")
    demo.demo_dataset(tmp_path, run)
    assert (folder / "ml-100k.item").read_bytes() == CONTENT["ml-100k.item"]
