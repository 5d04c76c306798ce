from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec.config import parse_config
from streamrec.errors import ConfigError, DataError
from streamrec.evaluation.ranking import METRICS
from streamrec.events.synthetic import synthetic_dataset
from streamrec.log.base import Record
from streamrec.pipeline import backtest, saving
from streamrec.pipeline.backtest import run_backtest
from streamrec.pipeline.bootstrap import NUM_STEPS, bootstrap, refresh
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.layout import checkpoint_url
from streamrec.storage import open_storage
from streamrec.testing.spoiled import SPOILINGS, Spoiling, spoil

World = Any


def bootstrapped(world: World, stop_after: int | None = None) -> Any:
    controller = world.controller()
    done: list[Any] = []

    class Stop(Exception):
        pass

    def on_step(report: Any) -> None:
        done.append(report)
        if stop_after is not None and len(done) >= stop_after:
            raise Stop

    ends = world.log.latest(world.config.log.events_topic)
    try:
        bootstrap(controller, ends, on_step)
    except Stop:
        return None
    return controller, done


def test_a_bootstrap_learns_the_backlog_trains_the_teachers_and_brings_a_version_live(world: World) -> None:
    controller, reports = bootstrapped(world)
    assert len(reports) >= NUM_STEPS
    assert controller.state.live == reports[-1].published
    assert controller.state.teachers.keys() == {"linear", "transformer"}
    assert controller.books()["pending"] == 0
    assert controller.lag() == 0
    assert not any(report.metrics for report in reports)
    again = world.controller()
    bootstrap(again, world.log.latest(world.config.log.events_topic), lambda report: pytest.fail("it was done"))


@pytest.fixture
def _commits_end_when_somebody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "LARGE_BYTES", 0)
    commit, wait, is_awaited = CheckpointStore.commit, saving.Saver.wait, threading.Event()

    def held(*args: Any, **options: Any) -> Any:
        is_awaited.wait(20)  # Bounded, so that a failing test ends.
        is_awaited.clear()
        return commit(*args, **options)

    def waiting(saver: saving.Saver) -> None:
        if saver.is_under_way:
            is_awaited.set()
        wait(saver)

    monkeypatch.setattr(CheckpointStore, "commit", held)
    monkeypatch.setattr(saving.Saver, "wait", waiting)


@pytest.mark.usefixtures("_commits_end_when_somebody_waits")
def test_a_bootstrap_and_a_refresh_are_durable_when_they_return(world: World) -> None:
    controller, _ = bootstrapped(world)
    assert controller.books()["pending"] == 0
    refresh(controller, ("linear",))
    again = CheckpointStore(open_storage(checkpoint_url(str(world.folder)))).load_newest()
    assert again is not None
    assert again.facts["batch"] == controller.state.batch


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_a_bootstrap_that_was_killed_resumes_where_it_was_and_ends_the_same(
    world: World, make_world: Callable[..., World], mixed: list[Record], tmp_path: Path, stop_after: int
) -> None:
    calm, _ = bootstrapped(make_world(mixed, folder=tmp_path / "calm"))
    assert bootstrapped(world, stop_after) is None
    world.clock.advance(50.0)
    controller, _ = bootstrapped(world)
    names = set(calm.components()) - {"stream", "refreshes", "lake", "other_lakes"}  # They hold times of plans, and the killed one planned later.
    assert [one.components()["lake"].snapshot().meta["rows"] for one in (controller, calm)] == [{"0": 227, "1": 92}] * 2
    assert {name: controller.components()[name].digest() for name in names} == {name: calm.components()[name].digest() for name in names}
    assert controller.books() == calm.books()


