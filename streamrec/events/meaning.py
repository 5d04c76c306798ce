"""Say what each interaction means for learning: its role and its weight, from the configuration."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamrec.config import Meaning
from streamrec.errors import DataError

TARGET, CONTEXT, NEGATIVE = 0, 1, 2
_CODES = {"target": TARGET, "context": CONTEXT, "negative": NEGATIVE}


def roles_of(events: pa.Table, meanings: Mapping[str, Meaning]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return the role (`TARGET`, `CONTEXT`, `NEGATIVE`) and the weight of each event.

    An event whose ``value`` is below its type's ``negative_below`` is negative; a null ``value`` is below nothing. A row without an event
    type is no interaction: it is context with weight 0.

    Args:
        events: Table of event_type and value, as `streamrec.events.codec.EventCodec` gives it.
        meanings: `streamrec.config.EventsConfig.meanings`.

    Returns:
        roles int8 [n] and weights float32 [n].

    Raises:
        DataError: An event type has no meaning; the codec rejects such events.
    """
    names = list(meanings)
    types = events["event_type"]
    codes = pc.fill_null(pc.index_in(types, pa.array(names, pa.string())), len(names)).to_numpy().astype(np.int64)
    unknown = (codes == len(names)) & types.is_valid().to_numpy()
    if unknown.any():
        row = int(np.argmax(unknown))
        what = f"Events: the event type of row {row} has no meaning"
        raise DataError(what, got=repr(types[row].as_py()), allowed=", ".join(names), do="add it to events.meanings")
    roles = np.array([*(_CODES[meaning.role] for meaning in meanings.values()), CONTEXT], np.int8)[codes]
    weights = np.array([*(meaning.weight for meaning in meanings.values()), 0.0], np.float32)[codes]
    bounds = np.array([*(-np.inf if meaning.negative_below is None else meaning.negative_below for meaning in meanings.values()), -np.inf])
    values = pc.fill_null(events["value"], np.inf).to_numpy()
    roles[values < bounds[codes]] = NEGATIVE
    return roles, weights
