from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from streamrec.cli import app, status
from streamrec.clock import ManualClock, SystemClock
from streamrec.config import LogConfig
from streamrec.errors import StorageError
from streamrec.log.base import LogAddress, Record
from streamrec.log.connect import open_writer
from streamrec.pipeline import lineage, readable, standing, student_standing, worth_view
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.layout import checkpoint_url, registry_url
from streamrec.pipeline.plan import PlannedRange
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.quarantined import FOLDER, Quarantined
from streamrec.pipeline.refresh_state import Held, RefreshState
from streamrec.pipeline.refresh_state import Record as RefreshRecord
from streamrec.pipeline.stream_state import StreamState
from streamrec.pipeline.switches import ALL, Flip, SwitchBoard
from streamrec.registry.gate import Decision, Reason, Verdict
from streamrec.registry.registry import Registry
from streamrec.registry.version import VersionFacts
from streamrec.soft_labels.ensemble import Ensemble
from streamrec.storage import open_storage

TOPIC = LogConfig().events_topic
COUNTS = {"received": 12, "applied": 8, "duplicate": 1, "rejected": 2, "late": 1, "quarantined": 0}
Ask = Callable[..., Result]


@pytest.fixture
def ask(log: LogAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAMREC_CONFIG", raising=False)
    where = ["--set", f"state={tmp_path / 'state'}", "--broker", str(log)]
    return lambda *words: CliRunner().invoke(app, ["status", *where, *words])


@pytest.fixture
def state(log: LogAddress, tmp_path: Path) -> StreamState:
    """What a stream has committed of 12 of 20 records; a step of 3 more is planned."""
    open_writer(log, LogConfig()).append(TOPIC, [Record(b"u", b"{}", partition=number % 2) for number in range(20)])
    now_ms = SystemClock().now_ms()
    state = StreamState(batch=4, offsets={0: 7, 1: 5}, counts=COUNTS, planned_ms=now_ms - 90_000, teachers={"linear": "v00000002"})
    state.candidate, state.events_since, state.pending = "v00000001", {"linear": 5}, {"linear": "v00000004"}
    plan = {"batch": 5, "now_ms": now_ms - 1000, "teachers": {}, "ranges": [PlannedRange(topic=TOPIC, partition=0, start=7, end=10).model_dump()]}
    PlanStore(open_storage(str(tmp_path / "state"))).write(plan, 5)
    Registry(open_storage(registry_url(str(tmp_path / "state")))).publish(state.candidate, {"w": np.ones(2, np.float32)}, {})
    return state


def commit(folder: Path, state: StreamState) -> None:
    refreshes = RefreshState()
    refreshes.hear_of(["linear"], 0, {"admitted": 0, "held": 0})
    refreshes.records["linear"] = RefreshRecord(Held(state.planned_ms), Held(state.planned_ms - 3_600_000))
    components = {part.name: part.snapshot() for part in (state, refreshes, Ensemble())}
    store = CheckpointStore(open_storage(checkpoint_url(str(folder))))
    store.acquire()
    store.commit(components, {"batch": state.batch}, None)


def publish(folder: Path) -> Registry:
    registry = Registry(open_storage(registry_url(str(folder))))
    made_of = {"offsets": {TOPIC: {0: 7, 1: 5}}, "teachers": {"linear": "v00000002"}, "parent": "v00000002"}
    facts = VersionFacts(**made_of, metrics={"student.recall@20": 0.25, "student.mrr@20": 0.1, "student.queries": 57.0})
    for version in ("v00000002", "v00000003"):
        registry.publish(version, {"w": np.zeros(2, np.float32)}, {}, facts)
        numbers = {"num_queries": 40.0, "candidate": 0.2, "live": 0.19}
        decided = {"verdict": Verdict.PROMOTE, "code": Reason.NOT_WORSE, "reason": "not worse than live", "live": None, "numbers": numbers}
        waits = {**decided, "verdict": Verdict.WAIT, "code": Reason.TOO_FEW_QUERIES, "reason": "4 of 10 queries so far"}
        registry.record_decision(Decision(candidate=version, batch=2, **waits))
        registry.record_decision(Decision(candidate=version, batch=3, **decided))
        registry.promote(version, "not worse than live")
    return registry


def test_of_a_state_that_nothing_has_run_on_it_says_so(ask: Ask) -> None:
    shown = ask()
    assert shown.exit_code == 0, shown.stderr
    assert "stream        none has ever run on this state\ncommit        none\n" in shown.stdout
    assert "default: nothing is live" in shown.stdout
    assert not Path("state").exists()


def test_who_asked_for_teachers_is_told_until_that_has_begun(ask: Ask, state: StreamState, tmp_path: Path) -> None:
    commit(tmp_path / "state", state)
    switches = SwitchBoard(open_storage(str(tmp_path / "state")))

    def said(at_ms: int) -> str:
        switches.turn("refresh", Flip(by="ann", reason="new season", at_ms=at_ms), ALL)
        return next(line for line in ask().stdout.splitlines() if "linear" in line and "begun" in line)

    assert "asked for" not in said(state.planned_ms)
    assert ", the next was asked for since " in (line := said(state.planned_ms + 1))
    assert line.endswith(" by ann: new season and waits")


def test_a_version_that_is_made_and_not_in_use_yet_is_compared_on_so_many_queries(ask: Ask, state: StreamState, tmp_path: Path) -> None:
    state.pending, state.challengers = {}, {"linear": "v00000004"}
    commit(tmp_path / "state", state)
    publish(tmp_path / "state")
    assert ", v00000004 is made, and compared with it on new events: 0 queries so far" in ask().stdout


def test_no_rollback_is_promised_that_would_be_refused(ask: Ask, state: StreamState, tmp_path: Path) -> None:
    commit(tmp_path / "state", state)
    registry = publish(tmp_path / "state")

    def said() -> str:
        return next(line for line in ask().stdout.splitlines() if line.startswith("  rollback"))

    def marked() -> list[str]:
        listed = CliRunner().invoke(app, ["models", "list", "--json", "--set", f"state={tmp_path / 'state'}"]).stdout.splitlines()
        return [row["version"] for row in map(json.loads, listed) if "previous" in row["is"]]

    assert (said(), marked()) == ("  rollback    would go to v00000002", ["v00000002"])
    registry.forget_before("v00000003", "d1")
    assert (said(), marked()) == ("  rollback    has nothing to go to", [])
    refused = CliRunner().invoke(app, ["rollback", "--set", f"state={tmp_path / 'state'}"])
    assert (refused.exit_code, "was made before the deletion" in refused.stderr) == (1, True)


def test_books_lag_versions_and_teachers_as_of_the_newest_commit(
    ask: Ask, state: StreamState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(tmp_path / "state", state)
    publish(tmp_path / "state").pin("v00000002")
    CliRunner().invoke(app, ["pause", "--set", f"state={tmp_path / 'state'}", "--by", "ann", "--reason", "incident 12"])
    record = Quarantined(batch=3, return_to="v1", batches=((1, 2),), ranges=(), num_events=4, num_rejections=8, reason="worse", at_ms=5)
    open_storage(str(tmp_path / "state")).write_new(f"{FOLDER}/00000003.json", record.to_json())
    shown = ask()
    assert (shown.exit_code, shown.stderr) == (0, "")
    for line in (
        "commit        number 1, batch 4, 1.5 min ago, 1 steps since",
        "books         15 received = 8 applied + 1 duplicate + 2 rejected + 1 late + 0 quarantined + 3 pending",
        f"lag           {TOPIC} 5 records behind (0:10/10 1:5/10)",
        f"  made of     v00000002, up to {TOPIC} 0:7 1:5, with linear v00000002",
        "  recall@20   student 0.2500 of the newest 57 queries",
        "  rollback    would go to v00000002",
        "  candidate   v00000001 waits for the gate",
        "  decision    promote v00000003: not worse than live",
        "quarantine    1 ranges, 4 events",
        "dead letters  0 records",
    ):
        assert line in shown.stdout.splitlines(), shown.stdout
    assert "3 are there up to v00000003; pinned v00000002" in shown.stdout
    assert "incident 12" in shown.stdout
    (linear,) = (line for line in shown.stdout.splitlines() if line.startswith("  linear"))
    assert "v00000002, begun 1.0 h ago, 5 interactions since, say " in linear
    assert "v00000004 is being made" in linear
    monkeypatch.setattr("streamrec.pipeline.standing.psutil.pid_exists", lambda _: False)
    assert "v00000004 was begun, and is made when a stream runs" in ask().stdout
    facts = json.loads(ask("--json").stdout)
    assert facts["students"][0]["live"]["version"] == "v00000003"
    assert facts["students"][0]["decisions"][0]["numbers"]["num_queries"] == 40
    assert (facts["books"]["pending"], facts["commit"]["batch"], facts["quarantine"]["events"]) == (3, 4, 4)
    assert facts["disk"]["total"] >= facts["disk"]["checkpoint"] > 0


def test_a_candidate_that_went_live_since_the_newest_commit_waits_no_more(ask: Ask, state: StreamState, tmp_path: Path) -> None:
    state.candidate = "v00000003"
    commit(tmp_path / "state", state)
    publish(tmp_path / "state")
    assert "  candidate   none waits" in ask().stdout.splitlines()


def test_a_version_that_the_newest_commit_compares_with_is_missed(ask: Ask, state: StreamState, tmp_path: Path) -> None:
    state.live = "v00000002"
    commit(tmp_path / "state", state)
    publish(tmp_path / "state")
    assert ask().exit_code == 0
    shutil.rmtree(registry_url(str(tmp_path / "state")))
    shown = ask()
    assert shown.exit_code == 1
    assert "version 'v00000001' is lost" in shown.stderr
    assert "version 'v00000002' is lost" in shown.stderr
    assert "jobs.rebuild --anew" in shown.stderr


def test_a_storage_that_lets_a_look_wait_is_asked_for_nothing_else_and_the_log_is_still_looked_at(
    ask: Ask, state: StreamState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(tmp_path / "state", state)
    clock, asked = ManualClock(SystemClock().now_ms()), []

    def stuck(url: str) -> Any:
        asked.append(url)
        clock.advance(30.0)
        what = "Storage: could not read"
        raise StorageError(what)

    monkeypatch.setattr(status, "SystemClock", lambda: clock)
    for module in (standing, readable, lineage, student_standing, worth_view):
        monkeypatch.setattr(module, "open_storage", stuck)
    shown = ask()
    assert (shown.exit_code, len(asked)) == (1, 1)
    assert f"Storage: {tmp_path / 'state'} let a look wait for 30 s, so nothing else of the state was asked for" in shown.stderr
    assert f"lag           {TOPIC} 20 records behind (0:0/10 1:0/10)" in shown.stdout.splitlines()


def test_the_process_that_may_commit_is_told_alive_or_ended(ask: Ask, state: StreamState, tmp_path: Path) -> None:
    commit(tmp_path / "state", state)
    assert f"stream        process {os.getpid()} on {socket.gethostname()} runs, epoch 1\n" in ask().stdout
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True).stdout.strip()
    head = tmp_path / "state" / "checkpoint" / "HEAD"
    values = json.loads(head.read_text())
    values["owner"]["pid"] = int(ended)
    head.write_text(json.dumps(values))
    assert f"stream        none runs: process {ended} on " in ask().stdout
    values["owner"]["host"] = "elsewhere"
    head.write_text(json.dumps(values))
    assert json.loads(ask("--json").stdout)["writer"]["is_alive"] is None


def test_books_that_do_not_balance_are_told_and_the_exit_status_is_1(ask: Ask, state: StreamState, tmp_path: Path) -> None:
    state.counts = COUNTS | {"received": 14}
    commit(tmp_path / "state", state)
    shown = ask()
    assert shown.exit_code == 1
    assert "17 received ≠ 8 applied" in shown.stdout
    assert "Books: they do not balance, 2 of 17 records are booked nowhere" in shown.stderr


@pytest.mark.parametrize("torn", ["checkpoint/HEAD", "plans/00000005.json", "registry/default/versions/v00000003/manifest.json", "switches/now"])
def test_what_can_not_be_read_is_told_and_the_rest_is_shown(ask: Ask, state: StreamState, tmp_path: Path, torn: str) -> None:
    commit(tmp_path / "state", state)
    publish(tmp_path / "state")
    (tmp_path / "state" / torn).parent.mkdir(exist_ok=True)
    (tmp_path / "state" / torn).write_bytes(b"{")
    shown = ask()
    assert shown.exit_code == 1
    assert torn in shown.stderr
    assert "disk  " in shown.stdout
    assert ("default: its versions can't be read" in shown.stdout) == ("registry" in torn)
    assert json.loads(ask("--json").stdout)["troubles"]


def test_a_broker_that_is_away_is_a_trouble_and_an_embedded_one_that_does_not_run_is_none(ask: Ask, state: StreamState, tmp_path: Path) -> None:
    commit(tmp_path / "state", state)
    away = ask("--broker", "127.0.0.1:1")
    assert away.exit_code == 1
    assert "127.0.0.1:1" in away.stderr
    assert "books  " in away.stdout
    resting = ask("--broker", "embedded")
    assert (resting.exit_code, "no embedded Kafka runs" in resting.stdout) == (0, True)


def test_a_stream_that_commits_while_one_looks_is_no_trouble(ask: Ask, state: StreamState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commit removes the plan that was listed a moment ago."""
    commit(tmp_path / "state", state)
    read = PlanStore.read

    def meanwhile(store: PlanStore, batch: int) -> dict[str, object]:
        store._storage.delete(f"plans/{batch:08d}.json")
        return read(store, batch)

    monkeypatch.setattr(PlanStore, "read", meanwhile)
    shown = ask()
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert ", 0 steps since\n" in shown.stdout


def test_a_topic_that_was_read_and_is_gone_is_a_trouble_and_one_that_is_not_there_yet_is_none(
    ask: Ask, log: LogAddress, state: StreamState, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "log" / TOPIC)
    resting = ask("--set", f"state={tmp_path / 'new'}")
    assert (resting.exit_code, resting.stderr) == (0, "")
    commit(tmp_path / "state", state)
    gone = ask()
    assert (gone.exit_code, f"topic {TOPIC!r} does not exist" in gone.stderr) == (1, True)
