"""Start the world's processes, find the one to kill, and bring back what was killed: a broker and three Ray nodes with a folder each."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
from ray.cluster_utils import Cluster

from streamrec.log.connect import open_admin, open_table_reader, open_writer
from streamrec.log.embedded import start_embedded
from streamrec.pipeline.temporary import temporary_folder
from streamrec.student.actor import NAMESPACE
from streamrec.testing.chaos.records import make_records
from streamrec.testing.chaos.world import make_config

_NODE_CPUS = 4
_STORE_BYTES = 100 * 2**20
# A node whose connection is refused is found dead after so many looks, within a second or two instead of 15.
CLUSTER_SETTINGS = {
    "health_check_initial_delay_ms": 3000,
    "health_check_period_ms": 400,
    "health_check_timeout_ms": 10_000,
    "health_check_failure_threshold": 3,
    "worker_niceness": 0,
}
_LOOK_EVERY_S = 0.003


class Rig:
    """Hold a broker and a Ray cluster; made by `open_rig`.

    Attributes:
        folder: Everything is below it. Nodes have folders of their own, apart from ``states`` and the broker's, which stand for the storage and
            the broker that outlive a node.
        ends: End offsets of the events topic.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.states = folder / "s"
        self.states.mkdir()
        self._broker = start_embedded(folder / "k", _nothing)
        self._node_numbers = count(1)
        self._cluster: Any = Cluster(  # Ray ships it untyped.
            initialize_head=True,
            head_node_args={"num_cpus": 0, "object_store_memory": _STORE_BYTES, "include_dashboard": False, "_system_config": CLUSTER_SETTINGS},
        )
        self._nodes: dict[str, tuple[Any, Path]] = {}
        for _ in range(2):
            self.add_node()
        # This process follows the board, as a replica does.
        ray.init(address=self.ray_address, log_to_driver=False, logging_level=logging.ERROR)
        config = make_config("none", self.broker)
        admin = open_admin(self._broker.address, config.log)
        admin.ensure_topic(config.log.events_topic, config.log.num_partitions)
        admin.close()
        writer = open_writer(self._broker.address, config.log)
        writer.append(config.log.events_topic, make_records())
        writer.close()
        reader = open_table_reader(self._broker.address, config.log)
        self.ends = reader.latest(config.log.events_topic)
        reader.close()

    @property
    def broker(self) -> str:
        """Return the broker as ``log.broker`` names it."""
        return f"kafka://{self._broker.address.where}"

    @property
    def ray_address(self) -> str:
        """Return the cluster's address."""
        return str(self._cluster.address)

    def add_node(self) -> None:
        """Add a node with a folder of its own and wait until it is there."""
        folder = self.folder / f"n{next(self._node_numbers)}"
        node: Any = self._cluster.add_node(num_cpus=_NODE_CPUS, object_store_memory=_STORE_BYTES, temp_dir=str(folder))
        self._nodes[node.node_id] = (node, folder)

    def kill_node(self, node_id: str) -> None:
        """Kill all processes of a node with SIGKILL and delete its folder."""
        node, folder = self._nodes.pop(node_id)
        end_node(self._cluster, node)
        shutil.rmtree(folder, ignore_errors=True)

    def kill_broker(self) -> None:
        """Kill the broker with SIGKILL."""
        for pid in _descendants(os.getpid()):
            if "kafka.Kafka" in _command(pid) and str(self.folder) in _command(pid):
                kill(pid)

    def restart_broker(self) -> None:
        """Start the broker again on the same data; returns when it answers."""
        address = self._broker.address
        self._broker.stop()
        self._broker = start_embedded(self.folder / "k", _nothing)
        assert self._broker.address == address, "the broker's port was taken meanwhile"

    def worker_of(self, *titles: str) -> int | None:
        """Return a Ray worker process that runs a task whose title contains one of these."""
        for node in (self._cluster.head_node, *(node for node, _ in self._nodes.values())):
            for raylet in _raylets(node):
                for pid in _children(raylet):
                    command = _command(pid)
                    if command.startswith("ray::") and any(title in command for title in titles):
                        return pid
        return None

    def end_actors(self) -> None:
        """End the actors of a run that is over: they are detached and named after its state, so the next run's would come beside them."""
        for held in self.named_actors():
            with suppress(ValueError):  # It has just ended.
                ray.kill(ray.get_actor(held, namespace=NAMESPACE), no_restart=True)
        assert wait_for(lambda: not self.named_actors() or None, timeout_s=60.0), self.named_actors()

    def named_actors(self) -> list[str]:
        """Return the names of all runs' actors."""
        held: list[dict[str, str]] = ray.util.list_named_actors(all_namespaces=True)
        return [one["name"] for one in held if one["namespace"] == NAMESPACE]

    def close(self) -> None:
        """Stop everything."""
        ray.shutdown()
        with suppress(Exception):  # What was killed can't be stopped once more.
            self._cluster.shutdown()
        self._broker.stop()


@contextmanager
def open_rig() -> Iterator[Rig]:
    """Start a rig in a temporary folder, and leave neither process nor file behind."""
    with temporary_folder("c-", longest=25) as folder, patch.dict(os.environ, {"RAY_TMPDIR": str(folder)}):
        # The variable names the head's folder, and where Ray notes the address of the newest cluster.
        rig = Rig(folder)
        try:
            yield rig
        finally:
            rig.close()


def kill(pid: int) -> None:
    """Send SIGKILL; a process that is gone already is fine."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_for(look: Any, timeout_s: float) -> Any:
    """Return what ``look`` finds, or None when it found nothing in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
        time.sleep(_LOOK_EVERY_S)
    return None


def end_node(cluster: Any, node: Any) -> None:
    """Kill all processes of a node of a `ray.cluster_utils.Cluster` with SIGKILL."""
    workers = [pid for raylet in _raylets(node) for pid in _children(raylet)]
    cluster.remove_node(node, allow_graceful=False)
    for pid in workers:
        kill(pid)


def _raylets(node: Any) -> list[int]:
    return [process.process.pid for process in node.all_processes.get("raylet", ())]


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(text) for text in tasks.read_text().split()]
    return found


def _descendants(pid: int) -> list[int]:
    children = _children(pid)
    return children + [grandchild for child in children for grandchild in _descendants(child)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _nothing(_: str) -> None:
    """Say nothing."""
