"""Build the application for ``serve run serve.app:app`` and ``serve deploy serve/config.yaml``.

Arguments (``serve run serve.app:app config=streamrec.toml log=kafka://HOST:9092``) or the ``args`` of the YAML file:

    config    configuration file; without it STREAMREC_CONFIG, then ./streamrec.toml, where the application is built: with ``serve deploy`` on the
              cluster, so in the folder and the environment of its ``ray start``
    log       address of the event log: kafka://HOST:PORT or local:///FOLDER; without it log.broker of the configuration. ``none`` follows no log:
              what users did is not known then, and no events are taken
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
from streamrec.config import Config, check_student, load_config
from streamrec.config.keys import absolute_path, load_keys
from streamrec.errors import ConfigError
from streamrec.log.base import LogAddress
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.log_place import log_there
from streamrec.pipeline.places import misplacement
from streamrec.serving.redis_connection import check_redis

NO_LOG = "none"
"""Given as the log: follow none."""


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
        ConfigError: The configuration is not valid, an argument is unknown, the configuration has no such student, the state would lie in Ray's
            cache of working folders, or there is no log to follow.
    """
    try:
        args = Arguments.model_validate(arguments)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"Serving: argument {'.'.join(map(str, first['loc']))} is not valid ({first['msg']})"
        raise ConfigError(what, got=repr(first["input"]), allowed=", ".join(Arguments.model_fields), do="correct the argument") from error
    config = load_config(args.config, {"state": args.state} if args.state else {})
    check_student(config, args.student)
    if config.serving.histories == "redis":
        check_redis(config.serving)
    state = config.state
    if (wrong := misplacement("state", state)) is not None:
        raise wrong
    # Replicas have other working folders.
    state = state if "://" in state else str(Path(state).absolute())
    settings = ReplicaSettings(
        config=config,
        log_address=_log(args.log, config),
        state_url=state,
        registry_url=args.registry or registry_url(state),
        student=args.student,
        keys=load_keys(config.serving.keys_file),
        keys_file=absolute_path(config.serving.keys_file),
    )
    return build_application(settings, args.num_cpus_per_replica)


def _log(given: str | None, config: Config) -> LogAddress | None:
    """Return the log to follow: nothing is started for it here, because nobody would be left to end it."""
    if given == NO_LOG:
        return None
    if given:
        return LogAddress.parse(given)
    if (there := log_there(config, config.log.broker)) is not None:
        return there
    what = "Serving: there is no log to follow, so nothing would be known of users"
    do = f"give the argument config, which names a file, or log, start the stream that brings its Kafka first, or give log={NO_LOG}"
    got = f"log.broker = {config.log.broker}, and none of {config.state} runs here ({Path.cwd()})"
    raise ConfigError(what, got=got, allowed="HOST:PORT, local:///FOLDER", do=do)
