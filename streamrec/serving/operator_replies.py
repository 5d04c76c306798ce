"""Describe the answers for whoever runs a deployment: versions and what the gate said of them, rejected records, machines and processes."""

from __future__ import annotations

from pydantic import Field

from streamrec.serving.replies import Named, Reply


class GateDecision(Reply):
    """Say what the gate decided on a version, by which numbers and why."""

    verdict: str = Field(description="promote, reject or wait.")
    code: str
    reason: str
    candidate: str
    live: str | None = Field(description="What was live then.")
    batch: int
    numbers: dict[str, float | None] = Field(
        description="Queries, means of both, their difference and its error, evidence and how much of it rejects."
    )


class VersionEntry(Reply):
    """Say what a version was made of, and what became of it."""

    version: str
    created_ms: int
    parent: str | None = Field(description="The version that it continues.")
    digest: str
    bytes: int
    offsets: dict[str, dict[str, int]] = Field(description="By topic and partition: what it learned from, exclusive.")
    teachers: dict[str, str] = Field(description="Version of each teacher whose labels it learned from.")
    metrics: dict[str, float | None]
    decision: GateDecision | None = Field(description="The gate's newest one.")
    is_live: bool
    is_pinned: bool


class MoveEntry(Reply):
    """Say which version went live when, and why."""

    number: int
    action: str
    version: str
    reason: str
    at_ms: int
    by_gate: bool = Field(description="Whether the gate did it; else a person or the guard.")


class VersionHistory(Named):
    """List the newest versions and moves, newest first."""

    versions: list[VersionEntry]
    moves: list[MoveEntry]


class DeadLetter(Reply):
    """Show a record that the stream rejected."""

    place: str = Field(description="TOPIC/PARTITION/OFFSET of the record.")
    partition: int
    offset: int
    reason: str = Field(description="A code.")
    means: str = Field(description="What the code stands for.")
    detail: str = Field(description="What was wrong with this record.")
    time_ms: int
    key: str | None
    bytes: int = Field(description="Of the record's value.")
    form: str = Field(description="text or hex.")
    text: str = Field(description="The value's first bytes, in that form; what is unprintable is escaped.")
    is_cut: bool
    replays: int = Field(description="How often it was sent again.")
    missing_parts: int = Field(description="How many parts of a large record the topic does not hold.")


class DeadLetters(Named):
    """List the newest dead letters, newest first."""

    topic: str
    records: int = Field(description="Of the topic: letters, their parts and marks of replays.")
    not_looked_at: int = Field(description="Of these, the oldest.")
    letters: list[DeadLetter]
    left_out: int = Field(description="Letters of users who asked to be forgotten.")
    foreign: int = Field(description="Records that are no dead letters.")


class SentLetter(Reply):
    """Say where a letter went."""

    place: str
    to: str
    event_id: str


class RefusedLetter(Reply):
    """Say why a letter was not sent."""

    place: str
    why: str


class Replayed(Named):
    """Say what became of letters that were to be sent again."""

    sent: list[SentLetter]
    refused: list[RefusedLetter]


class HostFacts(Reply):
    """Describe the machine of the replica that answers."""

    name: str
    cpus: int
    load: float = Field(description="Processes that ran or waited to run, mean of a minute.")
    memory_bytes: int
    available_bytes: int


class ResourceFacts(Reply):
    """Say how much of a resource the Ray cluster has."""

    name: str
    total: float
    free: float


class NodeFacts(Reply):
    """Describe a node of the Ray cluster."""

    name: str
    is_alive: bool
    is_head: bool
    cpus: float
    gpus: float
    memory_bytes: float
    store_bytes: float


class ProcessFacts(Reply):
    """Name a process and its memory."""

    name: str
    pid: int
    bytes: int
    kind: str = Field(description="pss: its share of what several use; rss: all that it sees.")


class PackageFacts(Reply):
    """Name an installed package."""

    name: str
    version: str


class SystemFacts(Named):
    """Show what runs where, with which memory."""

    at_ms: int
    replica: str
    host: HostFacts
    resources: list[ResourceFacts] = Field(description="Of the Ray cluster; empty without Ray.")
    nodes: list[NodeFacts]
    processes: list[ProcessFacts] = Field(description="On the replica's machine, the largest first.")
    packages: list[PackageFacts]
