from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamrec.errors import Damaged
from streamrec.state import ComponentState
from streamrec.storage import LocalStorage
from streamrec.teachers.store import TeacherStore


def test_versions_older_than_the_oldest_needed_one_go_whole_and_the_others_stay(tmp_path: Path) -> None:
    store = TeacherStore(storage := LocalStorage(tmp_path))
    for teacher in ("linear", "transformer"):
        for number in range(1, 4):
            store.publish(teacher, f"v0000000{number}", ComponentState({"weights": np.full(3, number, np.float32)}), {})
    storage.write_new("teachers/linear/v00000001/window.safetensors", b"asked for")
    store.prune({"linear": "v00000003", "text": "v00000001"})
    assert {key.split("/")[2] for key in storage.list("teachers/linear")} == {"v00000003"}
    assert store.load("linear", "v00000003").arrays["weights"][0] == 3
    assert all(store.exists("transformer", f"v0000000{number}") for number in range(1, 4))
    with pytest.raises(Damaged, match="linear v00000002 is lost"):
        store.load("linear", "v00000002")


@pytest.mark.parametrize("torn", [b"", b'{"format": 2, "sha2', bytes(40), b"\xff\xfe", b"{}", b"null", b"[]", b'{"sha256": 1, "facts": []}'])
def test_a_torn_manifest_is_named_with_its_remedy(tmp_path: Path, torn: bytes) -> None:
    store = TeacherStore(LocalStorage(tmp_path))
    store.publish("linear", "v00000003", ComponentState({"weights": np.ones(3, np.float32)}), {})
    path = tmp_path / "teachers" / "linear" / "v00000003" / "manifest.json"
    path.write_bytes(torn)
    for read in (store.facts, store.load, store.cost_s):
        with pytest.raises(Damaged, match=f"{path}, got .*, restore that file from a copy"):
            read("linear", "v00000003")
