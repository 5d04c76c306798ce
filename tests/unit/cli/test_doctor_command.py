from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from redis_server import RedisServer, needs_redis
from typer.testing import CliRunner, Result

from streamrec.cli import app
from streamrec.config import LogConfig
from streamrec.errors import Damaged
from streamrec.events.schema import EVENT
from streamrec.log.base import LogAddress, Record
from streamrec.log.connect import open_writer
from streamrec.log.lake import EventLake
from streamrec.log.lake_table import lake_rows
from streamrec.log.local import LocalAdmin
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.commit import CommitId
from streamrec.pipeline.examine import Finding, Verdict
from streamrec.pipeline.layout import checkpoint_url, lineage_folder, registry_url
from streamrec.pipeline.lineage import Current, lineage_of, make_current
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.rebuild_record import Record as RebuildRecord
from streamrec.pipeline.receipts import receipt_key
from streamrec.registry.registry import Registry
from streamrec.state import ComponentState
from streamrec.storage import open_storage
from streamrec.teachers.store import TeacherStore


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAMREC_CONFIG", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_a_log_of_files_needs_neither_broker_nor_java(tmp_path: Path) -> None:
    result = doctor("--broker", "local", "--json")
    assert result.exit_code == 0, result.stdout + result.stderr
    findings = [json.loads(line) for line in result.stdout.splitlines()]
    assert {finding["verdict"] for finding in findings} <= {"OK", "WARN"}
    assert [finding["check"] for finding in findings][:4] == ["python", "state", "clock", "broker"]
    assert {"storage", "clock", "free space", "ray"} <= {finding["check"] for finding in findings}
    assert [path for path in (tmp_path / "runs").rglob("*") if path.is_file() and path.name != ".lock"] == []


def test_files_with_other_partitions_than_configured_fail_with_their_remedy(log: LogAddress) -> None:
    result = doctor("--broker", str(log), "--set", "log.num_partitions=5")
    assert result.exit_code == 1
    assert "FAIL  topic streamrec.events: 2 partitions, log.num_partitions = 5: jobs refuse to start" in result.stdout
    assert "      → set log.num_partitions = 2, or choose another log.events_topic" in result.stdout


