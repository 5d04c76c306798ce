from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import rebuild


def test_what_an_unfinished_rebuild_has_made_is_dropped_without_ray_or_broker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = tmp_path / "state" / "lineages" / "0002" / "checkpoint" / "LINEAGE"
    begun.parent.mkdir(parents=True)
    begun.write_text('{"lineage": "abc"}')
    for said in ("removing lineages/0002, whose rebuild was not finished", "no rebuild is unfinished"):
        assert rebuild.main(["--drop", "--set", f"state={tmp_path / 'state'}"]) == 0
        told = capsys.readouterr()
        assert json.loads(told.out) == {"lineage": ""}
        assert said in told.err
        assert not begun.exists()
