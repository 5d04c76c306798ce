"""Judge measured facts of a deployment before it runs: each check gives findings, and each that is not OK says what to do. Pure.

`streamrec.pipeline.survey` measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from streamrec.config import Config, LogConfig
from streamrec.errors import Damaged, StreamrecError
from streamrec.log.kafka_facts import TopicFacts
from streamrec.pipeline.dead_letters import PART_BYTES
from streamrec.pipeline.plan_time import LONGEST_AHEAD_S
from streamrec.pipeline.readable import Versions
from streamrec.pipeline.resources import Needs, Resources, shortage, told_places
from streamrec.pipeline.switches import Switches
from streamrec.storage.trial import Trial

PYTHON_FROM, PYTHON_BELOW = (3, 11), (3, 14)

LETTER_BYTES = 2 * PART_BYTES * 4 // 3 + 4096
"""The largest dead letter: key and value of one part in base64, and what stands around them."""

MIN_FREE_BYTES = 2**30
GOOD_FREE_BYTES = 5 * 2**30
"""Room for commits, versions and teachers beside what is pruned; below the first a commit may fail within hours."""

CERTIFICATE_LEFT_S = 14 * 86_400.0
"""A certificate that ends sooner is renewed in time: afterwards nobody trusts it, and all that reconnects stops."""

CLOCK_AGREES_S = 2.0
"""Skew that nothing notices: event times are judged with a tolerance of hours, and versions are kept for minutes."""


class Verdict(StrEnum):
    """Say how a finding is to be taken: FAIL will not run or loses data, WARN will run."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """Hold what a check found.

    Attributes:
        check: What was looked at.
        verdict: How it is to be taken.
        found: What was found, with the value.
        remedy: What to do; empty when OK.
    """

    check: str
    verdict: Verdict
    found: str
    remedy: str = ""


def failed(check: str, error: Exception, remedy: str, where: str = "") -> Finding:
    """Return the finding for an error, which may end with the remedy already."""
    own = error.remedy if isinstance(error, StreamrecError) and error.remedy else remedy
    reason = " ".join(str(error).split()).removesuffix(f", {own}") or type(error).__name__
    return Finding(check, Verdict.FAIL, f"{where}: {reason}" if where else reason, remedy)


def check_python(version: tuple[int, int]) -> Finding:
    """Judge Python's version (major, minor)."""
    found = f"Python {version[0]}.{version[1]}"
    if PYTHON_FROM <= version < PYTHON_BELOW:
        return Finding("python", Verdict.OK, found)
    return Finding("python", Verdict.FAIL, found, "use Python 3.11 to 3.13")


def check_extras(state: str, *, has_obstore: bool, shares_disk: bool) -> Finding:
    """Judge whether the state's address can be used from where it must.

    Args:
        state: The configured address.
        has_obstore: The extra ``cloud`` is installed.
        shares_disk: All of Ray runs on this machine.
    """
    if state.startswith(("s3://", "gs://")) and not has_obstore:
        return Finding("state", Verdict.FAIL, f"{state} needs the extra 'cloud'", "run `pip install 'streamrec[cloud]'` on every node")
    if "://" not in state and not shares_disk:
        remedy = "make it a folder that all nodes share, or s3://bucket/prefix or gs://bucket/prefix"
        return Finding("state", Verdict.WARN, f"{state} is a folder, and Ray may run on several machines", remedy)
    return Finding("state", Verdict.OK, state)


def check_readable(address: str, errors: Sequence[StreamrecError]) -> list[Finding]:
    """Judge what of a state can't be read, as `streamrec.pipeline.readable` found it."""
    check = "state can be read"
    remedy = "restore it from a copy, or give `state` a new folder"
    found = [
        _passable(check, error)
        if isinstance(error, Damaged) and (error.facts.get("lost") or error.facts.get("fallback") or error.facts.get("receipt"))
        else failed(check, error, error.remedy or remedy)
        for error in errors
    ]
    return found or [Finding(check, Verdict.OK, address)]


