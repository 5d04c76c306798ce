from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest
import ray
from ray.exceptions import ActorDiedError

from serve import haproxy
from serve import launch as launcher
from streamrec.config import parse_config
from streamrec.errors import OperatorError


def test_a_port_that_is_taken_is_named_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        with pytest.raises(OperatorError, match=f"127.0.0.1:{port} can't be bound, got address already in use, choose another serving.port"):
            launcher.launch(parse_config({"serving": {"port": port}}))
    assert not ray.is_initialized()
    launcher.check_free("127.0.0.1", port)


def test_a_free_port_is_none_that_the_kernel_gives_to_others_before_it_is_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {haproxy.free_port() for _ in range(50)}
    assert len(found) > 40
    assert found <= set(haproxy.FREE_PORTS)
    with socket.socket() as taken:
        taken.bind(("", haproxy.free_port()))
        taken.listen(1)
        port = taken.getsockname()[1]
        monkeypatch.setattr(haproxy, "FREE_PORTS", range(port, port + 1))
        assert haproxy.free_port() != port


def test_a_proxy_that_is_not_ready_in_its_time_is_told_in_a_paragraph(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**_: object) -> None:
        raise ActorDiedError

    monkeypatch.setattr(launcher.serve, "start", start)
    monkeypatch.setattr(launcher.sharing, "running_address", lambda: None)
    monkeypatch.setattr(launcher.haproxy, "wanted", lambda _: False)
    monkeypatch.setattr(launcher, "_launched", launcher._Launched(ray=ExitStack()))
    with pytest.raises(OperatorError, match="Ray Serve did not start, got ActorDiedError, see what else takes"):
        launcher._start_serve("127.0.0.1", 0, "python", told=False)
