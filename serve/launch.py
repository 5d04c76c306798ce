"""Start and stop the serving application: ports, Serve, readiness."""

from __future__ import annotations

import http.client
import ipaddress
import logging
import shutil
import socket
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application, RunTarget
from ray.serve.config import ControllerOptions, HTTPOptions, ProxyLocation

from serve import haproxy, sharing
from serve.deployments import build_application
from serve.haproxy import Proxy
from serve.replica import ReplicaSettings
from streamrec import local_node
from streamrec.config import Config
from streamrec.config.keys import absolute_path, load_keys
from streamrec.environment import ray_address
from streamrec.errors import OperatorError, StorageError
from streamrec.log.base import LogAddress
from streamrec.pipeline import layout
from streamrec.pipeline.cluster import ray_cluster
from streamrec.pipeline.resources import SERVING_CPUS
from streamrec.registry.remote_board import RemoteBoard
from streamrec.serving.redis_connection import check_redis
from streamrec.serving.stored_histories import look_at_redis
from streamrec.telemetry.traces import check_tracer

logger = logging.getLogger(__name__)


@dataclass
class _Launched:
    """What `shutdown` has to undo."""

    server: str = field(default_factory=lambda: uuid.uuid4().hex)
    applications: set[str] = field(default_factory=set)
    haproxy_folder: Path | None = None
    board: RemoteBoard | None = None
    makes_board: bool = False
    ray: ExitStack | None = None


_launched = _Launched()


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
    One process launches once until it calls `shutdown`. Where Serve runs on the cluster already, this server answers at its address too, below
    ``serving.path``; the application of another server for the same student of the same registry is replaced.

    Args:
        config: ``serving.host``, ``serving.port`` (0 takes a free one), ``serving.path`` and the bounds of requests.
        address: The event log to follow and to append to.
        state_url: Where the pipeline's state is; its checkpoint's histories are the first ones.
        registry_url: Where the registry is; the board reads the live version from it. None takes the state's.
        student: Whose versions.
        proxy: ``auto`` takes HAProxy where it is installed, else Serve's Python proxy, saying so.
        num_cpus_per_replica: CPUs that Ray reserves for each replica.
        beside: Other applications to serve behind the same proxy, by the name that is also their path.
        timeout_s: Longest wait for the replicas.

    Raises:
        ConfigError: ``serving.keys_file`` is not valid, or traces are switched on and what sends them is not installed.
        OperatorError: HAProxy was asked for and isn't there, port or path is taken, no replica answers in time, or this process has launched already.
    """
    if _launched.ray is not None:
        what = "Serving: this process serves already"
        raise OperatorError(what, do="call shutdown first")
    keys, keys_file = load_keys(config.serving.keys_file), absolute_path(config.serving.keys_file)
    check_tracer(config.telemetry.traces_endpoint)
    if config.serving.histories == "redis":
        check_redis(config.serving)
        try:
            look_at_redis(config.serving)
        except StorageError as error:
            logger.warning("%s; until then answers know no user", error)
    registry_url = layout.registry_url(state_url) if registry_url is None and state_url is not None else registry_url
    path = config.serving.path
    own = sharing.application_name(registry_url, student)
    names = {own, *(beside or {})}
    host, port = config.serving.host, config.serving.port or haproxy.free_port()
    check_port(config)
    try:
        _launched.ray = ExitStack()
        _launched.ray.enter_context(ray_cluster())
        made = not RemoteBoard.exists(registry_url, student)
        _launched.board = RemoteBoard.get_or_create(registry_url, student, config.telemetry.log_format)
        _launched.makes_board = made
        _launched.applications = names - sharing.applications()
        host, port = _start_serve(host, port, proxy, told=config.serving.port != 0)
        settings = ReplicaSettings(config, address, state_url, registry_url, student, _is_loopback(host), keys, keys_file)
        targets = [RunTarget(build_application(settings, num_cpus_per_replica), own, path)]
        targets += [RunTarget(application, name, f"/{name}") for name, application in (beside or {}).items()]
        sharing.deploy(targets)
        _launched.board.claim(_launched.server, made=made)
        _launched.applications = names
        wait_until_answers(_reachable(host), port, f"{path.rstrip('/')}/healthz", timeout_s)
    except BaseException:
        shutdown()
        raise
    return f"http://{_reachable(host)}:{port}{path.rstrip('/')}"


def shutdown() -> None:
    """Stop what `launch` started: replicas, the board and Ray when they are its own, Serve when no other server is left. Safe to call twice."""
    global _launched
    mine, _launched = _launched, _Launched()
    if ray.is_initialized() and mine.board is not None and local_node.is_there():  # Else nobody answers, and all its processes end with it.
        server, made_by_one = mine.board.claimed()
        if server in {"", mine.server}:  # Else another one has taken over.
            if sharing.end(mine.applications) and mine.haproxy_folder is not None:
                shutil.rmtree(mine.haproxy_folder, ignore_errors=True)
            if made_by_one or mine.makes_board:
                mine.board.kill()
    if mine.ray is not None:
        mine.ray.close()


def _start_serve(host: str, port: int, proxy: Proxy, *, told: bool) -> tuple[str, int]:
    """Start Serve where it doesn't run yet, and return where it listens."""
    assert _launched.ray is not None
    if haproxy.wanted(proxy):
        _launched.haproxy_folder = haproxy.folder(_launched.ray)
    running = sharing.running_address()
    if running is not None:
        if told and running != (host, port):
            logger.warning("Serving: Serve of this cluster listens on %s:%s already, so serving.host and serving.port are not used", *running)
        return running
    flags = haproxy.flags(_launched.haproxy_folder) if _launched.haproxy_folder is not None else {}
    try:
        serve.start(
            http_options=HTTPOptions(host=host, port=port),
            proxy_location=ProxyLocation.HeadOnly,
            controller_options=ControllerOptions(runtime_env={"env_vars": flags}) if flags else None,
        )
    except (RayError, TimeoutError) as error:
        what = "Serving: Ray Serve did not start"
        lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # HAProxy goes on to say that it exits; a proxy that Serve ended was not ready in its time.
        taken = next((line for line in reversed(lines) if "bind" in line), None)
        do = "see what else takes this machine's cores, then start again" if taken is None else "choose another serving.port"
        raise OperatorError(what, got=taken or lines[-1], do=do) from error
    return host, port


def check_port(config: Config) -> None:
    """Raise where this process would start a Ray of its own, and ``serving.port`` is taken; for jobs to ask before they start anything.

    Raises:
        OperatorError: It is.
    """
    if config.serving.port and not ray.is_initialized() and ray_address() is None:  # On a cluster that is there, Serve itself may listen already.
        check_free(config.serving.host, config.serving.port)


def check_free(host: str, port: int) -> None:
    """Raise unless a server may bind the address.

    Raises:
        OperatorError: It is taken, or is none of this machine's.
    """
    if ":" in host:
        what, allowed = "Serving: it listens on IPv4 alone", "an IPv4 address, or a name such as localhost"
        raise OperatorError(what, got=host, allowed=allowed, do="set serving.host")
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


def _is_loopback(host: str) -> bool:
    """Return whether only this machine reaches what binds ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reachable(host: str) -> str:
    """Return where a server that binds ``host`` is reached from this machine."""
    try:
        return "127.0.0.1" if ipaddress.ip_address(host).is_unspecified else host
    except ValueError:
        return host
