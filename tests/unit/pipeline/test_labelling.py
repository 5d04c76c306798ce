from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec.features.dedupe import hash_key
from streamrec.features.examples import Examples
from streamrec.log.base import Record
from streamrec.pipeline.bootstrap import bootstrap
from streamrec.pipeline.labelling import Labelling
from streamrec.pipeline.plan import Plan
from streamrec.soft_labels.lists import COUNTED_VERSION, list_ranks
from streamrec.soft_labels.schema import CANDIDATES_A_LABEL

World = Any
NOW_MS = 1_700_000_000_000
COUNTED = ("repeats", "transitions", "neighbours")


def unpredictable(make_record: Callable[..., Record], num: int = 400, num_items: int = 300) -> list[Record]:
    """Nobody's next item can be foretold, and nobody takes one twice."""
    rng = np.random.default_rng(3)
    items = {user: rng.permutation(num_items).tolist() for user in range(20)}
    return [make_record(f"u{number % 20}", f"i{items[number % 20].pop()}", number) for number in range(num)]


ONLY_COUNTED: dict[str, dict[str, Any]] = {"teachers": {"enabled": list(COUNTED)}, "student": {"control": False}}


def teachers_recall(world: World) -> dict[str, float]:
    controller = world.controller()
    world.play(controller)
    means = controller.progressive.means()
    return {name: means[f"teachers.{name}"]["recall@20"] for name in COUNTED}


def test_no_teacher_finds_what_cannot_be_foretold_and_one_that_learned_first_is_caught(
    make_world: Callable[..., World], make_record: Callable[..., Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = unpredictable(make_record)
    honest = teachers_recall(make_world(records, ONLY_COUNTED, folder=tmp_path / "honest"))
    begin = Labelling.begin

    def learning_first(self: Labelling, examples: Examples, plan: Plan, seen: Any) -> None:
        if plan.batch > 1:
            self.counted.update(examples)
        begin(self, examples, plan, seen)

    monkeypatch.setattr(Labelling, "begin", learning_first)
    leaking = teachers_recall(make_world(records, ONLY_COUNTED, folder=tmp_path / "leaking"))
    assert max(honest.values()) < 0.12  # 20 of 300 items by chance: 0.07.
    assert leaking["transitions"] > 0.5
    assert leaking["neighbours"] < 0.2  # Its own session left out, a leak in time has little to tell.


def test_counted_teachers_label_from_the_second_batch_on_and_their_say_is_seen(world: World) -> None:
    controller = world.controller()
    reports = [report for report in world.play(controller) if report.num_queries]
    assert not reports[0].weights.keys() & set(COUNTED)
    assert reports[-1].weights.keys() >= set(COUNTED)
    assert all(f"{name} {COUNTED_VERSION}" in controller.state.labels for name in COUNTED)
    assert set(COUNTED) & set(controller.components())


def test_a_deletion_takes_the_users_session_out_of_the_neighbours(world: World) -> None:
    controller = world.controller()
    world.play(controller)
    held = controller.components()["neighbours"].snapshot().arrays["user"]
    user = next(f"u{number}" for number in range(23) if hash_key("default", f"u{number}") in held)
    gone = {"kind": "deletion", "event_id": "gone", "user_id": user, "event_time": NOW_MS}
    world.append([Record(user.encode(), json.dumps(gone).encode())])
    world.play(controller)
    assert hash_key("default", user) not in controller.components()["neighbours"].snapshot().arrays["user"]


def test_a_large_step_is_labelled_in_lots_as_a_stream_would_have_and_learned_once(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    def bootstrapped(least: int) -> Any:
        settings = {**ONLY_COUNTED, "pipeline": {"max_batch_events": least, "min_batch_events": least}}
        made = make_world(mixed, settings, folder=tmp_path / str(least))
        controller = made.controller()
        asked: list[int] = []
        update = controller.labelling.counted.update
        controller.labelling.counted.update = lambda examples: [asked.append(len(examples)), update(examples)]
        reports: list[Any] = []
        bootstrap(controller, made.log.latest(made.config.log.events_topic), reports.append)
        assert {report.num_queries for report in reports} == {0}  # Nothing is there yet that could be scored.
        return controller, reports, asked

    whole, _, at_once = bootstrapped(1000)
    cut, reports, asked = bootstrapped(16)
    assert max(asked) <= 16
    assert sum(asked) == sum(at_once) > 200
    assert reports[0].learned.num_labelled > 0  # What came first labels the rest of the very step.
    shown = [controller.components()["repeats"].snapshot().arrays["shown"] for controller in (whole, cut)]
    np.testing.assert_allclose(*shown)


def stored_labels(controller: Any) -> dict[str, np.ndarray]:
    arrays = controller.labelling.store.snapshot().arrays
    return {name: arrays[name] for name in ("label_rows", "label_probs", "neighbours/rows", "neighbours/version", "neighbours/say", "repeats/rows")}


def test_stored_queries_are_labelled_anew_in_turn_by_who_can_leave_them_out_and_by_nobody_unless_asked(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    settings = {"teachers": {"enabled": ["repeats", "neighbours"]}, "student": {"control": False}}
    worlds = {num: make_world(mixed, {**settings, "soft_labels": {"relabel": num}}, folder=tmp_path / str(num)) for num in (0, 3, 10_000)}
    played = {num: world.controller() for num, world in worlds.items()}
    for num, world in worlds.items():
        world.play(played[num])
    then, some, now = (stored_labels(played[num]) for num in (0, 3, 10_000))
    changed = {num: (labels["neighbours/rows"] != then["neighbours/rows"]).any(1) for num, labels in ((3, some), (10_000, now))}
    assert 0 < changed[3].sum() < changed[10_000].sum()
    np.testing.assert_array_equal(now["repeats/rows"], then["repeats/rows"])
    assert not (then["label_probs"] == now["label_probs"]).all()
    # Where neighbours were not asked then they have no say now.
    unasked = then["neighbours/version"] == 0
    np.testing.assert_array_equal(now["label_rows"][unasked], then["label_rows"][unasked])
    played[0].labelling._relabel(10_000)
    anew = stored_labels(played[0])
    assert (anew["neighbours/rows"] != then["neighbours/rows"]).any()
    np.testing.assert_array_equal(anew["neighbours/say"], then["neighbours/say"])
    again = worlds[3].controller()  # Recovered.
    assert again.labelling.store.digest() == played[3].labelling.store.digest()


def test_the_mixture_is_judged_by_all_candidates_and_students_learn_from_the_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = []

    def noted(rows: Any, *args: Any) -> Any:
        judged.append(rows.shape[1])
        return list_ranks(rows, *args)

    monkeypatch.setattr("streamrec.pipeline.labelling.list_ranks", noted)
    controller = world.controller()
    world.play(controller)
    top_k = controller.config.soft_labels.top_k
    assert set(judged) == {CANDIDATES_A_LABEL * top_k}
    assert controller.labelling.store.labels(np.arange(3)).rows.shape[1] == top_k