def _passable(check: str, error: Damaged) -> Finding:
    """Return the finding for what the stream can do without: see `streamrec.pipeline.lost_teachers` and `streamrec.pipeline.readable.unreadable`."""
    remedy = "restore it from a copy before the start, or let the stream go on without it: it makes a new version"
    remedy = error.remedy if error.facts.keys() & {"fallback", "receipt"} else remedy
    return Finding(check, Verdict.WARN, str(error).removesuffix(f", {error.remedy}"), remedy)


def check_versions(versions: Versions, *, is_configured: bool) -> list[Finding]:
    """Judge what can be read of a student's versions; what is wrong with those of one that is configured no more holds no job up."""
    check, alias = f"versions of student {versions.student}", versions.torn_alias
    if not is_configured:
        remedy = f"restore it from a copy, or remove registry/{versions.student} below the state: the student is configured no more"
        found = [Finding(check, Verdict.WARN, str(error).removesuffix(f", {error.remedy}"), remedy) for error in versions.errors]
    else:
        found = [failed(check, error, error.remedy or "restore it from a copy") for error in versions.errors]
    if alias is not None:
        remedy = "let the stream commit, or roll back or promote: that writes it anew from the history, which holds the same facts"
        found.append(Finding(check, Verdict.WARN, str(alias).removesuffix(f", {alias.remedy}"), remedy))
    for error in versions.behind:
        remedy = "restore it from a copy: a rollback may go to that version"
        found.append(Finding(check, Verdict.WARN, str(error).removesuffix(f", {error.remedy}"), remedy))
    what = "none is live" if versions.live is None else f"{versions.live} is live"
    return found or [Finding(check, Verdict.OK, what if is_configured else f"{what}; it is configured no more")]


def check_switches(switches: Switches) -> Finding:
    """Judge what the person on call has turned: whatever holds the stream is said with who did it, since when and why."""
    if not (held := switches.in_force()):
        return Finding("switches", Verdict.OK, "nothing is held: the stream runs and promotes")
    undo = [("resume", switches.paused), ("unfreeze-publishing", switches.frozen)]
    undo += [(f"unpin {flip.version}", flip) for flip in switches.held.values()]
    remedy = " and ".join(f"`streamrec {verb}`" for verb, flip in undo if flip is not None)
    return Finding("switches", Verdict.WARN, "; ".join(held), f"when it is over: {remedy}")


def check_connection(log: LogConfig, left_s: float | None) -> list[Finding]:
    """Judge how a Kafka that lets us in is spoken to; of a plain one nothing is said.

    Args:
        log: The settings.
        left_s: For how long the certificate that it shows is valid; None where it shows none.
    """
    findings = []
    if left_s is not None:
        found = f"the certificate that it shows is valid for {_span(left_s)}"
        remedy = "let the broker's operator renew it in time: afterwards no client trusts it"
        findings.append(Finding("broker", Verdict.OK, found) if left_s >= CERTIFICATE_LEFT_S else Finding("broker", Verdict.WARN, found, remedy))
    if log.security_protocol == "SASL_PLAINTEXT" and log.sasl_mechanism in {"PLAIN", "OAUTHBEARER"}:
        found = f"{log.sasl_mechanism} over SASL_PLAINTEXT: whoever is on the way can read the secret"
        findings.append(Finding("broker", Verdict.WARN, found, "set log.security_protocol = SASL_SSL, at a listener that has TLS"))
    return findings


