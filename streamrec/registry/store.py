"""Write and read versions: blobs first, the manifest last."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Mapping
from typing import Any

from streamrec.errors import Damaged, RegistryError, StorageError
from streamrec.registry.version import (
    NAME,
    ModelVersion,
    VersionFacts,
    VersionId,
    VersionManifest,
    digest_arrays,
    later_name,
    make_delta,
    resolve,
)
from streamrec.state import Arrays, ComponentState, to_bytes
from streamrec.storage import Blobs, Storage

logger = logging.getLogger(__name__)

# A replica that starts reads a base and all its deltas; this bounds how many.
_MAX_DELTAS = 16


class VersionStore:
    """Keep one student's versions.

    **Contract.** A version never changes and is visible only when complete. One process publishes and prunes; any number read.

    Args:
        storage: Where to keep them.
        student: Folder of this student; several share a storage.
    """

    def __init__(self, storage: Storage, student: str) -> None:
        if not re.fullmatch(NAME, student):
            raise _bad_name(student)
        self._storage = storage
        self._student = student
        self._blob_folder = f"{student}/blobs"
        self._manifests: dict[VersionId, VersionManifest] = {}

    def free_name(self, version: str, arrays: Arrays, meta: Mapping[str, Any]) -> str:
        """Return the first name for these weights that no others have; see `streamrec.registry.version.later_name`."""
        if not self.exists(version):  # As nearly always; the digest of a large student takes a while.
            return version
        digest = digest_arrays(arrays, meta)
        names = itertools.chain([version], (later_name(version, number) for number in itertools.count(2)))
        return next(name for name in names if not self.exists(name) or not self._is_readable(name) or self.manifest(name).digest == digest)

    def publish(
        self, version: str, arrays: Arrays, meta: Mapping[str, Any], facts: VersionFacts, created_ms: int, *, as_delta: bool = False
    ) -> VersionManifest:
        """Store a version; see `streamrec.registry.registry.Registry.publish`."""
        if not re.fullmatch(NAME, version):
            raise _bad_name(version)
        digest = digest_arrays(arrays, meta)
        whole = to_bytes(ComponentState(arrays, meta))
        blobs = Blobs(self._storage, self._blob_folder)
        if self.exists(version) and self._is_readable(version):
            manifest = self._same(version, digest)
            if not manifest.deltas:
                blobs.put(whole)  # mends a blob that was lost
            return manifest
        form = self._delta_form(blobs, arrays, meta, facts.parent if as_delta else None, len(whole)) or {"base": (blobs.put(whole),)}
        manifest = VersionManifest(**facts.model_dump(), **form, student=self._student, version=version, created_ms=created_ms, digest=digest)
        return manifest if self._storage.write_new(self._key(version), manifest.to_json()) else self._same(version, digest)

    def manifest(self, version: str) -> VersionManifest:
        """Return a version's manifest.

        Raises:
            RegistryError: There is no such version.
            Damaged: The manifest can't be read.
        """
        found = self._manifests.get(VersionId(version))
        if found is None:
            if not re.fullmatch(NAME, version):
                raise self._unknown(version)
            try:
                found = VersionManifest.from_json(self._storage.read(self._key(version)))
            except Damaged as error:
                what = f"Registry: the manifest of version {version!r} is damaged, {self._storage.address}/{self._key(version)} ({error})"
                raise Damaged(what, do="restore that file from a copy") from error
            except StorageError as error:
                if not error.facts.get("missing"):
                    raise
                raise self._unknown(version) from error
            self._manifests[VersionId(version)] = found
        return found

    def lost(self, version: str) -> Damaged:
        """Return an error that names the manifest of a version that should be there."""
        what = f"Registry: the manifest of version {version!r} is lost, no such file as {self._storage.address}/{self._key(version)}"
        return Damaged(what, do="restore that file from a copy")

    def _unknown(self, version: str) -> RegistryError:
        what = f"Registry: student {self._student!r} has no such version"
        return RegistryError(what, got=repr(version), allowed=", ".join(self.versions()[-5:]) or "none yet")

    def exists(self, version: str) -> bool:
        """Tell whether the version is there, complete."""
        return self._storage.exists(self._key(version))

    def load(self, version: str) -> ModelVersion:
        """Return a version with its verified weights.

        Raises:
            RegistryError: There is no such version.
            Damaged: A digest is wrong.
        """
        manifest = self.manifest(version)
        arrays, meta = resolve(manifest, Blobs(self._storage, self._blob_folder).get)
        return ModelVersion(manifest, arrays, meta)

    def versions(self) -> list[VersionId]:
        """Return the ids of all versions, oldest first."""
        return [VersionId(key.split("/")[-2]) for key in self._storage.list(f"{self._student}/versions")]

    def hide(self, version: str) -> None:
        """Remove a version's manifest, and with it the version."""
        self._manifests.pop(VersionId(version), None)
        self._storage.delete(self._key(version))

    def withdraw(self, version: str) -> None:
        """Note that a version goes for good, and that whoever misses it need not look for it."""
        self._storage.write_new(self._withdrawn_key(version), b"")

    def is_withdrawn(self, version: str) -> bool:
        """Tell whether a version is gone and was noted so."""
        return not self.exists(version) and self._storage.exists(self._withdrawn_key(version))

    def _withdrawn_key(self, version: str) -> str:
        return f"{self._student}/withdrawn/{version}"

    def unhide(self, manifest: VersionManifest) -> None:
        """Bring a version back whose blobs are still there."""
        self._storage.write_new(self._key(manifest.version), manifest.to_json())

    def blobs(self) -> list[str]:
        """Return the digests of all blobs."""
        return Blobs(self._storage, self._blob_folder).names()

    def remove_blobs(self, digests: list[str]) -> None:
        """Delete blobs that no version needs."""
        Blobs(self._storage, self._blob_folder).remove(digests)

    def _delta_form(self, blobs: Blobs, arrays: Arrays, meta: Mapping[str, Any], parent_id: str | None, whole_bytes: int) -> dict[str, Any]:
        if parent_id is None:
            return {}
        parent = self.load(parent_id)
        delta = to_bytes(make_delta(parent.arrays, arrays, meta))
        if len(delta) * 2 > whole_bytes or len(parent.manifest.deltas) >= _MAX_DELTAS:
            return {}
        return {"base": parent.manifest.base, "deltas": (*parent.manifest.deltas, blobs.put(delta))}

    def _is_readable(self, version: str) -> bool:
        """Return whether the manifest can be read; a torn one goes, because its publisher is here again."""
        try:
            self.manifest(version)
        except Damaged as error:
            logger.warning("version %s is published anew: %s", version, error)
            self.hide(version)
            return False
        return True

    def _same(self, version: str, digest: str) -> VersionManifest:
        manifest = self.manifest(version)
        if manifest.digest != digest:
            what = f"Registry: version {version!r} is published with other weights"
            raise RegistryError(what, got=digest, allowed=manifest.digest, do="publish under a new id")
        return manifest

    def _key(self, version: str) -> str:
        return f"{self._student}/versions/{version}/manifest.json"


def _bad_name(name: str) -> RegistryError:
    return RegistryError("Registry: not a name", got=repr(name), allowed="up to 128 letters, digits, '.', '_' and '-', not beginning with '.'")
