"""Carry out refreshes on Ray: by a Ray Train fit where a teacher's kind asks for one, else in an actor of the teacher's own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import ray
from ray.exceptions import RayError

from streamrec.config import ActorPlacement, TeachersConfig
from streamrec.errors import OperatorError, StreamrecError
from streamrec.state import ComponentState, to_bytes
from streamrec.storage import open_storage
from streamrec.teachers.background import ANYWHERE, background_refresh
from streamrec.teachers.kinds import kind_of
from streamrec.teachers.requests import RefreshRequest
from streamrec.teachers.store import TeacherStore
from streamrec.teachers.trainer import fit_transformer_task

logger = logging.getLogger(__name__)


class RayRefresher:
    """Start refreshes in actors and as Ray Train fits, and watch for their versions; see `streamrec.teachers.requests.Refresher`.

    What a refresh is made from goes to storage first, where its kind says so: after a crash the same refresh starts again from the same bytes.

    Args:
        config: Settings of all teachers.
        storage_url: Where versions are.
        log_format: Of the processes' lines.
        place: What each process that carries refreshes out takes of its node.
    """

    def __init__(self, config: TeachersConfig, storage_url: str, log_format: str = "plain", place: ActorPlacement = ANYWHERE) -> None:
        self._config, self._log_format, self._place = config, log_format, place
        self._storage_url = storage_url
        self._storage = open_storage(storage_url)
        self._store = TeacherStore(self._storage)
        self._running: dict[tuple[str, str], ray.ObjectRef[None]] = {}
        self._finished: dict[str, str] = {}
        self._failed: dict[tuple[str, str], str] = {}
        self._workers: dict[str, ray.actor.ActorHandle[Any]] = {}

    def start(self, request: RefreshRequest) -> None:
        """Begin a refresh; a version that is there or under way is not started again."""
        key = (request.teacher, request.version)
        if key in self._running:
            return
        if self._store.exists(*key):
            self._note_finished(*key)
            return
        kind = kind_of(request.teacher)
        if not kind.keeps_request:
            self._running[key] = self._carry_out(request, None)
            return
        payload_key = f"teachers/{request.teacher}/{request.version}/window.safetensors"
        self._storage.write_new(payload_key, to_bytes(request.payload))
        if kind.on_ray_train:
            facts: dict[str, Any] = {name: value for name, value in asdict(request).items() if name != "payload"}
            fit: Any = fit_transformer_task.options(num_cpus=self._place.cpus, resources=self._place.resources)
            self._running[key] = fit.remote(facts, payload_key, self._config, self._storage_url)
        else:
            self._running[key] = self._carry_out(replace(request, payload=ComponentState()), payload_key)

    def _carry_out(self, request: RefreshRequest, payload_key: str | None) -> ray.ObjectRef[None]:
        if request.teacher not in self._workers:
            self._workers[request.teacher] = background_refresh(self._log_format, self._place)
        made: ray.ObjectRef[None] = self._workers[request.teacher].carry_out.remote(request, self._config, self._storage_url, payload_key)
        return made

    def finished(self) -> dict[str, str]:
        """Return the newest complete version of each teacher started here."""
        self._collect()
        return dict(self._finished)

    def cost_s(self, teacher: str, version: str) -> float:
        """Return the worker-seconds that a complete version took."""
        return self._store.cost_s(teacher, version)

    def failed(self) -> dict[tuple[str, str], str]:
        """Return teacher and version to reason for refreshes that failed since the last call."""
        self._collect()
        failed, self._failed = self._failed, {}
        return failed

    def wait(self, teacher: str, version: str) -> None:
        """Wait until the version is complete.

        Raises:
            OperatorError: The refresh failed or was never started.
        """
        ref = self._running.get((teacher, version))
        if ref is not None:
            ray.wait([ref])
            self._collect()
        if not self._store.exists(teacher, version):
            reason = self._failed.get((teacher, version), "it was never started here")
            what = "Refresh: a version that the plan names is missing"
            raise OperatorError(what, got=f"{teacher} {version} ({reason})", do="see the Ray Train log and restart")

    def prune(self, oldest: Mapping[str, str]) -> None:
        """Remove versions; see `streamrec.teachers.requests.Refresher`."""
        self._store.prune(oldest)

    def _note_finished(self, teacher: str, version: str) -> None:
        # Of two under way the older one may end last; names sort by age.
        self._finished[teacher] = max(version, self._finished.get(teacher, version))

    def _collect(self) -> None:
        if not self._running:
            return
        ready, _ = ray.wait(list(self._running.values()), num_returns=len(self._running), timeout=0)
        for key, ref in list(self._running.items()):
            if ref not in ready:
                continue
            del self._running[key]
            try:
                ray.get(ref)
                self._note_finished(*key)
            except RayError as error:
                self._failed[key] = _told(error, *key)


def _told(error: RayError, teacher: str, version: str) -> str:
    """Log a failure, with a traceback where the error does not say by itself what happened, and return its reason."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, StreamrecError):
        logger.error("refresh of %s %s failed; the version before stays in use: %s", teacher, version, cause)
        return str(cause)
    logger.error("refresh of %s %s failed; the version before stays in use", teacher, version, exc_info=error)
    return str(error).strip().splitlines()[-1]
