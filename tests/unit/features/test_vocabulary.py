from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from streamrec.errors import StorageError
from streamrec.features import vocabulary as module
from streamrec.features.candidates import Candidates, user_bits
from streamrec.features.item_keys import ItemKeys, PackedIds
from streamrec.features.vocabulary import TakenIn, Vocabulary
from streamrec.state import ComponentState, from_bytes, pack_strings, to_bytes, unpack_strings

Key = tuple[str, str]
NOTHING: list[Key] = []


def take_in(vocabulary: Vocabulary, used: list[Key], users: list[int] | None = None, announced: list[Key] = NOTHING) -> TakenIn:
    columns = [ItemKeys.of([name for name, _ in part], [item for _, item in part]) for part in (announced, used)]
    return vocabulary.take_in(*columns, np.asarray(users if users is not None else range(len(used)), np.int64))


def items(*numbers: int, namespace: str = "a") -> list[Key]:
    return [(namespace, f"i{number}") for number in numbers]


class AgainstAModel(RuleBasedStateMachine):
    """A vocabulary of a few rows, beside dictionaries that do the same slowly."""

    @initialize(max_items=st.integers(2, 12), admit_after=st.integers(1, 3))
    def start(self, max_items: int, admit_after: int) -> None:
        self.vocabulary = Vocabulary(1, max_items, admit_after)
        self.max_items, self.admit_after = max_items, admit_after
        self.held: dict[Key, tuple[int, int]] = {}
        self.uses: dict[Key, int] = {}
        self.last_use: dict[Key, int] = {}
        self.users: dict[Key, int] = {}
        self.owner: dict[tuple[int, int], Key] = {}
        self.said: dict[Key, tuple[int, bool]] = {}
        self.clock = 0
        self.base, self.deltas = self.vocabulary.snapshot(), list[ComponentState]()

    keys = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 14).map(str)), max_size=8)

    @rule(announced=keys, used=st.lists(st.tuples(st.tuples(st.sampled_from("ab"), st.integers(0, 14).map(str)), st.integers(0, 5)), max_size=10))
    def batch(self, announced: list[Key], used: list[tuple[Key, int]]) -> None:
        self.clock += len(used)
        wanted = [key for key in dict.fromkeys(announced) if key not in self.held]
        at_once = int(module.AT_ONCE_SHARE * self.max_items) - len(self.held) - len(wanted)
        for key in dict.fromkeys(key for key, _ in used):
            if key in self.held or key in wanted:
                continue
            at_once -= 1
            if at_once >= 0 or self.admit_after == 1:
                wanted.append(key)
                continue
            bits = self.users.pop(key, 0)
            for other, user in used:
                bits |= (1 << user) if other == key else 0
            if bits.bit_count() >= self.admit_after:
                wanted.append(key)
            else:
                self.users[key] = bits
        named = {*announced, *(key for key, _ in used)}
        left = []
        if wanted and len(self.held) + len(wanted) > self.max_items:
            num = max(len(self.held) + len(wanted) - self.max_items, int(module.LEAVING_SHARE * self.max_items))
            cold = sorted((self.warmth(key), self.held[key][0], key) for key in self.held if key not in named)[:num]
            left = sorted(row for _, row, _ in cold)
            for _, _, key in cold:
                del self.held[key]
                self.said.pop(key, None)
        room = self.max_items - len(self.held)
        result = take_in(self.vocabulary, [key for key, _ in used], [user for _, user in used], announced)
        assert result.left.tolist() == left
        generations = self.vocabulary.generation_of_rows()
        for key in wanted[:room]:
            row = self.vocabulary.find(*key)
            self.held[key] = row, int(generations[row])
            self.uses[key] = 0
            assert self.owner.setdefault(self.held[key], key) == key, "two items on one row and generation"
        for key in named & self.held.keys():
            self.last_use[key] = self.clock
        for key, _ in used:
            self.uses[key] = self.uses.get(key, 0) + 1
        nowhere = (-1, -1)
        assert result.announced.tolist() == [self.held.get(key, nowhere)[0] for key in announced]
        assert result.used.tolist() == [self.held.get(key, nowhere)[0] for key, _ in used]

    def warmth(self, key: Key) -> int:
        return self.last_use[key] + self.max_items * ((self.uses[key] + 1).bit_length() - 1)

    @rule(data=st.data())
    def describe(self, data: st.DataObject) -> None:
        if self.held:
            row = self.held[data.draw(st.sampled_from(sorted(self.held)))][0]
            self.vocabulary.describe(np.asarray([row], np.int32), np.asarray([[data.draw(st.integers(0, 9))]], np.int32), np.asarray([self.clock]))

    @rule(data=st.data())
    def say_what_can_be_had(self, data: st.DataObject) -> None:
        """Updates of a batch, by event time; some are older than those of batches before."""
        if not self.held:
            return
        said = st.tuples(st.integers(1, 20), st.sampled_from(sorted(self.held)), st.booleans())
        updates = sorted(data.draw(st.lists(said, max_size=5)), key=lambda update: update[0])
        rows = np.asarray([self.held[key][0] for _, key, _ in updates], np.int32)
        self.vocabulary.set_available(rows, np.asarray([available for _, _, available in updates], bool), np.asarray([at for at, _, _ in updates]))
        for at, key, available in updates:
            if at >= self.said.get(key, (0, True))[0]:
                self.said[key] = at, available

    @rule()
    def take_changed(self) -> None:
        rows, words, namespaces, generations = self.vocabulary.take_changed()
        assert {self.vocabulary.key_of(row) for row in rows.tolist()} <= self.held.keys()
        np.testing.assert_array_equal(words, self.vocabulary.words()[rows])
        np.testing.assert_array_equal(namespaces, self.vocabulary.namespace_of_rows()[rows])
        np.testing.assert_array_equal(generations, self.vocabulary.generation_of_rows()[rows])

    @rule(whole=st.booleans())
    def save(self, whole: bool) -> None:
        if whole:
            self.base, self.deltas = self.vocabulary.snapshot(), []
        else:
            delta = self.vocabulary.delta()
            assert delta is not None
            self.deltas.append(from_bytes(to_bytes(delta)))

    @rule()
    def crash_and_restore(self) -> None:
        self.save(False)
        again = Vocabulary(1, self.max_items, self.admit_after)
        again.restore(from_bytes(to_bytes(self.base)), self.deltas)
        assert again.digest() == self.vocabulary.digest()
        self.vocabulary = again

    @invariant()
    def it_is_what_the_model_says(self) -> None:
        vocabulary = self.vocabulary
        assert vocabulary.num_items == len(self.held) <= self.max_items >= len(vocabulary)
        found = {key: row for row, key in enumerate(vocabulary.keys()) if key != ("", "")}
        generations = vocabulary.generation_of_rows()
        assert {key: (row, int(generations[row])) for key, row in found.items()} == self.held
        unavailable, said_ms = vocabulary.unavailable()
        assert {key: (int(said_ms[row]), not unavailable[row]) for key, row in found.items() if said_ms[row]} == self.said
        assert not unavailable[[row for row in range(len(vocabulary)) if vocabulary.key_of(row) not in self.said]].any()
        packed, keys = vocabulary.packed_ids(), vocabulary.keys()
        assert unpack_strings(packed.data, packed.offsets) == [item for _, item in keys]


