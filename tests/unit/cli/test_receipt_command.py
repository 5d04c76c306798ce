from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

import streamrec
from streamrec.cli import app
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.layout import checkpoint_url, registry_url
from streamrec.pipeline.lineage import Current, make_current
from streamrec.pipeline.receipts import receipt_key
from streamrec.registry.registry import Registry
from streamrec.state import ComponentState
from streamrec.storage import LocalStorage, open_storage


def run(folder: Path, event_id: str, *more: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["receipt", event_id, "--set", f"state={folder}", "--set", "log.broker=local", *more])
    return result.exit_code, result.stdout, result.stderr


def test_a_receipt_is_printed_with_what_the_broker_says_of_retention(tmp_path: Path) -> None:
    LocalStorage(tmp_path).write_new(receipt_key("default", "d/1"), json.dumps({"event_id": "d/1", "removed": {"histories": 3}}).encode())
    status, out, _ = run(tmp_path, "d/1")
    assert status == 0
    printed = json.loads(out)
    [receipt] = printed["receipts"]
    assert (receipt["lineage"], receipt["removed"]) == ("", {"histories": 3})
    assert printed["versions_not_before"] is None
    assert printed["retention_ms"] == {"streamrec.events": None, "streamrec.dead-letters": None}


def test_receipts_of_all_lineages_are_shown_oldest_first_and_the_version_is_what_the_registry_refuses(tmp_path: Path) -> None:
    """A deletion while a rebuild was under way: the old stream carried it out, and the new lineage, in its own time and numbers, once more."""
    left = {f"{tmp_path}": "remove it with --remove-old", "s3://elsewhere": "not reached"}
    old = {"event_id": "d1", "batch": 51, "removed": {"histories": 3, "lake": 12}, "lakes": {"a": 12}, "versions_not_before": "v00000051"}
    old["out_of_reach"] = {f"{tmp_path}/lineages/0002": "a rebuild that is not finished", "s3://elsewhere": "not reached"}
    new = {"event_id": "d1", "batch": 8, "removed": {}, "lakes": {"a": 0}, "versions_not_before": "v00000008", "out_of_reach": left}
    LocalStorage(tmp_path).write_new(receipt_key("default", "d1"), json.dumps(old).encode())
    [unfinished] = json.loads(run(tmp_path, "d1")[1])["receipts"]
    assert (unfinished["out_of_reach"], unfinished["reached_since"]) == (old["out_of_reach"], [])
    for key, value in ((receipt_key("default", "d1"), json.dumps(new).encode()), ("checkpoint/HEAD", b"{}")):
        LocalStorage(tmp_path / "lineages/0002").write_new(key, value)
    make_current(str(tmp_path), Current("lineages/0002", 2000), Current())
    registry = Registry(open_storage(registry_url(str(tmp_path))))
    registry.forget_before("v00000051", "d1")
    status, out, _ = run(tmp_path, "d1")
    assert status == 0
    printed = json.loads(out)
    first, second = printed["receipts"]
    assert (first["lineage"], first["removed"], second["lineage"]) == ("", {"histories": 3, "lake": 12}, "lineages/0002")
    assert (second["out_of_reach"], second["removed_since"]) == ({"s3://elsewhere": "not reached"}, [str(tmp_path)])
    assert (first["out_of_reach"], first["reached_since"]) == ({"s3://elsewhere": "not reached"}, [f"{tmp_path}/lineages/0002"])
    assert second["reached_since"] == []
    assert printed["versions_not_before"] == "v00000051"
    assert "v00000008" not in out


