"""Hold what each verb was asked to do: plain values, so that declaring the command line loads nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Say which configuration to resolve.

    Attributes:
        config: A file, or None for the default places.
        overrides: ``KEY=VALUE`` texts.
    """

    config: Path | None = None
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class ShowConfig:
    """``streamrec config show``."""

    settings: Settings
    json: bool = False


@dataclass(frozen=True)
class Replay:
    """``streamrec replay``; see `streamrec.pipeline.replay.replay_dataset`."""

    settings: Settings
    file: Path
    broker: str | None = None
    speed: str | None = None
    rate: float | None = None
    mapping: str | None = None
    max_events: int | None = None
    with_items: bool = False
    restart: bool = False
    progress: Path | None = None
    json: bool = False


@dataclass(frozen=True)
class ImportItems:
    """``streamrec items import``; see `streamrec.pipeline.replay.import_items`."""

    settings: Settings
    file: Path
    broker: str | None = None
    mapping: str | None = None
    json: bool = False


@dataclass(frozen=True)
class Backtest:
    """``streamrec backtest``; see `streamrec.pipeline.backtest.run_backtest`."""

    settings: Settings
    data: Path
    protocol: str
    json: bool = False
    mapping: str | None = None
    max_blocks: int | None = None
    shortcuts: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollback:
    """``streamrec rollback``; see `streamrec.registry.registry.Registry.rollback`."""

    settings: Settings
    reason: str
    to: str | None = None
    student: str = "default"
    json: bool = False


@dataclass(frozen=True)
class NewKey:
    """``streamrec key``; see `streamrec.config.keys.ApiKey`."""

    name: str
    scopes: tuple[str, ...]
    namespaces: tuple[str, ...] = ()
    rate: float = 0.0
    burst: int = 0


@dataclass(frozen=True)
class Pin:
    """``streamrec pin|unpin``; see `streamrec.registry.registry.Registry.pin`."""

    settings: Settings
    version: str
    pins: bool
    student: str = "default"
    live: bool = False
    reason: str = ""
    by: str | None = None
    json: bool = False


@dataclass(frozen=True)
class Turn:
    """``streamrec pause|resume|freeze-publishing|unfreeze-publishing|refresh``; see `streamrec.pipeline.switches`. ``teachers``: of a refresh."""

    settings: Settings
    action: str
    reason: str = ""
    by: str | None = None
    teachers: tuple[str, ...] = ()
    json: bool = False


@dataclass(frozen=True)
class ShowQuarantine:
    """``streamrec quarantine``; ``replay`` names the batch of the record whose range is sent again."""

    settings: Settings
    broker: str | None = None
    replay: int | None = None
    json: bool = False


@dataclass(frozen=True)
class ShowWorth:
    """``streamrec worth``."""

    settings: Settings
    json: bool = False


@dataclass(frozen=True)
class ShowSwitches:
    """``streamrec switches``."""

    settings: Settings
    json: bool = False


@dataclass(frozen=True)
class DlqList:
    """``streamrec dlq list``; see `streamrec.pipeline.dead_letter_box.DeadLetterBox`."""

    settings: Settings
    broker: str | None = None
    reason: str | None = None
    last: int | None = None
    json: bool = False


@dataclass(frozen=True)
class DlqShow:
    """``streamrec dlq show``."""

    settings: Settings
    place: str
    broker: str | None = None
    raw: bool = False
    json: bool = False


@dataclass(frozen=True)
class DlqReplay:
    """``streamrec dlq replay``; see `streamrec.pipeline.resend.Resender`.

    Attributes:
        fields: ``FIELD=VALUE`` texts.
        value: A file with the whole value, or ``-``.
        key: Instead of the original key.
    """

    settings: Settings
    places: Sequence[str] = ()
    broker: str | None = None
    reason: str | None = None
    all: bool = False
    fields: Sequence[str] = ()
    value: str | None = None
    key: str | None = None
    again: bool = False
    json: bool = False


@dataclass(frozen=True)
class Schema:
    """``streamrec schema``; see `streamrec.events.json_schema`."""

    kind: str | None = None


