"""Namespaces are partitions of the lake: what their names may hold comes back as it was, also to a reader that knows the format alone."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from streamrec.events.schema import EVENT
from streamrec.log.lake import EventLake
from streamrec.log.lake_table import lake_rows


@pytest.mark.parametrize("name", ["__HIVE_DEFAULT_PARTITION__", "null", "a/b=c%2F", " x ", "é'\"", "商" * 27])
def test_a_namespace_with_an_odd_name_is_carried_and_its_users_are_deleted(tmp_path: Path, name: str) -> None:
    lake = EventLake(str(tmp_path / "lake"), lambda: "x")
    of_all: dict[str, object] = {**dict.fromkeys(EVENT.names), "kind": "interaction", "user_id": "u", "item_id": "i", "event_type": "click"}
    rows = [
        of_all | {"namespace": each, "event_id": each, "event_time": 5, "partition": 0, "offset": at} for at, each in enumerate(("default", name))
    ]
    lake.append(lake_rows(pa.Table.from_pylist(rows, schema=EVENT), "t", 1), 1)
    assert lake.rows(0, 0, 9)["namespace"].to_pylist() == ["default", name]
    dataset = DeltaTable(lake.address).to_pyarrow_dataset()
    assert dataset.to_table(filter=pc.field("namespace") == name)["event_id"].to_pylist() == [name]
    assert lake.delete_user(name, "u") == 1
    assert lake.rows(0, 0, 9)["namespace"].to_pylist() == ["default"]