def test_traces_without_their_extra_fail_before_a_job_does(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--broker", "local", "--set", "telemetry.traces_endpoint=http://127.0.0.1:4318")
    assert "OK    traces: go to http://127.0.0.1:4318" in doctor(*words).stdout
    monkeypatch.delitem(sys.modules, "streamrec.telemetry.otlp", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    result = doctor(*words)
    assert result.exit_code == 1
    assert "FAIL  traces: " in result.stdout
    assert "→ run `pip install 'streamrec[otel]'` on every node, or leave the setting out" in result.stdout


@needs_redis
def test_the_redis_of_histories_is_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    words = ("--broker", "local", "--set", "serving.histories=redis", "--set", f"serving.redis_url={redis.url}")
    try:
        found = doctor(*words)
        assert f"OK    histories: {redis.url}, Redis " in found.stdout
        bounded = RedisServer(tmp_path, "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
        found = doctor(*words[:-1], f"serving.redis_url={bounded.url}")
        bounded.kill()
        assert "which holds 67108864 bytes with maxmemory-policy allkeys-lru" in found.stdout
        assert "→ set maxmemory-policy volatile-lru" in found.stdout
    finally:
        redis.kill()
    found = doctor(*words)
    assert found.exit_code == 1
    assert "FAIL  histories: Histories: Redis does not answer" in found.stdout
    assert "→ see that it runs and lets this server in" in found.stdout
    monkeypatch.setattr("streamrec.serving.redis_connection.HAS_REDIS", False)
    assert "→ run `pip install 'streamrec[redis]'` on each node" in doctor(*words).stdout


@pytest.mark.parametrize(("verdict", "status"), [(Verdict.OK, 0), (Verdict.WARN, 0), (Verdict.FAIL, 1)])
def test_only_a_failure_is_an_exit_status(monkeypatch: pytest.MonkeyPatch, verdict: Verdict, status: int) -> None:
    def survey(*_: object) -> Iterator[Finding]:
        yield Finding("this", verdict, "that", "" if verdict is Verdict.OK else "do it")

    monkeypatch.setattr("streamrec.cli.doctor.survey", survey)
    result = doctor()
    assert result.exit_code == status
    assert f"1 {verdict}" in result.stderr
    assert ("→ do it" in result.stdout) == (verdict is not Verdict.OK)


def test_a_downtime_that_is_no_duration_is_refused() -> None:
    result = doctor("--longest-downtime", "long")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--longest-downtime is no duration (got 'long'" in result.stderr


def test_a_state_that_can_not_be_written_fails_and_the_other_checks_go_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = doctor("--broker", f"local://{tmp_path}/log", "--set", f"state={tmp_path}/file/state")
    assert result.exit_code == 1
    assert "FAIL  storage: Storage: could not write" in result.stdout
    assert "ray: " in result.stdout


def test_the_doctor_leaves_no_folder_that_it_made(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for state in ("there/a/b", "there"):
        assert doctor("--broker", "local", "--set", f"state={state}").exit_code == 0
    assert [path for path in tmp_path.rglob("*") if not path.name.startswith(".")] == [tmp_path / "there"]


@pytest.mark.parametrize("broker", ["auto", "embedded"])
def test_the_doctor_says_which_broker_is_meant(broker: str) -> None:
    findings = [json.loads(line) for line in doctor("--broker", broker, "--json").stdout.splitlines()]
    assert "the embedded Kafka" in next(finding["found"] for finding in findings if finding["check"] == "broker")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state whose second lineage is current, and a third is being made."""
    state = tmp_path / "there"
    for number in (2, 3):
        lineage = open_storage(f"{state}/{lineage_folder(number)}")
        RebuildRecord("", None, {}, {}, {}, 1, {}, "").write(lineage)
        checkpoint = open_storage(checkpoint_url(lineage.address))
        store = CheckpointStore(checkpoint)
        store.acquire()
        store.commit({"stream": ComponentState({}, {"batch": number, "teachers": {"linear": "v1"}, "challengers": {"linear": "v2"}})}, {}, None)
        for version in ("v1", "v2"):
            TeacherStore(lineage).publish("linear", version, ComponentState(), {})
        lineage_of(lineage.address)
        PlanStore(lineage).write({"batch": number}, number)
    make_current(str(state), Current(lineage_folder(2), 2000), Current())
    return state


def readable(state: Path, check: str = "state can be read") -> list[tuple[str, str, str]]:
    findings = map(json.loads, doctor("--broker", "local", "--set", f"state={state}", "--json").stdout.splitlines())
    return [(finding["verdict"], finding["found"], finding["remedy"]) for finding in findings if finding["check"] == check]


@pytest.mark.parametrize(
    "torn",
    [
        "CURRENT",
        "lineages/0002/checkpoint/HEAD",
        "lineages/0002/checkpoint/commits/00000001.json",
        "lineages/0002/checkpoint/LINEAGE",
        "lineages/0002/REBUILD",
        "lineages/0002/plans/00000002.json",
        "lineages/0003/REBUILD",
        "lineages/0002/teachers/linear/v1/manifest.json",
        "lineages/0002/teachers/linear/v2/manifest.json",
    ],
)
def test_what_is_torn_of_a_state_is_told_by_file_with_its_remedy(state: Path, torn: str) -> None:
    assert readable(state) == [("OK", str(state), "")]
    (state / torn).write_bytes(b"{")
    [(verdict, found, remedy)] = readable(state)
    assert verdict == "FAIL"
    assert str(state / torn) in found
    assert remedy.startswith("restore")
    assert remedy not in found


def weights(state: Path, version: str) -> Path:
    [found] = (state / f"lineages/0002/teachers/linear/{version}").glob("weights-*.safetensors")
    return found


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("is_there", [False, True])
def test_damaged_weights_of_a_teacher_that_the_newest_commit_names_stop_the_stream_and_so_the_doctor(
    state: Path, version: str, is_there: bool
) -> None:
    path = weights(state, version)
    path.unlink()
    if is_there:
        path.write_bytes(b"other")
    [(verdict, found, remedy)] = readable(state)
    assert (verdict, str(path) in found) == ("FAIL", True)
    assert f"or remove the folder {path.parent}: the stream goes on without it" in remedy
    shutil.rmtree(path.parent)
    [(verdict, found, remedy)] = readable(state)
    assert (verdict, f"linear {version} is lost" in found) == ("WARN", True)
    assert "let the stream go on without it" in remedy


def test_a_lost_version_of_a_teacher_that_a_stored_plan_uses_stops_the_stream_and_so_the_doctor(state: Path) -> None:
    PlanStore(open_storage(f"{state}/lineages/0002")).write({"batch": 3, "teachers": {"linear": "v1"}}, 3)
    shutil.rmtree(weights(state, "v1").parent)
    [(verdict, found, remedy)] = readable(state)
    assert (verdict, "the stored plan of batch 3 uses it" in found) == ("FAIL", True)
    assert "jobs.rebuild" in remedy


def test_a_lost_pointer_is_told_and_the_exit_status_is_1(state: Path) -> None:
    (state / "lineages/0002/checkpoint/HEAD").unlink()
    result = doctor("--broker", "local", "--set", f"state={state}")
    assert result.exit_code == 1
    assert f"FAIL  state can be read: Checkpoint: the pointer is lost, {state}/lineages/0002/checkpoint/HEAD" in result.stdout
    assert "→ restore that file from a copy" in result.stdout


def test_a_checkpoint_that_is_gone_is_told_by_its_name(state: Path) -> None:
    shutil.rmtree(state / "lineages/0002/checkpoint")
    result = doctor("--broker", "local", "--set", f"state={state}")
    assert result.exit_code == 1
    assert f"FAIL  state can be read: Checkpoint: it is lost, {state}/lineages/0002/checkpoint" in result.stdout
    assert "WARN  lake: not looked at, because the state can't be read" in result.stdout
    assert "→ restore that folder from a copy" in result.stdout


def test_a_teacher_whose_model_is_not_here_fails_before_anything_starts() -> None:
    settings = ["--set", 'teachers.enabled=["text"]', "--set", "teachers.text.model=no-such-model"]
    result = doctor("--broker", "local", *settings)
    assert result.exit_code == 1
    assert "FAIL  teachers: Config: teachers.text.model is not here, got 'no-such-model'" in result.stdout.replace("\n", " ").replace("        ", " ")


def found(check: str, *arguments: str) -> list[tuple[str, str, str]]:
    findings = map(json.loads, doctor("--broker", "local", "--json", *arguments).stdout.splitlines())
    return [(finding["verdict"], finding["found"], finding["remedy"]) for finding in findings if finding["check"] == check]


@pytest.mark.parametrize("address", ["ftp://x/y", "file/lake"])
def test_a_lake_that_can_not_be_written_fails_with_its_address(tmp_path: Path, address: str) -> None:
    (tmp_path / "file").write_text("in the way")
    ((verdict, what, remedy),) = found("lake", "--set", f"lake.address={address}")
    assert verdict == "FAIL"
    assert address in what
    assert remedy


def test_a_lake_whose_table_is_gone_torn_or_older_than_the_checkpoint_fails(tmp_path: Path) -> None:
    state, lake = tmp_path / "there", tmp_path / "events"
    settings = ("--set", f"state={state}", "--set", f"lake.address={lake}")
    assert found("lake", *settings) == [("OK", f"{lake}: not there yet", "")]
    assert not lake.exists()
    checkpoint = open_storage(checkpoint_url(str(state)))
    store = CheckpointStore(checkpoint)
    store.acquire()
    name = lineage_of(str(state))
    held = {"stream": ComponentState({}, {"batch": 2}), "lake": ComponentState({}, {"address": str(lake), "batch": 2})}
    store.commit(held, {}, None)
    event = {"kind": "interaction", "namespace": "n", "user_id": "u", "event_time": 5, "partition": 0, "offset": 7}
    rows = [lake_rows(pa.Table.from_pylist([event], schema=EVENT), "t", batch) for batch in (1, 2)]
    table = EventLake(str(lake), lambda: name)
    table.append(rows[0], 1)
    ((verdict, what, remedy),) = found("lake", *settings)
    assert (verdict, what) == ("FAIL", f"{lake}: its rows end at batch 1, the checkpoint counts on those up to batch 2")
    assert "restore it from a copy" in remedy
    table.append(rows[1], 2)
    assert found("lake", *settings) == [("OK", f"{lake}: rows up to batch 2", "")]
    assert not (lake / ".lock").exists()
    entry = max((lake / "_delta_log").glob("*.json"))
    whole = entry.read_bytes()
    entry.write_bytes(whole[:20])
    ((verdict, what, _),) = found("lake", *settings)
    assert (verdict, str(entry) in what) == ("FAIL", True)
    entry.write_bytes(whole)
    first = lake / "_delta_log" / f"{1:020d}.json"
    whole = first.read_bytes()
    first.write_bytes(b"")
    ((verdict, what, remedy),) = found("lake", *settings)
    assert (verdict, str(first) in what) == ("FAIL", True)
    assert remedy.startswith("restore that file from a copy")
    first.write_bytes(whole)
    (lake / "_delta_log").rename(lake / "away")
    ((verdict, what, _),) = found("lake", *settings)
    assert (verdict, what) == ("FAIL", f"{lake}: there is no table, the checkpoint counts on those up to batch 2")


def test_a_torn_manifest_of_the_live_version_and_a_torn_alias_are_named(state: Path) -> None:
    check = "versions of student default"
    registry = Registry(open_storage(registry_url(str(state))))
    registry.publish("v2", {"w": np.zeros(3, np.float32)}, {})
    registry.promote("v2", "first")
    assert [verdict for verdict, *_ in readable(state, check)] == ["OK"]
    alias, manifest = (Path(registry_url(str(state))) / "default" / name for name in ("alias/live", "versions/v2/manifest.json"))
    whole = alias.read_bytes()
    alias.write_bytes(b"")
    ((verdict, what, remedy),) = readable(state, check)
    assert (verdict, str(alias) in what) == ("WARN", True)
    assert "from the history" in remedy
    alias.unlink()
    ((verdict, what, remedy),) = readable(state, check)
    assert (verdict, f"the alias is lost, {alias}" in what, "from the history" in remedy) == ("WARN", True, True)
    alias.write_bytes(whole)
    manifest.write_bytes(b"{")
    ((verdict, what, remedy),) = readable(state, check)
    assert (verdict, str(manifest) in what) == ("FAIL", True)
    assert remedy == "restore that file from a copy"
    (Path(registry_url(str(state))) / "default" / "history" / "00000001.json").unlink()
    alias.write_bytes(b"")
    ((verdict, what, _),) = readable(state, check)
    assert (verdict, str(alias) in what) == ("FAIL", True)


def test_a_lost_version_that_the_newest_commit_compares_with_stops_the_stream_and_so_the_doctor_and_a_lost_candidate_is_warned_of(
    tmp_path: Path,
) -> None:
    state, registry = tmp_path / "there", Registry(open_storage(registry_url(str(tmp_path / "there"))))
    for version in ("v2", "v3", "v4"):
        registry.publish(version, {"w": np.zeros(3, np.float32)}, {})
    registry.promote("v2", "first")
    registry.promote("v3", "of a step that is executed again")
    commit(state, {"live": "v2", "candidate": "v4"})
    assert readable(state) == [("OK", str(state), "")]
    live, candidate = (Path(registry_url(str(state))) / "default" / "versions" / version / "manifest.json" for version in ("v2", "v4"))
    whole = candidate.read_bytes()
    candidate.unlink()
    ((verdict, what, _),) = readable(state)
    assert (verdict, "version 'v4' is lost" in what) == ("WARN", True)
    candidate.write_bytes(whole)
    live.unlink()
    ((verdict, what, remedy),) = readable(state)
    assert (verdict, "version 'v2' is lost" in what) == ("FAIL", True)
    assert "jobs.rebuild --anew" in remedy


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_damaged_weights_of_the_live_version_are_named(state: Path, damage: str) -> None:
    check = "versions of student default"
    registry = Registry(open_storage(registry_url(str(state))))
    registry.publish("v2", {"w": np.arange(300, dtype=np.float32)}, {})
    registry.promote("v2", "first")
    assert [verdict for verdict, *_ in readable(state, check)] == ["OK"]
    (blob,) = (Path(registry_url(str(state))) / "default" / "blobs").iterdir()
    if damage == "gone":
        blob.unlink()
    else:
        data = bytearray(blob.read_bytes())
        data[-1] ^= 1
        blob.write_bytes(data)
    ((verdict, what, remedy),) = readable(state, check)
    assert (verdict, blob.name in what) == ("FAIL", True)
    assert "restore that file from a copy" in remedy


def versions_of(state: Path, *more: str) -> dict[str, tuple[str, str]]:
    findings = map(json.loads, doctor("--broker", "local", "--set", f"state={state}", "--json", *more).stdout.splitlines())
    prefix = "versions of student "
    return {one["check"].removeprefix(prefix): (one["verdict"], one["found"]) for one in findings if one["check"].startswith(prefix)}


@pytest.fixture
def students(tmp_path: Path) -> Path:
    """A state with versions of three students."""
    for student in ("default", "edge", "gone"):
        registry = Registry(open_storage(registry_url(str(tmp_path / "state"))), student)
        for version in ("v1", "v2"):
            registry.publish(version, {"weights": np.full(2, len(version), np.float32)}, {"student": student})
            registry.promote(version, "a test")
    return tmp_path / "state"


def test_all_students_versions_are_looked_at_configured_or_not_and_each_finding_names_its_student(students: Path) -> None:
    edge = ("--set", "students.edge.dim=8", "--set", "students.new.dim=8")
    sound = {"default": "v2 is live", "edge": "v2 is live", "new": "none is live", "gone": "v2 is live; it is configured no more"}
    assert versions_of(students, *edge) == {student: ("OK", found) for student, found in sound.items()}
    for student in ("edge", "gone"):
        (students / "registry" / student / "versions/v2/manifest.json").write_text("{")
    found = versions_of(students, *edge)
    assert {student: verdict for student, (verdict, _) in found.items()} == {"default": "OK", "edge": "FAIL", "new": "OK", "gone": "WARN"}
    assert f"{students}/registry/edge/versions/v2/manifest.json" in found["edge"][1]
    assert f"{students}/registry/gone/versions/v2/manifest.json" in found["gone"][1]


def test_a_lost_record_of_deletions_fails_where_receipts_say_that_there_were_some(students: Path) -> None:
    open_storage(str(students)).write_new(receipt_key("default", "d1"), b"{}")
    for student in ("default", "edge", "gone"):
        Registry(open_storage(registry_url(str(students))), student).forget_before("v1")
    assert {verdict for verdict, _ in versions_of(students).values()} == {"OK"}
    (students / "registry/default/forgotten").unlink()
    verdict, found = versions_of(students)["default"]
    assert (verdict, "the record of deletions is gone, and receipts say that there were some" in found) == ("FAIL", True)


def test_a_torn_manifest_behind_the_live_version_and_a_torn_receipt_are_warned_of(students: Path) -> None:
    torn = students / "registry/default/versions/v1/manifest.json"
    torn.write_text("{")
    verdict, found = versions_of(students)["default"]
    assert (verdict, str(torn) in found) == ("WARN", True)
    key = receipt_key("default", "d1")
    open_storage(str(students)).write_new(key, b'{"event')
    found, remedy = next((found, remedy) for verdict, found, remedy in readable(students) if verdict == "WARN")
    assert (f"{students}/{key}" in found, "streamrec delete-user" in remedy) == (True, True)


def test_a_torn_alias_of_a_further_student_is_told(students: Path) -> None:
    (students / "registry/edge/alias/live").write_text("{")
    verdict, found = versions_of(students, "--set", "students.edge.dim=8")["edge"]
    assert (verdict, f"{students}/registry/edge/alias/live" in found) == ("WARN", True)


def test_what_a_deletion_has_withdrawn_with_its_student_is_no_damage(students: Path) -> None:
    gone = Registry(open_storage(registry_url(str(students))), "gone")
    gone.forget_before("v3")
    gone.withdraw_before("v3")
    assert "gone" not in versions_of(students)
    assert versions_of(students, "--set", "students.gone.dim=8")["gone"] == ("OK", "none is live")


EVENTS = LogConfig().events_topic


def commit(state: Path, meta: dict[str, object], previous: CommitId | None = None) -> CheckpointStore:
    """Begin a state by two commits that share the component `vocabulary`; each has a `student` of its own."""
    store = CheckpointStore(open_storage(checkpoint_url(str(state))))
    store.acquire()
    for number in (1, 2):
        own = ComponentState({"w": np.full(5, number, np.float32)})
        vocabulary = None if previous else ComponentState({"ids": np.arange(7)})
        previous = store.commit({"stream": ComponentState({}, {"batch": number, **meta}), "student": own, "vocabulary": vocabulary}, {}, previous)
    lineage_of(str(state))
    return store


def flip(state: Path, store: CheckpointStore, component: str, number: int) -> None:
    digest = store.entries(CommitId(number))[component].base.sha256
    [path] = (path for path in (state / "checkpoint/blobs").rglob("*") if path.name == digest)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_a_damaged_blob_that_all_commits_share_stops_the_stream_and_so_the_doctor(tmp_path: Path) -> None:
    state = tmp_path / "there"
    store = commit(state, {})
    assert readable(state) == [("OK", str(state), "")]
    flip(state, store, "vocabulary", 2)
    with pytest.raises(Damaged) as stop:
        CheckpointStore(open_storage(checkpoint_url(str(state)))).load_newest()
    [(verdict, what, remedy)] = readable(state)
    assert (verdict, f"{what}, {remedy}") == ("FAIL", " ".join(str(stop.value).split()))
    assert what.startswith("Checkpoint: none of the 2 commits at")


def test_a_damaged_blob_of_the_newest_commit_alone_is_a_warning_that_names_the_one_that_the_stream_starts_from(tmp_path: Path) -> None:
    state = tmp_path / "there"
    flip(state, commit(state, {}), "student", 2)
    [(verdict, what, remedy)] = readable(state)
    assert (verdict, what.startswith("Checkpoint: the stream would fall back to commit 1, got commit 2: ")) == ("WARN", True)
    assert remedy.startswith("restore what is damaged from a copy before the start")
    assert remedy not in what


def test_a_plan_that_is_lost_among_those_beyond_the_newest_commit_stops_the_stream_and_so_the_doctor(tmp_path: Path) -> None:
    state = tmp_path / "there"
    commit(state, {})
    plans = PlanStore(open_storage(str(state)))
    for batch in range(3, 7):
        plans.write({"batch": batch, "teachers": {}}, batch)
    assert readable(state) == [("OK", str(state), "")]
    (state / "plans/00000004.json").unlink()
    [(verdict, what, remedy)] = readable(state)
    assert (verdict, f"Plan: that of batch 4 is lost, {state}/plans/00000004.json" in what) == ("FAIL", True)
    assert "jobs.rebuild --anew" in remedy


def test_a_plan_that_is_lost_is_told_once_where_rows_of_its_batch_are_in_the_lake(tmp_path: Path) -> None:
    state, lake = tmp_path / "there", tmp_path / "events"
    commit(state, {})
    name = lineage_of(str(state))
    event = {"kind": "interaction", "namespace": "n", "user_id": "u", "event_time": 5, "partition": 0, "offset": 7}
    EventLake(str(lake), lambda: name).append(lake_rows(pa.Table.from_pylist([event], schema=EVENT), "t", 3), 3)
    ((verdict, what, _),) = found("state can be read", "--set", f"state={state}", "--set", f"lake.address={lake}")
    assert (verdict, "Plan: that of batch 3 is lost" in what, f"rows up to batch 3 in the lake at {lake}" in what) == ("FAIL", True, True)


def topic_findings(log: LogAddress, state: Path) -> list[tuple[str, str, str]]:
    arguments = ("--broker", str(log), "--set", f"state={state}", "--set", "log.num_partitions=2", "--json")
    findings = map(json.loads, doctor(*arguments).stdout.splitlines())
    return [(finding["verdict"], finding["found"], finding["remedy"]) for finding in findings if finding["check"] == f"topic {EVENTS}"]


def append(log: LogAddress, num: int) -> None:
    open_writer(log, LogConfig()).append(EVENTS, [Record(None, b"{}", partition=partition) for partition in (0, 1) for _ in range(num)])


def test_records_that_left_the_log_before_they_were_read_fail_with_what_going_on_would_book(log: LogAddress, tmp_path: Path) -> None:
    append(log, 7)
    append(log, 2)  # A segment of its own.
    commit(tmp_path / "there", {"offsets": {"0": 3, "1": 9}})
    assert topic_findings(log, tmp_path / "there") == [("OK", "2 partitions", "")]
    LocalAdmin(tmp_path / "log").drop_before(EVENTS, {0: 7, 1: 9})
    _, (verdict, what, remedy) = topic_findings(log, tmp_path / "there")
    assert (verdict, what) == ("FAIL", f"Log: {EVENTS}[0] no longer holds what comes next, got offset 3, allowed 7 or later")
    assert "jobs.stream --skip-lost, which goes on at offset 7 and books 4 records as lost" in remedy


def test_a_torn_segment_fails_if_the_stream_reads_it_next(log: LogAddress, tmp_path: Path) -> None:
    append(log, 7)
    append(log, 2)
    read, next_one = sorted((tmp_path / "log" / EVENTS / "0").glob("*-*"))
    commit(tmp_path / "there", {"offsets": {"0": 7, "1": 9}})
    read.write_bytes(b"")
    assert topic_findings(log, tmp_path / "there") == [("OK", "2 partitions", "")]
    next_one.write_bytes(next_one.read_bytes()[:40])
    _, (verdict, what, remedy) = topic_findings(log, tmp_path / "there")
    assert (verdict, f"the segment {next_one} is torn" in what, "restore it from a copy" in remedy) == ("FAIL", True, True)


def test_a_topic_that_was_made_anew_or_is_gone_fails_as_the_stream_would(log: LogAddress, tmp_path: Path) -> None:
    append(log, 2)
    commit(tmp_path / "there", {"offsets": {"0": 3, "1": 2}})
    _, (verdict, what, remedy) = topic_findings(log, tmp_path / "there")
    assert (verdict, "was made anew" in what, "partition 0 ends at 2, before offset 3" in what) == ("FAIL", True, True)
    assert "jobs.stream --skip-lost" in remedy
    shutil.rmtree(tmp_path / "log" / EVENTS)
    _, (verdict, what, _) = topic_findings(log, tmp_path / "there")
    assert (verdict, "partition 1 ends at 0, before offset 2" in what) == ("FAIL", True)


@pytest.mark.parametrize(("gone", "is_read"), [((0,), False), ((0,), True), ((1,), True), ((0, 1), True)])
def test_the_folder_of_a_partition_that_is_gone_is_to_be_restored(log: LogAddress, tmp_path: Path, gone: tuple[int, ...], is_read: bool) -> None:
    append(log, 2)
    if is_read:
        commit(tmp_path / "there", {"offsets": {"0": 2, "1": 2}})
    paths = [tmp_path / "log" / EVENTS / str(number) for number in gone]
    for path in paths:
        shutil.rmtree(path)
    [(verdict, what, remedy)] = topic_findings(log, tmp_path / "there")
    assert (verdict, all(str(path) in what for path in paths)) == ("FAIL", True)
    assert remedy == "restore that from a copy of the log, and leave log.num_partitions as it is"


def test_a_topic_without_any_partition_is_never_a_reason_to_configure_none(log: LogAddress, tmp_path: Path) -> None:
    for number in (0, 1):
        shutil.rmtree(tmp_path / "log" / EVENTS / str(number))
    [(verdict, _, remedy)] = topic_findings(log, tmp_path / "there")
    assert (verdict, "num_partitions" in remedy, remedy.startswith("restore its partitions")) == ("FAIL", False, True)
