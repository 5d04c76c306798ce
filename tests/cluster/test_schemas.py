"""Everything is valid by the schemas of Kubernetes and of the operators, unknown fields refused, and names what there is."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

import streamrec

CLUSTER = Path(streamrec.__file__).parents[1] / "cluster"
KUBERNETES = "1.34"
SCHEMAS = json.loads((Path(__file__).parent / "schemas" / "crds.json").read_text())

Resource = dict[str, Any]


@functools.cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**SCHEMAS["kinds"][kind], "$defs": SCHEMAS["$defs"]})


def check(resource: Resource) -> None:
    kind = f"{resource['apiVersion']} {resource['kind']}"
    if kind in SCHEMAS["kinds"]:
        validator(kind).validate(resource)
    else:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)


def test_every_file_parses_and_is_used() -> None:
    files = {path.resolve() for part in ("kuberay", "kafka") for path in (CLUSTER / part).rglob("*.yaml") if path.parent.name != "jobs"}
    used = set()
    for path in files:
        documents = list(yaml.safe_load_all(path.read_text()))
        assert documents
        if path.name == "kustomization.yaml":
            names = documents[0].get("resources", []) + [patch["path"] for patch in documents[0].get("patches", [])]
            used |= {path} | {(path.parent / name).resolve() for name in names}
            used |= {(path.parent / file).resolve() for each in documents[0].get("configMapGenerator", []) for file in each.get("files", [])}
    assert files - used == set()


def test_every_resource_is_valid(resources: list[Resource]) -> None:
    for resource in resources:
        check(resource)
    names = [(each["kind"], each["metadata"]["name"]) for each in resources]
    assert len(set(names)) == len(names)


def test_servers_apart_are_valid(servers: list[Resource]) -> None:
    assert [each["kind"] for each in servers] == ["RayService", "NetworkPolicy"]
    for resource in servers:
        check(resource)


def test_every_job_is_valid(jobs: list[Resource]) -> None:
    assert jobs
    for job in jobs:
        check(job)


def is_refused(resource: Resource) -> bool:
    try:
        check(resource)
    except (jsonschema.ValidationError, KeyError):  # The latter where apiVersion or kind is the field.
        return True
    return False


def fields(node: Any, free: Collection[str], path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give the path of each field that a schema names, of lists those of the first part; what is below ``free`` is anybody's."""
    for key, child in node.items() if isinstance(node, dict) else enumerate(node[:1]):
        if isinstance(node, dict):
            yield (*path, key)
        if isinstance(child, dict | list) and key not in free:
            yield from fields(child, free, (*path, key))


@pytest.mark.parametrize("overlay", ["prod"], indirect=True)
def test_a_misspelt_field_is_found_wherever_it_is(resources: list[Resource], jobs: list[Resource]) -> None:
    free = {"metadata", "matchLabels", "data", "config", "rayStartParams", "nodeSelector", "requests", "limits", "resources", "clusterSelector"}
    unnoticed = []
    for resource in [*resources, *jobs]:
        for *parents, last in fields(resource, free):
            node = spoiled = copy.deepcopy(resource)
            for part in parents:
                node = node[part]
            node[f"{last}x"] = node.pop(last)
            if not is_refused(spoiled):
                unnoticed.append((resource["kind"], *parents))
    assert set(unnoticed) == {("Service", "spec", "selector")}  # Anybody's labels.


def entries(node: Any) -> Iterator[tuple[str, Any]]:
    """Give each key of a tree with what it holds."""
    for key, child in node.items() if isinstance(node, dict) else enumerate(node):
        yield key, child
        if isinstance(child, dict | list):
            yield from entries(child)


def test_what_pods_name_is_there(resources: list[Resource], one: Callable[..., Resource], pods: dict[str, dict[str, Any]]) -> None:
    by_hand = set(re.findall(r"create secret generic (\S+)", (CLUSTER / "README.md").read_text()))
    by_operator = {one("RayCluster")["metadata"]["name"], f"{one('Kafka')['metadata']['name']}-cluster-ca-cert"}
    by_operator |= {each["metadata"]["name"] for each in resources if each["kind"] == "KafkaUser"}
    there = {(each["kind"], each["metadata"]["name"]) for each in resources} | {("Secret", name) for name in by_hand | by_operator}
    named = set()
    for pod in pods.values():
        named.add(("ServiceAccount", pod["serviceAccountName"]))
        for key, child in entries(pod):
            if key in {"secretRef", "secretKeyRef"}:
                named.add(("Secret", child["name"]))
            elif key in {"configMapRef", "configMap"}:
                named.add(("ConfigMap", child["name"]))
            elif key in {"secretName", "claimName"}:
                named.add(("Secret" if key == "secretName" else "PersistentVolumeClaim", child))
            elif key == "secret" and "name" in child:  # Of a projected volume.
                named.add(("Secret", child["name"]))
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        claimed = {each["metadata"]["name"] for each in one("StatefulSet")["spec"]["volumeClaimTemplates"]}
        assert mounted <= volumes | claimed
        assert volumes <= mounted
    assert named <= there
    assert ("Secret", "streamrec-env") in named
