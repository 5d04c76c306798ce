from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from streamrec.cli import app
from streamrec.environment import cache_folder
from streamrec.events.demo import demo_dataset


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.timeout(900)
def test_one_block_of_movielens_100k_is_predicted_better_than_by_popularity() -> None:
    arguments = ["backtest", "--data", str(demo_dataset(cache_folder())), "--max-blocks", "1", "--json", "--set", "student.bootstrap_passes=2"]
    arguments += ["--set", "teachers.transformer.first_steps=40", "--set", "teachers.transformer.refresh_steps=20"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    recall = {model: values["recall@20"] for model, values in json.loads(result.stdout.splitlines()[-1])["metrics"].items()}
    assert recall["student"] > max(recall["popular"], recall["recent_popular"]), recall
