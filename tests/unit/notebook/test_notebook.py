"""The names of ``import streamrec as sr``: their examples run, the import is light, and what they answer is what the command line answers."""

from __future__ import annotations

import ast
import doctest
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

import streamrec as sr
from streamrec.cli import app
from streamrec.errors import ConfigError
from streamrec.pipeline.backtest import BacktestResult

NAMES = [name for name in sr.__all__ if not name.startswith("_")]
QUICK = sr.settings(student={"dim": 8, "control": False}, teachers={"enabled": ["linear"]})


@pytest.mark.parametrize("module", ["worlds", "learning", "asking", "plotting"])
def test_examples_of_the_names_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(import_module(f"streamrec.notebook.{module}"))
    assert found.attempted > 1
    assert found.failed == 0


def test_to_import_streamrec_loads_nothing_and_its_names_are_there() -> None:
    code = "import sys, streamrec as sr; print(sorted(sys.modules)); assert dir(sr) == sorted(sr.__all__); sr.settings; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(sr.__file__).parents[1], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    heavy = {"torch", "ray", "numpy", "pyarrow", "pydantic", "streamrec.config"}
    assert heavy & set(ast.literal_eval(first)) == set()
    assert second == "False"


def test_each_name_is_documented_has_a_type_and_is_in_the_reference() -> None:
    stub = (Path(sr.__file__).parent / "__init__.pyi").read_text()
    for name in NAMES:
        assert f" {name} as {name}\n" in stub
        assert getattr(sr, name).__doc__
    assert sorted(NAMES) == sorted(line.rpartition(" as ")[2] for line in stub.splitlines() if " as " in line)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sr.nothing  # noqa: B018


def test_a_distilled_model_is_opened_again_and_answers_as_the_command_line_does(tmp_path: Path) -> None:
    state = tmp_path / "state"
    model = sr.distil(sr.sample_events(num_events=800), QUICK, state=state)
    answer = sr.recommend(model, "u3", n=4)
    again = sr.recommend(sr.open_model(state), "u3", n=4)
    asked = ["recommend", "u3", "-n", "4", "--json", "--set", f"state={state}"]
    told = json.loads(CliRunner().invoke(app, asked).stdout)
    assert answer["items"] == again["items"] == told["items"]
    assert (answer["source"], answer["user_events"] > 0) == ("student", True)
    seen = sr.recommend(model, "u3", n=200, with_seen=True)
    assert len(seen["items"]) > len(sr.recommend(model, "u3", n=200)["items"])
    with pytest.raises(ConfigError, match="holds something"):
        sr.distil(sr.sample_events(num_events=800), QUICK, state=state)


def test_a_teacher_that_counts_is_not_trained_and_unknown_items_say_nothing() -> None:
    with pytest.raises(ConfigError, match="never trained"):
        sr.train_teacher("repeats", sr.sample_events(num_events=500), QUICK)
    with pytest.raises(ConfigError, match=r"teachers\.enabled"):
        sr.train_teacher("oracle", sr.sample_events(num_events=500), QUICK)
    assert sr.train_teacher("linear", sr.sample_events(num_events=500), QUICK).rank(["nobody-knows-this"]) == []


def test_events_that_are_saved_are_guessed_and_loaded_as_they_were(tmp_path: Path) -> None:
    events = sr.sample_events(num_events=300)
    sr.save_events(events, tmp_path / "e.csv")
    loaded = sr.load_events(tmp_path / "e.csv")
    columns = ["user_id", "item_id", "event_type", "event_time"]
    assert loaded.events.select(columns).to_pydict() == events.events.select(columns).to_pydict()
    assert sr.load_events(tmp_path / "e.csv", {"user": "item", "item": "user"}).facts["users"] == events.facts["items"]


def test_a_picture_has_a_line_for_each_model_and_says_what_it_shows() -> None:
    blocks = [{"student": dict.fromkeys(("recall@20", "mrr@20"), 0.1 * number), "<b>": {"recall@20": 0.05, "mrr@20": 0.0}} for number in (1, 2, 3)]
    metrics = {"student": {"recall@20": 0.2, "mrr@20": 0.2}, "<b>": {"recall@20": 0.05, "mrr@20": 0.0}}
    result = BacktestResult("progressive", blocks, [10, 10, 10], metrics)
    picture = sr.plot(result)
    assert picture._repr_svg_() == picture.svg
    assert picture.svg.index(">student<") < picture.svg.index(">&lt;b&gt;<")
    assert "student 0.3000 at last" in picture.svg
    assert sr.plot(result, "mrr@20", ["student"]).svg.count("<polyline") == 1
    with pytest.raises(ConfigError, match="no such metric"):
        sr.plot(result, "accuracy")
    with pytest.raises(ConfigError, match="no such model"):
        sr.plot(result, models=["nobody"])
