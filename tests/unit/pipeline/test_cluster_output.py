from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ray._private import worker  # noqa: PLC2701 - Ray prints by its function

from streamrec.errors import OperatorError
from streamrec.pipeline import cluster


def test_what_a_raylet_warns_of_is_no_line_of_a_jobs_output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: True)
    with cluster.ray_cluster():
        # As `listen_error_messages` does.
        worker.print_to_stdstream({"lines": ["20 PYTHON worker processes have been started"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    out, err = capsys.readouterr()
    assert (out, "20 PYTHON worker processes" in err) == ("", True)


def test_a_process_whose_parent_has_ended_is_no_orphan_of_its_own_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of `nohup`, a daemon or a container: it would end itself with SIGKILL, in the middle of its own end."""
    monkeypatch.setattr(cluster.psutil.Process, "ppid", lambda _: 1)
    with (tmp_path / "driver.log").open("w"), (tmp_path / "worker.log").open("w") as log:
        assert os.getpid() not in [process.pid for process in cluster._writers(tmp_path, orphans=True)]
        child = subprocess.Popen(["sleep", "60"], stdout=log)
        try:
            assert [process.pid for process in cluster._writers(tmp_path, orphans=True)] == [child.pid]
        finally:
            child.kill()
            child.wait()


def test_a_ray_that_does_not_start_in_time_is_told_in_a_paragraph_and_all_else_is_not_touched() -> None:
    late, other = Exception("The current node timed out during startup. This could happen because"), RuntimeError("another")
    with pytest.raises(OperatorError, match="Ray: its processes did not start within 30 s, see what else takes"), cluster._in_a_paragraph():
        raise late
    with pytest.raises(RuntimeError, match="another"), cluster._in_a_paragraph():
        raise other
