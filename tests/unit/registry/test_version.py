from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamrec.errors import Damaged, RegistryError
from streamrec.registry.version import (
    Probes,
    VersionFacts,
    VersionManifest,
    apply_delta,
    batch_of,
    digest_arrays,
    later_name,
    make_delta,
    resolve,
    version_id,
)
from streamrec.state import ComponentState, from_bytes, to_bytes
from streamrec.storage import BlobRef

ARRAYS: dict[str, NDArray[Any]] = {"w": np.arange(6, dtype=np.float32).reshape(3, 2), "ids": np.array([1, 2, 3], np.int64)}
META: dict[str, Any] = {"scale": 9.0, "dim": 2}
BLOB = BlobRef("a" * 64, 10)


def _manifest(**changes: object) -> VersionManifest:
    values = {"student": "default", "version": "v00000001", "created_ms": 5, "base": (BLOB,), "digest": digest_arrays(ARRAYS, META)}
    return VersionManifest.model_validate(values | changes)


def test_a_manifest_comes_back_from_its_json() -> None:
    manifest = _manifest(
        offsets={"events": {0: 12, 1: 7}},
        metrics={"recall@20": 0.25, "loss": float("nan")},
        teachers={"linear": "linear-3"},
        config={"student": {"dim": 2}},
        parent="v00000000",
        seed=3,
        deltas=(BLOB,),
        probes=Probes(history=((1, 2), ()), top=((3,), ()), score=((0.1,), ())),
    )
    assert VersionManifest.from_json(manifest.to_json()) == manifest
    assert manifest.metrics == {"recall@20": 0.25, "loss": None}
    assert json.loads(manifest.to_json())["base"] == [{"sha256": "a" * 64, "bytes": 10}]


def test_a_newer_format_is_refused_by_name_and_not_called_damaged() -> None:
    newer = json.dumps(json.loads(_manifest().to_json()) | {"format": 4, "something": "new"}).encode()
    with pytest.raises(RegistryError, match="the version was written by a newer streamrec, got format 4, allowed up to 3, upgrade"):
        VersionManifest.from_json(newer)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"format": 1}', b"\xff"])
def test_what_is_no_manifest_is_damaged(data: bytes) -> None:
    with pytest.raises(Damaged):
        VersionManifest.from_json(data)


def test_ids_sort_by_batch() -> None:
    batches = [3, 20, 100, 99_999_999, 100_000_000, 999_999_999, 1_000_000_000, 10**15]
    ids = [version_id(batch) for batch in batches]
    assert sorted(ids) == ids
    assert [batch_of(each) for each in ids] == batches
    assert sorted([later_name(ids[4], 2), ids[5], ids[4]]) == [ids[4], later_name(ids[4], 2), ids[5]]


def test_the_digest_sees_every_part_and_nothing_else() -> None:
    digest = digest_arrays(ARRAYS, META)
    assert digest_arrays(dict(reversed(ARRAYS.items())), dict(reversed(META.items()))) == digest
    assert digest_arrays({**ARRAYS, "w": np.asfortranarray(ARRAYS["w"])}, META) == digest
    assert digest_arrays({**ARRAYS, "w": ARRAYS["w"].astype(">f4")}, META) == digest
    assert digest_arrays(ARRAYS, {**META, "list": [1]}) == digest_arrays(ARRAYS, {**META, "list": (1,)})
    others = [
        ({**ARRAYS, "w": ARRAYS["w"] + 1}, META),
        ({**ARRAYS, "w": ARRAYS["w"].reshape(2, 3)}, META),
        ({**ARRAYS, "w": ARRAYS["w"].view(np.int32)}, META),
        ({"w": ARRAYS["w"], "jds": ARRAYS["ids"]}, META),
        (ARRAYS, {**META, "scale": 9.5}),
        ({**ARRAYS, "none": np.empty(0, np.float32)}, META),
    ]
    assert len({digest_arrays(arrays, meta) for arrays, meta in others} | {digest}) == len(others) + 1


def test_resolving_gives_what_was_stored_and_checks_both_digests() -> None:
    data = to_bytes(ComponentState(ARRAYS, META))
    ref = BlobRef(hashlib.sha256(data).hexdigest(), len(data))
    arrays, meta = resolve(_manifest(base=(ref,)), lambda _: data)
    assert meta == META
    np.testing.assert_array_equal(arrays["w"], ARRAYS["w"])
    with pytest.raises(Damaged, match="'v00000001' is damaged"):
        resolve(_manifest(base=(ref,)), lambda _: data[:-1] + b"!")
    with pytest.raises(Damaged, match="do not match their digest"):
        resolve(_manifest(base=(ref,), digest="0" * 64), lambda _: data)


_rows = st.lists(st.lists(st.sampled_from([0.0, -0.0, 1.5, float("nan")]), min_size=2, max_size=2), max_size=6)


@given(_rows, _rows, st.booleans())
def test_a_delta_turns_the_old_arrays_into_the_new_ones_bit_for_bit(old_rows: list[list[float]], new_rows: list[list[float]], grows: bool) -> None:
    old: dict[str, NDArray[Any]] = {"w": np.array(old_rows, np.float32).reshape(-1, 2), "gone": np.zeros(2), "scalar": np.array(1.0)}
    rows = [*old_rows, *new_rows] if grows else new_rows
    new: dict[str, NDArray[Any]] = {"w": np.array(rows, np.float32).reshape(-1, 2), "scalar": np.array(2.0), "fresh": np.zeros((0, 3), np.int8)}
    delta = from_bytes(to_bytes(make_delta(old, new, META)))
    arrays, meta = apply_delta(old, delta)
    assert digest_arrays(arrays, meta) == digest_arrays(new, META)


def test_a_delta_holds_only_the_rows_that_changed() -> None:
    new = ARRAYS["w"].copy()
    new[1] += 1
    delta = make_delta(ARRAYS, {**ARRAYS, "w": np.vstack([new, [[7, 7]]]).astype(np.float32)}, META)
    assert delta.arrays["w@rows"].tolist() == [1, 3]
    assert delta.arrays["ids@rows"].tolist() == []


def test_a_delta_without_its_base_is_damaged() -> None:
    with pytest.raises(Damaged, match="does not fit"):
        apply_delta({}, make_delta(ARRAYS, ARRAYS, META))


def test_facts_refuse_a_misspelt_name() -> None:
    with pytest.raises(ValueError, match="ofsets"):
        VersionFacts.model_validate({"ofsets": {}})
