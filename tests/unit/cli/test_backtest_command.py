from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from streamrec.cli import app
from streamrec.report.of_backtest import report_of_backtest

SMALL = [
    *("--set", "student.dim=8", "--set", "student.bootstrap_passes=1", "--set", "features.word_buckets=16"),
    *("--set", "teachers.transformer.dim=8", "--set", "teachers.transformer.first_steps=3", "--set", "teachers.transformer.refresh_steps=3"),
]
METRICS = {"recall@20", "recall@50", "mrr@20", "ndcg@10", "ndcg@20"}
BASELINES = {"popular", "recent_popular", "own_history"}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAMREC_CONFIG", raising=False)


def write(path: Path, header: str, columns: list[np.ndarray | list[str]]) -> Path:
    path.write_text(header + "\n" + "".join(",".join(str(cell) for cell in row) + "\n" for row in zip(*columns, strict=True)))
    return path


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, 60 * 90, 1200))
    rng.shuffle(pairs)
    times = 1_000_000_000 + np.arange(len(pairs)) * 60
    return write(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp", [pairs // 90, pairs % 90, np.full(len(pairs), 5), times])


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["backtest", *arguments])
    assert result.exit_code == 0, result.stderr
    return result


def test_json_is_all_that_the_output_holds_and_ends_in_the_whole_result_of_which_a_report_is_made(ratings: Path, tmp_path: Path) -> None:
    printed = call("--data", str(ratings), "--json", "--max-blocks", "2", *SMALL).stdout
    *blocks, result = [json.loads(line) for line in printed.splitlines()]
    assert [block["block"] for block in blocks] == [1, 2]
    assert (result["protocol"], result["blocks"]) == ("progressive", 2)
    assert set(result["metrics"]) == {"student", "student_events_only", "transformer", "linear", "repeats", "ensemble"} | BASELINES
    assert all(set(values) == METRICS and all(0 <= value <= 1 for value in values.values()) for values in result["metrics"].values())
    assert set(result["seconds"]) == {"teachers", "student", "evaluation"}
    assert {name: set(values) for name, values in result["forgetting"].items()} == {
        name: {"la", "ra", "h_mean"} for name in ("student", "student_events_only")
    }
    mean = np.mean([block["metrics"]["student"]["recall@20"] for block in blocks])
    assert result["metrics"]["student"]["recall@20"] == pytest.approx(mean)
    (tmp_path / "backtest.json").write_text(printed)
    report = report_of_backtest(tmp_path / "backtest.json", 0)
    assert {score.model.removeprefix("teachers."): score.metrics for score in report.scores} == result["metrics"]
    assert (report.course.at, report.course.num_queries) == ((1, 2), tuple(result["per_block"]["queries"]))
    assert report.came_in.books["received"] == len(ratings.read_text().splitlines()) - 1
    assert all(score.error > 0 for score in report.scores if score.metrics["recall@20"] > 0)
    assert report.gain.mean == pytest.approx(result["metrics"]["student"]["recall@20"] - result["metrics"]["student_events_only"]["recall@20"])
    assert report.gain.error is not None
    assert set(report.missing) == {"decisions", "learned", "exposure", "worth"} | ({"forgetting"} if not result["forgetting"] else set())


def test_without_teachers_only_the_events_teach(ratings: Path) -> None:
    result = json.loads(call("--data", str(ratings), "--json", "--no-teachers", "--max-blocks", "1", *SMALL).stdout.splitlines()[-1])
    assert set(result["metrics"]) == {"student", "student_events_only"} | BASELINES
    assert result["metrics"]["student"] == result["metrics"]["student_events_only"]


def test_tables_name_every_model_and_block(ratings: Path) -> None:
    output = call("--data", str(ratings), "--protocol", "leave-one-out", *SMALL).stdout
    assert all(text in output for text in ("student_events_only", "recent_popular", "transformer", "linear", "ndcg@10", "mean of 1 blocks"))


def test_the_same_seed_gives_the_same_figures_and_another_seed_others(ratings: Path) -> None:
    def metrics(seed: str) -> object:
        return json.loads(call("--data", str(ratings), "--json", "--seed", seed, "--max-blocks", "1", *SMALL).stdout.splitlines()[-1])["metrics"]

    first = metrics("1")
    assert first == metrics("1")
    assert first != metrics("2")


def test_sessions_are_tested_on_items_of_earlier_periods_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    sessions = np.repeat(np.arange(120), 4)
    items = rng.integers(0, 30, len(sessions)).astype(str)
    items[sessions == 119] = [f"new{number}" for number in range(4)]
    path = write(tmp_path / "sessions.csv", "period,session,item", [sessions // 60, sessions, items])
    lines = call("--data", str(path), "--protocol", "sessions", "--json", *SMALL).stdout.splitlines()
    assert json.loads(lines[-1])["blocks"] == 1


def test_a_static_split_masks_what_the_user_has_had(tmp_path: Path) -> None:
    split = ["train", "train", "train", "valid", "test"] * 40
    users = np.repeat(np.arange(40), 5)
    items = np.tile(np.arange(5), 40)
    path = write(tmp_path / "pairs.csv", "split,user,item", [split, users, items])
    values = json.loads(call("--data", str(path), "--protocol", "static", "--json", *SMALL).stdout.splitlines()[-1])["metrics"]
    assert values["popular"]["mrr@20"] == 1.0  # Four of the five items are masked, so the test item comes first.
