from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import ray.data

from streamrec.events.schema import EVENT
from streamrec.log.lake import EventLake
from streamrec.log.lake_table import lake_rows

# pyarrow's, as Ray Data calls it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_ray_data_reads_the_lake_without_us(ray_cluster: None, tmp_path: Path) -> None:
    rows = [{"kind": "interaction", "namespace": f"n{n % 2}", "event_time": n * 86_400_000, "partition": 0, "offset": n} for n in range(6)]
    lake = EventLake(str(tmp_path), lambda: "one")
    lake.append(lake_rows(pa.Table.from_pylist(rows, schema=EVENT), "events", 1), 1)
    found = ray.data.read_delta(str(tmp_path)).take_all()
    assert sorted((row["namespace"], row["offset"]) for row in found) == sorted((row["namespace"], row["offset"]) for row in rows)
