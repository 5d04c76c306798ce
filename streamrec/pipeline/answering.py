"""Answer requests by what the storage holds, without a server: a version of the registry, and histories as of the newest commit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import orjson

from streamrec.clock import Clock, SystemClock
from streamrec.config import Config, check_student
from streamrec.environment import tombstone_key
from streamrec.errors import RegistryError
from streamrec.events.codec import EventCodec
from streamrec.features.tombstones import Tombstones
from streamrec.pipeline.bootstrap_view import load_history_columns
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.session import state_address
from streamrec.registry.registry import Registry
from streamrec.serving.bodies import RankBody, parse_body
from streamrec.serving.checks import RequestLimits, check_namespace
from streamrec.serving.full_answers import FullAnswerer
from streamrec.serving.history_view import HistoryColumns, HistoryView, User
from streamrec.serving.requests import parse_recommend
from streamrec.serving.slot import LiveModel, ModelSlot
from streamrec.storage import open_storage

REQUEST_ID = "command-line"
"""What these requests are called in their answers."""


class StorageAnswerer:
    """Answer as a server would that has read the log up to the newest commit.

    Args:
        config: The resolved configuration.
        student: Whose versions.
        version: Which one; None asks the live one.
        user_id: The user whose history is needed; None needs none.
        namespace: The user's; None is ``events.namespace``.
        clock: Processing time.
        all_users: Hold the histories of all users, and answer for any.

    Attributes:
        namespace: The users'.

    Raises:
        RegistryError: There is no such version, or none is live.
        ModelRejected: The version does not answer its probes as recorded.
        Damaged: The version, or every commit, is damaged.
    """

    def __init__(
        self,
        config: Config,
        student: str,
        version: str | None,
        user_id: str | None,
        namespace: str | None = None,
        clock: Clock | None = None,
        *,
        all_users: bool = False,
    ) -> None:
        serving, clock = config.serving, clock or SystemClock()
        self._limits = RequestLimits(config.events.namespace, serving.max_n, serving.max_history, config.events.max_id_bytes)
        self.namespace = self._limits.namespace if namespace is None else check_namespace(namespace)
        self._model = _load(config, student, version)
        features, codec = config.features, EventCodec(config.events)
        columns = load_history_columns(state_address(config))
        max_users = len(columns.users) if columns is not None and all_users else 1
        self._view = HistoryView(
            features.history_length,
            max(1, max_users),
            config.events.meanings,
            codec,
            clock,
            tombstones=Tombstones(tombstone_key()),
            max_items=features.max_items,
        )
        if columns is not None:
            self._view.load(columns if all_users else _only(columns, (self.namespace, user_id or "")))
        self._answerer = FullAnswerer(self._view, clock)

    @property
    def version(self) -> str:
        """Return which version answers."""
        return self._model.version

    @property
    def digest(self) -> str:
        """Return the digest of its weights."""
        return self._model.digest

    @property
    def offsets(self) -> Mapping[int, int]:
        """Return what the histories go up to, by partition, exclusive."""
        return self._view.offsets

    def users(self) -> tuple[str, ...]:
        """Return the users of the namespace that have a history here, sorted."""
        return tuple(sorted(user for namespace, user in self._view.table.entries if namespace == self.namespace))

    def recommend(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return what ``POST /v1/recommend`` answers.

        Raises:
            RequestError: The body is out of bounds.
        """
        return self._answerer.answer(parse_recommend(orjson.dumps({**body, "namespace": self.namespace}), self._limits), self._model, REQUEST_ID)

    def rank(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return what ``POST /v1/rank`` answers; raises as `recommend`."""
        return self._answerer.rank(parse_body(RankBody, dict(body), self._limits), self.namespace, self._model, REQUEST_ID)

    def titles(self, item_ids: Iterable[str]) -> dict[str, str]:
        """Return the titles of those items that a catalogue has told of."""
        table = self._view.table
        codes = {item: code for item in item_ids if (code := table.codes.get((self.namespace, item))) is not None}
        titles = {item: table.attributes.of(code).get("title") for item, code in codes.items()}
        return {item: str(title) for item, title in titles.items() if title}


def _load(config: Config, student: str, version: str | None) -> LiveModel:
    """Return a version, verified as a replica does."""
    registry = Registry(open_storage(registry_url(state_address(config))), check_student(config, student))
    live = registry.live()
    if version is None and (live is None or registry.is_withdrawn(live)):
        what, do = f"Registry: student {student!r} has no live version", "let python -m jobs.bootstrap or jobs.stream promote one"
        if known := registry.versions()[-5:]:
            raise RegistryError(what, allowed=", ".join(known), do=f"{do}, or name one with --version")
        what += ", and none at all"
        raise RegistryError(what, do=do)
    found = registry.load_named(str(live)) if version is None else registry.load(version)
    # The digest of what comes from the registry was looked at there.
    return ModelSlot().load(found.manifest.model_dump(mode="json"), found.arrays, found.meta)


def _only(columns: HistoryColumns, user: User) -> HistoryColumns:
    """Return the history of one user alone, and all that is known of items."""
    at = columns.users.index(user) if user in columns.users else None
    start, end = (0, 0) if at is None else (int(columns.indptr[at]), int(columns.indptr[at + 1]))
    times = None if columns.times is None else columns.times[start:end]
    users, indptr = ([], [0]) if at is None else ([user], [0, end - start])
    return replace(columns, users=users, indptr=np.array(indptr, np.int64), item_codes=columns.item_codes[start:end], times=times)