AgainstAModel.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestAgainstAModel = AgainstAModel.TestCase


@given(st.lists(st.integers(0, 9), max_size=30))
def test_arrow_and_python_columns_name_the_same_items(numbers: list[int]) -> None:
    names, ids = ["ab"[number % 2] for number in numbers], [f"i{number // 2}" for number in numbers]
    expected = list(dict.fromkeys(zip(names, ids, strict=True)))
    chunks = pa.chunked_array([pa.array(ids[:7], pa.string()), pa.array(ids[7:], pa.string())])
    for found in (ItemKeys.of(names, ids), ItemKeys.of(pa.chunked_array([pa.array(names, pa.string())]), chunks)):
        assert list(zip(found.namespaces, found.ids, strict=True)) == expected
        assert [expected[at] for at in found.index.tolist()] == list(zip(names, ids, strict=True))


def test_a_small_catalogue_never_waits_and_beyond_it_an_id_needs_several_users() -> None:
    vocabulary = Vocabulary(1, 100, 2)
    assert take_in(vocabulary, items(*range(9)), [7] * 9).used.tolist() == list(range(9))
    assert take_in(vocabulary, items(20, 21, 21, 21), [7] * 4).used.tolist() == [9, -1, -1, -1]
    assert take_in(vocabulary, items(21), [7]).used.tolist() == [-1]
    assert take_in(vocabulary, items(21, 22), [8, 8]).used.tolist() == [10, -1]
    assert vocabulary.counters == {"admitted": 11, "left": 0, "kept_out": 5}


