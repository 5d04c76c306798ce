from __future__ import annotations

import re

import pytest

from streamrec.config import Config, LogConfig, parse_config
from streamrec.errors import StorageError
from streamrec.log.kafka_facts import TopicFacts
from streamrec.pipeline.examine import (
    LETTER_BYTES,
    Finding,
    Verdict,
    check_clock,
    check_connection,
    check_embedded,
    check_extras,
    check_free_space,
    check_lateness,
    check_plan_time,
    check_python,
    check_resources_of,
    check_storage,
    check_topic,
    failed,
)
from streamrec.pipeline.resources import Resources, needed, shortage, told_places
from streamrec.storage.trial import Trial

DAY_S = 86_400.0
GOOD = {"cleanup.policy": "delete", "retention.ms": str(7 * 86_400_000), "retention.bytes": "-1", "min.insync.replicas": "2"}


def topic(facts: TopicFacts | None, **changes: object) -> list[Finding]:
    options = {"num_partitions": 4, "num_brokers": 3, "downtime_s": DAY_S, "letters": False} | changes
    return check_topic("events", facts, **options)


def worst(findings: list[Finding]) -> Finding:
    return max(findings, key=lambda finding: list(Verdict).index(finding.verdict))


def test_a_good_topic_has_nothing_but_ok_and_its_values_are_named() -> None:
    findings = topic(TopicFacts(4, 3, GOOD))
    assert {finding.verdict for finding in findings} == {Verdict.OK}
    text = " ".join(finding.found for finding in findings)
    for value in ("4 partitions", "replication factor 3 on 3 brokers", "cleanup.policy = delete", "retention.ms = 604800000 (7d)", "is 1d"):
        assert value in text


@pytest.mark.parametrize(
    ("facts", "options", "verdict", "found"),
    [
        (None, {}, Verdict.WARN, "not there yet: jobs create it with 4 partitions and replication factor 1"),
        (None, {"num_brokers": 1}, Verdict.OK, "not there yet"),
        (TopicFacts(2, 3, GOOD), {}, Verdict.FAIL, "2 partitions, log.num_partitions = 4: jobs refuse to start"),
        (TopicFacts(4, 3, GOOD | {"cleanup.policy": "compact,delete"}), {}, Verdict.FAIL, "cleanup.policy = compact,delete"),
        (TopicFacts(4, 3, GOOD | {"retention.ms": "3600000"}), {}, Verdict.FAIL, "retention.ms = 3600000 (1h), the longest downtime is 1d"),
        (TopicFacts(4, 3, GOOD | {"retention.ms": "3600000"}), {"letters": True}, Verdict.WARN, "retention.ms = 3600000"),
        (TopicFacts(4, 3, GOOD | {"retention.ms": "3600000"}), {"downtime_s": 3600.0}, Verdict.OK, "4 partitions"),
        (TopicFacts(4, 3, GOOD | {"retention.ms": "-1"}), {"downtime_s": 1e9}, Verdict.OK, "4 partitions"),
        (TopicFacts(4, 3, GOOD | {"retention.bytes": "1000"}), {}, Verdict.WARN, "retention.bytes = 1000"),
        (TopicFacts(4, 1, GOOD | {"min.insync.replicas": "1"}), {}, Verdict.WARN, "replication factor 1 on 3 brokers"),
        (TopicFacts(4, 1, GOOD), {}, Verdict.FAIL, "min.insync.replicas = 2"),
        (TopicFacts(4, 2, GOOD | {"min.insync.replicas": "1"}), {}, Verdict.WARN, "one copy is enough"),
        (TopicFacts(4, 3), {}, Verdict.WARN, "the broker does not tell its settings"),
        (TopicFacts(4), {"num_brokers": 0}, Verdict.OK, "4 partitions"),
        (TopicFacts(4, 3, GOOD | {"max.message.bytes": "100000"}), {"letters": True}, Verdict.FAIL, f"a dead letter has up to {LETTER_BYTES}"),
        (TopicFacts(4, 3, GOOD | {"max.message.bytes": "100000"}), {}, Verdict.OK, "4 partitions"),
    ],
)
def test_what_is_wrong_with_a_topic_is_named_with_its_value(
    facts: TopicFacts | None, options: dict[str, object], verdict: Verdict, found: str
) -> None:
    finding = worst(topic(facts, **options))
    assert finding.verdict is verdict
    assert found in finding.found
    assert bool(finding.remedy) == (verdict is not Verdict.OK)


@pytest.mark.parametrize(("version", "verdict"), [((3, 10), "FAIL"), ((3, 11), "OK"), ((3, 13), "OK"), ((3, 14), "FAIL")])
def test_python_is_judged_by_its_version(version: tuple[int, int], verdict: str) -> None:
    assert check_python(version).verdict == verdict


