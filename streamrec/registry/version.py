"""Describe a version: what it was made from, where its weights lie, and the digest that they must have.

A version's weights are a base plus ordered deltas. In a delta an array is either whole (under its own name) or given by rows:
``name@rows`` int64 [changed] and ``name@values`` [changed, ...]; rows past the end append. Its meta holds the version's whole meta and the
names of its arrays.
"""

from __future__ import annotations

import hashlib
import json
import math
import string
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, NewType

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from streamrec.errors import Damaged, RegistryError
from streamrec.migrations import number_of, read_json
from streamrec.state import Arrays, ComponentState, from_bytes
from streamrec.storage import BlobRef

VersionId = NewType("VersionId", str)
"""Of versions; 1 had no ``item_generation``, each row held its first item (`streamrec.features.vocabulary.item_generations`)."""

NAME = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$"
ROWS, VALUES = "@rows", "@values"
_COMPARED_BYTES = 2**20


def version_id(batch: int) -> VersionId:
    """Return the id of the version that a batch produced; ids sort as strings, also beyond eight digits, which a stream of years reaches.

    Example:
        >>> version_id(12), version_id(100_000_000)
        ('v00000012', 'va100000000')
    """
    digits = f"{batch:08d}"
    return VersionId(f"v{chr(ord('a') + len(digits) - 9) if len(digits) > 8 else ''}{digits}")


def later_name(version: str, number: int) -> str:
    """Return the name of the ``number``-th version, from 2, that a batch produced with other weights; it sorts right behind the others.

    Example:
        >>> later_name("v00000012", 2), "v00000012" < later_name("v00000012", 2) < "v00000013"
        ('v00000012_02', True)
    """
    return f"{version}_{number:02d}"


def batch_of(version: str) -> int:
    """Return the batch that produced a version.

    Example:
        >>> batch_of("v00000012"), batch_of("v00000012_02"), batch_of("va100000000")
        (12, 12, 100000000)
    """
    return int(version.partition("_")[0].lstrip(string.ascii_lowercase))


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


