"""Pods may do no more than they need, and say what they need."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

Resource = dict[str, Any]
SERVER_PROBES = ("readinessProbe", "livenessProbe")


def containers(pods: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {f"{name} {each['name']}": each for name, pod in pods.items() for each in pod["containers"]}


def test_there_are_pods_of_each_kind(pods: dict[str, dict[str, Any]]) -> None:
    assert set(pods) == {
        "RayCluster head",
        "RayCluster serving",
        "RayCluster training",
        "RayCluster spot",
        "StatefulSet streamrec-redis",
        "Job streamrec-serve-deploy",
        "CronJob streamrec-refresh",
    }


def test_no_pod_is_root_nor_asks_kubernetes(pods: dict[str, dict[str, Any]]) -> None:
    for name, pod in pods.items():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] >= 10_000, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name


def test_no_container_may_change_its_image_or_gain_rights(pods: dict[str, dict[str, Any]]) -> None:
    locked = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    for name, container in containers(pods).items():
        assert container["securityContext"] == locked, name


def test_no_secret_is_an_argument(pods: dict[str, dict[str, Any]]) -> None:
    """Kubernetes puts a variable in for $(NAME), and whoever lists processes reads it there."""
    some = 0
    for name, container in containers(pods).items():
        words = [*container.get("command", ()), *container.get("args", ())]
        for variable in container.get("env", ()):
            if "secretKeyRef" in variable.get("valueFrom", {}):
                some += 1
                assert not any(f"$({variable['name']})" in word for word in words), name
    assert some


def test_the_password_reaches_redis_by_its_standard_input(pods: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    (container,) = pods["StatefulSet streamrec-redis"]["containers"]
    (tmp_path / "valkey-server").write_text('#!/bin/sh\necho "$@"\ncat\n')
    (tmp_path / "valkey-server").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REDIS_PASSWORD": "a1b2"}
    done = subprocess.run(container["command"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["- --appendonly yes --dir /data", "requirepass a1b2"]


def test_what_streamrec_writes_has_a_volume(pods: dict[str, dict[str, Any]]) -> None:
    for name, pod in pods.items():
        temporary = [mount["name"] for container in pod["containers"] for mount in container["volumeMounts"] if mount["mountPath"] == "/tmp"]
        if "redis" not in name:
            assert [volume for volume in pod["volumes"] if volume["name"] in temporary and "emptyDir" in volume], name


def test_containers_say_what_they_need(pods: dict[str, dict[str, Any]]) -> None:
    for name, container in containers(pods).items():
        needs = container["resources"]
        assert {"cpu", "memory"} <= set(needs["requests"]), name
        assert "memory" in needs["limits"], name
        assert ":" in container["image"], name
        assert not container["image"].endswith(":latest"), name


def test_what_runs_for_long_is_probed(pods: dict[str, dict[str, Any]]) -> None:
    for name, container in containers(pods).items():
        if not name.startswith(("Job ", "CronJob ")):
            assert set(SERVER_PROBES) <= set(container), name


def test_probes_ask_without_a_token_and_at_ports_that_are_there(pods: dict[str, dict[str, Any]]) -> None:
    public = {8265: {"/api/gcs_healthz"}, 52365: {"/api/local_raylet_healthz"}, "serve": {"/-/healthz"}}
    for name, container in containers(pods).items():
        named = {port["name"] for port in container.get("ports", ())}
        for probe in ("startupProbe", *SERVER_PROBES):
            asked = container.get(probe, {}).get("httpGet")
            if asked is not None:
                assert asked["path"] in public[asked["port"]], (name, probe)
                assert isinstance(asked["port"], int) or asked["port"] in named, (name, probe)


def test_no_secret_is_written_down(pods: dict[str, dict[str, Any]], one: Callable[..., Resource]) -> None:
    words = ("TOKEN", "PASSWORD", "SECRET", "KEY")
    for name, container in containers(pods).items():
        for variable in container.get("env", ()):
            if any(word in variable["name"] for word in words):
                assert "secretKeyRef" in variable["valueFrom"], (name, variable["name"])
    assert not [each for each in one("ConfigMap", "streamrec-env")["data"] if any(word in each for word in words)]


def test_servers_and_learners_have_nodes_of_their_own(pods: dict[str, dict[str, Any]]) -> None:
    for group in ("serving", "training", "spot"):
        pod = pods[f"RayCluster {group}"]
        assert pod["nodeSelector"] == {f"streamrec.io/{group}": "true"}
        assert [(each["key"], each["effect"]) for each in pod["tolerations"]] == [(f"streamrec.io/{group}", "NoSchedule")]
