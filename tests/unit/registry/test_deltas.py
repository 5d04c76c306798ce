"""Deltas lead from one version to another bit for bit, or are refused; the chain of them is bounded."""

from __future__ import annotations

import asyncio
import itertools
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.errors import Damaged
from streamrec.registry.deltas import Chain, Delta, NotFollowing, apply, join
from streamrec.registry.holding import Holding
from streamrec.registry.version import digest_arrays
from streamrec.state import Arrays, ComponentState

META: dict[str, Any] = {"dim": 3, "scale": 9.0}


def first_arrays(num: int = 40) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    ids = np.frombuffer(b"".join(b"item-%d" % row for row in range(num)), np.uint8)
    return {"vectors": rng.normal(size=(num, 3)).astype(np.float32), "bias": np.zeros(num, np.float32), "ids": ids, "own": np.ones(4, np.float32)}


def changed(arrays: Arrays, how: str, seed: int) -> dict[str, Any]:
    """Return arrays that follow others, as a version may: some rows, more rows, all rows, rows of other items, the same, fewer rows."""
    rng = np.random.default_rng(seed)
    new = {name: array.copy() for name, array in arrays.items()}
    num = len(new["bias"])
    rows = rng.integers(0, num, 3)
    if how == "more":
        new["vectors"] = np.concatenate([new["vectors"], rng.normal(size=(2, 3)).astype(np.float32)])
        new["bias"] = np.append(new["bias"], np.float32([0, seed]))
        new["ids"] = np.append(new["ids"], np.frombuffer(b"new-%d" % seed, np.uint8))
    elif how == "reused":
        new["ids"] = np.insert(new["ids"], int(rows[0]), np.uint8(seed % 256))
        new["generation"] = np.full(num, seed, np.int32)
    elif how == "all":
        new["vectors"] = rng.normal(size=(num, 3)).astype(np.float32)
    elif how == "fewer" and num > 20:
        new["vectors"], new["bias"] = new["vectors"][:-5], new["bias"][:-5]
    if how != "same":
        rows = rows[rows < len(new["bias"])]
        new["vectors"][rows] = rng.normal(size=(len(rows), 3)).astype(np.float32)
        new["bias"][rows] = [-0.0, np.nan, 1.5][seed % 3]
        new["own"] += 1
    return new


def between(old: Arrays, new: Arrays) -> Delta:
    delta = Delta.between(digest_arrays(old, META), old, digest_arrays(new, META), new, META)
    assert delta is not None
    return delta


HOWS = st.sampled_from(["some", "more", "reused", "same", "fewer"])


@given(st.lists(st.tuples(HOWS, st.integers(0, 99)), min_size=1, max_size=8))
def test_deltas_as_one_give_what_they_give_one_after_the_other_bit_for_bit(steps: list[tuple[str, int]]) -> None:
    versions = [first_arrays()]
    for how, seed in steps:
        versions.append(changed(versions[-1], how, seed))
    deltas = [Delta.between(digest_arrays(old, META), old, digest_arrays(new, META), new, META) for old, new in itertools.pairwise(versions)]
    sealed = [delta for delta in deltas if delta is not None]
    if len(sealed) < len(deltas):  # Fewer rows are no delta of rows, so that one may be too large.
        return
    last = digest_arrays(versions[-1], META)
    arrays, meta = apply(versions[0], digest_arrays(versions[0], META), sealed, last)
    assert digest_arrays(arrays, meta) == last


def test_what_is_hardly_smaller_than_the_whole_is_no_delta_and_nor_is_one_without_digests() -> None:
    old = first_arrays()
    new = changed(old, "all", 1)
    assert Delta.between("a", old, "b", new, META) is None
    assert Delta.between("", old, "b", old, META) is None
    assert Delta.between("a", old, "", old, META) is None


def spoilt(delta: Delta, part: str) -> Delta:
    if part in {"base", "digest"}:
        return replace(delta, **{part: "0" * 64})
    if part == "meta":
        return replace(delta, change=ComponentState(delta.change.arrays, {**delta.change.meta, "meta": {}}))
    arrays = {name: array.copy() for name, array in delta.change.arrays.items()}
    arrays[part].reshape(-1).view(np.uint8)[0] ^= 1
    return replace(delta, change=ComponentState(arrays, delta.change.meta))


@pytest.mark.parametrize("part", ["base", "digest", "meta", "vectors@values", "vectors@rows"])
def test_a_delta_that_is_not_as_it_was_made_is_refused(part: str) -> None:
    old = first_arrays()
    delta = between(old, changed(old, "some", 1))
    with pytest.raises(NotFollowing, match=r"not the one that was sealed.*ask for the whole"):
        spoilt(delta, part).check()