def check_topic(
    name: str,
    facts: TopicFacts | None,
    *,
    num_partitions: int,
    num_brokers: int,
    downtime_s: float,
    letters: bool = False,
    lost: Sequence[str] = (),
) -> list[Finding]:
    """Judge a topic.

    Args:
        name: The topic's.
        facts: None when it does not exist.
        num_partitions: As configured.
        num_brokers: Of the cluster; 0 for a log without brokers.
        downtime_s: The longest time for which the stream may be down and lose nothing.
        letters: It is the dead-letter topic: what leaves it early is not missing in the stream, but its records are large.
        lost: Folders of partitions that were there once, as the state or the rest of the log says.
    """
    check = f"topic {name}"
    if facts is None:
        found = f"not there yet: jobs create it with {num_partitions} partitions and replication factor 1"
        if num_brokers > 1:
            remedy = f"create it yourself with {num_partitions} partitions and replication factor {min(3, num_brokers)}"
            return [Finding(check, Verdict.WARN, found, remedy)]
        return [Finding(check, Verdict.OK, found)]
    if lost:
        found = f"{', '.join(lost)} {'is' if len(lost) == 1 else 'are'} gone, as the state or the partitions that are left say: jobs refuse to start"
        return [Finding(check, Verdict.FAIL, found, "restore that from a copy of the log, and leave log.num_partitions as it is")]
    findings = [_partitions(check, facts.num_partitions, num_partitions, letters=letters)]
    if num_brokers == 0:
        return findings
    findings.append(_replication(check, facts, num_brokers))
    if not facts.settings:
        remedy = "let this user describe the topic, or look at cleanup.policy and retention.ms yourself"
        return [*findings, Finding(check, Verdict.WARN, "the broker does not tell its settings", remedy)]
    findings += [_cleanup(check, facts.settings), *_retention(check, facts.settings, downtime_s, letters=letters)]
    max_bytes = int(facts.settings.get("max.message.bytes", LETTER_BYTES))
    if letters and max_bytes < LETTER_BYTES:
        found = f"max.message.bytes = {max_bytes}, a dead letter has up to {LETTER_BYTES}"
        findings.append(
            Finding(check, Verdict.FAIL, found, f"set max.message.bytes to {LETTER_BYTES} or more: a rejected record would end the stream")
        )
    return findings


def _partitions(check: str, existing: int, wanted: int, *, letters: bool) -> Finding:
    if existing == wanted:
        return Finding(check, Verdict.OK, f"{existing} partitions")
    if not existing:
        remedy = "restore its partitions from a copy of the log; without one remove the topic's folder, which jobs then make anew"
        return Finding(check, Verdict.FAIL, f"the topic's folder has no partitions, {wanted} are configured: jobs refuse to start", remedy)
    setting = "dead letters have 1" if letters else f"log.num_partitions = {wanted}"
    remedy = "choose another log.dead_letter_topic" if letters else f"set log.num_partitions = {existing}, or choose another log.events_topic"
    return Finding(check, Verdict.FAIL, f"{existing} partitions, {setting}: jobs refuse to start", remedy)


def _replication(check: str, facts: TopicFacts, num_brokers: int) -> Finding:
    copies = facts.replication or 0
    min_in_sync = facts.settings.get("min.insync.replicas")
    found = f"replication factor {copies} on {num_brokers} brokers"
    found += "" if min_in_sync is None else f", min.insync.replicas = {min_in_sync}"
    if min_in_sync is not None and int(min_in_sync) > copies:
        return Finding(check, Verdict.FAIL, found, "lower min.insync.replicas or raise the replication: no record would ever be acknowledged")
    if copies < 2:
        remedy = "raise its replication factor to 3" if num_brokers > 1 else "use a cluster of three brokers where events must outlive a disk"
        return Finding(check, Verdict.WARN, f"{found}: events are lost with one disk", remedy)
    if min_in_sync is not None and int(min_in_sync) < 2:
        return Finding(check, Verdict.WARN, f"{found}: one copy is enough for an acknowledgement", "set min.insync.replicas = 2")
    return Finding(check, Verdict.OK, found)


def _cleanup(check: str, settings: Mapping[str, str]) -> Finding:
    policy = settings.get("cleanup.policy", "delete")
    if "compact" in policy:
        remedy = "set cleanup.policy = delete: compaction takes offsets out of planned ranges, and events of a key but the last"
        return Finding(check, Verdict.FAIL, f"cleanup.policy = {policy}", remedy)
    return Finding(check, Verdict.OK, f"cleanup.policy = {policy}")