@pytest.mark.parametrize(
    ("state", "has_obstore", "shares_disk", "verdict"),
    [
        ("runs/default", False, True, "OK"),
        ("runs/default", True, False, "WARN"),
        ("s3://bucket/run", False, True, "FAIL"),
        ("gs://bucket/run", True, False, "OK"),
    ],
)
def test_the_state_must_be_reachable_from_all_nodes(state: str, has_obstore: bool, shares_disk: bool, verdict: str) -> None:
    assert check_extras(state, has_obstore=has_obstore, shares_disk=shares_disk).verdict == verdict


@pytest.mark.parametrize(("is_required", "verdicts"), [(True, ["FAIL", "WARN"]), (False, ["WARN", "WARN"])])
def test_without_java_only_an_embedded_broker_fails(is_required: bool, verdicts: list[str]) -> None:
    broker, *findings = check_embedded("none", "/cache/kafka", has_java=False, has_jars=False, is_required=is_required)
    assert (broker.check, broker.verdict) == ("broker", Verdict.OK)
    assert [finding.verdict for finding in findings] == verdicts
    assert all(("files of this machine" in finding.remedy) != is_required for finding in findings)
    assert {finding.verdict for finding in check_embedded("/bin/java", "/cache", has_java=True, has_jars=True, is_required=True)} == {Verdict.OK}


def test_a_storage_that_breaks_a_promise_fails_by_its_name() -> None:
    assert check_storage("/state", Trial((), 0.0, 0.01)).verdict is Verdict.OK
    broken = check_storage("s3://b", Trial(("a pointer is not set twice",), None, 0.01))
    assert (broken.verdict, broken.found) == (Verdict.FAIL, "s3://b breaks a promise: a pointer is not set twice")


@pytest.mark.parametrize(("free_bytes", "verdict"), [(0, "FAIL"), (2**30 - 1, "FAIL"), (2**30, "WARN"), (5 * 2**30, "OK")])
def test_free_space_has_two_bounds(free_bytes: int, verdict: str) -> None:
    finding = check_free_space("/state", free_bytes)
    assert (finding.verdict, bool(finding.remedy)) == (verdict, verdict != "OK")


@pytest.mark.parametrize(
    ("ahead_s", "verdict"),
    [(0.0, "OK"), (2.0, "OK"), (-2.1, "WARN"), (3600.0, "WARN"), (DAY_S + 1, "FAIL"), (-2 * DAY_S, "WARN")],
)
def test_a_clock_fails_when_events_would_be_rejected_by_it(ahead_s: float, verdict: str) -> None:
    assert check_clock("theirs", ahead_s, DAY_S).verdict == verdict


@pytest.mark.parametrize(
    ("ahead_s", "verdict", "says"),
    [
        (-DAY_S, "OK", ""),
        (1.0, "OK", ""),
        (3600.0, "WARN", "until the clock has caught up"),
        (365 * DAY_S, "WARN", "beyond .* \\(1d\\) are rejected"),
    ],
)
def test_a_plan_that_is_ahead_of_the_clock_is_a_warning_that_says_what_comes_of_it(ahead_s: float, verdict: str, says: str) -> None:
    finding = check_plan_time(ahead_s, DAY_S)
    assert finding.verdict == verdict
    assert re.search(says, finding.remedy)
    assert (f"{ahead_s / DAY_S:.3g}d ahead of ours" in finding.found) == (ahead_s > 2 * DAY_S)


@pytest.mark.parametrize(("lateness_s", "tolerance_s", "verdict"), [(7 * DAY_S, DAY_S, "OK"), (DAY_S, DAY_S, "OK"), (3600.0, DAY_S, "WARN")])
def test_a_clock_may_be_no_further_ahead_than_events_may_be_late(lateness_s: float, tolerance_s: float, verdict: str) -> None:
    finding = check_lateness(lateness_s, tolerance_s)
    assert finding.verdict == verdict
    assert ("future_tolerance_s" in finding.remedy) == (verdict == "WARN")


def resources(have: Resources, **teachers: object) -> list[Finding]:
    config: Config = parse_config({"teachers": teachers, "serving": {"num_replicas": 2}})
    return check_resources_of(config, have, needed(config), needed(config, 2), "here")


def nodes(*cpus: float, **others: float) -> Resources:
    return Resources.of_nodes([{"CPU": each, **others} for each in cpus])


def test_a_plan_that_fits_only_without_serving_is_a_warning() -> None:
    assert [finding.verdict for finding in resources(nodes(4))] == ["OK"]
    assert [finding.verdict for finding in resources(nodes(1.5))] == ["OK", "WARN"]