def test_a_log_of_nothing_useful_can_not_be_bootstrapped_from(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world([Record(b"k", b"nonsense")], folder=tmp_path)
    with pytest.raises(DataError, match="nothing to learn from"):
        bootstrapped(world)


SMALL: dict[str, dict[str, Any]] = {
    "features": {"history_length": 8, "word_buckets": 32},
    "teachers": {"enabled": ["linear"], "linear": {"max_items": 100, "ridge": 20.0}},
    "student": {"dim": 8, "bootstrap_passes": 2},
}


def test_a_backtest_reports_every_model_per_block_and_is_repeatable() -> None:
    world = synthetic_dataset(num_users=30, num_items=60, num_events=500)
    steps: list[tuple[int, int]] = []
    first = run_backtest(
        world, parse_config(SMALL), "progressive", max_blocks=2, num_threads=1, on_step=lambda done, total, _: steps.append((done, total))
    )
    second = run_backtest(world, parse_config(SMALL), "progressive", max_blocks=2, num_threads=1)
    assert first.metrics == second.metrics
    assert first.metrics.keys() >= {"student", "student_events_only", "popular", "recent_popular", "own_history", "linear"}
    assert all(set(values) == set(METRICS) for values in first.metrics.values())
    assert len(first.blocks) == 2
    assert first.forgetting.keys() == {"student", "student_events_only"}
    assert first.forgetting == second.forgetting
    kept = first.forgetting["student"]
    assert kept["la"] > first.blocks[0]["student"]["recall@20"], "what was learned is known better than it was before"
    assert kept["ra"] == kept["la"], "the last block is not learned, so nothing has come after the first one"
    assert steps[-1][0] == steps[-1][1] == len(steps)
    for metric in METRICS:
        assert first.metrics["student"][metric] == pytest.approx(sum(block["student"][metric] for block in first.blocks) / 2)


@pytest.mark.parametrize("spoiling", SPOILINGS)
def test_spoiled_teachers_do_not_make_the_student_worse_than_events_alone(spoiling: Spoiling) -> None:
    world = synthetic_dataset(num_users=60, num_items=60, num_events=3000)
    # Lists much shorter than the catalogue: of 60 items the 32 last ones of an inverted teacher are half of all, and hold targets.
    settings = {**SMALL, "soft_labels": {"top_k": 8}, "teachers": {**SMALL["teachers"], "enabled": ["linear", "repeats"]}}
    spoiled: list[Controller] = []

    def prepare(controller: Controller, state_url: str) -> None:
        spoil(controller, state_url, spoiling)
        spoiled.append(controller)

    found = run_backtest(world, parse_config(settings), "progressive", num_threads=1, prepare=prepare)
    differences = [block["student"]["recall@20"] - block["student_events_only"]["recall@20"] for block in found.blocks]
    assert len(spoiled) == 1
    assert np.mean(differences) > -2 * np.std(differences) / np.sqrt(len(differences)) - 0.005
    if spoiling == "missing":
        assert differences == [0.0] * len(differences)


@pytest.mark.parametrize(("stop_at", "before_result"), [(3, False), (6, False), (6, True)])
def test_a_backtest_that_was_broken_off_goes_on_in_its_folder_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int, *, before_result: bool
) -> None:
    world = synthetic_dataset(num_users=30, num_items=60, num_events=500)
    config = parse_config(SMALL)
    whole = run_backtest(world, config, "progressive", max_blocks=4, num_threads=1)
    played: list[int] = []

    def stop(done: int, *_: object) -> None:
        played.append(done)
        if done == stop_at:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"max_blocks": 4, "num_threads": 1, "folder": tmp_path / "kept"}
    with monkeypatch.context() as patch:
        save = backtest._Kept.save
        if before_result:
            patch.setattr(backtest._Kept, "save", lambda kept, result, steps: stop(steps) or save(kept, result, steps))
        with pytest.raises(KeyboardInterrupt):
            run_backtest(world, config, "progressive", on_step=stop, **options)
    again: list[int] = []
    result = run_backtest(world, config, "progressive", on_step=lambda done, *_: again.append(done), **options)
    assert again == list(range(1 if before_result else stop_at + 1, 9))
    assert result.blocks == whole.blocks
    assert result.metrics == whole.metrics
    with pytest.raises(ConfigError, match="holds another one"):
        run_backtest(world, parse_config({**SMALL, "seed": 1}), "progressive", **options)


def test_a_backtest_leaves_a_folder_of_something_else_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else"):
        run_backtest(synthetic_dataset(num_events=500), parse_config(SMALL), "progressive", max_blocks=1, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_leave_one_out_masks_what_the_user_has_had() -> None:
    world = synthetic_dataset(num_users=20, num_items=40, num_events=300, repeats=0.9)
    result = run_backtest(world, parse_config({**SMALL, "teachers": {"enabled": []}}), "leave-one-out", num_threads=1)
    assert result.queries == [20]
    assert "linear" not in result.metrics
    # Nine of ten last clicks repeat an item that is masked.
    assert result.metrics["own_history"]["recall@20"] <= 0.6


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown protocol"):
        run_backtest(synthetic_dataset(num_events=50), parse_config(SMALL), "wishful")
