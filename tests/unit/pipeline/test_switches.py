from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamrec.errors import Damaged
from streamrec.log.base import Record
from streamrec.pipeline.examine import Verdict, check_switches
from streamrec.pipeline.switches import LOOK_EVERY_S, Action, Flip, SwitchBoard, Switches
from streamrec.registry.gate import Reason
from streamrec.storage import LocalStorage

World = Any
NO_TEACHERS: dict[str, dict[str, Any]] = {"teachers": {"enabled": []}, "student": {"control": False}}


def flip(reason: str = "", version: str = "") -> Flip:
    return Flip(by="ann@host", reason=reason, at_ms=1_700_000_000_000, version=version)


@pytest.fixture
def world(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> World:
    return make_world([one for one in mixed if b'"deletion"' not in one.value], NO_TEACHERS, folder=tmp_path / "state")


def board(world: World) -> SwitchBoard:
    return SwitchBoard(LocalStorage(world.folder))


def turn(world: World, action: Action, version: str = "") -> None:
    board(world).turn(action, flip("a test", version), "default" if action in {"hold", "release"} else "")
    world.clock.advance(LOOK_EVERY_S)


def test_each_turn_is_one_entry_of_a_history_and_a_repeated_one_is_none(tmp_path: Path) -> None:
    switches = SwitchBoard(LocalStorage(tmp_path))
    assert switches.now() == Switches()
    assert switches.turn("pause", flip("incident 12"))[1]
    assert not switches.turn("pause", flip("again"))[1]
    assert switches.turn("freeze", flip())[1]
    assert switches.turn("hold", flip("known good", "v3"), "edge")[1]
    assert switches.turn("resume", flip("over"))[1]
    now = switches.now()
    assert (now.number, now.paused, now.frozen, now.held) == (4, None, flip(), {"edge": flip("known good", "v3")})
    assert [(entry.number, entry.action, entry.student) for entry in switches.history()] == [
        (1, "pause", ""), (2, "freeze", ""), (3, "hold", "edge"), (4, "resume", "")
    ]  # fmt: skip
    assert now.in_force() == [
        "publishing is frozen since 2023-11-14 22:13:20Z by ann@host",
        "student edge: v3 is pinned live since 2023-11-14 22:13:20Z by ann@host: known good",
    ]


def test_a_turn_whose_writer_died_before_the_pointer_followed_is_completed_by_the_next(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    switches = SwitchBoard(storage)
    dead = Switches().turned("pause", flip("died"), "")
    storage.write_new("switches/history/00000001.json", dead.to_json())
    assert switches.now().paused is None
    now, is_new = switches.turn("freeze", flip())
    assert is_new
    assert (now.number, now.paused, switches.now()) == (2, flip("died"), now)


def test_a_torn_pointer_is_read_from_the_history_and_written_anew(tmp_path: Path) -> None:
    switches = SwitchBoard(LocalStorage(tmp_path))
    switches.turn("pause", flip())
    pointer = tmp_path / "switches" / "now"
    pointer.write_bytes(b"{")
    assert switches.now().paused == flip()
    switches.turn("resume", flip())
    assert Switches.from_json(pointer.read_bytes()).paused is None
    pointer.write_bytes(b"{")
    for entry in (tmp_path / "switches" / "history").iterdir():
        entry.unlink()
    with pytest.raises(Damaged, match=r"Switches: they can't be read, .*switches/now"):
        switches.now()


def test_a_paused_stream_commits_and_makes_no_micro_batches_until_it_is_resumed_also_after_a_restart(world: World) -> None:
    controller = world.controller()
    for _ in range(3):
        controller.step()
    turn(world, "pause")
    last = controller.step()
    assert last is not None
    assert (last.plan.num_records, last.committed) == (0, True)
    assert controller.books()["pending"] == 0
    lag, live = controller.lag(), controller.state.live
    for restarts in (False, True):
        stream = again = world.controller() if restarts else controller
        assert stream.step() is None
        assert (stream.lag(), stream.state.live) == (lag, live)
        assert stream.paused is not None
        assert stream.paused.by == "ann@host"
    assert lag > 0
    turn(world, "resume")
    world.play(again)
    assert again.lag() == 0


def test_a_stored_plan_is_executed_though_the_stream_is_paused(world: World) -> None:
    controller = world.controller()
    for _ in range(2):
        controller.step()  # Nothing is committed yet: both plans are stored.
    turn(world, "pause")
    again = world.controller()
    reports = [again.step(), again.step()]
    assert [report.plan.num_records > 0 for report in reports if report is not None] == [True, True]
    assert again.state.batch == controller.state.batch
    assert again.components()["student"].digest() == controller.components()["student"].digest()


def test_while_publishing_is_frozen_the_student_learns_and_nothing_is_published_or_promoted(world: World) -> None:
    controller = world.controller()
    for _ in range(3):
        controller.step()
        world.clock.advance(0.1)
    turn(world, "freeze")
    live, candidate, moves = controller.state.live, controller.state.candidate, len(world.registry().history())
    assert candidate is not None
    reports = [controller.step() for _ in range(2)]
    for report in reports:
        assert report is not None
        assert report.learned is not None
        assert report.published is None
        assert report.decision is not None
        assert report.decision.code is Reason.HELD
        assert "publishing is frozen since 2023-11-14 22:13:20Z by ann@host: a test" in report.decision.reason
    assert (controller.state.live, controller.state.candidate, len(world.registry().history())) == (live, candidate, moves)
    turn(world, "unfreeze")
    report = controller.step()
    assert report is not None
    # The candidate is as old as the live version by now.
    assert (report.decision, controller.state.candidate) == (None, report.published)
    assert report.published not in {None, candidate}
    after = controller.step()
    assert after is not None
    assert after.decision is not None
    assert after.decision.candidate == report.published
    assert after.decision.code is not Reason.HELD


def test_a_candidate_that_was_held_for_less_than_a_publication_takes_is_decided_on_by_all_it_was_scored_on(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    settings = {**NO_TEACHERS, "pipeline": {"publish_interval_s": 60.0}}
    world = make_world([one for one in mixed if b'"deletion"' not in one.value], settings, folder=tmp_path / "state")
    controller = world.controller()
    while controller.state.candidate is None or controller.state.live is None:
        controller.step()
        world.clock.advance(61.0 if controller.state.candidate is None else 0.0)
    candidate = controller.state.candidate
    board(world).turn("freeze", flip("a test"))
    world.clock.advance(LOOK_EVERY_S)
    held = controller.step()
    board(world).turn("unfreeze", flip("a test"))
    world.clock.advance(LOOK_EVERY_S)
    report = controller.step()
    assert held is not None
    assert report is not None
    assert report.decision is not None
    assert report.decision.candidate == candidate
    assert report.decision.numbers["num_queries"] == held.num_queries + report.num_queries


def test_a_frozen_idle_stream_has_nothing_to_do(world: World) -> None:
    controller = world.controller()
    for _ in range(3):
        controller.step()
    turn(world, "freeze")
    num = 0
    while controller.step() is not None:
        num += 1
        world.clock.advance(10.0)
        assert num < 50
    assert controller.state.candidate is not None


def test_a_killed_stream_ends_in_the_same_bits_though_publishing_was_frozen_and_is_not_any_more(world: World) -> None:
    controller = world.controller()
    controller.step()
    turn(world, "freeze")
    for _ in range(2):
        controller.step()
    turn(world, "unfreeze")
    again = world.controller()
    assert again.state.batch == 0
    for _ in range(3):
        again.step()
    assert {name: part.digest() for name, part in again.components().items()} == {
        name: part.digest() for name, part in controller.components().items()
    }


def test_a_version_that_is_held_is_put_back_and_stays_live_until_it_is_released(world: World) -> None:
    controller, registry = world.controller(), world.registry()
    for _ in range(3):
        controller.step()
    held = registry.live()
    controller.step()  # Stands for a step that was planned before: it promotes another one.
    assert registry.live() != held
    turn(world, "hold", held)
    for _ in range(1):
        report = controller.step()
        assert report is not None
        assert report.plan.live == held
        assert registry.live() == controller.state.live == held
    assert "pinned live since" in registry.history(1)[0].reason
    turn(world, "release")
    after = [report.decision for report in world.play(controller) if report.decision is not None]
    assert after
    assert Reason.HELD not in {decision.code for decision in after}


def test_the_doctor_says_what_holds_the_stream_and_how_to_end_it(tmp_path: Path) -> None:
    assert check_switches(Switches()).verdict is Verdict.OK
    now, _ = SwitchBoard(LocalStorage(tmp_path)).turn("pause", flip("incident 12"))
    finding = check_switches(now)
    assert (finding.verdict, finding.remedy) == (Verdict.WARN, "when it is over: `streamrec resume`")
    assert finding.found == "the stream is paused since 2023-11-14 22:13:20Z by ann@host: incident 12"