Number = Annotated[float | None, AfterValidator(_finite_or_none)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Probes(_Record):
    """Hold what the version answered to a few histories when it was made.

    Attributes:
        history: Item rows per probe, newest first.
        top: Expected best rows per probe, best first.
        score: Their scores.
    """

    history: tuple[tuple[int, ...], ...] = ()
    top: tuple[tuple[int, ...], ...] = ()
    score: tuple[tuple[float, ...], ...] = ()


class VersionFacts(_Record):
    """Say what a version was made from.

    Attributes:
        offsets: Next offset (exclusive end of what was learned) per partition per topic.
        metrics: Numbers by name; one that is not finite is held as None.
        teachers: Version of each teacher whose labels were used.
        config: The resolved configuration.
        parent: Version that this one continues.
        seed: Seed of the run.
        probes: Expected answers, for the replica that loads it.
    """

    offsets: dict[str, dict[int, int]] = Field(default_factory=dict)
    metrics: dict[str, Number] = Field(default_factory=dict)
    teachers: dict[str, str] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    parent: str | None = None
    seed: int = 0
    probes: Probes = Probes()


class VersionManifest(VersionFacts):
    """Describe one version completely; its JSON is what makes the version visible.

    Attributes:
        student: Whose version it is.
        version: Its id.
        created_ms: Processing time of the first publication, UTC.
        base: One blob with all arrays.
        deltas: Blobs with changes, in the order in which they apply.
        digest: SHA-256 over the resolved arrays and meta, whatever their form on storage.
    """

    format: int = Field(default_factory=lambda: number_of("version"))
    student: str = Field(pattern=NAME)
    version: str = Field(pattern=NAME)
    created_ms: int
    base: tuple[BlobRef]
    deltas: tuple[BlobRef, ...] = ()
    digest: str

    @property
    def blobs(self) -> tuple[BlobRef, ...]:
        """Return every blob that the version needs."""
        return (*self.base, *self.deltas)

    def to_json(self) -> bytes:
        """Return the manifest's JSON, keys sorted."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> VersionManifest:
        """Parse what `to_json` wrote.

        Raises:
            RegistryError: It was written by a newer streamrec.
            Damaged: It is not a manifest.
        """
        try:
            values = read_json("version", data, RegistryError)
        except ValueError as error:
            what = "Registry: the bytes are not a version's manifest"
            raise Damaged(what, got=repr(data[:80]), do="roll back to another version") from error
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            what = f"Registry: the manifest of version {values.get('version')!r} is not valid ({error.errors()[0]['msg']})"
            raise Damaged(what, got=error.errors()[0]["loc"], do="roll back to another version") from error


class ModelVersion(NamedTuple):
    """Hold a version's manifest and its verified weights."""

    manifest: VersionManifest
    arrays: dict[str, NDArray[Any]]
    meta: dict[str, Any]

    @property
    def id(self) -> VersionId:
        """Return the version's id."""
        return VersionId(self.manifest.version)


def digest_arrays(arrays: Arrays, meta: Mapping[str, Any]) -> str:
    """Return the SHA-256 of resolved arrays (names, dtypes, shapes, bytes) and meta, in hex, whatever file they came from."""
    ordered = {name: _plain(arrays[name]) for name in sorted(arrays)}
    header = [[name, array.dtype.str, list(array.shape)] for name, array in ordered.items()]
    # Through JSON once, so that a meta has one digest before and after it was stored.
    stored_meta = json.loads(json.dumps(meta))
    digest = hashlib.sha256(json.dumps([header, stored_meta], sort_keys=True, separators=(",", ":")).encode())
    for array in ordered.values():
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def resolve(manifest: VersionManifest, read_blob: Callable[[BlobRef], bytes]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return a version's arrays and meta: the base with its deltas applied.

    Args:
        manifest: The version.
        read_blob: Gives a blob's bytes; they are checked here.

    Raises:
        Damaged: A blob or the whole does not have its digest.
    """
    states = [from_bytes(_checked(manifest, blob, read_blob(blob))) for blob in manifest.blobs]
    arrays, meta = dict(states[0].arrays), dict(states[0].meta)
    for delta in states[1:]:
        arrays, meta = apply_delta(arrays, delta)
    if digest_arrays(arrays, meta) != manifest.digest:
        what = f"Registry: the weights of version {manifest.version!r} do not match their digest"
        raise Damaged(what, do="roll back to another version")
    return arrays, meta


def make_delta(old: Arrays, new: Arrays, meta: Mapping[str, Any]) -> ComponentState:
    """Return what turns ``old`` into ``new``, row by row where rows were only changed or appended."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, array in new.items():
        before = old.get(name)
        if before is None or not _is_row_wise(before, array):
            arrays[name] = array
            continue
        rows = np.concatenate([_changed_rows(before, array[: len(before)]), np.arange(len(before), len(array))])
        values = array[rows]
        # Where most rows changed the whole is smaller, and what has no rows worth a number, as ids one after the other, nearly always is.
        if rows.nbytes + values.nbytes > array.nbytes:
            arrays[name] = array
        else:
            arrays[name + ROWS], arrays[name + VALUES] = rows, values
    return ComponentState(arrays, {"meta": dict(meta), "names": sorted(new)})


def apply_delta(old: Arrays, delta: ComponentState) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays and meta after a delta of `make_delta`.

    Raises:
        Damaged: The delta does not fit.
    """
    arrays: dict[str, NDArray[Any]] = {}
    try:
        for name in delta.meta["names"]:
            if name in delta.arrays:
                arrays[name] = delta.arrays[name]
                continue
            rows, values = delta.arrays[name + ROWS], delta.arrays[name + VALUES]
            array = np.empty((max(len(old[name]), int(rows.max(initial=-1)) + 1), *values.shape[1:]), values.dtype)
            array[: len(old[name])] = old[name]
            array[rows] = values
            arrays[name] = array
        return arrays, dict(delta.meta["meta"])
    except (KeyError, ValueError, IndexError, TypeError) as error:
        what = f"Registry: a delta does not fit its base ({error})"
        raise Damaged(what, do="roll back to another version") from error


def _is_row_wise(old: NDArray[Any], new: NDArray[Any]) -> bool:
    return old.ndim > 0 and old.ndim == new.ndim and old.dtype == new.dtype and old.shape[1:] == new.shape[1:] and 0 < len(old) <= len(new)


def _changed_rows(old: NDArray[Any], new: NDArray[Any]) -> NDArray[np.int64]:
    """Return which rows differ, ascending, in pieces that stay in the processor's cache.

    They are compared as bytes, so that a NaN equals itself and -0.0 is not 0.0: the digest comes out right.
    """
    width = math.prod(new.shape[1:]) * new.dtype.itemsize
    if not width:
        return np.empty(0, np.int64)
    size = math.gcd(width, 8)
    step = max(1, _COMPARED_BYTES // width)
    pieces = [np.empty(0, np.int64)]
    for first in range(0, len(new), step):
        mine, theirs = (_plain(array[first : first + step]).reshape(-1).view(f"u{size}") for array in (old, new))
        # Few words differ, mostly: to find them is faster than to sum up each row.
        rows = np.flatnonzero(mine != theirs) // (width // size)
        pieces.append(rows[np.diff(rows, prepend=-1) != 0] + first)
    return np.concatenate(pieces)


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    little = np.ascontiguousarray(array)
    return little.astype(little.dtype.newbyteorder("<")) if little.dtype.byteorder == ">" else little


def _checked(manifest: VersionManifest, blob: BlobRef, data: bytes) -> bytes:
    if hashlib.sha256(data).hexdigest() != blob.sha256:
        what = f"Registry: a blob of version {manifest.version!r} is damaged"
        raise Damaged(what, got=f"{len(data)} bytes that are not {blob.sha256}", do="roll back to another version")
    return data
