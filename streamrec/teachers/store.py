"""Keep teacher versions on storage: immutable, digest-checked safetensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from streamrec.errors import Damaged, RegistryError, StorageError
from streamrec.migrations import number_of, read_json
from streamrec.state import ComponentState, from_bytes, to_bytes
from streamrec.storage import Storage

_RESTORE = "restore that file from a copy; without one start the stream again, which says how to go on"


class TeacherStore:
    """Write and read versions of several teachers.

    **Contract.** `publish` is idempotent; a version is visible only when complete. Version names sort by age.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def publish(self, teacher: str, version: str, state: ComponentState, facts: dict[str, Any]) -> None:
        """Store a version with facts such as its losses and seconds; the manifest comes last."""
        data = to_bytes(state)
        digest = hashlib.sha256(data).hexdigest()
        self._storage.write_new(f"teachers/{teacher}/{version}/weights-{digest}.safetensors", data)
        if not self.exists(teacher, version):
            manifest = {"format": number_of("teacher"), "teacher": teacher, "version": version, "sha256": digest, "bytes": len(data), "facts": facts}
            self._storage.write_new(_manifest(teacher, version), json.dumps(manifest, sort_keys=True).encode())

    def exists(self, teacher: str, version: str) -> bool:
        """Return whether the version is complete."""
        return self._storage.exists(_manifest(teacher, version))

    def facts(self, teacher: str, version: str) -> dict[str, Any]:
        """Return the version's facts; raises as `manifest`."""
        facts: dict[str, Any] = self.manifest(teacher, version)["facts"]
        return facts

    def cost_s(self, teacher: str, version: str) -> float:
        """Return the worker-seconds that a version took, as its facts say; raises as `facts`."""
        facts = self.facts(teacher, version)
        return float(facts.get("seconds", 0.0)) * float(facts.get("num_workers", 1))

    def load(self, teacher: str, version: str) -> ComponentState:
        """Return a version's arrays.

        Raises:
            RegistryError: A newer streamrec wrote it.
            Damaged: Its bytes are gone or do not match their digest (fact ``folder``), or as `manifest`.
        """
        digest = self.manifest(teacher, version)["sha256"]
        key = f"teachers/{teacher}/{version}/weights-{digest}.safetensors"
        what = f"Teacher: the weights of {teacher} {version} are damaged, {self._storage.address}/{key}"
        try:
            data = self._storage.read(key)
        except StorageError as error:
            if not error.facts.get("missing"):
                raise
            raise Damaged(what, got="no such file", do=_RESTORE, folder=self.folder(teacher, version)) from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise Damaged(what, got=f"{len(data)} bytes that do not match their digest", do=_RESTORE, folder=self.folder(teacher, version))
        return from_bytes(data)

    def folder(self, teacher: str, version: str) -> str:
        """Return the address of the folder that a version lies in, there or not."""
        return f"{self._storage.address}/teachers/{teacher}/{version}"

    def prune(self, oldest: Mapping[str, str]) -> None:
        """Remove the versions of each named teacher that are older than the given one; a version goes with its manifest first."""
        for teacher, bound in oldest.items():
            keys = self._storage.list(f"teachers/{teacher}")
            old = [key for key in keys if key.split("/")[2] < bound]
            for key in sorted(old, key=lambda key: not key.endswith("/manifest.json")):
                self._storage.delete(key)

    def manifest(self, teacher: str, version: str) -> dict[str, Any]:
        """Return a version's manifest; whoever asks has the name from a commit or a plan.

        Raises:
            RegistryError: A newer streamrec wrote it.
            Damaged: It can't be read (fact ``folder``), or there is no such version (fact ``lost=True``).
        """
        where = f"{self._storage.address}/{_manifest(teacher, version)}"
        try:
            data = self._storage.read(_manifest(teacher, version))
        except StorageError as error:
            if not error.facts.get("missing"):
                raise
            what = f"Teacher: {teacher} {version} is lost, no such file as {where}"
            raise Damaged(what, do=_RESTORE, lost=True) from error
        try:
            values = read_json("teacher", data, RegistryError)
            if isinstance(values["sha256"], str) and isinstance(values["facts"], dict):
                return values
        except (ValueError, KeyError) as error:
            what = f"Teacher: the manifest of {teacher} {version} can't be read, {where}"
            raise Damaged(what, got=repr(data[:80]), do=_RESTORE, folder=self.folder(teacher, version)) from error
        what = f"Teacher: the manifest of {teacher} {version} is none, {where}"
        raise Damaged(what, got=repr(data[:80]), do=_RESTORE, folder=self.folder(teacher, version))


def _manifest(teacher: str, version: str) -> str:
    return f"teachers/{teacher}/{version}/manifest.json"
