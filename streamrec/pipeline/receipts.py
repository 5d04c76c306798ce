"""Keep a receipt of each deletion that was carried out, and look for lost and torn ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from streamrec.errors import Damaged
from streamrec.pipeline.lineage import read_small
from streamrec.registry.registry import Registry
from streamrec.storage import Storage

_RECEIPTS = "deletions"
_ASK_AGAIN = "restore it from a copy; without one ask once more with `streamrec delete-user`, whose receipt says what is left and until when"


def receipt_key(namespace: str, event_id: str) -> str:
    """Return where a deletion's receipt is kept; an event id may hold what no file name can."""
    names = json.dumps([namespace, event_id]).encode()
    return f"{_RECEIPTS}/{hashlib.sha256(names).hexdigest()}.json"


def check_deletions_noted(state: Storage, registry: Registry) -> None:
    """Return if the registry knows of a deletion, or no receipt says that there was one.

    Raises:
        Damaged: Its record is lost or torn, so that nothing would keep a rollback from versions that know a deleted user.
    """
    if registry.forgotten() is None and (receipts := state.list(_RECEIPTS)):
        what = "Registry: the record of deletions is gone, and receipts say that there were some"
        do = "restore it from a copy, or let the stream commit, which writes it anew"
        raise Damaged(what, got=f"{len(receipts)} receipts in {state.address}/{_RECEIPTS}", allowed=registry.deletions_address, do=do)


def withdraw_receipts(storage: Storage, after_batch: int) -> list[str]:
    """Remove the receipts of deletions that were carried out after a micro-batch, by steps that are given up, and return the requests' event ids."""
    found = []
    for key in storage.list(_RECEIPTS):
        receipt = json.loads(storage.read(key))
        if receipt["batch"] > after_batch:
            storage.delete(key)
            found.append(str(receipt["event_id"]))
    return sorted(found)


def read_receipt(storage: Storage, namespace: str, event_id: str) -> dict[str, Any] | None:
    """Return a deletion's receipt; None while it has not been carried out.

    Raises:
        Damaged: It is torn.
    """
    return read_small(storage, receipt_key(namespace, event_id), "receipt", dict, _ASK_AGAIN)


def torn_receipts(storage: Storage) -> Iterator[Damaged]:
    """Give an error for each receipt of a lineage that can't be read, with the fact ``receipt``: the stream goes on without it."""
    for key in storage.list(_RECEIPTS):
        try:
            read_small(storage, key, "receipt", dict, _ASK_AGAIN)
        except Damaged as error:
            what = str(error).removesuffix(f", {error.remedy}")
            yield Damaged(what, do=_ASK_AGAIN, receipt=key)