@dataclass(frozen=True)
class DeleteUser:
    """``streamrec delete-user``."""

    settings: Settings
    user: str
    namespace: str | None = None
    broker: str | None = None
    yes: bool = False
    json: bool = False


@dataclass(frozen=True)
class Receipt:
    """``streamrec receipt``; see `streamrec.pipeline.forgetting`."""

    settings: Settings
    event_id: str
    namespace: str | None = None
    broker: str | None = None


@dataclass(frozen=True)
class Doctor:
    """``streamrec doctor``; see `streamrec.pipeline.survey`."""

    settings: Settings
    broker: str | None = None
    longest_downtime: str = "24h"
    json: bool = False


@dataclass(frozen=True)
class Lake:
    """``streamrec lake info|verify|optimize|vacuum``; see `streamrec.log.lake.EventLake`."""

    settings: Settings
    action: str
    json: bool = False


@dataclass(frozen=True)
class ShowStatus:
    """``streamrec status``; see `streamrec.pipeline.standing`."""

    settings: Settings
    broker: str | None = None
    json: bool = False


@dataclass(frozen=True)
class Models:
    """``streamrec models list|show|diff``; see `streamrec.registry.registry.Registry`.

    Attributes:
        versions: None to list, one to show, two to compare.
        last: How many are listed, the newest.
    """

    settings: Settings
    action: str
    versions: Sequence[str] = ()
    student: str = "default"
    last: int = 20
    json: bool = False


@dataclass(frozen=True)
class Promote:
    """``streamrec models promote``; see `streamrec.pipeline.moving.promote`."""

    settings: Settings
    version: str
    reason: str
    by: str | None = None
    student: str = "default"
    json: bool = False


@dataclass(frozen=True)
class Ask:
    """``streamrec recommend|explain``; see `streamrec.pipeline.answering.StorageAnswerer` and `streamrec.client.Client`.

    Attributes:
        user: Whose history is used.
        history: Item ids, newest last, used in place of what is known of the user.
        candidates: Explain these, not the best ones.
        explain: Say of each item what its score is made of.
        with_seen: Known items may be in the answer.
        url: A server; None asks the storage.
    """

    settings: Settings
    user: str | None
    history: Sequence[str] = ()
    n: int = 10
    candidates: Sequence[str] = ()
    explain: bool = False
    with_seen: bool = False
    namespace: str | None = None
    version: str | None = None
    student: str = "default"
    url: str | None = None
    json: bool = False

    def body(self) -> dict[str, object]:
        """Return the request's body, as the server's route takes it."""
        said: dict[str, object] = {} if self.user is None else {"user_id": self.user}
        said |= {"history": list(self.history)} if self.history else {}
        said |= {} if self.namespace is None else {"namespace": self.namespace}
        if self.candidates:
            return {**said, "candidates": list(self.candidates), "explain": True}
        said |= {"n": self.n, **({"exclude_seen": False} if self.with_seen else {})}
        return {**said, "explain": True} if self.explain else said


@dataclass(frozen=True)
class Init:
    """``streamrec init``; see `streamrec.events.guessing`.

    Attributes:
        file: A sample of interactions.
        out: Where the settings go.
        mapping: What is known of the columns; the rest is guessed.
    """

    file: Path
    out: Path
    mapping: str | None = None
    force: bool = False
    json: bool = False


@dataclass(frozen=True)
class Plan:
    """``streamrec plan``; see `streamrec.pipeline.capacity`."""

    settings: Settings
    users: int
    items: int
    events_per_s: float
    requests_per_s: float
    retention: str
    cores: int | None = None
    memory_gb: float | None = None
    json: bool = False


@dataclass(frozen=True)
class WriteReport:
    """``streamrec report``; see `streamrec.report`.

    Attributes:
        of: A run's folder, or what a backtest printed; None for the configuration's state.
        out: Where the page goes.
    """

    settings: Settings
    of: Path | None = None
    out: Path = Path("report.html")
    json: bool = False
