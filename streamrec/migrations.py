"""Say which numbers of each stored format are read, and bring an older one to today's, one number at a time.

`FORMATS` is the one table. Every stored thing carries its number as ``format``; one that has none was written before the number was, and is 1.
A format's number goes up when a reader of the old one would misread the new one, and then a step is added here that makes the new form
from the stored one alone. What a newer streamrec wrote is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from streamrec.errors import Damaged, OperatorError, StorageError
from streamrec.state import ComponentState

Step = Callable[[Any], Any]
Record = TypeVar("Record", bound=BaseModel)


@dataclass(frozen=True)
class Format:
    """Describe a stored format.

    Attributes:
        noun: What an error calls one.
        number: Today's.
        steps: Number N to the function that makes N + 1 of it: of JSON values for what is stored as JSON, else of a `ComponentState`.
    """

    noun: str
    number: int = 1
    steps: Mapping[int, Step] = field(default_factory=dict)


def _same(values: Any) -> Any:
    """Return what is read as it is: the new number stands for more that may be there."""
    return values


NEEDS_REBUILD = "needs_rebuild"
"""A commit's fact: only what a rebuild needs of it can still be read."""

_OF_ONE_FORM = ("stream", "lake", "tombstones")


def _commit_2(commit: dict[str, Any]) -> dict[str, Any]:
    """Keep the components that had one form throughout; of the others nothing stored tells in which of several forms they are."""
    components = {name: entry for name, entry in commit["components"].items() if name in _OF_ONE_FORM}
    return {**commit, "facts": {**commit["facts"], NEEDS_REBUILD: True}, "components": components}


def _commit_6(commit: dict[str, Any]) -> dict[str, Any]:
    """The student's replay is the store of labels, and the control has none of its own."""
    names = {"student_replay": "labels"}
    components = {names.get(name, name): entry for name, entry in commit["components"].items() if name != "control_replay"}
    return {**commit, "components": components}


def _head_3(head: dict[str, Any]) -> dict[str, Any]:
    """An owner may say why it took over."""
    return {**head, "owner": {**head["owner"], "why": ""}}


def _rebuild_2(record: dict[str, Any]) -> dict[str, Any]:
    """Nothing says where the lake goes that is made."""
    return {**record, "lake_to": None}


def _quarantine_2(record: dict[str, Any]) -> dict[str, Any]:
    """All batches between the first and the last one, also those that an earlier record has."""
    batches = [[record["first_batch"], record["last_batch"]]]
    return {**{name: value for name, value in record.items() if name not in {"first_batch", "last_batch"}}, "batches": batches}


def _vocabulary_2(state: ComponentState) -> ComponentState:
    """All rows hold their first item, and nothing is known of its use."""
    num = len(state.arrays.get("namespace", ()))
    new: dict[str, NDArray[Any]] = {"generation": np.zeros(num, np.int32), "last_use": np.zeros(num, np.int64), "uses": np.zeros(num, np.int64)}
    return ComponentState({**new, **state.arrays}, {"clock": 0, **state.meta})


def _vocabulary_3(state: ComponentState) -> ComponentState:
    """Nothing is known of when words were told, nor of whether an item can be had; of a base or of a delta's rows."""
    suffix = "@values" if "@rows" in state.arrays else ""
    num = len(state.arrays.get(f"namespace{suffix}", ()))
    names = {"words_ms": np.int64, "unavailable": np.bool_, "available_ms": np.int64}
    return ComponentState({**{f"{name}{suffix}": np.zeros(num, kind) for name, kind in names.items()}, **state.arrays}, state.meta)