def _retention(check: str, settings: Mapping[str, str], downtime_s: float, *, letters: bool) -> list[Finding]:
    retention_ms, retention_bytes = int(settings.get("retention.ms", -1)), int(settings.get("retention.bytes", -1))
    bound = f"the longest downtime is {_span(downtime_s)} (--longest-downtime)"
    findings = []
    if retention_ms < 0:
        findings.append(Finding(check, Verdict.OK, "retention.ms = -1: kept for ever"))
    elif retention_ms < downtime_s * 1000:
        found = f"retention.ms = {retention_ms} ({_span(retention_ms / 1000)}), {bound}"
        remedy = f"set retention.ms to {round(downtime_s * 1000)} or more"
        remedy += ": older dead letters can't be replayed" if letters else ": a stream that is down for longer loses events"
        findings.append(Finding(check, Verdict.WARN if letters else Verdict.FAIL, found, remedy))
    else:
        findings.append(Finding(check, Verdict.OK, f"retention.ms = {retention_ms} ({_span(retention_ms / 1000)}), {bound}"))
    if retention_bytes >= 0:
        found = f"retention.bytes = {retention_bytes} a partition may drop events before their time"
        findings.append(Finding(check, Verdict.WARN, found, "set retention.bytes = -1, or make sure that it holds the longest downtime"))
    return findings


def check_embedded(java: str, jars: str, *, has_java: bool, has_jars: bool, is_required: bool) -> list[Finding]:
    """Judge what the embedded broker is made of.

    Args:
        java: The Java that was found, or why there is none.
        jars: The folder of the jars.
        has_java: There is one.
        has_jars: They have been fetched.
        is_required: ``log.broker`` is ``embedded``; with ``auto`` files take its place.
    """
    missing = Verdict.FAIL if is_required else Verdict.WARN
    instead = "" if is_required else "; until then files of this machine take the broker's place"
    ready = has_java and has_jars
    if is_required:
        broker = "the embedded Kafka of this machine, which the first job starts"
    else:
        broker = f"auto: {'the embedded Kafka' if ready else 'the embedded Kafka if it can start, else files'} of this machine, for the first job"
    found = [Finding("broker", Verdict.OK, broker)]
    found += [Finding("java", Verdict.OK, java) if has_java else Finding("java", missing, java, f"install Java 17 or the extra 'java'{instead}")]
    if has_jars:
        return [*found, Finding("jars", Verdict.OK, jars)]
    remedy = f"let the first start reach Maven's repository, or copy the folder from a machine that has it{instead}"
    return [*found, Finding("jars", Verdict.WARN, f"{jars} is not there: 43 MB are fetched at the first start", remedy)]


def check_storage(address: str, trial: Trial) -> Finding:
    """Judge what a storage did on scratch keys."""
    if trial.broken:
        remedy = "use a POSIX file system with rename and flock, or a store with conditional puts: a checkpoint's pointer is not safe here"
        return Finding("storage", Verdict.FAIL, f"{address} breaks a promise: {'; '.join(trial.broken)}", remedy)
    return Finding("storage", Verdict.OK, f"{address} writes, refuses and moves atomically ({trial.wall_s * 1000:.0f} ms for all of it)")


def check_lake(address: str, last_batch: int | None, counted_on: int) -> Finding:
    """Judge the event lake.

    Args:
        address: The table's.
        last_batch: Its last batch; None where there is no table.
        counted_on: The last batch whose rows the checkpoint counts on; 0 while it counts on none.
    """
    if (last_batch or 0) < counted_on:
        held = "there is no table" if last_batch is None else f"its rows end at batch {last_batch}"
        found = f"{address}: {held}, the checkpoint counts on those up to batch {counted_on}"
        return Finding("lake", Verdict.FAIL, found, "restore it from a copy, or give `lake.address` a new folder")
    return Finding("lake", Verdict.OK, f"{address}: {'not there yet' if last_batch is None else f'rows up to batch {last_batch}'}")


