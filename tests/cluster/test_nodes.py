"""Ray's nodes and Serve's deployment are those that the code counts on, and each process finds one that it may run on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from ray.scripts.scripts import start
from ray.serve.schema import ServeDeploySchema

import streamrec
from serve.app import Arguments
from serve.deployments import build_application, deployment_options
from serve.replica import ReplicaSettings
from streamrec.config import Config
from streamrec.log.base import LogAddress
from streamrec.pipeline.cluster import OBJECT_STORE_BYTES
from streamrec.pipeline.resources import Resources, needed, shortage
from streamrec.room import num_that_fit

CHECKOUT = Path(streamrec.__file__).parents[1]
CLUSTER = CHECKOUT / "cluster"
PINNED = dict(re.findall(r"^([a-z0-9-]+)==([^ \n]+)", (CHECKOUT / "constraints.txt").read_text(), re.MULTILINE))
SERVE_CONFIG = yaml.safe_load((CLUSTER / "kuberay" / "base" / "serve-config.yaml").read_text())

Resource = dict[str, Any]
One = Callable[..., Resource]


def group_of(cluster: Resource, name: str) -> Resource:
    (found,) = [each for each in cluster["spec"]["workerGroupSpecs"] if each["groupName"] == name]
    return dict(found)


def test_the_cluster_has_the_ray_that_the_image_has(one: One) -> None:
    assert one("RayCluster")["spec"]["rayVersion"] == PINNED["ray"]


def test_ray_starts_as_the_code_starts_it(one: One) -> None:
    spec = one("RayCluster")["spec"]
    known = {option.removeprefix("--") for parameter in start.params for option in parameter.opts}
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        assert set(group["rayStartParams"]) <= known
        assert int(group["rayStartParams"]["object-store-memory"]) == OBJECT_STORE_BYTES


def test_groups_keep_their_size(one: One) -> None:
    for group in one("RayCluster")["spec"]["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


def test_there_is_a_serving_pod_for_each_replica(one: One, config: Config) -> None:
    group = group_of(one("RayCluster"), "serving")
    (deployment,) = SERVE_CONFIG["applications"][0]["deployments"]
    assert group["resources"] == {"CPU": "0", "serving": str(deployment["ray_actor_options"]["resources"]["serving"])}
    assert deployment["ray_actor_options"]["num_cpus"] == 0
    assert group["replicas"] == config.serving.num_replicas
    assert config.serving.max_replicas == 0  # The group does not grow.


def nodes_of(cluster: Resource) -> list[dict[str, float]]:
    """What Ray's nodes have, pod by pod."""
    groups = [(cluster["spec"]["headGroupSpec"], 1), *((group, group["replicas"]) for group in cluster["spec"]["workerGroupSpecs"])]
    return [{name: float(amount) for name, amount in group["resources"].items()} for group, num in groups for _ in range(num)]


def test_the_stream_and_its_refreshes_find_the_pods_that_they_are_to_run_in(one: One, config: Config, jobs: list[Resource]) -> None:
    spec, nodes = one("RayCluster")["spec"], nodes_of(one("RayCluster"))
    assert spec["headGroupSpec"]["resources"] == {"CPU": "0"}
    takes = [{"CPU": float(job["spec"]["entrypointNumCpus"]), **json.loads(job["spec"]["entrypointResources"])} for job in jobs]
    driver = max(takes, key=lambda each: each["CPU"])
    place = next(node for node in nodes if num_that_fit(driver, node))
    place.update({name: place[name] - amount for name, amount in driver.items()})
    assert shortage(config, needed(config), Resources.of_nodes(nodes)) is None
    for group in ("training", "spot"):
        found = group_of(one("RayCluster"), group)
        assert found["resources"] == {"CPU": found["resources"]["CPU"], group: "1"}
        assert found["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] in {found["resources"]["CPU"], "500m"}


def test_only_train_workers_run_where_pods_may_be_taken_away(one: One, config: Config, overlay: str) -> None:
    num_pods = group_of(one("RayCluster"), "spot")["replicas"]
    assert (num_pods > 0) is (overlay == "prod")
    if num_pods:
        on_spot = {process.name for process in needed(config).processes if "spot" in process.asks}
        elsewhere = {process.name for process in needed(config).processes if "training" in process.asks}
        assert on_spot == {"train worker"}
        assert elsewhere == {process.name for process in needed(config).processes} - on_spot - {"reading task"}
        assert config.teachers.min_train_workers == 1


# Serve


def test_serve_is_deployed_as_elsewhere_but_for_what_is_this_clusters() -> None:
    usual = yaml.safe_load((CHECKOUT / "serve" / "config.yaml").read_text())
    (application,), (ours,) = usual.pop("applications"), [dict(each) for each in SERVE_CONFIG["applications"]]
    assert {name: value for name, value in SERVE_CONFIG.items() if name != "applications"} == usual
    given = {name: ours.pop(name) for name in ("args", "deployments")}
    del application["args"]
    assert ours == application
    assert Arguments.model_validate(given["args"]).config is None
    ServeDeploySchema.model_validate(SERVE_CONFIG)


def test_replicas_keep_the_environment_that_the_code_gives_them(config: Config) -> None:
    """Options of the file replace the code's, they are not added to them."""
    (deployment,) = SERVE_CONFIG["applications"][0]["deployments"]
    assert deployment["name"] == build_application(ReplicaSettings(config))._bound_deployment.name
    options = deployment_options(config.serving, 0.0)["ray_actor_options"]
    assert deployment["ray_actor_options"]["runtime_env"] == options["runtime_env"]


def test_servers_follow_the_stream_s_log(config: Config) -> None:
    assert LogAddress.parse(SERVE_CONFIG["applications"][0]["args"]["log"]).where == config.log.broker
