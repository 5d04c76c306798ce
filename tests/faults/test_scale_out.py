"""Serve from three Ray nodes under load: swaps, a killed node, a killed board, a rolling restart, and a wave that wants more replicas."""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster
from ray.serve import RunTarget
from ray.serve import status as serve_status
from ray.serve.schema import ReplicaState

from serve import launch as launcher
from serve import sharing
from serve.deployments import build_application
from serve.replica import ReplicaSettings
from streamrec.config import parse_config
from streamrec.registry.registry import Registry
from streamrec.registry.remote_board import RemoteBoard
from streamrec.registry.version import VersionFacts
from streamrec.state import pack_strings
from streamrec.storage import open_storage
from streamrec.testing.chaos.rig import CLUSTER_SETTINGS, end_node

pytestmark = [pytest.mark.slow, pytest.mark.release, pytest.mark.timeout(300)]

NUM_ITEMS = 300
NUM_REPLICAS = 3
NUM_CLIENTS = 4
PATIENCE_S = 90.0
WAVES = {"max_replicas": 5, "busy_share": 0.05, "upscale_delay_s": 2, "downscale_delay_s": 3}
CONFIG = parse_config({"serving": {"port": 0, "num_replicas": NUM_REPLICAS, **WAVES}})
NODE_CPUS = 2
STORE_BYTES = 100 * 2**20


@dataclass
class Load:
    """What came of the requests: a status, or the error's name, with the replica and the version that answered."""

    answers: list[tuple[float, int | str, str, str]] = field(default_factory=list)
    retried: list[int | str] = field(default_factory=list)

    def failed(self) -> list[tuple[float, int | str, str, str]]:
        return [answer for answer in self.answers if answer[1] != 200]


