"""Name the line of commits that a state consists of, and say which one is current.

A state begins with one lineage, in its own folder. `streamrec.pipeline.rebuild` makes further ones beside it; one pointer says which of
them the stream moves, replicas take their histories from and the command line looks at.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from streamrec.errors import Damaged, OperatorError, StorageError
from streamrec.migrations import FORMATS, number_of, read_json
from streamrec.pipeline.layout import checkpoint_url, lake_url, lineage_folder, lineage_number, state_of
from streamrec.pipeline.plan import version_name
from streamrec.storage import Storage, open_storage

LINEAGE = "LINEAGE"
"""The file beside the checkpoint's pointer that names the lineage."""

_CURRENT = "CURRENT"
NOTES = "lakes"
"""Folder of a lineage's notes on where its events went."""

_RESTORE_NAME = (
    'restore it from a copy, or write {"format": 1, "lineage": "NAME"} there: the table\'s name in the lake is streamrec/NAME, '
    "and the notes below lakes/ say it, too"
)

R = TypeVar("R")


@dataclass(frozen=True)
class Current:
    """Say which lineage of a state is current.

    Attributes:
        folder: Its folder within the state; empty for the first lineage.
        first_batch: Its batches are numbered from here on, since it is current: above all of the lineages before, so that names of
            versions sort by age. A version of an earlier batch belongs to another lineage, whose rows hold other items.
        forgot_batch: The last batch of the lineage before that deleted a user.
    """

    folder: str = ""
    first_batch: int = 0
    forgot_batch: int = 0

    def holds(self, version: str) -> bool:
        """Return whether a version of the student was made by this lineage."""
        return version >= version_name(self.first_batch)


def current_lineage(state_url: str) -> Current:
    """Return which lineage is current: one read of the pointer, which is not there before the first rebuild."""
    return read_small(open_storage(state_of(state_url)), _CURRENT, "current", _current, "restore it from a copy") or Current()


def _current(values: dict[str, Any]) -> Current:
    folder = values["folder"]
    if lineage_folder(lineage_number(folder)) != folder:
        raise ValueError(folder)
    return Current(folder, int(values["first_batch"]), int(values["forgot_batch"]))


