"""Resolve one typed, frozen configuration.

In come TOML or YAML, dotted overrides and defaults.
Out goes a `Config` of one section per stage, or an error that names the key, what was got and the nearest valid key.
"""

from streamrec.config.loading import check_student, load_config, parse_config, parse_overrides, student_names
from streamrec.config.placement import ActorPlacement, PlacementConfig, RefreshPlacement
from streamrec.config.section import Duration, Section, parse_duration_s
from streamrec.config.sections import (
    DEFAULT_MEANINGS,
    FLOAT32_MAX,
    MAX_NAMESPACE_BYTES,
    MAX_NAMESPACE_CHARS,
    MAX_TIME_MS,
    MIN_SENT_TIME_MS,
    Config,
    EventsConfig,
    FeaturesConfig,
    FurtherStudent,
    LakeConfig,
    LogConfig,
    LossesConfig,
    Meaning,
    PipelineConfig,
    RegistryConfig,
    SoftLabelsConfig,
    StudentConfig,
)
from streamrec.config.serving import ServingConfig
from streamrec.config.teachers import LinearConfig, NeighboursConfig, TeachersConfig, TextConfig, TransformerConfig, TransitionsConfig
from streamrec.config.telemetry import TelemetryConfig

__all__ = [
    "DEFAULT_MEANINGS",
    "FLOAT32_MAX",
    "MAX_NAMESPACE_BYTES",
    "MAX_NAMESPACE_CHARS",
    "MAX_TIME_MS",
    "MIN_SENT_TIME_MS",
    "ActorPlacement",
    "Config",
    "Duration",
    "EventsConfig",
    "FeaturesConfig",
    "FurtherStudent",
    "LakeConfig",
    "LinearConfig",
    "LogConfig",
    "LossesConfig",
    "Meaning",
    "NeighboursConfig",
    "PipelineConfig",
    "PlacementConfig",
    "RefreshPlacement",
    "RegistryConfig",
    "Section",
    "ServingConfig",
    "SoftLabelsConfig",
    "StudentConfig",
    "TeachersConfig",
    "TelemetryConfig",
    "TextConfig",
    "TransformerConfig",
    "TransitionsConfig",
    "check_student",
    "load_config",
    "parse_config",
    "parse_duration_s",
    "parse_overrides",
    "student_names",
]
