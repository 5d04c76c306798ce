"""What a rebuild refuses, and what it says: other settings in its middle, a foreign lake, torn files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import refresh_teachers, stream
from streamrec.config import parse_config
from streamrec.errors import ConfigError, Damaged, OperatorError, StreamrecError
from streamrec.log.base import Record
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.lineage import current_lineage, current_url, known_lineage
from streamrec.pipeline.rebuild import drop_unfinished, remove_old
from streamrec.pipeline.rebuild_record import read_record
from streamrec.registry.registry import Registry
from streamrec.storage import LocalStorage, open_storage

World = Any
FAST: dict[str, dict[str, Any]] = {"teachers": {"enabled": []}, "student": {"control": False}}


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def played(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> World:
    """A stream whose lake has an address of its own."""
    world = make_world(mixed[:120], {**FAST, "lake": {"address": str(tmp_path / "events")}}, folder=tmp_path / "state")
    world.play(world.controller())
    return world


def rebuild(world: World, *, dies: str = "", anew: bool = False, during: Callable[[str], object] = lambda _: None) -> list[str]:
    """Run a rebuild, or kill it when it says a line, or at its first step; return the lines. ``during`` gets a line before it goes on."""
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        during(line)
        if dies and dies in line:
            raise Killed

    def on_step(_: object) -> None:
        if dies == "a step":
            raise Killed

    made = world.rebuild(on_step=on_step, say=say)
    if dies:
        with pytest.raises(Killed):
            made.run(anew=anew)
    else:
        made.run(anew=anew)
    return said


def live(world: World) -> str | None:
    return Registry(open_storage(registry_url(str(world.folder)))).live()


def files(folder: Path) -> list[str]:
    return list(LocalStorage(folder).list())


@pytest.mark.parametrize("job", [stream.main, refresh_teachers.main])
def test_killed_between_the_pointer_and_its_first_version_the_jobs_name_the_rebuild(
    played: World, job: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rebuild(played.change(student={"dim": 12}), dies="is current: its version goes live")
    for module in (stream, refresh_teachers):
        monkeypatch.setattr(module, "has_commits", lambda _: False)  # As far as it comes without Ray.
    assert job(["--set", f"state={played.folder}"]) == 2
    said = capsys.readouterr().err.replace("\n", " ")
    assert "lineages/0002 has taken over, but its version is not live yet, run python -m jobs.rebuild again" in said
    assert "bootstrap" not in said


def test_a_lineage_that_has_taken_over_goes_live_with_the_settings_that_made_it_and_no_others(played: World) -> None:
    before = live(played)
    rebuild(played.change(student={"dim": 12}), dies="is current: its version goes live")
    with pytest.raises(ConfigError) as refused:
        rebuild(played.change(student={"dim": 16, "learning_rate": 0.3}))
    assert "lineages/0002 has taken over with other settings, and its version is not live yet" in str(refused.value)
    assert "got student.dim=16, student.learning_rate=0.3, allowed student.dim=12, student.learning_rate=" in str(refused.value)
    assert live(played) == before
    values = played.config.student.model_copy(update={"learning_rate": parse_config(FAST).student.learning_rate, "dim": 12})
    played.config = played.config.model_copy(update={"student": values})
    rebuild(played)
    assert live(played) > before
    rebuild(played.change(student={"dim": 16}))
    assert current_lineage(str(played.folder)).folder == "lineages/0003"


def test_a_lake_address_that_changes_in_the_middle_of_a_rebuild_leaves_nothing_behind(played: World, tmp_path: Path) -> None:
    played.change(student={"dim": 12}, lake={"address": str(tmp_path / "first")})
    rebuild(played, dies="catching up")
    assert files(tmp_path / "first-0002")
    said = rebuild(played.change(lake={"address": str(tmp_path / "second")}))
    assert f"its lake beside {tmp_path / 'first'} goes too: lake.address is {tmp_path / 'second'} now" in said
    assert files(tmp_path / "first-0002") == []
    assert files(tmp_path / "second-0002")
    assert files(tmp_path / "events")
    assert current_lineage(str(played.folder)).folder == "lineages/0002"


@pytest.mark.parametrize("begun", [False, True])
def test_a_rebuild_empties_no_table_and_no_folder_that_is_not_its_own(played: World, tmp_path: Path, begun: bool) -> None:
    played.change(student={"dim": 12})
    place = tmp_path / "events-0002"
    if begun:  # It has a name, and its lake was removed by hand.
        rebuild(played, dies="catching up")
        for key in files(place):
            LocalStorage(place).delete(key)
    LocalStorage(place).write_new("reports/2026.csv", b"precious")
    with pytest.raises(OperatorError, match=r"something lies where .*events-0002, got 1 objects that are no lake of this rebuild, allowed nothing"):
        rebuild(played, anew=True)
    assert files(place) == ["reports/2026.csv"]
    assert (read_record(open_storage(str(played.folder / "lineages" / "0002"))) is not None) == begun
    LocalStorage(place).delete("reports/2026.csv")
    foreign = make_other(played, tmp_path).change(lake={"address": str(place)})
    foreign.play(foreign.controller())
    kept = files(place)
    name = known_lineage(str(foreign.folder))
    with pytest.raises(OperatorError, match=rf"events-0002, got {f'the table streamrec/{name}' if begun else f'{len(kept)} objects'}"):
        rebuild(played, anew=True)
    assert files(place) == kept


def make_other(world: World, tmp_path: Path) -> World:
    """Another state over the same log."""
    return type(world)(world.config, world.log, tmp_path / "other")


def test_a_lake_that_was_half_removed_is_still_known_as_its_own(played: World, tmp_path: Path) -> None:
    played.change(student={"dim": 12})
    rebuild(played, dies="catching up")
    place = LocalStorage(tmp_path / "events-0002")
    keys = place.list()
    for key in (*(key for key in keys if not key.startswith("_delta_log/")), *sorted(keys, reverse=True)[:-1]):
        place.delete(key)
    rebuild(played, anew=True)
    assert current_lineage(str(played.folder)).folder == "lineages/0002"


PHASES = ("learning what", "catching up", "takes over from")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("address", ["", "beside"])
def test_a_rebuild_that_is_dropped_while_it_runs_stops_and_says_why_and_the_next_drop_leaves_nothing(
    played: World, tmp_path: Path, phase: str, address: str
) -> None:
    before, place = live(played), str(tmp_path / address) if address else ""
    played.change(student={"dim": 12}, lake={"address": place})
    state, dropped = str(played.folder), []
    there = everything(tmp_path)

    def drop(line: str) -> None:
        if phase in line:
            dropped.append(drop_unfinished(played.config, state, lambda _: None))

    with pytest.raises(OperatorError, match=r"Rebuild: lineages/0002 was removed while it was made, run python -m jobs.rebuild --drop once more"):
        rebuild(played, during=drop)
    assert dropped == [True]
    assert current_lineage(state).folder == ""
    assert live(played) == before
    drop_unfinished(played.config, state, lambda _: None)
    assert everything(tmp_path) == there
    rebuild(played)
    assert live(played) > before


def test_a_rebuild_that_is_dropped_before_it_has_begun_to_commit_does_not_take_over(played: World) -> None:
    def drop(line: str) -> None:
        if line.startswith("beginning"):
            drop_unfinished(played.config, str(played.folder), lambda _: None)

    with pytest.raises(OperatorError, match="was removed while it was made"):
        rebuild(played.change(student={"dim": 12}), during=drop)
    assert current_lineage(str(played.folder)).folder == ""


def everything(folder: Path) -> list[Path]:
    """Files and folders, but for locks of what stays."""
    return sorted(path for path in folder.rglob("*") if path.name not in {".lock", ".tmp"} or "0002" in str(path))


def test_what_is_dropped_leaves_no_folder_behind_and_of_old_lineages_only_receipts_stay(played: World, tmp_path: Path) -> None:
    state, there = str(played.folder), everything(tmp_path)
    rebuild(played.change(student={"dim": 12}), dies="catching up")
    (tmp_path / "events-0002" / "namespace=gone" / "event_date=2026-01-01").mkdir(parents=True)
    drop_unfinished(played.config, state, lambda _: None)
    assert everything(tmp_path) == there
    rebuild(played)
    said: list[str] = []
    for _ in range(2):
        remove_old(state, said.append)
    assert said == ["removing the first lineage", "nothing is there of lineages before the current one"]
    assert {path.name for path in played.folder.iterdir()} - {".lock", ".tmp"} == {"CURRENT", "deletions", "lakes", "lineages", "registry"}


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b"{}", b'{"format": 1, "folder": "/etc", "first_batch": 0, "forgot_batch": 0}', b"\xff\xfe"])
def test_a_torn_pointer_name_or_record_is_told_by_file_with_a_remedy(played: World, torn: bytes) -> None:
    rebuild(played.change(student={"dim": 12}))
    state, lineage = str(played.folder), Path(current_url(str(played.folder)))
    reads: dict[Path, Callable[[], object]] = {
        lineage / "REBUILD": lambda: read_record(open_storage(str(lineage))),
        lineage / "checkpoint" / "LINEAGE": lambda: known_lineage(str(lineage)),
        played.folder / "CURRENT": lambda: current_lineage(state),
    }
    for path, read in reads.items():
        whole = path.read_bytes()
        path.write_bytes(torn)
        with pytest.raises(Damaged) as refused:
            read()
        message = str(refused.value)
        assert f"can't be read, {path}, got {torn[:80]!r}, restore it from a copy" in message
        assert isinstance(refused.value, StreamrecError)
        path.write_bytes(whole)
        read()
