"""The image and ``compose.yaml`` are what the code, its settings and the other files say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml
from packaging.specifiers import SpecifierSet
from ray.scripts.scripts import start

import streamrec
from streamrec.config import load_config
from streamrec.log.kafka_install import KAFKA_VERSION
from streamrec.log.kafka_security import check_security
from streamrec.pipeline.cluster import OBJECT_STORE_BYTES
from streamrec.pipeline.resources import Resources, needed, shortage

CHECKOUT = Path(streamrec.__file__).parents[1]
CLUSTER = CHECKOUT / "cluster"
COMPOSE = yaml.safe_load((CLUSTER / "compose.yaml").read_text())
DOCKERFILE = (CLUSTER / "docker" / "Dockerfile").read_text()


# Images


def test_our_image_has_this_version(pods: dict[str, dict[str, Any]]) -> None:
    ours = {container["image"] for pod in pods.values() for container in pod["containers"] if "streamrec" in container["image"]}
    compose = {service["image"] for service in COMPOSE["services"].values() if "streamrec" in service["image"]}
    assert ours == compose == {f"registry.example/streamrec:{streamrec.__version__}"}
    assert f"-t {ours.pop()}" in DOCKERFILE


def test_the_image_has_a_python_that_is_supported_and_pinned() -> None:
    (version,) = re.findall(r"^ARG PYTHON_IMAGE=python:(\d+\.\d+\.\d+)-slim-\w+$", DOCKERFILE, re.MULTILINE)
    supported = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert version in SpecifierSet(supported)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${PYTHON_IMAGE}"}
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)


def test_the_image_gets_what_it_copies_and_no_more() -> None:
    ignore = (CLUSTER / "docker" / "Dockerfile.dockerignore").read_text().split()
    assert ignore[0] == "*"
    kept = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    copied = {source for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE) for source in line.split()[:-1]}
    assert kept == copied
    assert all((CHECKOUT / name).exists() for name in copied)
    extras = set(re.findall(r'"\.\[([\w,]+)\]"', DOCKERFILE)[0].split(","))
    assert extras <= set(tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


# Compose


def test_compose_has_the_kafka_and_the_settings_of_the_rest() -> None:
    kafka, ray = COMPOSE["services"]["kafka"], COMPOSE["services"]["ray"]
    assert kafka["image"] == f"apache/kafka:{KAFKA_VERSION}"
    config = load_config(CLUSTER / "kuberay" / "overlays" / "dev" / "streamrec.toml")
    (alias,) = kafka["networks"]["default"]["aliases"]
    assert config.log.broker in {each.rpartition("//")[2] for each in kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")}
    assert config.log.broker.startswith(f"{alias}:")
    made = re.findall(r"(?:-out|>) ([\w.]+)$|-out ([\w.]+) ", (CLUSTER / "compose-secrets.sh").read_text(), re.MULTILINE)
    secrets = {f"./.secrets/{first or second}" for first, second in made}
    for volume in (volume for service in COMPOSE["services"].values() for volume in service.get("volumes", ())):
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or source in secrets or (CLUSTER / source).is_file()
    assert f"state:{config.state}" in ray["volumes"]
    assert f"--object-store-memory={OBJECT_STORE_BYTES}" in ray["command"]
    assert (CLUSTER / ray["env_file"]).is_file()


def test_compose_s_kafka_lets_in_by_tls_whom_the_settings_name_and_nobody_else() -> None:
    kafka, environment = COMPOSE["services"]["kafka"], COMPOSE["services"]["kafka"]["environment"]
    protocols = dict(each.split(":") for each in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    bound = {each.partition("://")[0]: each.partition("://")[2] for each in environment["KAFKA_LISTENERS"].split(",")}
    for name, protocol in protocols.items():
        assert protocol == "SASL_SSL" or bound[name].startswith("localhost:"), name
        if protocol == "SASL_SSL":
            assert "ScramLoginModule" in environment[f"KAFKA_LISTENER_NAME_{name}_SCRAM___SHA___512_SASL_JAAS_CONFIG"]
    user = COMPOSE["services"]["kafka-user"]
    assert user["image"] == kafka["image"]
    mounted = COMPOSE["services"]["ray"]["volumes"]
    for path in (CLUSTER / "kuberay" / "overlays" / "dev" / "streamrec.toml", CLUSTER / "compose.toml"):
        log = load_config(path).log
        check_security(log)
        assert (log.security_protocol, log.sasl_mechanism) == ("SASL_SSL", environment["KAFKA_SASL_ENABLED_MECHANISMS"])
        assert f"--entity-name={log.sasl_username}" in user["command"]
        for secret in (log.tls_ca_file, log.sasl_password_file):
            assert f"./.secrets/{Path(secret).name}:{secret}:ro" in mounted or secret == f"cluster/.secrets/{Path(secret).name}"
    assert load_config(CLUSTER / "compose.toml").log.broker in environment["KAFKA_ADVERTISED_LISTENERS"]


def test_compose_s_node_holds_stream_and_servers() -> None:
    config = load_config(CLUSTER / "kuberay" / "overlays" / "dev" / "streamrec.toml")
    options = start.make_context("ray start", COMPOSE["services"]["ray"]["command"][2:]).params
    assert yaml.safe_load(options["resources"])["serving"] == config.serving.num_replicas
    assert shortage(config, needed(config), Resources.of_nodes([{"CPU": options["num_cpus"] - 1}])) is None


def test_compose_opens_ports_to_this_machine_alone() -> None:
    for service in COMPOSE["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
