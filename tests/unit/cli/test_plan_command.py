from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from streamrec.cli import app


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAMREC_CONFIG", raising=False)


def plan(*words: str) -> Result:
    return CliRunner().invoke(app, ["plan", "--users", "100000", "--items", "20000", "--events-per-s", "50", *words])


def test_a_plan_says_what_each_part_takes_and_where_one_machine_ends() -> None:
    said = plan("--cores", "4", "--memory-gb", "16")
    assert said.exit_code == 0, said.stderr
    for told in ("│ driver", "│ 2 replicas", "│ lake, a day", "object store  ", "worker-minutes", "one machine of 4 cores and 16.0 GB ends at "):
        assert told in said.stdout
    assert "measured on two cores" in said.stderr


def test_as_json_it_has_the_figures_with_their_sources_and_follows_the_settings() -> None:
    found = json.loads(plan("--json", "--cores", "4", "--memory-gb", "16").stdout)
    assert found["machine"] == {"cores": 4, "memory_bytes": 16e9}
    assert found["memory_bytes"] == pytest.approx(sum(part["bytes"] for part in found["memory"]))
    assert found["constants"]["events_per_s"]["source"].startswith("benchmarks/results/")
    larger = json.loads(plan("--json", "--set", "student.dim=256").stdout)
    assert larger["memory_bytes"] > found["memory_bytes"]
    longer = json.loads(plan("--json", "--retention", "30d", "--requests-per-s", "9000").stdout)
    assert longer["workload"]["retention_s"] == 30 * 86_400
    assert longer["replicas"] > found["replicas"]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--retention", "long"], 1, "Plan: --retention is no duration"),
        (["--events-per-s", "inf"], 1, "Plan: --events-per-s is no number to plan with, got inf, allowed a finite one"),
        (["--requests-per-s", "inf"], 1, "Plan: --requests-per-s is no number"),
        (["--memory-gb", "inf"], 1, "Plan: --memory-gb is no number"),
        (["--items", "0"], 2, "Invalid value for '--items'"),
        (["--cores", "0"], 2, "Invalid value for '--cores'"),
    ],
)
def test_what_is_no_workload_is_refused(words: list[str], status: int, message: str) -> None:
    refused = plan(*words)
    assert (refused.exit_code, refused.stdout) == (status, "")
    assert message in refused.stderr