@dataclass
class Service:
    """A server on several nodes."""

    host: str
    port: int
    cluster: Any
    registry_url: str
    registry: Registry
    board: RemoteBoard
    num_versions: int = 0

    def ask(self) -> tuple[int | str, str, str]:
        """Send one request and return its status, or the error's name, the replica and the version."""
        try:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
            try:
                connection.request("POST", "/v1/recommend", json.dumps({"history": ["item-3"], "n": 5}), {"content-type": "application/json"})
                answer = connection.getresponse()
                body = json.loads(answer.read())
                return answer.status, answer.headers["x-streamrec-replica"] or "", body.get("model_version", "")
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            return type(error).__name__, "", ""

    @contextmanager
    def under_load(self, num_clients: int = NUM_CLIENTS, pause_s: float = 0.02) -> Iterator[Load]:
        """Let clients ask on meanwhile; one that got no answer asks once more, at once."""
        load, stop = Load(), threading.Event()

        def ask_on() -> None:
            while not stop.is_set():
                sent_s = time.monotonic()
                status, replica, version = self.ask()
                load.answers.append((sent_s, status, replica, version))
                if status != 200:
                    load.retried.append(self.ask()[0])
                stop.wait(pause_s)

        with ThreadPoolExecutor(num_clients) as pool:
            asking = [pool.submit(ask_on) for _ in range(num_clients)]
            try:
                yield load
            finally:
                stop.set()
            for one in asking:
                one.result()

    def promote(self) -> str:
        """Publish, promote and hand out one version; return its id."""
        self.num_versions += 1
        version = f"v{self.num_versions:08d}"
        arrays, meta = make_version(self.num_versions)
        manifest = self.registry.publish(version, arrays, meta, VersionFacts(offsets={"events": {0: self.num_versions}}))
        move = self.registry.promote(version, "a test")
        self.board.publish(manifest.model_dump(mode="json"), arrays, meta, move.number)
        return version

    def num_running(self) -> int:
        """Return how many replicas run."""
        (application,) = serve_status().applications.values()
        return int(application.deployments["Recommender"].replica_states.get(ReplicaState.RUNNING, 0))

    def nodes(self) -> set[str]:
        """Return the nodes that have replicas, less those that go: the wave's stand beside others for a while."""
        controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
        details: dict[str, Any] = ray.get(controller.get_serve_instance_details.remote())
        (application,) = details["applications"].values()
        replicas = application["deployments"]["Recommender"]["replicas"]
        return {str(replica["node_id"]) for replica in replicas if replica["state"] == ReplicaState.RUNNING}

    def wait_for(self, is_so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < deadline, what
            time.sleep(0.1)

    def wait_for_version(self, version: str, num_replicas: int) -> set[str]:
        """Ask until so many replicas have answered with a version, and return them."""
        seen: set[str] = set()

        def is_so() -> bool:
            status, replica, found = self.ask()
            seen.update([replica] if status == 200 and found == version else [])
            return len(seen) >= num_replicas

        self.wait_for(is_so, f"{version} is answered by {seen} alone")
        return seen


def make_version(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(seed)
    ids, id_offsets = pack_strings([f"item-{row}" for row in range(NUM_ITEMS)])
    names, name_offsets = pack_strings(["default"])
    arrays = {
        "item_vectors": rng.normal(size=(NUM_ITEMS, 8)).astype(np.float32),
        "item_bias": np.zeros(NUM_ITEMS, np.float32),
        "popularity": rng.permutation(NUM_ITEMS).astype(np.float32),
        "item_namespace": np.zeros(NUM_ITEMS, np.int32),
        "item_id_bytes": ids,
        "item_id_offsets": id_offsets,
        "namespace_bytes": names,
        "namespace_offsets": name_offsets,
        "position_logits": np.zeros(10, np.float32),
        "own_bias": np.zeros(10, np.float32),
        "pool_projection": np.eye(8, dtype=np.float32),
        "last_projection": np.eye(8, dtype=np.float32),
    }
    return arrays, {"scale": 9.0, "history_length": 10, "dim": 8}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server on three nodes, two of which may die, with a version on each of three replicas, and room for five."""
    head = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False, "_system_config": CLUSTER_SETTINGS}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=NODE_CPUS, object_store_memory=STORE_BYTES)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        registry_url = str(tmp_path_factory.mktemp("registry"))
        url = launcher.launch(CONFIG, registry_url=registry_url, num_cpus_per_replica=1.0)
        host, port = url.removeprefix("http://").split(":")
        found = Service(host, int(port), cluster, registry_url, Registry(open_storage(registry_url)), RemoteBoard.get_or_create(registry_url))
        found.wait_for_version(found.promote(), NUM_REPLICAS)
        yield found
    finally:
        launcher.shutdown()
        ray.shutdown()
        cluster.shutdown()


def test_swaps_a_killed_board_and_a_rolling_restart_lose_no_request(service: Service) -> None:
    with service.under_load() as load:
        for _ in range(5):
            before = service.wait_for_version(service.promote(), NUM_REPLICAS)
        pid: int = ray.get(service.board.actor.__ray_call__.remote(lambda _: os.getpid()))
        os.kill(pid, signal.SIGKILL)
        version = service.promote()
        assert service.wait_for_version(version, NUM_REPLICAS) == before
        application = build_application(ReplicaSettings(CONFIG, registry_url=service.registry_url), 1.0)
        sharing.deploy([RunTarget(application, sharing.application_name(service.registry_url, "default"), "/")])
        after = service.wait_for_version(version, NUM_REPLICAS)
    print("swaps, board, rolling restart:", Counter(status for _, status, _, _ in load.answers))
    assert load.failed() == []
    assert not after & before
    assert {found for _, _, replica, found in load.answers if replica in after} == {version}  # None answered before it had the newest.


def test_more_replicas_come_with_a_wave_and_go_after_it_and_no_request_fails(service: Service) -> None:
    with service.under_load(1, 0.2) as calm:
        with service.under_load(12, 0.0) as wave:
            service.wait_for(lambda: service.num_running() > NUM_REPLICAS, "no more replicas came")
        service.wait_for(lambda: service.num_running() == NUM_REPLICAS, "no replica went")
    replicas = {replica for _, _, replica, _ in wave.answers}
    print(f"wave: {len(wave.answers)} requests, answered by {len(replicas)} replicas")
    assert (wave.failed(), calm.failed()) == ([], [])
    assert {found for *_, found in wave.answers} == {f"v{service.num_versions:08d}"}


def test_a_killed_node_fails_only_the_requests_that_it_held_and_one_retry_is_answered(service: Service) -> None:
    before = service.wait_for_version(f"v{service.num_versions:08d}", NUM_REPLICAS)
    with service.under_load() as load:
        end_node(service.cluster, next(node for node in service.cluster.worker_nodes if node.node_id in service.nodes()))
        version = service.promote()
        after = service.wait_for_version(version, NUM_REPLICAS)
    failed = load.failed()
    print(f"a killed node: {len(failed)} of {len(load.answers)} requests failed, {Counter(status for _, status, _, _ in failed)}")
    assert before - after  # The node held one at least.
    assert len(failed) <= NUM_CLIENTS  # What was in flight.
    assert set(load.retried) <= {200}
