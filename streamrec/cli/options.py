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


@dataclass(frozen=True)
class ImportItems:
    """``streamrec items import``; see `streamrec.pipeline.replay.import_items`."""

    settings: Settings
    file: Path
    broker: str | None = None
    mapping: str | None = None


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


@dataclass(frozen=True)
class Lake:
    """``streamrec lake info|verify|optimize|vacuum``; see `streamrec.log.lake.EventLake`."""

    settings: Settings
    action: str
    json: bool = False