def test_deltas_that_do_not_lead_from_the_one_version_to_the_other_are_refused() -> None:
    versions = [first_arrays()]
    for seed in range(3):
        versions.append(changed(versions[-1], "some", seed))
    digests = [digest_arrays(arrays, META) for arrays in versions]
    one, two, three = (between(old, new) for old, new in itertools.pairwise(versions))
    for base, deltas, digest in [
        (digests[0], [two], digests[2]),
        (digests[0], [one, three], digests[3]),
        (digests[0], [one], digests[2]),
        (digests[0], [two, one], digests[2]),
        (digests[0], [], digests[0]),
    ]:
        with pytest.raises(NotFollowing, match="do not lead to the version"):
            join(base, deltas, digest)
    assert join(digests[0], [one, two, three], digests[3]).arrays.keys() >= {"vectors@rows", "bias@rows"}


def chain_of(num: int, whole_bytes: int = 1000, max_links: int = 8, each: int = 10) -> Chain[str]:
    chain: Chain[str] = Chain(max_links)
    chain.begin("v0", "whole v0", whole_bytes)
    for number in range(1, num + 1):
        assert chain.extend(f"v{number - 1}", f"v{number}", f"to v{number}", each)
    return chain


def test_whoever_holds_a_version_of_the_chain_gets_what_came_since() -> None:
    chain = chain_of(4)
    assert chain.from_any(["v2"], "v4") == ["to v3", "to v4"]
    assert chain.from_any(["v1", "v3", "elsewhere"], "v4") == ["to v4"]
    assert chain.from_any(["v4"], "v4") == []
    assert chain.from_any(["v4"], "v3") is None  # No way back.
    assert chain.from_any(["elsewhere"], "v4") is chain.from_any([], "v4") is None
    assert chain.from_root("v2") == ["to v1", "to v2"]
    assert Chain[str]().from_any(["v1"], "v1") is None


def test_a_delta_of_another_version_than_the_newest_is_not_taken() -> None:
    chain = chain_of(2)
    assert not chain.extend("v1", "v3", "to v3", 10)
    assert not Chain[str]().extend("", "v1", "to v1", 10)
    assert (chain.tip, len(chain)) == ("v2", 2)


@pytest.mark.parametrize(("each", "room"), [(10, 8), (100, 5)])
def test_the_chain_is_bounded_by_number_and_bytes_until_its_root_is_renewed(each: int, room: int) -> None:
    chain = chain_of(room, each=each)
    assert chain.is_long()
    assert not chain.extend(f"v{room}", "next", "to next", each)
    assert chain.renew(f"v{room}", "renewed", 1000)
    assert not chain.is_long()
    for number in range(room, room + 3):
        assert chain.extend(f"v{number}" if number > room else f"v{room}", f"v{number + 1}", f"to v{number + 1}", each)
        assert len(chain) <= room
        assert chain.num_bytes <= 500
    # Those who are behind the root still find their way, as far as there is room.
    assert chain.from_any([f"v{room - 1}"], f"v{room + 1}") == [f"to v{room}", f"to v{room + 1}"]
    assert chain.from_root(f"v{room + 3}") == [f"to v{number}" for number in range(room + 1, room + 4)]
    assert chain.from_any(["v0"], f"v{room + 3}") is None
    assert not chain.renew("v0", "older", 1000)


class Box:
    """A reference that can be watched."""

    def __init__(self, value: Any) -> None:
        self.value = value
        ALIVE.add(self)


ALIVE: weakref.WeakSet[Box] = weakref.WeakSet()


async def fetch(box: Box) -> Any:
    return box.value


def never() -> Arrays:
    raise AssertionError


def test_what_is_held_is_bounded_and_a_chain_that_went_wrong_is_let_go_of() -> None:
    async def play() -> None:
        holding: Holding[Box] = Holding(Box, fetch)
        arrays = first_arrays(400)
        digest = digest_arrays(arrays, META)
        holding.begin(digest, arrays)
        whole_bytes = sum(array.nbytes for array in arrays.values())
        for seed in range(200):
            new = changed(arrays, "some", seed)
            assert holding.extend(between(arrays, new))
            arrays, digest = new, digest_arrays(new, META)
            if holding.is_long():
                made = (await holding.whole(digest, never)).value
                assert digest_arrays(made, META) == digest
            held = [box.value for box in ALIVE]
            deltas = [one.num_bytes for one in held if isinstance(one, Delta)]
            assert sum(deltas) <= whole_bytes / 2
            assert len(held) - len(deltas) == 1
        # Two wholes, so that the one before is there.
        holding.begin("another", arrays)
        assert digest_arrays((await holding.whole(digest, lambda: arrays)).value, META) == digest

    asyncio.run(play())


def test_a_whole_that_has_not_its_digest_is_given_to_nobody_and_the_next_version_has_to_come_whole() -> None:
    async def play() -> None:
        holding: Holding[Box] = Holding(Box, fetch)
        old = first_arrays()
        new = changed(old, "some", 1)
        # Made against other arrays than those that are held under the digest, as no driver should.
        wrong = Delta.between("base", changed(old, "some", 2), digest_arrays(new, META), new, META)
        assert wrong is not None
        holding.begin("base", old)
        assert holding.extend(wrong)
        with pytest.raises(Damaged, match="is not the one that its manifest describes"):
            await holding.whole(wrong.digest, never)
        assert not holding.extend(between(new, changed(new, "some", 3)))
        assert holding.deltas(["base"], wrong.digest) is None

    asyncio.run(play())
