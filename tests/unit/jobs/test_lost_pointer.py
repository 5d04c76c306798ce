"""Start every job on a state whose pointer is lost: it ends before Ray, a broker or the state is touched."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from jobs import bootstrap, rebuild, refresh_teachers, stream
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.state import ComponentState
from streamrec.storage import LocalStorage

JOBS = {"stream": stream.main, "bootstrap": bootstrap.main, "rebuild": rebuild.main, "refresh": refresh_teachers.main}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    store = CheckpointStore(LocalStorage(tmp_path / "state" / "checkpoint"))
    store.acquire()
    store.commit({"a": ComponentState({"a": np.zeros(2)})}, {}, None)
    return tmp_path / "state"


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_a_job_begins_no_state_anew_whose_pointer_is_lost(
    state: Path, job: Callable[[Sequence[str]], int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamrec.pipeline.session.log_address", lambda *_: pytest.fail("a broker was looked for"))
    (state / "checkpoint" / "HEAD").unlink()
    before = sorted(state.rglob("*"))
    assert job(["--set", f"state={state}"]) == 1
    told = capsys.readouterr().err
    assert f"the pointer is lost, {state}/checkpoint/HEAD, got no such file beside 1 commits" in told
    assert "restore that file from a copy" in told
    assert sorted(state.rglob("*")) == before


@pytest.mark.parametrize("left", ["plans/00000002.json", "teachers/linear/v1/manifest.json", "deletions/a.json", "lakes/b.json"])
@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_a_job_takes_no_state_for_new_whose_checkpoint_is_gone(
    state: Path, job: Callable[[Sequence[str]], int], left: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamrec.pipeline.session.log_address", lambda *_: pytest.fail("a broker was looked for"))
    shutil.rmtree(state / "checkpoint")
    (state / left).parent.mkdir(parents=True)
    (state / left).write_text("{}", encoding="utf-8")
    before = sorted(state.rglob("*"))
    assert job(["--set", f"state={state}"]) == 1
    told = capsys.readouterr().err
    assert f"Checkpoint: it is lost, {state}/checkpoint, got nothing there beside 1 in {left.partition('/')[0]}/" in told
    assert "restore that folder from a copy; to begin anew rename the state's folder" in told
    assert sorted(state.rglob("*")) == before
