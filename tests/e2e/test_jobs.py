"""Run the jobs as modules on one node."""

from __future__ import annotations

import pytest

# What this asks of teachers is that there are some.
QUICK = ["--set", 'teachers.enabled=["linear"]', "--set", "student.control=false"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_jobs_run_as_modules_on_one_node_go_on_where_they_were_and_a_state_is_rebuilt_with_a_larger_student(jobs):
    jobs.append(0, 2000)
    first = jobs.run("one", "bootstrap")
    assert first["books"]["applied"] == 2000
    assert first["versions"] == {"published": 1, "promoted": 1, "rejected": 0}
    refreshed = jobs.run("one", "refresh_teachers", "--teacher", "transformer")
    assert refreshed["teachers"]["transformer"] > first["teachers"]["transformer"]
    assert refreshed["teachers"]["linear"] == first["teachers"]["linear"]
    jobs.append(2000, 3000)
    last = jobs.run("one", "stream", "--until-idle", "2s")
    assert last["books"] == {"received": 3000, "applied": 3000, "duplicate": 0, "rejected": 0, "late": 0, "quarantined": 0, "pending": 0}
    assert last["versions"]["promoted"] > 1
    assert any(key == f"transformer {refreshed['teachers']['transformer']}" for key in last["labels"])
    assert last["metrics"]["student"]["recall@20"] > last["metrics"]["popular"]["recall@20"]
    jobs.append(3000, 3200)
    larger = [*QUICK, "--set", "student.dim=24", "--set", "features.history_length=6"]
    rebuilt = jobs.run("one", "rebuild", *larger)
    assert (rebuilt["lineage"], rebuilt["books"]["applied"]) == ("lineages/0002", 3200)
    assert rebuilt["live"] > last["live"]
    jobs.append(3200, 3400)
    after = jobs.run("one", "stream", "--until-idle", "1s", *larger)
    assert after["books"]["applied"] == 3400
    assert after["live"] >= rebuilt["live"]
