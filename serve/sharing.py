"""Share a Ray cluster's Serve with other servers: each has an application of its own, and the last one out ends Serve."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve import RunTarget
from ray.serve.exceptions import RayServeException

from streamrec.errors import OperatorError
from streamrec.registry.board_names import name_of

_PATIENCE_S = 60.0

_end_serve: Callable[[], None] = serve.shutdown


def application_name(registry_url: str | None, student: str) -> str:
    """Return the name of the application that serves a student's registry: a server that takes the place of a killed one finds its own."""
    return name_of("streamrec", registry_url, student)


def running_address() -> tuple[str, int] | None:
    """Return the host and port that this cluster's Serve listens on; None where Serve doesn't run."""
    try:
        controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
        options: Any = ray.get(controller.get_http_config.remote(), timeout=_PATIENCE_S)
    except (ValueError, RayError):  # None, or one that is ending.
        return None
    return options.host, options.port


def applications() -> set[str]:
    """Return the names of the applications on this cluster's Serve."""
    return set() if running_address() is None else set(serve.status().applications)


def deploy(targets: Sequence[RunTarget]) -> None:
    """Run applications, and return when all replicas do; those that run by the same names are replaced.

    Raises:
        OperatorError: Another application has a path.
    """
    try:
        serve.run_many(targets)
    except RayServeException as error:
        if "is being used by application" not in str(error):
            raise
        what = f"Serving: path {', '.join(str(target.route_prefix) for target in targets)} of this cluster's Serve is taken"
        got = f"running applications {', '.join(sorted(applications()))}"
        do = "give this server a serving.path of its own, such as /shop, or end the other one"
        raise OperatorError(what, got=got, allowed="one for each path", do=do) from error


def end(names: Iterable[str]) -> bool:
    """End applications, and Serve with the last one of the cluster; return whether Serve has ended."""
    if running_address() is None:
        return True
    running = applications()
    if running <= set(names):
        # Ray prints that the controller, which has just been killed, has failed: here or, in a job, to the error output.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            _end_serve()
        return True
    for name in running & set(names):
        serve.delete(name)
    return False
