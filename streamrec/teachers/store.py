"""Keep teacher versions on storage: immutable, digest-checked safetensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from streamrec.errors import Damaged, RegistryError
from streamrec.migrations import number_of, read_json
from streamrec.state import ComponentState, from_bytes, to_bytes
from streamrec.storage import Storage


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
        """Return the version's facts.

        Raises:
            RegistryError: There is no such version.
        """
        facts: dict[str, Any] = self._manifest(teacher, version)["facts"]
        return facts

    def cost_s(self, teacher: str, version: str) -> float:
        """Return the worker-seconds that a version took, as its facts say; raises as `facts`."""
        facts = self.facts(teacher, version)
        return float(facts.get("seconds", 0.0)) * float(facts.get("num_workers", 1))

    def load(self, teacher: str, version: str) -> ComponentState:
        """Return a version's arrays.

        Raises:
            RegistryError: There is no such version.
            Damaged: Its bytes do not match their digest.
        """
        digest = self._manifest(teacher, version)["sha256"]
        data = self._storage.read(f"teachers/{teacher}/{version}/weights-{digest}.safetensors")
        if hashlib.sha256(data).hexdigest() != digest:
            what = "Teacher: the weights do not match their digest"
            raise Damaged(what, got=f"{teacher} {version}", do="remove the version; the next refresh makes a new one")
        return from_bytes(data)

    def prune(self, oldest: Mapping[str, str]) -> None:
        """Remove the versions of each named teacher that are older than the given one; a version goes with its manifest first."""
        for teacher, bound in oldest.items():
            keys = self._storage.list(f"teachers/{teacher}")
            old = [key for key in keys if key.split("/")[2] < bound]
            for key in sorted(old, key=lambda key: not key.endswith("/manifest.json")):
                self._storage.delete(key)

    def _manifest(self, teacher: str, version: str) -> dict[str, Any]:
        if not self.exists(teacher, version):
            what = "Teacher: no such version"
            raise RegistryError(what, got=f"{teacher} {version}", do="look under teachers/ for those that are there")
        return read_json("teacher", self._storage.read(_manifest(teacher, version)), RegistryError)


def _manifest(teacher: str, version: str) -> str:
    return f"teachers/{teacher}/{version}/manifest.json"
