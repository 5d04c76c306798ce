"""Name the line of commits that a state consists of, so that what lies elsewhere can say to which one it belongs."""

from __future__ import annotations

import json
import uuid

from streamrec.errors import OperatorError
from streamrec.storage import Storage

_KEY = "LINEAGE"
_FORMAT = 1


def lineage_of(storage: Storage) -> str:
    """Return the lineage's name, and make it at the first call.

    It lies beside the checkpoint's pointer and is there before anything that carries it: who removes the commits removes it with them, and
    the next state is another one.

    Args:
        storage: The checkpoint's.
    """
    storage.write_new(_KEY, json.dumps({"format": _FORMAT, "lineage": uuid.uuid4().hex}).encode())
    return known_lineage(storage)


def known_lineage(storage: Storage) -> str:
    """Return the lineage's name.

    Raises:
        OperatorError: There is none: nothing was ever committed here.
    """
    found = storage.read_with_token(_KEY)
    if found is None:
        what = "Lake: there is no state that it could belong to"
        raise OperatorError(what, got=storage.address, do="name the state's configuration with --config")
    return str(json.loads(found[0])["lineage"])