@pytest.mark.parametrize(
    ("have", "teachers", "found", "remedy"),
    [
        (nodes(1), {}, "does not fit this Ray cluster, got 1 CPUs, allowed 1.4 or more", "lower teachers.num_train_workers (1)"),
        (nodes(*[2] * 8), {"cpus_per_worker": 4}, "no node of this Ray cluster holds one train worker, got 2 CPUs", "cpus_per_worker (4)"),
        (nodes(16, GPU=1), {"use_gpu": True, "num_train_workers": 2}, "more GPUs than the cluster has, got 1, allowed 2", "set use_gpu = false"),
        (
            nodes(16, 1),
            {"worker_resources": {"spot": 0.5}},
            "no node of this Ray cluster holds one train worker, got 2 nodes with CPU 1; CPU 16, allowed CPU 0.5, spot 0.5 on one node",
            "start a node that has them (`ray start --resources`",
        ),
        (
            nodes(16, spot=1),
            {"worker_resources": {"spot": 0.5}, "num_train_workers": 3},
            "has room for each train worker, with what else is to run there, got 1 nodes with CPU 16, spot 1, allowed 3 times CPU 0.5, spot 0.5",
            "lower what teachers.cpus_per_worker, use_gpu and worker_resources asks for, or add a node that has CPU 0.5, spot 0.5",
        ),
    ],
)
def test_a_plan_that_would_wait_for_ever_fails_and_says_what_to_lower(have: Resources, teachers: dict[str, object], found: str, remedy: str) -> None:
    (finding,) = resources(have, **teachers)
    assert finding.verdict is Verdict.FAIL
    assert found in finding.found
    assert remedy in finding.remedy
    assert finding.remedy not in finding.found


def test_what_is_needed_counts_actors_training_reading_and_replicas() -> None:
    plain = parse_config({})
    assert needed(plain).cpus == pytest.approx(4 * 0.1 + 0.5 + 0.5)
    assert needed(plain, 3).cpus == pytest.approx(needed(plain).cpus + 3 * 0.2)
    bare = needed(parse_config({"teachers": {"enabled": [], "use_gpu": True}, "student": {"control": False}}))
    assert (bare.cpus, bare.gpus, bare.node_cpus) == (pytest.approx(2 * 0.1 + 0.5), 0, 0.5)
    have = Resources.of_nodes([{"CPU": 2.0, "GPU": 1.0}, {"CPU": 6.0}, {}])
    assert (have.cpus, have.gpus, have.node_cpus) == (8.0, 1.0, 6.0)
    assert shortage(plain, needed(plain), have) is None
    assert shortage(plain, needed(plain), Resources.of_nodes([])) is not None


def test_what_is_placed_is_counted_told_and_looked_for_on_single_nodes() -> None:
    spot = {"num_train_workers": 4, "min_train_workers": 2, "use_gpu": True, "worker_resources": {"spot": 0.25}}
    config = parse_config({"teachers": spot, "placement": {"learners": {"cpus": 0.75, "resources": {"stays": 0.5}}}})
    needs = needed(config)
    assert (needs.cpus, needs.gpus) == (pytest.approx(2 * 0.75 + 0.1 + 0.1 + 2 * 0.5 + 0.5), 2)
    assert needs.custom == {"stays": 1.0, "spot": 0.5}
    assert told_places(config, needs) == [
        "2 × student on nodes that have it: CPU 0.75, stays 0.5 each",
        "2 × train worker on nodes that have it: CPU 0.5, GPU 1, spot 0.25 each",
        "a fit begins with 2 train workers at least, and with up to 4 where there is room",
    ]
    steady, gpu = {"CPU": 4.0, "stays": 1.0}, {"CPU": 1.0, "GPU": 1.0, "spot": 1.0}
    assert shortage(config, needs, Resources.of_nodes([steady, gpu, gpu])) is None
    assert "for each train worker" in str(shortage(config, needs, Resources.of_nodes([steady, {**gpu, "GPU": 2.0, "CPU": 0.5}])))
    (finding,) = check_resources_of(config, Resources.of_nodes([steady, gpu, gpu]), needs, needs, "here")
    assert "2 × train worker on nodes that have it" in finding.found
    assert told_places(parse_config({}), needed(parse_config({}))) == []


def test_a_failed_check_says_its_remedy_once() -> None:
    finding = failed("storage", StorageError("Storage: no", do="do this"), "do this", "there")
    assert finding == Finding("storage", Verdict.FAIL, "there: Storage: no", "do this")


def test_a_certificate_that_ends_soon_and_a_secret_that_can_be_read_on_the_way_are_warned_of() -> None:
    tls = LogConfig(security_protocol="SASL_SSL", sasl_mechanism="PLAIN")
    assert check_connection(LogConfig(), None) == []
    assert [(each.verdict, each.found) for each in check_connection(tls, 30 * DAY_S)] == [
        (Verdict.OK, "the certificate that it shows is valid for 30d")
    ]
    (soon,) = check_connection(tls, 5 * DAY_S)
    assert (soon.verdict, soon.found) == (Verdict.WARN, "the certificate that it shows is valid for 5d")
    assert "renew it" in soon.remedy
    for mechanism, is_read in (("PLAIN", True), ("OAUTHBEARER", True), ("SCRAM-SHA-256", False)):
        findings = check_connection(LogConfig(security_protocol="SASL_PLAINTEXT", sasl_mechanism=mechanism), None)
        assert [each.verdict for each in findings] == [Verdict.WARN] * is_read
