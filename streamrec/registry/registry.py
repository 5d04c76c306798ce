"""Say which version is live, move it, and keep what happened."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from streamrec.clock import Clock, SystemClock
from streamrec.config import RegistryConfig
from streamrec.errors import Damaged, RegistryError
from streamrec.registry.alias import Alias, Move
from streamrec.registry.forgotten import Deletions, Forgotten
from streamrec.registry.gate import Decision
from streamrec.registry.store import VersionStore
from streamrec.registry.version import ModelVersion, VersionFacts, VersionId, VersionManifest
from streamrec.state import Arrays
from streamrec.storage import Storage

logger = logging.getLogger(__name__)


class Pruned(NamedTuple):
    """Say what `Registry.prune` removed."""

    versions: tuple[str, ...]
    num_blobs: int


class Registry:
    """Keep a student's versions, the one alias that says which is live, and the history of its moves.

    **Contract.** `publish` is immutable, visible only when complete and safe to call twice. `promote` and `rollback` move the alias atomically
    and append to a history that is never rewritten; its oldest entries go by policy. One process publishes and prunes; any number may move,
    pin and read. No move but a gate's, and no pin, goes to a version from before a deletion that `forget_before` noted.

    Args:
        storage: Where to keep everything, under the student's name.
        student: Name of the student; several share a storage.
        clock: Tells processing time.
    """

    def __init__(self, storage: Storage, student: str = "default", clock: Clock | None = None) -> None:
        self._store = VersionStore(storage, student)
        self._storage = storage
        self._student = student
        self._alias = Alias(storage, student)
        self._deletions = Deletions(storage, student)
        self._clock = clock or SystemClock()

    @property
    def student(self) -> str:
        """Return the student's name."""
        return self._student

    def publish(
        self, version: str, arrays: Arrays, meta: Mapping[str, Any], facts: VersionFacts | None = None, *, as_delta: bool = False
    ) -> VersionManifest:
        """Store a version.

        Args:
            version: Its id, such as `version_id` gives.
            arrays: Resolved weights by name.
            meta: JSON-serialisable facts that belong to the weights.
            facts: What it was made from.
            as_delta: Store only what changed since ``facts.parent``, where this is less than half of the whole.

        Returns:
            The manifest; that of the first call when the same weights were published under this id before.

        Raises:
            RegistryError: The id is taken by other weights, or is not a name.
        """
        return self._store.publish(version, arrays, meta, facts or VersionFacts(), self._clock.now_ms(), as_delta=as_delta)

    def free_name(self, version: str, arrays: Arrays, meta: Mapping[str, Any]) -> str:
        """Return a name to publish weights under: ``version``, or the first one behind it where others have it; a version never changes."""
        return self._store.free_name(version, arrays, meta)

    def load(self, version: str) -> ModelVersion:
        """Return a version with its verified weights.

        Raises:
            RegistryError: There is no such version.
            Damaged: A digest is wrong.
        """
        return self._store.load(version)

    def load_named(self, version: str) -> ModelVersion:
        """Return a version that a commit or the alias names, not a person; see `load`.

        Raises:
            Damaged: A digest is wrong, or there is no such version.
        """
        if not self._store.exists(version):
            raise self._store.lost(version)
        return self.load(version)

    def check_live(self) -> None:
        """Look whether the manifest of the live version can be read; one that is withdrawn need not be there.

        Raises:
            Damaged: It can't, or is lost.
        """
        version = self.live()
        if version is not None and not self.is_withdrawn(version):
            self.manifest_named(version)

    def manifest_named(self, version: str) -> VersionManifest:
        """Return the manifest of a version that a commit or the alias names; see `load_named`."""
        if not self._store.exists(version):
            raise self._store.lost(version)
        return self._store.manifest(version)

    def manifest(self, version: str) -> VersionManifest:
        """Return a version's manifest; see `load`."""
        return self._store.manifest(version)

    def versions(self) -> list[VersionId]:
        """Return the ids of all versions, oldest first."""
        return self._store.versions()

    def live(self) -> VersionId | None:
        """Return the id of the live version, None while there is none."""
        move = self.alias()
        return VersionId(move.version) if move is not None else None

    def alias(self) -> Move | None:
        """Return the move that made the live version live; its number grows with each move."""
        return self._alias.current()

    def promote(self, version: str, reason: str, decision: Decision | None = None) -> Move:
        """Make a version live; nothing happens when it is.

        Args:
            version: The one.
            reason: Why, a sentence.
            decision: The gate's, which only goes to newer versions: one that was published right before a deletion still goes live, and the live
                one before it, which knows the user as well, leaves.

        Raises:
            RegistryError: There is no such version, or it was made before a deletion.
        """
        self._store.manifest(version)
        if decision is None:
            self._check_allowed(version)
        move = self._alias.promote(version, reason, decision, self._clock.now_ms())
        if not self._store.exists(version):  # Undone, whatever was live before.
            self._alias.rollback(f"{version} was pruned while it was promoted", version, self._store.exists, self._clock.now_ms())
            what = "Registry: the version was pruned while it was promoted"
            raise RegistryError(what, got=repr(version), do="promote a newer one")
        return move

    def rollback(self, reason: str, live: str | None = None) -> Move:
        """Make the version live again that was live before, and was not made before a deletion.

        Args:
            reason: Why, a sentence.
            live: Only if this one is live; so the call can be repeated.

        Raises:
            RegistryError: There is none to go back to.
        """
        forgotten, refused = self.forgotten(), list[str]()

        def is_allowed(version: str) -> bool:
            is_there = self._store.exists(version)
            if is_there and forgotten is not None and version < forgotten.version:
                refused.append(version)
                return False
            return is_there

        try:
            return self._alias.rollback(reason, live, is_allowed, self._clock.now_ms())
        except RegistryError as error:
            if forgotten is None or not refused:
                raise
            raise forgotten.refusal(refused[0], self.versions(), self.live()) from error

    def previous(self) -> VersionId | None:
        """Return where `rollback` goes; None where it would be refused."""
        move = self.alias()
        with suppress(Damaged):  # Of the record of deletions, without which nothing is known to be allowed.
            oldest = found.version if (found := self.forgotten()) is not None else ""
            return next((VersionId(name) for name in (move.trail if move else ()) if name >= oldest and self._store.exists(name)), None)
        return None

    def return_to(self, version: str, live: str, reason: str) -> Move:
        """Make a version live that was before, however many moves ago; nothing happens where another than ``live`` is live.

        Args:
            version: The one.
            live: What it takes the place of.
            reason: Why, a sentence.

        Raises:
            RegistryError: There is no such version, or it was made before a deletion.
        """
        self._store.manifest(version)
        self._check_allowed(version)
        return self._alias.return_to(version, live, reason, self._clock.now_ms())

    def forget_before(self, version: str, event_id: str = "") -> None:
        """Refuse from now on to go back to versions older than this one, which have learned from a user who is deleted.

        Args:
            version: The first one that has not; a later call with an older one changes nothing.
            event_id: Of the deletion, for whoever is refused.
        """
        self._deletions.note(version, event_id, self._clock.now_ms())

    def withdraw_before(self, version: str) -> list[VersionId]:
        """Remove all versions older than this one and return them: live and pinned ones too, and those that can't be read.

        For a student for whom nothing is published any more; of one that goes on, `prune` keeps what serves until a later version does.
        """
        # Listed first, as in `prune`.
        blobs = self._store.blobs()
        gone = [name for name in self.versions() if name < version]
        with suppress(Damaged):  # Of an alias that can't be read nobody expects that what it names is there.
            live = self.live()
            if live in gone:
                self._store.withdraw(live)
        for name in gone:
            self._store.hide(name)
            self.unpin(name)
        self._remove_unneeded(blobs)
        return gone

    def is_withdrawn(self, version: str) -> bool:
        """Return whether `withdraw_before` has removed a version that the alias still names, as the last that was live."""
        return self._store.is_withdrawn(version)

    def _check_allowed(self, version: str) -> None:
        forgotten = self.forgotten()
        if forgotten is not None and version < forgotten.version:
            raise forgotten.refusal(version, self.versions(), self.live())

    def history(self, last: int | None = None) -> list[Move]:
        """Return the moves, oldest first; only the newest ``last`` when given."""
        return self._alias.history(last)

    def was_promoted(self, version: str) -> bool:
        """Return whether the gate has promoted this version already; it promotes each once, and in order of their names."""
        return self._alias.was_promoted(version)

    def complete(self) -> None:
        """Let the alias follow the history's last move, whose mover may have died before it did so."""
        self._alias.complete()

    def alias_damage(self) -> Damaged | None:
        """Return an error that names the alias' file if it is torn, also where the history holds the same facts; the next prune writes it anew."""
        return self._alias.damage()

    @property
    def history_address(self) -> str:
        """Where moves are appended."""
        return f"{self._storage.address}/{self._student}/history"

    @property
    def deletions_address(self) -> str:
        """Where the record of deletions lies."""
        return self._deletions.address

    def forgotten(self) -> Forgotten | None:
        """Return the newest deletion that `forget_before` noted."""
        return self._deletions.newest()

    def record_decision(self, decision: Decision) -> Decision:
        """Store a decision once for its candidate and batch.

        Returns:
            The decision that stands: the first one, when a repeated step decides anew.

        Raises:
            Damaged: It can't be read.
        """
        key = f"{self._student}/decisions/{decision.candidate}/{decision.batch:08d}.json"
        return decision if self._storage.write_new(key, decision.to_json()) else self._decision(key)

    def decisions(self, version: str) -> list[Decision]:
        """Return the decisions on a version, in order of their batches."""
        keys = self._storage.list(f"{self._student}/decisions/{version}")
        return [self._decision(key) for key in keys]

    def decided(self) -> list[str]:
        """Return the versions on which decisions are kept, oldest first; not all are there still."""
        return sorted({key.split("/")[-2] for key in self._storage.list(f"{self._student}/decisions")})

    def last_decision(self, version: str) -> Decision | None:
        """Return the newest decision on a version."""
        keys = self._storage.list(f"{self._student}/decisions/{version}")
        return self._decision(keys[-1]) if keys else None

    def _decision(self, key: str) -> Decision:
        return Decision.from_json(self._storage.read(key), f"{self._storage.address}/{key}")

    def pin(self, version: str) -> None:
        """Keep a version whatever the policy says.

        Raises:
            RegistryError: There is no such version, or it was made before a deletion.
        """
        self._store.manifest(version)
        self._check_allowed(version)
        self._storage.write_new(f"{self._student}/pins/{version}", b"")

    def unpin(self, version: str) -> None:
        """Let the policy decide again."""
        self._storage.delete(f"{self._student}/pins/{version}")

    def pinned(self) -> set[str]:
        """Return the ids of the pinned versions."""
        return {key.rpartition("/")[2] for key in self._storage.list(f"{self._student}/pins")}

    def prune(self, now_ms: int, cfg: RegistryConfig, not_before: str | None = None, held: Collection[str] = ()) -> Pruned:
        """Remove versions that the policy gives up, and blobs that no version needs.

        The newest ``keep_last`` stay, those younger than ``keep_for_s``, the live one, the one that a rollback goes to, pinned ones, those that the
        stream holds, and those that the delta of one that stays follows. Of the history the newest ``keep_history`` moves stay, those younger than
        ``keep_history_for_s``, those to a version that stays and those that are newer than what the stream holds; the decisions on the newest
        ``keep_history`` versions and on those that stay.

        Args:
            now_ms: Processing time, UTC.
            cfg: The policy.
            not_before: Versions older than this one, and than all that are held, go whatever the policy says, and nothing rolls back to them,
                because they have learned from a user who is deleted; only the live one, pinned ones and what these follow stay.
            held: Versions that the stream compares with.
        """
        not_before = min([not_before, *held]) if not_before is not None and held else None
        self._alias.mend()
        # Listed first: a blob of a version that is published from here on is not in it.
        blobs = self._store.blobs()
        manifests = self._readable_manifests()
        newest = set(list(manifests)[-cfg.keep_last :])
        young = {name for name, manifest in manifests.items() if now_ms - manifest.created_ms <= cfg.keep_for_s * 1000}
        kept = _with_parents(_from(newest | young | set(held), not_before) | self._protected(manifests, not_before), manifests)
        gone = [name for name in manifests if name not in kept]
        for name in gone:
            self._store.hide(name)
        # Somebody may have promoted, rolled back or pinned meanwhile.
        wanted = _with_parents(self._protected(manifests, not_before), manifests)
        for name in wanted.intersection(gone):
            self._store.unhide(manifests[name])
        # The manifest of one that is held may be lost and come back from a copy: which blobs it needs is not known until then.
        num_blobs = self._remove_unneeded(blobs) if manifests.keys() >= set(held) else 0
        self._prune_history(now_ms, cfg, (manifests.keys() - gone) | wanted, held)
        return Pruned(tuple(name for name in gone if name not in wanted), num_blobs)

    def _remove_unneeded(self, blobs: Collection[str]) -> int:
        """Remove those of some blobs that no version needs and return how many there were."""
        needed = {blob.sha256 for manifest in self._readable_manifests().values() for blob in manifest.blobs}
        unneeded = [sha256 for sha256 in blobs if sha256 not in needed]
        self._store.remove_blobs(unneeded)
        return len(unneeded)

    def _prune_history(self, now_ms: int, cfg: RegistryConfig, there: Collection[str], held: Collection[str]) -> None:
        """Remove old moves and decisions but for those on versions that are there, or that steps may be about that are executed again."""
        oldest = min(held, default=None)
        before_ms = now_ms - round(cfg.keep_history_for_s * 1000)
        self._alias.prune(cfg.keep_history, before_ms, lambda move: move.version in there or (oldest is not None and move.version >= oldest))
        keys = self._storage.list(f"{self._student}/decisions")
        decided = sorted({key.split("/")[-2] for key in keys})
        named = {*there, *decided[-cfg.keep_history :]}
        for key in keys:
            if key.split("/")[-2] not in named:
                self._storage.delete(key)

    def _protected(self, manifests: Mapping[str, VersionManifest], not_before: str | None) -> set[str]:
        moves = [move for move in (self._alias.newest(), self._alias.current()) if move is not None]
        live = {move.version for move in moves}
        previous = {name for move in moves for name in [name for name in move.trail if name in manifests][:1]}
        return live | _from(previous, not_before) | self.pinned()

    def _readable_manifests(self) -> dict[str, VersionManifest]:
        manifests: dict[str, VersionManifest] = {}
        for version in self.versions():
            try:
                manifests[version] = self._store.manifest(version)
            except Damaged as error:
                logger.warning("version %s is damaged and not pruned: %s", version, error)
        return manifests


def _from(names: set[str], not_before: str | None) -> set[str]:
    """Return the versions that are not older than a bound; names sort by age."""
    return names if not_before is None else {name for name in names if name >= not_before}


def _with_parents(names: set[str], manifests: Mapping[str, VersionManifest]) -> set[str]:
    found = set(names)
    waiting = list(names)
    while waiting:
        manifest = manifests.get(waiting.pop())
        if manifest is not None and manifest.deltas and manifest.parent is not None and manifest.parent not in found:
            found.add(manifest.parent)
            waiting.append(manifest.parent)
    return found
