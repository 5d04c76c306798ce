from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from streamrec.cli import app
from streamrec.evaluation.worth import Giver, Worth
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.saving import Saver
from streamrec.storage import open_storage


def test_a_row_for_each_version_and_source_as_of_the_newest_commit(tmp_path: Path) -> None:
    state, given = str(tmp_path / "state"), Worth()
    asked = ["worth", "--set", f"state={state}"]
    nothing = CliRunner().invoke(app, asked)
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    for number in range(100):
        given.add(Giver("default", "v00000012", "student"), 1.0, int(number < 10))
    given.add(Giver("default", "v00000013", "popular"), 1.0, 0)
    store = CheckpointStore(open_storage(checkpoint_url(state)))
    store.acquire()
    Saver(store, {"worth": given}).commit(1, {"counts": {}})
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0
    assert shown.stdout.splitlines() == [
        "default  v00000013  popular   0 of 1 taken, 0.00% (0.00 to 79.35%)",
        "default  v00000012  student   10 of 100 taken, 10.00% (5.52 to 17.44%)",
    ]
    assert "within 300 s" in shown.stderr
    rows = [json.loads(line) for line in CliRunner().invoke(app, [*asked, "--json"]).stdout.splitlines()]
    assert rows == given.facts()
