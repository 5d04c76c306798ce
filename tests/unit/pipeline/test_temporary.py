from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from streamrec.pipeline.temporary import PREFIX, temporary_folder

MAKE_AND_DIE = """
import os, signal, sys
from streamrec.pipeline.temporary import temporary_folder
with temporary_folder("dead-") as folder:
    (folder / "something").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_folder_goes_with_its_block_also_after_an_error(usual: Path) -> None:
    def fail() -> None:
        with temporary_folder("ha-") as folder:
            assert folder.parent == usual
            assert folder.name.startswith(f"{PREFIX}ha-")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(usual.iterdir()) == []


def test_the_folder_of_a_killed_process_is_removed_by_the_next_one_and_those_of_others_stay(usual: Path) -> None:
    subprocess.run([sys.executable, "-c", MAKE_AND_DIE], check=False)
    assert [path.name.startswith("streamrec-dead-") for path in usual.iterdir()] == [True]
    (foreign := usual / "streamrec-of-another-program").mkdir()
    with temporary_folder() as first, temporary_folder() as second:
        assert set(usual.iterdir()) == {foreign, first, second}
    assert list(usual.iterdir()) == [foreign]


def test_a_place_that_is_too_deep_for_sockets_is_left_for_tmp(usual: Path) -> None:
    with temporary_folder(longest=28) as folder:
        assert folder.parent == Path("/tmp")
        assert len(str(folder)) <= 28
    assert not folder.exists()
