"""Run the jobs both ways: as modules on one node, and submitted to a Ray cluster."""

from __future__ import annotations

import json
import shutil
import tempfile
import time

import pytest
import ray
from ray.job_submission import JobStatus, JobSubmissionClient

# Without a rest between two looks they take a core from the job.
LOOK_S = 0.5
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


@pytest.fixture
def cluster():
    """A Ray cluster that takes jobs."""
    folder = tempfile.mkdtemp(prefix="sr-", dir="/tmp")
    context = ray.init(address="local", num_cpus=4, include_dashboard=True, log_to_driver=False, object_store_memory=200 * 2**20, _temp_dir=folder)
    yield f"http://{context.dashboard_url}"
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def _when_agent_is_up(call):
    """Call again until the cluster's job agent, which starts behind the dashboard, is there."""
    while True:
        try:
            return call()
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise


def submit(address, jobs, state, job, *options):
    """Submit a job with the checkout as its working folder, wait for its end, and return the JSON object that it ends with."""
    client = JobSubmissionClient(address)
    words = jobs.command(state, job, *options)
    submitted = _when_agent_is_up(lambda: client.submit_job(entrypoint=" ".join(words), runtime_env={"working_dir": str(jobs.root)}))
    while not client.get_job_status(submitted).is_terminal():
        time.sleep(LOOK_S)
    logs = client.get_job_logs(submitted)
    assert client.get_job_status(submitted) == JobStatus.SUCCEEDED, logs[-3000:]
    return json.loads([line for line in logs.splitlines() if line.startswith('{"')][-1])


def test_jobs_run_when_submitted_to_a_cluster(jobs, cluster):
    jobs.append(0, 2000)
    assert submit(cluster, jobs, "submitted", "bootstrap")["books"]["applied"] == 2000
    jobs.append(2000, 3000)
    last = submit(cluster, jobs, "submitted", "stream", "--until-idle", "2s")
    assert last["books"]["applied"] == 3000
    assert last["versions"]["promoted"] > 1
    refreshed = submit(cluster, jobs, "submitted", "refresh_teachers", "--teacher", "linear")
    assert refreshed["teachers"]["linear"] > last["teachers"]["linear"]
    ratings = jobs.folder / "ratings.csv"
    ratings.write_text("userId,movieId,rating,timestamp\n" + "".join(f"{number % 9},{number % 7},4,{10**9 + number}\n" for number in range(300)))
    sent = submit(cluster, jobs, "submitted", "replay", "--data", str(ratings), "--broker", f"local://{jobs.folder / 'other'}")
    assert (sent["sent"], sent["done"]) == (300, True)