def test_an_announced_item_gets_its_row_at_once_however_full_it_is() -> None:
    vocabulary = Vocabulary(1, 10, 5)
    take_in(vocabulary, [], announced=items(*range(10)))
    taken = take_in(vocabulary, items(3, 4), announced=items(77))
    assert taken.left.tolist() == [0]
    assert taken.announced.tolist() == [0]
    assert vocabulary.key_of(0) == ("a", "i77")


def test_one_user_can_not_bring_ids_in_however_many_and_however_often() -> None:
    vocabulary = Vocabulary(1, 1000, 2)
    take_in(vocabulary, items(*range(100)))
    for _ in range(3):
        flood = items(*range(1000, 6000))
        assert (take_in(vocabulary, flood, [5] * len(flood)).used == -1).all()
    assert vocabulary.num_items == 100


def test_what_is_used_often_outlives_what_was_used_once_more_recently() -> None:
    vocabulary = Vocabulary(1, 4, 1)
    take_in(vocabulary, items(0, 0, 0, 1))
    take_in(vocabulary, items(2, 3))
    assert take_in(vocabulary, items(4)).left.tolist() == [1]
    assert take_in(vocabulary, items(5)).left.tolist() == [2]
    for number in range(6, 14):  # One turnover later for each doubling, and no more.
        take_in(vocabulary, items(number))
    assert vocabulary.find("a", "i0") == -1


def test_a_batch_with_more_items_than_rows_keeps_its_first_ones_and_says_how_many_events_were_kept_out() -> None:
    vocabulary = Vocabulary(1, 5, 1)
    assert take_in(vocabulary, items(0, 1, 2)).left.tolist() == []
    taken = take_in(vocabulary, items(2, *range(10, 20)))
    assert taken.used.tolist() == [2, 0, 1, 3, 4, -1, -1, -1, -1, -1, -1]
    assert taken.left.tolist() == [0, 1]
    assert vocabulary.counters["kept_out"] == 6


def test_a_flood_of_namespaces_is_bounded_and_told(caplog: pytest.LogCaptureFixture) -> None:
    vocabulary = Vocabulary(1, 100, 1, 3)
    take_in(vocabulary, [("n0", "i")])
    assert not caplog.records
    taken = take_in(vocabulary, [(f"n{number}", "i") for number in range(6)] + [("n0", "j")])
    assert taken.used.tolist() == [0, 1, 2, -1, -1, -1, 3]
    assert vocabulary.namespaces == ["n0", "n1", "n2"]
    assert "items of 3 namespaces beyond features.max_namespaces = 3 get no rows, of 'n3' for example" in caplog.text


def test_a_bound_that_is_lowered_takes_effect_at_the_next_new_item() -> None:
    vocabulary = Vocabulary(1, 50, 1)
    take_in(vocabulary, items(*range(40)))
    lower = Vocabulary(1, 10, 1)
    lower.restore(vocabulary.snapshot())
    assert len(take_in(lower, items(99)).left) == 31
    assert lower.num_items == 10
    assert lower.find("a", "i99") == 0


def test_candidates_forget_the_oldest_and_hold_no_more_than_they_may() -> None:
    candidates = Candidates(2, 10)
    one, two = user_bits(np.asarray([1, 2], np.int64)).tolist()
    assert candidates.see([1], [one]) == [False]
    for key in range(100, 104):
        candidates.see([key], [one])
    assert candidates.see([1], [two]) == [True]  # Of the old generation, and gone with that.
    assert candidates.see([1], [two]) == [False]
    for key in range(200, 300):
        candidates.see([key], [one])
        assert len(candidates) <= 10
    assert candidates.see([1], [one]) == [False]


def test_users_that_share_a_bit_count_as_one() -> None:
    assert np.unique(user_bits(np.asarray([3, 67, -61], np.int64))).tolist() == [8]


def test_packed_ids_take_new_rows_anywhere() -> None:
    packed = PackedIds.empty().with_rows(3, np.arange(3), ["a", "bé", ""])
    packed = packed.with_rows(6, np.asarray([1, 2, 5]), ["", "xyz", "w"])
    assert unpack_strings(packed.data, packed.offsets) == ["a", "", "xyz", "", "", "w"]
    assert unpack_strings(*(lambda p: (p.data, p.offsets))(packed.with_rows(7, np.asarray([6]), ["q"]))) == ["a", "", "xyz", "", "", "w", "q"]