def check_free_space(folder: str, free_bytes: int) -> Finding:
    """Judge the room on the disk of a folder."""
    found = f"{free_bytes / 2**30:.1f} GiB free at {folder}"
    if free_bytes >= GOOD_FREE_BYTES:
        return Finding("free space", Verdict.OK, found)
    verdict = Verdict.WARN if free_bytes >= MIN_FREE_BYTES else Verdict.FAIL
    return Finding("free space", verdict, found, f"free some, or move `state`; {GOOD_FREE_BYTES / 2**30:.0f} GiB are comfortable")


def check_clock(measured: str, ahead_s: float, tolerance_s: float) -> Finding:
    """Judge a clock against ours.

    Args:
        measured: Whose clock, and how it was measured.
        ahead_s: How far it is ahead at least; negative when it is behind.
        tolerance_s: ``events.future_tolerance_s``.
    """
    if abs(ahead_s) <= CLOCK_AGREES_S:
        return Finding("clock", Verdict.OK, f"{measured}: agrees with ours within {CLOCK_AGREES_S:g} s")
    found = f"{measured}: {_span(abs(ahead_s))} {'ahead of' if ahead_s > 0 else 'behind'} ours"
    remedy = "run NTP or chrony on both machines"
    if ahead_s > tolerance_s:
        return Finding("clock", Verdict.FAIL, found, f"{remedy}: events beyond events.future_tolerance_s ({_span(tolerance_s)}) are rejected")
    return Finding("clock", Verdict.WARN, found, remedy)


def check_plan_time(ahead_s: float, tolerance_s: float) -> Finding:
    """Judge how far the newest plan of a state is ahead of our clock; which of the two is wrong can't be told from here.

    Args:
        ahead_s: Negative when it is behind.
        tolerance_s: ``events.future_tolerance_s``.
    """
    measured = "the newest plan's time"
    if ahead_s <= CLOCK_AGREES_S:
        return Finding("clock", Verdict.OK, f"{measured}: not ahead of ours")
    found = f"{measured}: {_span(ahead_s)} ahead of ours, which is behind now or was ahead when that was planned"
    remedy = "set the clock right before the start: "
    if ahead_s > LONGEST_AHEAD_S:
        remedy += f"the next plan takes its time from it, and events beyond events.future_tolerance_s ({_span(tolerance_s)}) are rejected"
    else:
        remedy += "plans keep that time until the clock has caught up"
    return Finding("clock", Verdict.WARN, found, remedy)


def check_lateness(lateness_s: float, tolerance_s: float) -> Finding:
    """Judge whether one producer whose clock is ahead makes what all others send late.

    Args:
        lateness_s: ``features.lateness_s``.
        tolerance_s: ``events.future_tolerance_s``.
    """
    found = f"events may be {_span(lateness_s)} late and {_span(tolerance_s)} ahead"
    if tolerance_s <= lateness_s:
        return Finding("clock", Verdict.OK, found)
    remedy = "lower events.future_tolerance_s to features.lateness_s or less: one event further ahead makes all that is right late"
    return Finding("clock", Verdict.WARN, found, remedy)


def check_resources_of(config: Config, have: Resources, stream: Needs, with_serving: Needs, where: str) -> list[Finding]:
    """Judge whether the plan fits a Ray cluster, so that nothing waits for ever.

    Args:
        config: The resolved configuration.
        have: What the cluster has.
        stream: What stream and refreshes need.
        with_serving: What they need with the serving replicas.
        where: Which cluster.
    """
    short = shortage(config, stream, have)
    if short is not None:
        return [failed("ray", short, str(short.facts["remedy"]), where)]
    found = f"{where}: {have.cpus:g} CPUs and {have.gpus:g} GPUs, the stream and its refreshes need {stream.cpus:g} and {stream.gpus:g}"
    found = "; ".join([found, *told_places(config, stream)])
    findings = [Finding("ray", Verdict.OK, found)]
    if shortage(config, with_serving, have) is not None:
        found = f"{where}: with {config.serving.num_replicas} replicas on the same cluster {with_serving.cpus:g} CPUs are needed"
        findings.append(Finding("ray", Verdict.WARN, found, "lower serving.num_replicas, add a node, or serve from another cluster"))
    return findings


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.3g}{unit}"
    return f"{seconds:.3g}s"
