"""Read the histories of the newest checkpoint in the form in which a serving replica takes them."""

from __future__ import annotations

from streamrec.features.histories import columns_of
from streamrec.features.item_attributes import columns_of as attributes_of
from streamrec.features.vocabulary import Vocabulary
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.lineage import current_url
from streamrec.serving.history_view import HistoryColumns
from streamrec.state import ComponentState, merge
from streamrec.storage import open_storage


def load_history_columns(state_url: str, *, with_users: bool = True) -> HistoryColumns | None:
    """Return the checkpoint's histories, what can't be had, and the offsets to follow the log from; None when nothing was committed yet.

    Args:
        state_url: Storage address of a pipeline's state; its current lineage is read.
        with_users: Whether the histories are read, too.

    Raises:
        Damaged: No commit is whole.
        StorageError: The storage refused.
    """
    loaded = CheckpointStore(open_storage(checkpoint_url(current_url(state_url)))).load_newest(
        only=(*(("histories",) if with_users else ()), "vocabulary", "stream", "tombstones", "item_attributes", "dedupe")
    )
    if loaded is None:
        return None
    offsets = {int(partition): int(offset) for partition, offset in loaded.components["stream"][0].meta["offsets"].items()}
    vocabulary = Vocabulary(0)
    vocabulary.restore(loaded.components["vocabulary"][0], loaded.components["vocabulary"][1:])
    base, *deltas = loaded.components["histories"] if with_users else (ComponentState(),)
    users, indptr, rows, times = columns_of(merge(base, deltas))
    base, *deltas = loaded.components.get("tombstones", (ComponentState(),))
    told, *changes = loaded.components.get("item_attributes", (ComponentState(),))
    attributes = attributes_of(merge(told, changes))
    event_ids = tuple(loaded.components.get("dedupe", (ComponentState(),)))
    said = vocabulary.unavailable(), attributes, event_ids
    return HistoryColumns(users, indptr, rows, vocabulary.keys(), offsets, times, (base, *deltas), *said)
