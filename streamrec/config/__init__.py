"""Resolve one typed, frozen configuration.

In come TOML or YAML, dotted overrides and defaults.
Out goes a `Config` of one section per stage, or an error that names the key, what was got and the nearest valid key.
"""

from streamrec.config.loading import load_config, parse_config, parse_overrides
from streamrec.config.sections import (
    DEFAULT_MEANINGS,
    Config,
    Duration,
    EventsConfig,
    FeaturesConfig,
    LakeConfig,
    LinearConfig,
    LogConfig,
    Meaning,
    NeighboursConfig,
    PipelineConfig,
    RegistryConfig,
    Section,
    ServingConfig,
    SoftLabelsConfig,
    StudentConfig,
    TeachersConfig,
    TextConfig,
    TransformerConfig,
    TransitionsConfig,
    parse_duration_s,
)

__all__ = [
    "DEFAULT_MEANINGS",
    "Config",
    "Duration",
    "EventsConfig",
    "FeaturesConfig",
    "LakeConfig",
    "LinearConfig",
    "LogConfig",
    "Meaning",
    "NeighboursConfig",
    "PipelineConfig",
    "RegistryConfig",
    "Section",
    "ServingConfig",
    "SoftLabelsConfig",
    "StudentConfig",
    "TeachersConfig",
    "TextConfig",
    "TransformerConfig",
    "TransitionsConfig",
    "load_config",
    "parse_config",
    "parse_duration_s",
    "parse_overrides",
]
