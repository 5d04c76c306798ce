"""Submit all jobs to a Ray cluster of three nodes that asks for a token, and kill the node of the student's actor."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from jobs import cli
from streamrec.clock import SystemClock
from streamrec.config import Config
from streamrec.log.connect import local_address, open_table_reader
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.session import state_address
from streamrec.pipeline.wiring import actor_prefix, build_local
from streamrec.storage import open_storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Without a rest between two looks they take a core from the job.
LOOK_S = 0.3
PATIENCE_S = 120.0
NUM_FIRST, NUM_BEFORE, NUM_ALL = 1000, 2250, 2750
# The stream commits at its end alone, so it goes back to its beginning.
QUICK = {"teachers": {"enabled": ["linear"], "linear_refresh_events": 500}, "student": {"control": False}}
# The teacher that is trained is trained by jobs of its own.
WITH_TRANSFORMER = {
    "teachers": {
        "enabled": ["linear", "transformer"],
        "linear_refresh_events": 500,
        "transformer_refresh_events": 10**6,
        "transformer": {"dim": 16, "first_steps": 5, "refresh_steps": 3, "sequence_length": 8},
    },
    "student": {"control": False},
}


def header(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@dataclass
class Nodes:
    """A cluster of three nodes whose drivers all run on the first, and the jobs that are submitted to it."""

    jobs: Any
    process: subprocess.Popen[str]
    token: str
    url: str = ""

    def __post_init__(self) -> None:
        self.url = self.told()
        self.client = JobSubmissionClient(self.url, headers=header(self.token))

    def told(self) -> str:
        assert self.process.stdout is not None
        return next(str(json.loads(line)) for line in self.process.stdout if line.startswith('"'))

    def kill(self, node_id: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{node_id}\n")
        self.process.stdin.flush()
        assert self.told() == "ended"

    def actors(self) -> dict[str, str]:
        """Return the node of each actor of streamrec that lives, by its name."""
        request = urllib.request.Request(f"{self.url}/api/v0/actors?limit=1000", headers=header(self.token))
        with urllib.request.urlopen(request, timeout=30) as answer:
            found = json.load(answer)["data"]["result"]["result"]
        return {actor["name"]: actor["node_id"] for actor in found if actor["state"] == "ALIVE" and actor["name"].startswith("streamrec-")}

    def submit(self, state: str, job: str, *options: str) -> str:
        """Submit a job with the checkout as its working folder."""
        entrypoint = shlex.join(self.jobs.command(state, job, *options))
        return self.client.submit_job(entrypoint=entrypoint, runtime_env={"working_dir": str(self.jobs.root)})

    def logs(self, submitted: str) -> str:
        return self.client.get_job_logs(submitted)

    def wait(self, submitted: str, look: Callable[[str], Any], what: str) -> None:
        """Wait until a job's log is as it shall be, while the job runs."""
        deadline = time.monotonic() + PATIENCE_S
        while not look(logs := self.logs(submitted)):
            assert not self.client.get_job_status(submitted).is_terminal(), logs[-3000:]
            assert time.monotonic() < deadline, f"{what}: {logs[-3000:]}"
            time.sleep(LOOK_S)

    def ended(self, submitted: str) -> JobDetails:
        while not self.client.get_job_status(submitted).is_terminal():
            time.sleep(LOOK_S)
        return self.client.get_job_info(submitted)

    def result(self, submitted: str, status: JobStatus = JobStatus.SUCCEEDED) -> dict[str, Any]:
        """Wait for a job's end and return the JSON object that it ends with."""
        ended, logs = self.ended(submitted), self.logs(submitted)
        assert ended.status == status, logs[-3000:]
        found: dict[str, Any] = json.loads([line for line in logs.splitlines() if line.startswith('{"')][-1])
        return found


