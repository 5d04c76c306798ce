"""What the files repeat of the code, because they must, is what the code says: topics, ports, versions, variables, commands, settings."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from packaging.specifiers import SpecifierSet
from ray.dashboard.modules.job.cli import submit
from ray.scripts.scripts import start
from ray.serve.schema import ServeDeploySchema
from ray.serve.scripts import deploy

import streamrec
from jobs import cli
from serve.app import Arguments
from serve.deployments import build_application, deployment_options
from serve.haproxy import flags
from serve.replica import ReplicaSettings
from streamrec.config import Config, load_config
from streamrec.log.base import LogAddress
from streamrec.log.kafka_facts import TopicFacts
from streamrec.log.kafka_install import KAFKA_VERSION
from streamrec.log.kafka_security import check_security
from streamrec.memory import FOR_CHILDREN
from streamrec.pipeline.cluster import OBJECT_STORE_BYTES, RAY_SETTINGS
from streamrec.pipeline.examine import Verdict, check_topic
from streamrec.pipeline.places import misplaced
from streamrec.pipeline.resources import Resources, needed, shortage
from streamrec.pipeline.session import consumer_group
from streamrec.pipeline.wiring import ACTOR_CPUS

CHECKOUT = Path(streamrec.__file__).parents[1]
CLUSTER = CHECKOUT / "cluster"
PINNED = dict(re.findall(r"^([a-z0-9-]+)==([^ \n]+)", (CHECKOUT / "constraints.txt").read_text(), re.MULTILINE))
SERVE_CONFIG = yaml.safe_load((CLUSTER / "kuberay" / "base" / "serve-config.yaml").read_text())
COMPOSE = yaml.safe_load((CLUSTER / "compose.yaml").read_text())
DOCKERFILE = (CLUSTER / "docker" / "Dockerfile").read_text()

KAFKA_DEFAULTS = {"cleanup.policy": "delete", "retention.bytes": "-1", "max.message.bytes": "1048588", "message.timestamp.type": "CreateTime"}

Resource = dict[str, Any]
One = Callable[..., Resource]


def group_of(cluster: Resource, name: str) -> Resource:
    (found,) = [each for each in cluster["spec"]["workerGroupSpecs"] if each["groupName"] == name]
    return dict(found)


# Topics and Kafka


def test_topics_are_the_configurations_and_doctor_has_nothing_to_say(resources: list[Resource], one: One, config: Config, overlay: str) -> None:
    topics = {each["metadata"]["name"]: each["spec"] for each in resources if each["kind"] == "KafkaTopic"}
    partitions = {config.log.events_topic: config.log.num_partitions, config.log.dead_letter_topic: 1}
    assert set(topics) == set(partitions)
    for name, topic in topics.items():
        facts = TopicFacts(topic["partitions"], topic["replicas"], KAFKA_DEFAULTS | {key: str(value) for key, value in topic["config"].items()})
        findings = check_topic(
            name,
            facts,
            num_partitions=partitions[name],
            num_brokers=one("KafkaNodePool")["spec"]["replicas"],
            downtime_s=config.features.lateness_s,
            letters=name == config.log.dead_letter_topic,
        )
        doubts = [finding.found for finding in findings if finding.verdict is not Verdict.OK]
        assert not doubts or (overlay == "dev" and [each.startswith("replication factor 1 on 1 brokers") for each in doubts] == [True])


def test_kafka_has_as_many_nodes_as_copies_and_one_of_them_may_be_away(one: One, overlay: str, resources: list[Resource]) -> None:
    nodes, config = one("KafkaNodePool")["spec"]["replicas"], one("Kafka")["spec"]["kafka"]["config"]
    copies = {name: value for name, value in config.items() if name.endswith("replication.factor")}
    least = {name: value for name, value in config.items() if name.endswith(("min.isr", "min.insync.replicas"))}
    assert set(copies.values()) == {nodes}
    assert set(least.values()) == {max(1, nodes - 1)}
    assert {each["spec"]["replicas"] for each in resources if each["kind"] == "KafkaTopic"} == {nodes}
    assert (nodes == 1) is (overlay == "dev")


def test_everything_of_kafka_belongs_to_the_one_cluster(resources: list[Resource], one: One) -> None:
    name = one("Kafka")["metadata"]["name"]
    parts = [each for each in resources if each["apiVersion"].startswith("kafka.") and each["kind"] != "Kafka"]
    assert {each["metadata"]["labels"]["strimzi.io/cluster"] for each in parts} == {name}


def test_all_come_in_by_tls_as_a_user_whose_secrets_are_mounted(one: One, config: Config, pods: dict[str, dict[str, Any]]) -> None:
    kafka, log, user = one("Kafka"), config.log, one("KafkaUser", config.log.sasl_username)
    (listener,) = kafka["spec"]["kafka"]["listeners"]
    assert log.broker == f"{kafka['metadata']['name']}-kafka-bootstrap:{listener['port']}"
    assert kafka["spec"]["kafka"]["authorization"] == {"type": "simple"}  # Nobody may do anything without a rule.
    assert (listener["tls"], listener["authentication"]["type"]) == (log.has_tls, user["spec"]["authentication"]["type"])
    assert (log.has_sasl, log.sasl_mechanism.lower()) == (True, user["spec"]["authentication"]["type"])
    check_security(log)
    secrets = {f"{kafka['metadata']['name']}-cluster-ca-cert": Path(log.tls_ca_file), user["metadata"]["name"]: Path(log.sasl_password_file)}
    for name in ("head", "serving", "training"):
        pod = pods[f"RayCluster {name}"]
        (folder,) = [Path(mount["mountPath"]) for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "kafka"]
        (sources,) = [volume["projected"]["sources"] for volume in pod["volumes"] if volume["name"] == "kafka"]
        assert {each["secret"]["name"]: folder / each["secret"]["items"][0]["path"] for each in sources} == secrets
        assert [each["secret"]["items"][0]["key"] for each in sources] == ["ca.crt", "password"]  # As the operator calls them.


def test_streamrec_may_read_and_write_its_topics_and_tell_its_group(one: One, config: Config) -> None:
    rules = one("KafkaUser", config.log.sasl_username)["spec"]["authorization"]["acls"]
    topics = {rule["resource"]["name"]: set(rule["operations"]) for rule in rules if rule["resource"]["type"] == "topic"}
    assert set(topics) == {config.log.events_topic, config.log.dead_letter_topic}
    assert all(operations == {"Read", "Write", "Describe", "DescribeConfigs"} for operations in topics.values())
    (group,) = [rule["resource"] for rule in rules if rule["resource"]["type"] == "group"]
    assert consumer_group(config).startswith(group["name"])
    assert group["patternType"] == "prefix"


def test_a_producer_may_write_events_and_nothing_else(one: One, config: Config) -> None:
    (rule,) = one("KafkaUser", "streamrec-producer")["spec"]["authorization"]["acls"]
    assert rule["resource"] == {"type": "topic", "name": config.log.events_topic, "patternType": "literal"}
    assert rule["operations"] == ["Write", "Describe"]


# Settings


def test_state_and_log_are_where_all_nodes_reach_them(config: Config, overlay: str, pods: dict[str, dict[str, Any]]) -> None:
    assert misplaced(config) == {}
    assert "://" in config.state or overlay == "dev"
    for name in ("head", "serving", "training") if overlay == "dev" else ():
        mounts = {mount["mountPath"] for container in pods[f"RayCluster {name}"]["containers"] for mount in container["volumeMounts"]}
        assert config.state in mounts


def test_who_asks_needs_a_key_but_on_one_machine(config: Config, overlay: str, pods: dict[str, dict[str, Any]]) -> None:
    if overlay == "dev":
        assert config.serving.keys_file == ""
        return
    (mounted,) = [mount["mountPath"] for mount in pods["RayCluster serving"]["containers"][0]["volumeMounts"] if mount["name"] == "keys"]
    assert Path(config.serving.keys_file).parent == Path(mounted)
    assert f"{Path(config.serving.keys_file).name}=" in (CLUSTER / "README.md").read_text()


def test_the_configuration_is_mounted_where_the_environment_names_it(one: One, pods: dict[str, dict[str, Any]]) -> None:
    named = Path(one("ConfigMap", "streamrec-env")["data"]["STREAMREC_CONFIG"])
    assert named.name in one("ConfigMap", "streamrec-config")["data"]
    for name in ("head", "serving", "training"):
        pod = pods[f"RayCluster {name}"]
        (volume,) = [each["name"] for each in pod["volumes"] if each.get("configMap") == {"name": "streamrec-config"}]
        assert {"name": volume, "mountPath": str(named.parent), "readOnly": True} in pod["containers"][0]["volumeMounts"]
        assert pod["containers"][0]["envFrom"] == [{"configMapRef": {"name": "streamrec-env"}}, {"secretRef": {"name": "streamrec-env"}}]


def test_nodes_have_the_environment_that_a_local_cluster_gets(one: One) -> None:
    given = one("ConfigMap", "streamrec-env")["data"]
    settings = {f"RAY_{name}": str(int(value)) for name, value in RAY_SETTINGS.items()}
    makefile = dict(re.findall(r"^export (\w+) = (\S+)", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    proxy = {name: value for name, value in flags(Path("/tmp")).items() if name in {"RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED"}}
    of_clusters = {"STREAMREC_CONFIG": "/etc/streamrec/streamrec.toml", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
    assert given == of_clusters | settings | makefile | proxy | FOR_CHILDREN
    known = (CHECKOUT / "streamrec" / "environment.py").read_text()
    readme = (CLUSTER / "README.md").read_text()
    assert all(f'"{name}"' in known for name in {*re.findall(r"STREAMREC_[A-Z_]+", readme), "STREAMREC_CONFIG"})


# Ray


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


def test_the_stream_and_its_refreshes_fit_into_the_training_pods(one: One, config: Config, jobs: list[Resource]) -> None:
    spec = one("RayCluster")["spec"]
    group = group_of(one("RayCluster"), "training")
    assert spec["headGroupSpec"]["resources"] == {"CPU": "0"}
    container = group["template"]["spec"]["containers"][0]
    cpus, replicas = int(group["resources"]["CPU"]), group["replicas"]
    assert container["resources"]["requests"]["cpu"] in {str(cpus), "500m"}
    driver = max(job["spec"]["entrypointNumCpus"] for job in jobs)
    have = Resources(cpus * replicas - driver, 0.0, cpus - driver)
    assert shortage(config, needed(config, ACTOR_CPUS), have) is None


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


# Commands


def checked_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Parse a command line with the parser of the program that it calls, and return the job's name; "" where it calls none."""
    if words[:2] == ["python", "-m"]:
        monkeypatch.setattr(cli, "run", lambda job: 0)
        assert importlib.import_module(words[2]).main(words[3:]) == 0
        return words[2]
    known: dict[str, click.Command] = {"serve deploy": deploy, "ray job submit": submit, "ray start": start}
    (name,) = [each for each in known if words[: len(each.split())] == each.split()]
    context = known[name].make_context(name, words[len(name.split()) :])
    return checked_command(list(context.params["entrypoint"]), monkeypatch) if "entrypoint" in context.params else ""


