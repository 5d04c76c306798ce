"""Build the application for ``serve run serve.app:app`` and ``serve deploy serve/config.yaml``.

Arguments (``serve run serve.app:app config=streamrec.toml log=kafka://HOST:9092``) or the ``args`` of the YAML file:

    config    configuration file; without it STREAMREC_CONFIG, then ./streamrec.toml
    log       address of the event log: kafka://HOST:PORT or local:///FOLDER; without it no log is followed and no events are taken
    state     address of the pipeline's state; without it the configuration's
    registry  address of the registry; without it the state's
    student   whose versions: "default", or a further student of the configuration
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from ray.serve import Application

from serve.deployments import build_application
from serve.replica import ReplicaSettings
from streamrec.config import check_student, load_config
from streamrec.config.keys import absolute_path, load_keys
from streamrec.errors import ConfigError
from streamrec.log.base import LogAddress
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.places import misplacement


class Arguments(BaseModel):
    """Hold the application's arguments; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid")

    config: str | None = None
    log: str | None = None
    state: str | None = None
    registry: str | None = None
    student: str = "default"
    num_cpus_per_replica: float = 0.2


def app(arguments: dict[str, Any]) -> Application:
    """Return the application that the arguments describe.

    Raises:
        ConfigError: The configuration is not valid, an argument is unknown, the configuration has no such student, or the state would lie in Ray's
            cache of working folders.
    """
    try:
        args = Arguments.model_validate(arguments)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"Serving: argument {'.'.join(map(str, first['loc']))} is not valid ({first['msg']})"
        raise ConfigError(what, got=repr(first["input"]), allowed=", ".join(Arguments.model_fields), do="correct the argument") from error
    config = load_config(args.config)
    check_student(config, args.student)
    state = args.state or config.state
    if (wrong := misplacement("state", state)) is not None:
        raise wrong
    # Replicas have other working folders.
    state = state if "://" in state else str(Path(state).absolute())
    settings = ReplicaSettings(
        config=config,
        log_address=LogAddress.parse(args.log) if args.log else None,
        state_url=state,
        registry_url=args.registry or registry_url(state),
        student=args.student,
        keys=load_keys(config.serving.keys_file),
        keys_file=absolute_path(config.serving.keys_file),
    )
    return build_application(settings, args.num_cpus_per_replica)