def read_small(storage: Storage, key: str, name: str, parse: Callable[[dict[str, Any]], R], remedy: str) -> R | None:
    """Return what a small JSON file says; None where there is none.

    Args:
        storage: Where it lies.
        key: Its key.
        name: Of its format, a key of `streamrec.migrations.FORMATS`.
        parse: Makes the result from the JSON values of today's format.
        remedy: What to do when it is torn.

    Raises:
        Damaged: It is torn, or holds something else.
        StorageError: It was written by a newer streamrec.
    """
    found = storage.read_with_token(key)
    if found is None:
        return None
    try:
        return parse(read_json(name, found[0]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{FORMATS[name].noun} can't be read, {storage.address}/{key}"
        raise Damaged(what, got=repr(found[0][:80]), do=remedy, key=key) from error


def current_url(state_url: str) -> str:
    """Return the address of the current lineage's folder."""
    return url_of(state_url, current_lineage(state_url).folder)


def lineage_urls(state_url: str) -> list[str]:
    """Return the addresses of the current lineage and of those before it, newest first; what they left there may be gone."""
    newest = lineage_number(current_lineage(state_url).folder)
    return [url_of(state_url, lineage_folder(number)) for number in range(newest, 0, -1)]


def url_of(state_url: str, folder: str) -> str:
    """Return the address of a lineage's folder."""
    return f"{state_url.rstrip('/')}/{folder}" if folder else state_url


def made_current(lineage_url: str) -> Current:
    """Return what the pointer says of a lineage; nothing of one that is not current."""
    current = current_lineage(lineage_url)
    return current if url_of(state_of(lineage_url), current.folder) == lineage_url.rstrip("/") else Current()


def make_current(state_url: str, new: Current, instead_of: Current) -> None:
    """Move the pointer.

    Raises:
        StorageError: It was moved by somebody else meanwhile.
    """
    storage = open_storage(state_url)
    found = storage.read_with_token(_CURRENT)
    data = json.dumps({"format": number_of("current"), **asdict(new)}, sort_keys=True).encode()
    if current_lineage(state_url) != instead_of or storage.swap(_CURRENT, data, found[1] if found is not None else None) is None:
        what = "Lineage: another one has become current meanwhile"
        raise StorageError(what, got=current_lineage(state_url).folder or "the first one", do="let one rebuild run")


def lineage_of(lineage_url: str) -> str:
    """Return the lineage's name, and make it at the first call.

    It lies beside the checkpoint's pointer and is there before anything that carries it: who removes the commits removes it with them, and
    the next state is another one.

    Raises:
        Damaged: It can't be read, or is lost; see `named_lineage`.
    """
    if named_lineage(lineage_url) is None:
        name = uuid.uuid4().hex
        values = {"format": number_of("lineage"), "lineage": name, "check": _check(name)}
        open_storage(checkpoint_url(lineage_url)).write_new(LINEAGE, json.dumps(values).encode())
    return known_lineage(lineage_url)


def known_lineage(lineage_url: str) -> str:
    """Return the lineage's name.

    Raises:
        OperatorError: There is none: nothing was ever committed here.
        Damaged: It can't be read, or is lost; see `named_lineage`.
    """
    name = named_lineage(lineage_url)
    if name is None:
        what = "Lake: there is no state that it could belong to"
        raise OperatorError(what, got=lineage_url, do="name the state's configuration with --config")
    return name


def named_lineage(lineage_url: str) -> str | None:
    """Return the lineage's name, None where there is none yet.

    Raises:
        Damaged: It can't be read, or is lost: there are commits, and what carries it. It is never made anew then, since the lake would be refused.
    """
    storage = open_storage(checkpoint_url(lineage_url))
    name = read_small(storage, LINEAGE, "lineage", _name, _RESTORE_NAME)
    if name is None and storage.list("commits") and (left := _left_without_name(lineage_url)):
        name = read_small(storage, LINEAGE, "lineage", _name, _RESTORE_NAME)  # Once more: it may have been made since.
        if name is None:
            what = f"{FORMATS['lineage'].noun} is lost, {storage.address}/{LINEAGE}"
            raise Damaged(what, got=f"no such file beside commits and {left}", do=_RESTORE_NAME)
    return name


def _name(values: dict[str, Any]) -> str:
    name = str(values["lineage"])
    if values.get("check", _check(name)) != _check(name):  # Without one it was written by an earlier streamrec, or by hand.
        raise ValueError(name)
    return name


def _check(name: str) -> str:
    """Return what tells a name from one with a flipped bit, which would make the lake another state's."""
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _left_without_name(lineage_url: str) -> str:
    """Return what of a lineage's folder can only be there after the name."""
    storage = open_storage(lineage_url)
    if notes := storage.list(NOTES):
        return f"the note of a lake that says the name, {storage.address}/{notes[0]}"
    lake = lake_url(lineage_url, "")
    return f"the lake, {lake}" if open_storage(lake).list("_delta_log") else ""


def note_lake(storage: Storage, address: str, name: str) -> None:
    """Note that events of a lineage go to an address, so that deletions find it when the configuration has another one.

    Args:
        storage: The lineage's folder.
        address: As configured; a lake in the folder itself, "", needs no note.
        name: The lineage's.
    """
    if address:
        note = {"format": number_of("lake_note"), "address": address, "lineage": name}
        storage.write_new(f"{NOTES}/{hashlib.sha256(address.encode()).hexdigest()}.json", json.dumps(note).encode())


def noted_lakes(storage: Storage) -> dict[str, str]:
    """Return the addresses, as configured, that `note_lake` noted in a lineage's folder, and the lineage's name with each."""
    notes = [read_json("lake_note", storage.read(key)) for key in storage.list(NOTES)]
    return {str(note["address"]): str(note["lineage"]) for note in notes}