def test_a_vocabulary_of_format_one_is_read_with_generation_zero_throughout() -> None:
    data, offsets = pack_strings(["i1", "i2", "i1"])
    arrays: dict[str, Any] = {
        "item_id_bytes": data,
        "item_id_offsets": offsets,
        "namespace": np.asarray([0, 0, 1], np.int32),
        "words": np.asarray([[3], [-1], [4]], np.int32),
    }
    vocabulary = Vocabulary(1, 10, 1)
    vocabulary.restore(ComponentState(arrays, {"namespaces": ["a", "b"]}))
    assert vocabulary.keys() == [("a", "i1"), ("a", "i2"), ("b", "i1")]
    assert vocabulary.generation_of_rows().tolist() == [0, 0, 0]
    assert vocabulary.words().tolist() == [[3], [-1], [4]]
    delta = vocabulary.delta()
    assert delta is not None
    take_in(vocabulary, items(5))
    later = vocabulary.delta()
    assert later is not None
    again = Vocabulary(1, 10, 1)
    again.restore(ComponentState(arrays, {"namespaces": ["a", "b"]}), [delta, later])
    assert again.digest() == vocabulary.digest()


def test_a_vocabulary_of_a_newer_format_is_refused() -> None:
    with pytest.raises(StorageError, match="written by a newer streamrec"):
        Vocabulary(1).restore(ComponentState({}, {"format": 4}))


def test_a_base_and_deltas_of_format_two_are_read_as_items_of_which_nothing_was_said() -> None:
    vocabulary = Vocabulary(1, 10, 1)
    take_in(vocabulary, items(0, 1))
    states = [vocabulary.snapshot()]
    take_in(vocabulary, items(2))
    states.append(vocabulary.delta() or pytest.fail("no delta"))
    new = ("words_ms", "unavailable", "available_ms")
    older = [
        ComponentState({name: array for name, array in state.arrays.items() if not name.startswith(new)}, {**state.meta, "format": 2})
        for state in states
    ]
    again = Vocabulary(1, 10, 1)
    again.restore(older[0], older[1:])
    assert again.digest() == vocabulary.digest()
    again.set_available(np.asarray([1], np.int32), np.asarray([False]), np.asarray([5]))
    assert again.unavailable()[0].tolist() == [False, True, False]


def test_words_of_an_older_update_change_nothing_and_those_of_an_equal_time_do() -> None:
    vocabulary = Vocabulary(1, 10, 1)
    row = take_in(vocabulary, items(0)).used
    for word, at in ((1, 7), (2, 6), (3, 7), (4, 1)):
        vocabulary.describe(row, np.asarray([[word]], np.int32), np.asarray([at]))
    assert vocabulary.words().tolist() == [[3]]


def test_a_delta_is_as_large_as_what_changed_not_as_what_is_held() -> None:
    vocabulary = Vocabulary(4, 100_000, 1)
    take_in(vocabulary, items(*range(20_000)))
    whole = sum(array.nbytes for array in vocabulary.snapshot().arrays.values())
    take_in(vocabulary, items(5, 20_001))
    delta = vocabulary.delta()
    assert delta is not None
    assert sum(array.nbytes for array in delta.arrays.values()) < whole / 1000
    assert delta.arrays["@rows"].tolist() == [5, 20_000]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("num_ids", [200_000, pytest.param(5_000_000, marks=[pytest.mark.slow, pytest.mark.release])])
def test_millions_of_one_off_ids_cost_no_more_memory_than_the_first(num_ids: int) -> None:
    """Each id comes once, from a user of its own, and every third batch brings the same ids once more, from others."""
    vocabulary, size = Vocabulary(2, 100_000, 2), 50_000
    largest = 0
    for start in range(0, num_ids, size):
        ids = pa.chunked_array([pa.array([f"bot-{number}" for number in range(start, start + size)])])
        names = pa.chunked_array([pa.array(["a"] * size)])
        keys, nothing = ItemKeys.of(names, ids), ItemKeys.of([], [])
        for turn in range(2 if start // size % 3 == 0 else 1):
            vocabulary.take_in(nothing, keys, np.arange(size, dtype=np.int64) * 7 + turn)
        assert vocabulary.num_items <= 100_000
        assert len(vocabulary) <= 100_000
        assert len(vocabulary._candidates) <= module.NUM_CANDIDATES
        if start // size % 20 == 3:
            largest = max(largest, sum(array.nbytes for array in vocabulary.snapshot().arrays.values()))
    assert 0 < largest < 100_000 * 64 + module.NUM_CANDIDATES * 16
    assert vocabulary.counters["left"] > 0 or num_ids < 1_000_000
