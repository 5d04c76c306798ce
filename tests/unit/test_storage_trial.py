from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from streamrec.errors import StorageError
from streamrec.storage import LocalStorage, Token
from streamrec.storage.trial import try_out


class Overwrites(LocalStorage):
    """A store that ignores the condition of a conditional write, as some gateways do."""

    def write_new(self, key: str, data: bytes) -> bool:
        self.delete(key)
        return super().write_new(key, data)


class SwapsAnyway(LocalStorage):
    """A store that ignores what a pointer was expected to hold."""

    def swap(self, key: str, new: bytes, expected: Token | None) -> Token | None:
        found = self.read_with_token(key)
        return super().swap(key, new, None if found is None else found[1])


class CannotDelete(LocalStorage):
    """A store whose credentials allow no deletion."""

    def delete(self, key: str) -> None:
        msg = "Storage: forbidden"
        raise StorageError(msg)


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]


def test_a_folder_keeps_its_promises_and_nothing_is_left(tmp_path: Path) -> None:
    trial = try_out(LocalStorage(tmp_path / "state"))
    assert (trial.broken, trial.ahead_s) == ((), 0.0)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (Overwrites, ("an object that is there is not overwritten",)),
        (SwapsAnyway, ("a pointer is not set twice", "a pointer is not moved by who read an older one")),
    ],
)
def test_a_store_that_ignores_conditions_is_found_out(tmp_path: Path, kind: Callable[[Path], LocalStorage], broken: tuple[str, ...]) -> None:
    assert try_out(kind(tmp_path)).broken == broken
    assert left_in(tmp_path) == []


def test_a_store_that_can_not_be_cleaned_says_so(tmp_path: Path) -> None:
    assert try_out(CannotDelete(tmp_path)).broken == ("what is deleted is gone",)


def test_a_refused_write_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        try_out(LocalStorage(tmp_path / "file" / "state"))


@pytest.mark.parametrize("skew_s", [-100.0, 100.0])
def test_a_clock_that_differs_is_seen_by_the_time_of_a_written_file(tmp_path: Path, skew_s: float) -> None:
    class Skewed(LocalStorage):
        """A file server whose clock differs from ours."""

        def write_new(self, key: str, data: bytes) -> bool:
            is_new = super().write_new(key, data)
            path = tmp_path / key
            os.utime(path, times=(path.stat().st_mtime + skew_s,) * 2)
            return is_new

    trial = try_out(Skewed(tmp_path))
    assert trial.ahead_s == pytest.approx(skew_s, abs=5.0)
