"""Make the Ray Serve application: HTTP ingress and recommender are one deployment, so that an answer takes one hop."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application

from serve.replica import Replica, ReplicaSettings, make_routes
from serve.routes import Routes
from serve.scaling import BUSY, Busyness
from streamrec.config import ServingConfig
from streamrec.memory import FOR_CHILDREN
from streamrec.telemetry.logs import JSON

# Requests are answered by one event loop in well under a millisecond; the bound only has to exceed what connections can bring at once.
_MAX_ONGOING = 10_000
_LOOK_BACK_S = 10.1  # Serve wants more than its interval of 10 s.
# BLAS threads of two replicas would fight over the same cores.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **FOR_CHILDREN}


class Recommender:
    """Be a replica of the deployment.

    Args:
        settings: What to serve.
    """

    def __init__(self, settings: ReplicaSettings) -> None:
        replica_id = serve.get_replica_context().replica_id.unique_id
        self._replica = Replica(settings, replica_id)
        self._routes = make_routes(self._replica, settings)
        self._busyness = Busyness()

    def __serve_build_asgi_app__(self) -> Routes:
        """Return the ASGI application; Serve calls this once after the constructor."""
        return self._routes

    def check_health(self) -> None:
        """Raise when the replica must be replaced; Serve calls this every few seconds."""
        self._replica.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return how busy this replica's event loop is, in which this runs; Serve asks every few seconds where replicas may become more."""
        return {BUSY: self._busyness.share()}


def deployment_options(serving: ServingConfig, num_cpus: float) -> dict[str, Any]:
    """Return Serve's options of the deployment; the benchmark's no-op takes the same.

    Args:
        serving: How many replicas, and when there are more.
        num_cpus: CPUs that Ray reserves for a replica; a small share, because a laptop has few.
    """
    return {
        **_replicas(serving),
        "max_ongoing_requests": _MAX_ONGOING,
        "ray_actor_options": {"num_cpus": num_cpus, "runtime_env": {"env_vars": _ENVIRONMENT}},
        "graceful_shutdown_timeout_s": 2.0,
        "graceful_shutdown_wait_loop_s": 0.1,
        "health_check_period_s": 5.0,
        "health_check_timeout_s": 10.0,
        "logging_config": {"enable_access_log": False},
    }


def _replicas(serving: ServingConfig) -> dict[str, Any]:
    if not serving.max_replicas:
        return {"num_replicas": serving.num_replicas}
    return {
        "autoscaling_config": {
            "min_replicas": serving.num_replicas,
            "max_replicas": serving.max_replicas,
            "policy": {"policy_function": "serve.scaling:BusyPolicy", "policy_kwargs": {"busy_share": serving.busy_share}},
            "upscale_delay_s": serving.upscale_delay_s,
            "downscale_delay_s": serving.downscale_delay_s,
            "look_back_period_s": _LOOK_BACK_S,
        }
    }


def build_application(settings: ReplicaSettings, num_cpus: float = 0.2) -> Application:
    """Return the application, ready for ``serve.run``.

    Args:
        settings: What to serve.
        num_cpus: CPUs that Ray reserves for a replica.
    """
    options = deployment_options(settings.config.serving, num_cpus)
    if settings.config.telemetry.log_format == JSON:  # Of the file that Serve itself keeps of a replica; `serve.replica` sees to what is shown.
        options["logging_config"] |= {"encoding": "JSON"}
    deployment: Any = serve.deployment(serve.ingress()(Recommender), name="Recommender", **options)
    application: Application = deployment.bind(settings)
    return application
