"""Reach the versions of students that are configured no more: they stay in the state, and a deletion must be true of all that it holds."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator

from streamrec.clock import Clock
from streamrec.config import Config, student_names
from streamrec.errors import Damaged, RegistryError
from streamrec.pipeline.layout import students_in
from streamrec.registry.registry import Registry
from streamrec.storage import Storage

logger = logging.getLogger(__name__)

WITHDRAWN = (
    "all versions of the students of `former_students`, which are configured no more: nothing goes back to them from now on, and they are removed, "
    "live and pinned ones too, by the first commit after which none that is kept knows the student; a server that still runs for one holds its "
    "version until it ends"
)


class FormerStudents:
    """Find the students of a registry that are configured no more, by listing it, and prune them.

    Nothing is learned for them, so no version without a deleted user ever takes the place of the live one, and nobody corrects it: all that are
    older than a deletion go. Else the policy of the registry holds for them as for all.

    **Contract.** What can't be read of one is said in a warning and holds nobody up; its versions go in any case.

    Args:
        storage: Of the state's registry.
        config: Names those that are left alone.
        clock: Tells processing time.
    """

    def __init__(self, storage: Storage, config: Config, clock: Clock) -> None:
        self._storage, self._policy, self._clock = storage, config.registry, clock
        self._configured = frozenset(student_names(config))
        self._known: dict[str, Registry] = {}

    def forget_before(self, version: str, event_id: str) -> dict[str, int]:
        """Let nobody go back to versions older than this one; return how many such there are, by student.

        Args:
            version: The first one that has not learned from the user who is deleted.
            event_id: Of the deletion.
        """
        found: dict[str, int] = {}
        for registry in self._registries():
            registry.forget_before(version, event_id)
            found[registry.student] = sum(name < version for name in registry.versions())
        return {student: num for student, num in found.items() if num}

    def prune(self, now_ms: int, not_before: str | None, kept: Collection[str]) -> None:
        """Remove what is older than the last deletion, and what the policy gives up.

        Args:
            now_ms: Processing time, UTC.
            not_before: Older versions have learned from a user who was deleted; None while nobody was.
            kept: Students that a kept commit knows: whoever configures one again and goes back to that commit needs its versions.
        """
        for registry in self._registries():
            if registry.student in kept:
                continue
            try:
                if not_before is not None:
                    registry.forget_before(not_before)
                    self._tell(registry.student, registry.withdraw_before(not_before))
                registry.prune(now_ms, self._policy)
            except Damaged as error:
                logger.warning("the registry of %r, which is configured no more, is not pruned: %s", registry.student, error)

    def _tell(self, student: str, gone: Collection[str]) -> None:
        if gone:
            logger.info("%d versions of %r, which is configured no more, know a deleted user and are removed", len(gone), student)

    def _registries(self) -> Iterator[Registry]:
        for name in students_in(self._storage.list()):
            if name in self._configured:
                continue
            try:
                yield self._known.setdefault(name, Registry(self._storage, name, self._clock))
            except RegistryError as error:
                logger.warning("a folder of the registry is out of a deletion's reach: %s", error)
