"""What ends with the last application of a cluster's Serve."""

from __future__ import annotations

import sys

import pytest

from serve import sharing


def test_what_ray_says_of_a_controller_that_was_meant_to_end_is_told_to_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = []

    def end_serve() -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.write("(raylet) Task ServeController.graceful_shutdown failed.\n")
        ended.append(True)

    monkeypatch.setattr(sharing, "running_address", lambda: ("127.0.0.1", 8000))
    monkeypatch.setattr(sharing, "applications", lambda: {"ours"})
    monkeypatch.setattr(sharing, "_end_serve", end_serve)
    assert sharing.end({"ours"})
    assert ended == [True]
    assert capsys.readouterr() == ("", "")
