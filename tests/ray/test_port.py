from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest
import ray
from ray.exceptions import RayActorError, RayTaskError

from jobs import demo, dev
from serve import haproxy
from serve import launch as launcher
from streamrec.config import parse_config
from streamrec.errors import OperatorError


@pytest.fixture
def taken_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port of loopback that somebody listens on; there is no cluster whose Serve that could be."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        yield taken.getsockname()[1]


def test_a_port_that_is_taken_is_named_before_anything_starts(taken_port: int) -> None:
    with pytest.raises(OperatorError, match=f"127.0.0.1:{taken_port} can't be bound, got address already in use, choose another serving.port"):
        launcher.launch(parse_config({"serving": {"port": taken_port}}))
    assert not ray.is_initialized()


def test_a_port_that_is_free_may_be_bound() -> None:
    launcher.check_free("127.0.0.1", haproxy.free_port())


@pytest.mark.parametrize(("job", "more"), [(dev, ["--state", "state"]), (demo, ["--data", "none.csv", "--name", "tried"])])
def test_a_job_that_serves_names_a_taken_port_before_it_starts_a_broker_or_ray(
    taken_port: int, job: ModuleType, more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "open_session", lambda *_, **__: pytest.fail("something is started"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert job.main(["--set", f"serving.port={taken_port}", *more]) == 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert f"127.0.0.1:{taken_port} can't be bound" in capsys.readouterr().err
    assert not ray.is_initialized()
    assert list(tmp_path.iterdir()) == []


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


KILLED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: HAProxyManager\nThe actor is dead because it was killed by `ray.kill`."
)
BOUND = "  File haproxy.py, line 7\nRuntimeError: HAProxy crashed\n[ALERT] cannot bind socket (Address already in use)\n[ALERT] Some failed! Exiting."


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RayActorError(error_msg=KILLED), "got The actor is dead because it was killed by `ray.kill`, see what else takes"),
        (TimeoutError("HTTP proxies not available after 60s."), "got HTTP proxies not available after 60s, see what else takes"),
        (TimeoutError(), "got TimeoutError, see what else takes"),
        (RayTaskError("ready", BOUND, RuntimeError()), r"got \[ALERT\] cannot bind socket \(Address already in use\), choose another serving.port"),
    ],
)
def test_why_serve_did_not_start_is_told_in_a_paragraph(monkeypatch: pytest.MonkeyPatch, error: Exception, told: str) -> None:
    def start(**_: object) -> None:
        raise error

    monkeypatch.setattr(launcher.serve, "start", start)
    monkeypatch.setattr(launcher.sharing, "running_address", lambda: None)
    monkeypatch.setattr(launcher.haproxy, "wanted", lambda _: False)
    monkeypatch.setattr(launcher, "_launched", launcher._Launched(ray=ExitStack()))
    with pytest.raises(OperatorError, match=f"Ray Serve did not start, {told}"):
        launcher._start_serve("127.0.0.1", 0, "python", told=False)


def test_a_proxy_that_compiles_what_it_imports_is_not_killed_before_serve_gives_up_by_itself() -> None:
    check_s = float(haproxy.flags(Path("/tmp"))["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"])
    assert 3 * check_s >= 60  # The third that fails kills it; serve.start waits a minute.


def test_each_cluster_of_a_machine_has_its_replicas_in_a_range_of_its_own() -> None:
    given = [haproxy.flags(Path("/tmp")) for _ in range(200)]
    ranges = {tuple(int(flags[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"]) for end in ("MIN", "MAX")) for flags in given}
    assert len(ranges) > 50
    taken = [port for first, last in ranges for port in range(first, last + 1)]
    assert len(taken) == len(set(taken)) == haproxy.REPLICA_PORTS * len(ranges)
    assert set(taken) <= set(haproxy.FREE_PORTS)
    # While it has no replica, a cluster's HAProxy asks here, and the ports of several clusters may not be one.
    for kind in ("HTTP", "GRPC"):
        assert len({flags[f"RAY_SERVE_FALLBACK_PROXY_{kind}_PORT"] for flags in given}) > 150