FORMATS: Mapping[str, Format] = {
    "head": Format("Checkpoint: the pointer", 3, {1: _same, 2: _head_3}),
    # Tombstones of 2 don't say how far ahead events lay, those of 3 don't name requests. Linear statistics of 4 are square matrices. Up to 5
    # students have replay buffers of their own, with one mixture a query (`streamrec.soft_labels.store`). Students of 6 know no order but which item
    # is the newest.
    "commit": Format("Checkpoint: a commit", 7, {1: _commit_2, 2: _same, 3: _same, 4: _same, 5: _commit_6, 6: _same}),
    "current": Format("Lineage: the pointer"),
    "lineage": Format("Lineage: the name"),
    "rebuild": Format("Rebuild: the record", 2, {1: _rebuild_2}),
    "plan": Format("Plan: one"),
    "receipt": Format("Receipt: one"),
    "switches": Format("Switches: they", 2, {1: _same}),  # 1 has nobody who asks for teachers.
    "quarantine": Format("Quarantine: a record", 2, {1: _quarantine_2}),
    "vocabulary": Format("Vocabulary: the state", 3, {1: _vocabulary_2, 2: _vocabulary_3}),
    # A version of 1 has no generations: all rows held their first item. Linear ones of 2 are square matrices. Transformers of 3 favour no own items.
    "teacher": Format("Teacher: the version", 4, {1: _same, 2: _same, 3: _same}),
    "version": Format("Registry: the version", 3, {1: _same, 2: _same}),  # 1 as of teachers; `last_projection` of 2 is for the newest item alone.
    "move": Format("Registry: a record of the alias"),
    "forgotten": Format("Registry: the record of deletions"),
    "decision": Format("Registry: a decision"),
    "lake": Format("Lake: the table"),
    "lake_note": Format("Lake: the note of an address"),
    "letter": Format("Dead letter: one"),
    "progress": Format("Replay: the progress"),
    "batch": Format("Recommendations: the plan"),
}
"""Every stored format by name; docs/formats.md describes today's."""


def migrated(name: str, value: Any, written: object, error: type[OperatorError] = StorageError) -> Any:
    """Return a stored value in today's form.

    Args:
        name: Of the format, a key of `FORMATS`.
        value: JSON values or a `ComponentState`.
        written: Its number; None stands for 1.
        error: Raised when the number is not one that is read.

    Raises:
        OperatorError: A newer streamrec wrote it, or the number is none.
    """
    known = FORMATS[name]
    number = 1 if written is None else written
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        what = f"{known.noun} has no format number"
        raise error(what, got=repr(written), allowed=f"1 to {known.number}", do="restore it from a copy")
    if number > known.number:
        what = f"{known.noun} was written by a newer streamrec"
        raise error(what, got=f"format {number}", allowed=f"up to {known.number}", do="upgrade streamrec")
    for step in range(number, known.number):
        value = known.steps[step](value)
    return value


def read_json(name: str, data: bytes | str, error: type[OperatorError] = StorageError) -> dict[str, Any]:
    """Parse a stored JSON object and return it in today's form, its number included.

    Raises:
        ValueError: It is no JSON object.
        OperatorError: See `migrated`.
    """
    values = json.loads(data)
    if not isinstance(values, dict):
        msg = f"{FORMATS[name].noun} is no JSON object"
        raise ValueError(msg)
    return {**migrated(name, values, values.get("format"), error), "format": FORMATS[name].number}


def read_record(name: str, data: bytes, record: type[Record], what: str, do: str) -> Record:
    """Parse a stored record: a JSON object with its format's number.

    Args:
        name: Of the format.
        data: The bytes.
        record: The model of what stands beside the number.
        what: Begins the error, with the file that holds the bytes.
        do: Ends it.

    Raises:
        Damaged: It is no such record.
        StorageError: A newer streamrec wrote it.
    """
    try:
        values = read_json(name, data)
        values.pop("format")
        return record.model_validate(values)
    except ValueError as error:
        raise Damaged(what, got=repr(data[:80]), do=do) from error


def number_of(name: str) -> int:
    """Return today's number of a format, which a writer puts into what it stores."""
    return FORMATS[name].number