@pytest.fixture
def nodes(jobs: Any) -> Iterator[Nodes]:
    token = secrets.token_hex(32)
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_TMPDIR": str(jobs.folder / "n0")}
    advised = (jobs.root / "cluster" / "kuberay" / "base" / "nodes.env").read_text().splitlines()
    environment = {**jobs.environment, **dict(line.split("=", 1) for line in advised if not line.startswith("#")), **own}
    del environment["PYTHONPATH"]  # A job brings its code.
    words = [sys.executable, "-m", "tests.e2e.three_nodes", str(jobs.folder)]
    with subprocess.Popen(words, cwd=jobs.root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Nodes(jobs, process, token)


def records(logs: str) -> int:
    """Return how many records a stream's log tells of, those of a step that was done again once."""
    return sum({batch: int(num) for batch, num in re.findall(r"^batch (\d+), (\d+) records", logs, re.MULTILINE)}.values())


def undisturbed(config: Config, before: Path) -> dict[str, Any]:
    """Execute in this process, on a copy of the state from before a stream, what the stream has planned, and return what it would end with."""
    controller = build_local(config.model_copy(update={"state": str(before)}), reader(config), str(before), SystemClock())
    controller.recover()
    plans = PlanStore(open_storage(str(before)))
    for batch, plan in PlanStore(open_storage(state_address(config))).ahead(controller.state.batch).items():
        plans.write(plan, batch)
    while controller.planned() is not None:
        controller.step()
    controller.finish()
    found: dict[str, Any] = json.loads(json.dumps(cli.summary(controller)))
    return found


def reader(config: Config) -> Any:
    return open_table_reader(local_address(Path(config.log.broker.removeprefix("local://"))), config.log)


def figures(summary: dict[str, Any]) -> dict[str, Any]:
    """Return all that a stream ends with but how long anything took."""
    usage = {name: value for name, value in summary["label_usage"].items() if name != "seconds_per_1000"}
    return {**{name: value for name, value in summary.items() if name != "refresh_seconds"}, "label_usage": usage}


def test_jobs_run_for_who_has_the_token_and_a_stream_whose_students_node_dies_ends_in_the_same_bits(nodes: Nodes, jobs: Any) -> None:
    jobs.changes = QUICK
    for headers, told in ((None, "Missing"), (header(secrets.token_hex(32)), "Invalid")):
        with pytest.raises(AuthenticationError, match=f"{told} authentication token"):
            JobSubmissionClient(nodes.url, headers=headers)
    jobs.append(0, NUM_FIRST)
    assert nodes.result(nodes.submit("shop", "bootstrap"))["books"]["applied"] == NUM_FIRST
    streamed_while_a_node_dies(nodes, jobs)


@pytest.mark.release
def test_all_other_jobs_run_too(nodes: Nodes, jobs: Any) -> None:
    jobs.changes = WITH_TRANSFORMER
    jobs.append(0, NUM_FIRST)
    ratings = jobs.folder / "ratings.csv"
    ratings.write_text("userId,movieId,rating,timestamp\n" + "".join(f"{number % 9},{number % 7},4,{10**9 + number}\n" for number in range(300)))
    bootstrapped = nodes.submit("shop", "bootstrap")
    planned = nodes.submit("planned", "bootstrap", "--dry-run")
    replayed = nodes.submit("sent", "replay", "--data", str(ratings), "--broker", f"local://{jobs.folder / 'other'}")
    tested = nodes.submit("tested", "backtest", "--data", str(ratings), "--max-blocks", "2")
    first = nodes.result(bootstrapped)
    dry = nodes.result(planned)
    assert (dry["dry_run"], dry["job"], dry["status"], dry["needs"]["node_cpus"]) == (True, "bootstrap", 0, 0.5)
    assert "logical CPUs and no GPU, 0.5 CPUs of them on one node, of the cluster at" in nodes.logs(planned)
    sent = nodes.result(replayed)
    assert (sent["sent"], sent["done"]) == (300, True)
    assert nodes.result(tested)["dataset"]["events"] == 300
    refreshed = nodes.result(nodes.submit("shop", "refresh_teachers", "--teacher", "transformer"))["teachers"]
    assert refreshed["transformer"] > first["teachers"]["transformer"]
    assert refreshed["linear"] == first["teachers"]["linear"]
    jobs.append(NUM_FIRST, NUM_BEFORE)
    last = nodes.result(nodes.submit("shop", "stream", "--until-idle", "1s"))
    assert last["books"]["applied"] == NUM_BEFORE
    assert any(key == f"transformer {refreshed['transformer']}" for key in last["labels"])
    made = nodes.submit("shop", "recommend_batch", "--out", str(jobs.folder / "made"))
    merged = nodes.submit("shop", "compact")
    answered = nodes.result(made)
    assert (answered["version"], answered["users"], answered["parts_made"]) == (last["live"], 80, 1)
    assert (jobs.folder / "made" / "_SUCCESS").exists()
    assert str(jobs.folder / "shop") in nodes.result(merged)["address"]
    rebuilt = nodes.result(nodes.submit("shop", "rebuild", "--set", "student.dim=24"))
    assert (rebuilt["lineage"], rebuilt["books"]["applied"]) == ("lineages/0002", NUM_BEFORE)


def streamed_while_a_node_dies(nodes: Nodes, jobs: Any) -> None:
    """Stream, kill the node of the student's actor in the middle, let a second stream be refused, and compare what the first ends with."""
    config, before = jobs.config("shop"), jobs.folder / "before"
    prefix = actor_prefix(state_address(config))
    shutil.copytree(config.state, before)
    jobs.append(NUM_FIRST, NUM_BEFORE)
    stream = nodes.submit("shop", "stream")
    nodes.wait(stream, records, "a step of the stream")
    where = nodes.actors()[f"{prefix}-student"]
    nodes.kill(where)
    jobs.append(NUM_BEFORE, NUM_ALL)
    second = nodes.submit("shop", "stream")
    nodes.wait(stream, lambda logs: records(logs) == NUM_ALL - NUM_FIRST, "the stream to learn what came after the kill")
    assert "outage, try 1," in nodes.logs(stream)
    assert nodes.actors()[f"{prefix}-student"] != where
    refused = nodes.ended(second)
    assert (refused.status, refused.driver_exit_code) == (JobStatus.FAILED, 1)
    assert re.search(r"another job moves this state already, got process \d+ on \S+, epoch \d+", " ".join(nodes.logs(second).split()))
    nodes.client.stop_job(stream)
    last = nodes.result(stream, JobStatus.STOPPED)
    assert last["books"]["applied"] == NUM_ALL
    assert last["versions"]["promoted"] > 1
    assert figures(last) == figures(undisturbed(config, before))
    assert not [name for name in nodes.actors() if name.startswith(prefix)]