def test_jobs_are_called_as_they_are_and_join_the_cluster(jobs: list[Resource], one: One, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [checked_command(shlex.split(job["spec"]["entrypoint"]), monkeypatch) for job in jobs] == ["jobs.bootstrap", "jobs.stream"]
    for job in jobs:
        assert job["spec"]["clusterSelector"] == {"ray.io/cluster": one("RayCluster")["metadata"]["name"]}
        assert "backoffLimit" not in job["spec"]  # KubeRay refuses it beside clusterSelector.
        assert job["spec"]["submissionMode"] == "HTTPMode"  # Its schema takes any text.


def test_a_command_that_is_no_more_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("python -m jobs.stream --no-such-option", "ray job submit --no-such-option -- python -m jobs.stream"):
        with pytest.raises((SystemExit, click.UsageError)):
            checked_command(shlex.split(wrong), monkeypatch)


def test_compose_s_commands_are_called_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    services = COMPOSE["services"]
    assert checked_command(services["ray"]["command"], monkeypatch) == ""
    assert checked_command(services["serve"]["command"], monkeypatch) == ""
    script = services["learn"]["command"][-1]
    calls = re.findall(r"(ray job submit [^;\n]*)", script)
    assert [checked_command(shlex.split(call), monkeypatch) for call in calls] == ["jobs.bootstrap", "jobs.stream"]


# Addresses and ports


def test_services_are_asked_by_their_names_and_ports(one: One, pods: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, redis, serve = one("RayCluster"), one("Service", "streamrec-redis"), one("Service", "streamrec-serve")
    assert cluster["spec"]["gcsFaultToleranceOptions"]["redisAddress"] == f"{redis['metadata']['name']}:{redis['spec']['ports'][0]['port']}"
    command = pods["Job streamrec-serve-deploy"]["containers"][0]["command"]
    assert checked_command(command, monkeypatch) == ""
    ports = {port["name"]: port["containerPort"] for port in pods["RayCluster head"]["containers"][0]["ports"]}
    assert command[command.index("--address") + 1] == f"http://{cluster['metadata']['name']}-head-svc:{ports['dashboard']}"
    (http,) = serve["spec"]["ports"]
    (target,) = [port["containerPort"] for port in pods["RayCluster serving"]["containers"][0]["ports"] if port["name"] == http["targetPort"]]
    assert http["port"] == target == SERVE_CONFIG["http_options"]["port"]


def test_policies_open_the_ports_that_are_used(resources: list[Resource], one: One, pods: dict[str, dict[str, Any]]) -> None:
    policies = [each["spec"] for each in resources if each["kind"] == "NetworkPolicy"]
    opened = {port["port"] for policy in policies for rule in [*policy["ingress"], *policy["egress"]] for port in rule.get("ports", ())}
    kafka = {listener["port"] for listener in one("Kafka")["spec"]["kafka"]["listeners"]}
    dashboard = {port["containerPort"] for port in pods["RayCluster head"]["containers"][0]["ports"] if port["name"] == "dashboard"}
    redis = {port["port"] for port in one("Service", "streamrec-redis")["spec"]["ports"]}
    assert opened == kafka | dashboard | redis | {SERVE_CONFIG["http_options"]["port"], 53, 443}


def test_selectors_select_pods_that_are_there(resources: list[Resource], one: One) -> None:
    cluster, deploys = one("RayCluster"), one("Job", "streamrec-serve-deploy")["spec"]["template"]["metadata"]["labels"]
    groups = [None, *(group["groupName"] for group in cluster["spec"]["workerGroupSpecs"])]
    there = [{"ray.io/cluster": cluster["metadata"]["name"], "ray.io/group": name} for name in groups]
    there += [one("StatefulSet")["spec"]["template"]["metadata"]["labels"], deploys, {"strimzi.io/cluster": one("Kafka")["metadata"]["name"]}]
    there += [{"streamrec.io/client": "true"}]  # The applications', see cluster/README.md.
    chosen = []
    for each in resources:
        spec = each.get("spec", {})
        chosen += [spec["selector"]] if each["kind"] == "Service" else []
        chosen += [spec["selector"]["matchLabels"]] if each["kind"] == "PodDisruptionBudget" else []
        for rule in [*spec["ingress"], *spec["egress"]] if each["kind"] == "NetworkPolicy" else []:
            chosen += [peer["podSelector"]["matchLabels"] for peer in [*rule.get("from", ()), *rule.get("to", ())] if "podSelector" in peer]
        chosen += [spec["podSelector"]["matchLabels"]] if each["kind"] == "NetworkPolicy" else []
    assert chosen
    assert [labels for labels in chosen if not any(labels.items() <= pod.items() for pod in there)] == []


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
    assert shortage(config, needed(config, ACTOR_CPUS), Resources(options["num_cpus"] - 1, 0.0, options["num_cpus"] - 1)) is None


def test_compose_opens_ports_to_this_machine_alone() -> None:
    for service in COMPOSE["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


# The handbook


def test_the_handbook_installs_the_operators_whose_schemas_are_held() -> None:
    table = (Path(__file__).parent / "schemas" / "README.md").read_text()
    held = dict(re.findall(r"^\| (\w+) \| ([\d.]+) \|", table, re.MULTILINE))
    installed = re.findall(r"helm install \S+ \S+/(\S+) --version (\S+)", (CLUSTER / "README.md").read_text())
    assert {"kuberay-operator": held["KubeRay"], "strimzi-kafka-operator": held["Strimzi"]} == dict(installed)


def test_the_handbook_names_files_that_are_there() -> None:
    named = set(re.findall(r"(?<![\w/])(cluster/[\w./-]*\w)", (CLUSTER / "README.md").read_text()))
    assert named
    assert [name for name in named if not (CHECKOUT / name).exists() and name != "cluster/.env"] == []
