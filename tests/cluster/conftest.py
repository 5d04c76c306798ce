"""Resolve the overlays of ``cluster/`` by the few features of Kustomize that they use; any other one is an error, not left out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import streamrec
from streamrec.config import Config, load_config

CHECKOUT = Path(streamrec.__file__).parents[1]
CLUSTER = CHECKOUT / "cluster"
OVERLAYS = ("dev", "staging", "prod")
_FEATURES = {"apiVersion", "kind", "namespace", "resources", "generatorOptions", "configMapGenerator", "images", "patches"}
_CLUSTER_WIDE = {"Namespace"}

Resource = dict[str, Any]


def documents(path: Path) -> list[Any]:
    """Return the documents of a YAML file, no two of which share a part, as anchors would have them."""
    return [copy_of(each) for each in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def copy_of(node: Any) -> Any:
    """Return a copy in which what anchors share is there as often as it is named."""
    if isinstance(node, dict):
        return {name: copy_of(child) for name, child in node.items()}
    return [copy_of(child) for child in node] if isinstance(node, list) else node


def build(folder: Path) -> list[Resource]:
    """Return what ``kustomize build`` makes of a folder."""
    (kustomization,) = documents(folder / "kustomization.yaml")
    unknown = set(kustomization) - _FEATURES
    assert not unknown, f"{folder}: {unknown} of Kustomize are not known here"
    resources: list[Resource] = []
    for name in kustomization.get("resources", ()):
        path = folder / name
        resources += build(path.resolve()) if path.is_dir() else documents(path)
    for generator in kustomization.get("configMapGenerator", ()):
        generate(folder, generator, resources)
    for patch in kustomization.get("patches", ()):
        chosen = [each for each in resources if is_target(each, patch["target"])]
        assert chosen, f"{folder}: {patch['path']} patches nothing"
        for resource in chosen:
            for operation in documents(folder / patch["path"])[0]:
                apply(resource, operation)
    for image in kustomization.get("images", ()):
        assert set(image) <= {"name", "newName", "newTag"}
        for container in containers(resources):
            if container["image"].partition(":")[0] == image["name"]:
                container["image"] = f"{image.get('newName', image['name'])}:{image['newTag']}"
    for resource in resources if "namespace" in kustomization else ():
        is_wide = resource["kind"] in _CLUSTER_WIDE
        resource["metadata"]["name" if is_wide else "namespace"] = kustomization["namespace"]
    return resources


def generate(folder: Path, generator: dict[str, Any], resources: list[Resource]) -> None:
    """Add a ConfigMap, or to one."""
    assert set(generator) <= {"name", "behavior", "envs", "files"}
    data = {}
    for name in generator.get("envs", ()):
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        data |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    for name in generator.get("files", ()):
        data[name] = (folder / name).read_text(encoding="utf-8")
    if generator.get("behavior") == "merge":
        (there,) = [each for each in resources if each["kind"] == "ConfigMap" and each["metadata"]["name"] == generator["name"]]
        there["data"] |= data
    else:
        resources.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data})


def is_target(resource: Resource, target: dict[str, str]) -> bool:
    assert set(target) <= {"kind", "name"}
    return resource["kind"] == target["kind"] and target.get("name") in {None, resource["metadata"]["name"]}


def apply(resource: Resource, operation: dict[str, Any]) -> None:
    """Apply an operation of a JSON patch (RFC 6902)."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    node: Any = resource
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node[part]
    value = copy.deepcopy(operation["value"])
    if operation["op"] == "add" and isinstance(node, list):
        node.insert(len(node) if last == "-" else int(last), value)
        return
    assert operation["op"] in {"add", "replace"}, operation
    key = int(last) if isinstance(node, list) else last
    if operation["op"] == "replace":
        node[key]
    node[key] = value


def containers(node: Any) -> Iterator[dict[str, Any]]:
    """Give all containers, of custom resources too."""
    if isinstance(node, list):
        for child in node:
            yield from containers(child)
    elif isinstance(node, dict):
        for name, child in node.items():
            if name in {"containers", "initContainers"}:
                yield from child
            else:
                yield from containers(child)


@pytest.fixture(scope="session", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def resources(overlay: str) -> list[Resource]:
    return build(CLUSTER / "kuberay" / "overlays" / overlay)


@pytest.fixture(scope="session")
def jobs() -> list[Resource]:
    return [each for path in sorted((CLUSTER / "kuberay" / "jobs").glob("*.yaml")) for each in documents(path)]


@pytest.fixture(scope="session")
def servers() -> list[Resource]:
    """Return the servers that have a Ray of their own."""
    return build(CLUSTER / "kuberay" / "servers")


@pytest.fixture(scope="session")
def one(resources: list[Resource]) -> Callable[..., Resource]:
    """Return the only resource of a kind, or the one of a name."""

    def find(kind: str, name: str | None = None) -> Resource:
        (found,) = [each for each in resources if each["kind"] == kind and name in {None, each["metadata"]["name"]}]
        return found

    return find


@pytest.fixture(scope="session")
def pods(resources: list[Resource]) -> dict[str, dict[str, Any]]:
    """Return the pods' specs by what makes them."""
    found = {}
    for each in resources:
        if each["kind"] == "RayCluster":
            groups = [("head", each["spec"]["headGroupSpec"]), *((group["groupName"], group) for group in each["spec"]["workerGroupSpecs"])]
            found |= {f"RayCluster {name}": group["template"]["spec"] for name, group in groups}
        elif each["kind"] == "CronJob":
            found[f"CronJob {each['metadata']['name']}"] = each["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        elif "template" in each["spec"] if "spec" in each else False:
            found[f"{each['kind']} {each['metadata']['name']}"] = each["spec"]["template"]["spec"]
    return found


@pytest.fixture(scope="session")
def config(one: Callable[..., Resource], tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Return the configuration that the overlay mounts, read as a job reads it."""
    path = tmp_path_factory.mktemp("config") / "streamrec.toml"
    path.write_text(one("ConfigMap", "streamrec-config")["data"]["streamrec.toml"])
    return load_config(path)