def test_pinned_versions_of_before_a_deletion_are_named_by_student_until_they_are_unpinned(tmp_path: Path) -> None:
    LocalStorage(tmp_path).write_new(receipt_key("default", "d1"), b"{}")
    storage = open_storage(registry_url(str(tmp_path)))
    registry, edge = Registry(storage), Registry(storage, "edge")
    for each in (registry, edge):
        for version in ("v00000001", "v00000002", "v00000009"):
            each.publish(version, {"x": np.zeros(1, np.float32)}, {})
    for each, version in ((registry, "v00000002"), (registry, "v00000009"), (edge, "v00000001")):
        each.pin(version)
    # No record of the deletion.
    assert json.loads(run(tmp_path, "d1", "--set", "students.edge.dim=4")[1])["pinned"] == {"default": None, "edge": None}
    for each in (registry, edge):
        each.forget_before("v00000009", "d1")
    _, out, err = run(tmp_path, "d1", "--set", "students.edge.dim=4")
    assert json.loads(out)["pinned"] == {"default": ["v00000002"], "edge": ["v00000001"]}
    assert "streamrec unpin v00000002 --student default" in err
    assert "streamrec unpin v00000001 --student edge" in err
    for each, version in ((registry, "v00000002"), (edge, "v00000001")):
        each.unpin(version)
    _, out, err = run(tmp_path, "d1", "--set", "students.edge.dim=4")
    assert (json.loads(out)["pinned"], "unpin" in err) == ({"default": [], "edge": []}, False)


def test_a_torn_record_of_deletions_is_said_and_the_receipt_is_shown(tmp_path: Path) -> None:
    LocalStorage(tmp_path).write_new(receipt_key("default", "d1"), b"{}")
    registry = Registry(storage := open_storage(registry_url(str(tmp_path))))
    storage.write_new(registry.deletions_address.removeprefix(f"{storage.address}/"), b"{")
    status, out, err = run(tmp_path, "d1")
    assert (status, json.loads(out)["versions_not_before"], json.loads(out)["pinned"]) == (0, None, {"default": None})
    assert err.count(registry.deletions_address) == 1


def test_a_receipt_lies_where_the_page_of_formats_says() -> None:
    names = r'["default", "caf\u00e9"]'
    page = (Path(streamrec.__file__).parents[1] / "docs" / "formats.md").read_text()
    assert f"`{names}`" in page
    assert receipt_key("default", "café") == f"deletions/{hashlib.sha256(names.encode()).hexdigest()}.json"


def test_a_broker_that_is_away_costs_the_retention_only(tmp_path: Path) -> None:
    LocalStorage(tmp_path).write_new(receipt_key("default", "d1"), b"{}")
    status, out, err = run(tmp_path, "d1", "--set", "log.broker=127.0.0.1:1")
    assert status == 0
    assert json.loads(out)["retention_ms"]["streamrec.events"] is None
    assert "127.0.0.1:1" in err


def test_a_deletion_that_was_not_carried_out_yet_has_none_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    status, _, err = run(tmp_path, "d2")
    assert status == 1
    assert "'d2'" in err
    assert "reached the event" in err
    assert "and its --namespace" in err


def test_a_deletion_without_a_receipt_is_told_how_far_the_stream_has_read(tmp_path: Path) -> None:
    store = CheckpointStore(open_storage(checkpoint_url(str(tmp_path))))
    store.acquire()
    store.commit({"stream": ComponentState({}, {"batch": 1, "offsets": {"0": 17}})}, {}, None)
    status, _, err = run(tmp_path, "d2")
    told = " ".join(err.split())
    assert status == 1
    assert "the stream has read up to streamrec.events/0/17; one before these was read already, and its receipt is gone" in told


def test_a_torn_receipt_is_named_with_what_to_do(tmp_path: Path) -> None:
    key = receipt_key("default", "d1")
    LocalStorage(tmp_path).write_new(key, b'{"event_id": "d1", "remo')
    status, out, err = run(tmp_path, "d1")
    assert (status, out) == (1, "")
    assert f"Receipt: one can't be read, {tmp_path}/{key}" in err
    assert "restore it from a copy; without one ask once more with `streamrec delete-user`" in err


def test_an_id_that_was_copied_without_its_beginning_finds_its_receipt(tmp_path: Path) -> None:
    whole = "deletion:c5ad3d82-0000-4000-8000-000000000000"
    LocalStorage(tmp_path).write_new(receipt_key("default", whole), json.dumps({"event_id": whole, "removed": {}}).encode())
    status, out, _ = run(tmp_path, whole.removeprefix("deletion:"))
    assert (status, json.loads(out)["event_id"]) == (0, whole)
    status, _, err = run(tmp_path, "c5ad3d82")
    assert (status, "that `streamrec delete-user` printed (deletion:…)" in " ".join(err.split())) == (1, True)
