from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import tomli_w
from typer.testing import CliRunner, Result

from streamrec.cli import app
from streamrec.pipeline.bootstrap_view import load_history_columns
from streamrec.serving.recommender import Recommender

World = Any
Ask = Callable[..., Result]


@pytest.fixture
def ask(plain: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    monkeypatch.chdir(tmp_path)
    values = plain.config.model_dump(mode="json", exclude_none=True) | {"state": str(plain.folder)}
    (tmp_path / "streamrec.toml").write_text(tomli_w.dumps(values))
    return lambda *words: CliRunner().invoke(app, words)


@pytest.fixture
def user(plain: World) -> tuple[str, list[str]]:
    """A user of the default namespace with three items at least, and these, newest last."""
    columns = load_history_columns(str(plain.folder))
    assert columns is not None
    for at, (namespace, name) in enumerate(columns.users):
        codes = columns.item_codes[columns.indptr[at] : columns.indptr[at + 1]].tolist()
        if namespace == "default" and len(codes) > 2:
            return name, [columns.item_ids[code][1] for code in codes]
    pytest.fail("nobody has a history")


def answer(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_user_gets_what_the_live_version_ranks_for_the_history_of_the_newest_commit(ask: Ask, plain: World, user: tuple[str, list[str]]) -> None:
    (name, history), was_there = user, ray.is_initialized()
    found = answer(ask("recommend", name, "-n", "4", "--json"))
    live = plain.registry().load(plain.registry().live())
    recommender = Recommender(live.arrays, live.meta)
    rows = recommender.rows_of("default", history)
    columns = load_history_columns(str(plain.folder))
    gone = [item for (namespace, item), is_gone in zip(columns.item_ids, columns.unavailable[0], strict=True) if is_gone and namespace == "default"]
    barred = np.concatenate([rows, recommender.rows_of("default", gone)])
    ids, scores = recommender.recommend(rows[::-1][: recommender.history_length], 4, barred)
    assert [item["item_id"] for item in found["items"]] == ids
    assert [item["score"] for item in found["items"]] == pytest.approx(scores, abs=1e-5)
    assert (found["source"], found["model_version"], found["user_events"]) == ("student", live.id, len(history))
    assert ray.is_initialized() == was_there  # Another test of this process may have one.


def test_a_history_of_items_is_answered_as_one_and_known_items_come_where_they_are_asked_for(ask: Ask, user: tuple[str, list[str]]) -> None:
    name, history = user
    words = [word for item in history for word in ("--item", item)]
    assert answer(ask("recommend", *words, "--json"))["items"] == answer(ask("recommend", name, "--json"))["items"]
    seen = {item["item_id"] for item in answer(ask("recommend", name, "-n", "30", "--with-seen", "--json"))["items"]}
    unseen = {item["item_id"] for item in answer(ask("recommend", name, "-n", "30", "--json"))["items"]}
    assert not unseen & set(history)
    assert seen & set(history)


def test_the_table_has_titles_and_where_the_answer_comes_from_goes_to_the_error_output(ask: Ask, plain: World, user: tuple[str, list[str]]) -> None:
    shown = ask("recommend", user[0], "-n", "12")
    assert shown.exit_code == 0, shown.stderr
    assert "river" in shown.stdout
    assert f"{plain.registry().live()}, made " in shown.stderr
    assert "source: student" in shown.stderr
    assert "as of the newest commit" in shown.stderr
    titled = [item for item in answer(ask("recommend", user[0], "-n", "12", "--json"))["items"] if "title" in item]
    assert titled
    assert all(item["title"].startswith("river ") for item in titled)


def test_whoever_is_unknown_gets_popular_items_and_why(ask: Ask) -> None:
    shown = ask("recommend", "nobody", "-n", "2")
    assert (shown.exit_code, "source: popular (unknown user)" in shown.stderr) == (0, True)
    explained = ask("explain", "nobody", "-n", "2").stdout.splitlines()
    assert [line.endswith(" uses") for line in explained] == [True, True]


def test_the_parts_of_an_explanation_sum_to_the_score(ask: Ask, user: tuple[str, list[str]]) -> None:
    found = answer(ask("explain", user[0], "-n", "6", "--json"))
    assert len(found["items"]) == 6
    for item in found["items"]:
        parts = [item["bias"], item["own_history"], item["content"], *(one["part"] for one in item["because"])]
        assert sum(parts) == pytest.approx(item["score"], abs=1e-4)
        assert [one["item_id"] for one in item["because"]] == user[1][::-1]
    first = found["items"][0]
    said = ask("explain", user[0], "-n", "1").stdout.splitlines()
    assert said[0].startswith(f"  1  {first['item_id']}")
    assert f": {first['score']:.4f} = {first['bias']:.4f} bias + " in said[0]
    assert len(said) == 1 + min(5, len(user[1]))


def test_given_items_are_explained_and_what_can_not_be_is_named(ask: Ask, user: tuple[str, list[str]]) -> None:
    asked = ask("explain", user[0], "--of", user[1][0], "--of", "never-seen")
    assert asked.exit_code == 0, asked.stderr
    assert f"  1  {user[1][0]}" in asked.stdout
    assert "left out: never-seen, unknown to the version" in asked.stderr


def test_another_version_is_asked_by_its_name(ask: Ask, plain: World, user: tuple[str, list[str]]) -> None:
    live, last = plain.registry().load(plain.registry().live()), answer(ask("recommend", user[0], "-n", "20", "--json"))["items"][-1]["item_id"]
    biased = live.arrays["item_bias"].copy()
    biased[Recommender(live.arrays, live.meta).rows_of("default", [last])] += 100
    plain.registry().publish("v00000099", {**live.arrays, "item_bias": biased}, live.meta)
    found = answer(ask("recommend", user[0], "--version", "v00000099", "--json"))
    assert (found["model_version"], found["items"][0]["item_id"]) == ("v00000099", last)
    assert answer(ask("recommend", user[0], "--json"))["model_version"] == live.id
    unknown = ask("recommend", user[0], "--version", "v9")
    assert (unknown.exit_code, "no such version, got 'v9'" in unknown.stderr) == (1, True)


def test_another_namespace_has_items_and_users_of_its_own(ask: Ask, plain: World) -> None:
    columns = load_history_columns(str(plain.folder))
    (at, *_) = (at for at, (namespace, _) in enumerate(columns.users) if namespace == "shop")
    there = answer(ask("recommend", columns.users[at][1], "--namespace", "shop", "-n", "30", "--with-seen", "--json"))
    assert there["user_events"] == columns.indptr[at + 1] - columns.indptr[at] > 0
    here = answer(ask("recommend", columns.users[at][1], "-n", "30", "--with-seen", "--json"))
    assert [item["score"] for item in here["items"]] != [item["score"] for item in there["items"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recommend", "u1", "-n", "100000"], "got 100000"),
        (["recommend", "u1", "--set", "state=elsewhere"], "student 'default' has no live version, and none at all, let python -m jobs.bootstrap"),
        (["explain", "u1", "--student", "edge"], "there is no such student"),
        (["recommend", "u1", "--url", "http://127.0.0.1:1", "--version", "v1"], "takes no --version"),
    ],
)
def test_what_can_not_be_answered_is_one_paragraph(ask: Ask, words: list[str], message: str) -> None:
    refused = ask(*words)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1
