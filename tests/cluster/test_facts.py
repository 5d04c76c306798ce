"""What Kubernetes' files repeat of the code, because they must, is what the code says: topics, ports, variables, commands, settings."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from ray.dashboard.modules.job.cli import submit
from ray.scripts.scripts import start
from ray.serve.scripts import deploy
from typer.main import get_command

import streamrec
from jobs import cli
from serve.haproxy import flags
from streamrec.cli.commands import app
from streamrec.config import Config
from streamrec.log.kafka_facts import TopicFacts
from streamrec.log.kafka_security import check_security
from streamrec.memory import FOR_CHILDREN
from streamrec.pipeline.cluster import RAY_SETTINGS
from streamrec.pipeline.examine import Verdict, check_topic
from streamrec.pipeline.places import misplaced
from streamrec.pipeline.session import consumer_group

CHECKOUT = Path(streamrec.__file__).parents[1]
CLUSTER = CHECKOUT / "cluster"
SERVE_CONFIG = yaml.safe_load((CLUSTER / "kuberay" / "base" / "serve-config.yaml").read_text())
COMPOSE = yaml.safe_load((CLUSTER / "compose.yaml").read_text())

KAFKA_DEFAULTS = {"cleanup.policy": "delete", "retention.bytes": "-1", "max.message.bytes": "1048588", "message.timestamp.type": "CreateTime"}

NODES = ("head", "serving", "training", "spot")

Resource = dict[str, Any]
One = Callable[..., Resource]


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
    for name in NODES:
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
    for name in NODES if overlay == "dev" else ():
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
    for name in NODES:
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


def test_the_cron_job_only_asks_where_the_state_and_its_settings_are(pods: dict[str, dict[str, Any]], config: Config) -> None:
    pod, learns = pods["CronJob streamrec-refresh"], pods["RayCluster training"]
    (container,), (learner,) = pod["containers"], learns["containers"]
    options = resolve_commands(container["command"])
    assert options == ("refresh", [], "cron")
    assert container["envFrom"] == learner["envFrom"]
    assert container["image"] == learner["image"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert ("/state" in mounted) == config.state.startswith("/")
    assert mounted <= {mount["mountPath"] for mount in learner["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in learns["volumes"]}
    assert [volume for volume in pod["volumes"] if volume["name"] != "tmp" and volume != volumes[volume["name"]]] == []


def test_servers_apart_are_the_ray_clusters_pods_and_deploy_the_same_application(servers: list[Resource], one: One) -> None:
    service, policy = servers
    ours, theirs = service["spec"]["rayClusterConfig"], one("RayCluster")["spec"]
    assert ours["rayVersion"] == theirs["rayVersion"]
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == SERVE_CONFIG
    label = {"streamrec.io/servers": "true"}
    assert policy["spec"]["podSelector"]["matchLabels"] == label
    (group,) = ours["workerGroupSpecs"]
    (serving,) = [each for each in theirs["workerGroupSpecs"] if each["groupName"] == group["groupName"]]
    assert (group["resources"], group["rayStartParams"]) == (serving["resources"], serving["rayStartParams"])
    for mine, other in ((ours["headGroupSpec"], theirs["headGroupSpec"]), (group, serving)):
        assert mine["template"]["metadata"]["labels"] == label
        pods = [each["template"]["spec"] for each in (mine, other)]
        # An overlay's volume of a state that is no bucket is left out.
        stripped = [without_state(pod) for pod in pods]
        assert stripped[0] == stripped[1]


def without_state(pod: dict[str, Any]) -> dict[str, Any]:
    """Return what a pod is but for a state's volume, its size and where it spreads."""
    (container,) = pod["containers"]
    mounts = [mount for mount in container["volumeMounts"] if mount["name"] != "state"]
    kept = {name: value for name, value in container.items() if name != "resources"} | {"volumeMounts": mounts}
    rest = {name: value for name, value in pod.items() if name not in {"containers", "topologySpreadConstraints"}}
    return rest | {"containers": [kept], "volumes": [volume for volume in pod["volumes"] if volume["name"] != "state"]}


def resolve_commands(words: list[str]) -> tuple[str, list[str], str]:
    """Parse a call of ``streamrec``: its verb, teachers and who asks."""
    program, verb, *rest = words
    assert program == "streamrec"
    commands: Any = get_command(app)
    params = commands.commands[verb].make_context(verb, rest).params
    return verb, list(params["teachers"] or ()), params["by"]


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
