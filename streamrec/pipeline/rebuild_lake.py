"""Make room for the lake of a lineage that is being rebuilt, where `lake.address` names a place of its own; only what a rebuild made goes."""

from __future__ import annotations

from streamrec.config import Config
from streamrec.errors import OperatorError, StorageError
from streamrec.pipeline.lake_writer import open_lake
from streamrec.pipeline.layout import lake_url
from streamrec.pipeline.lineage import named_lineage
from streamrec.storage import open_storage, tidy

_LOG = "_delta_log/"


def check_room(config: Config, lineage_url: str, address: str) -> None:
    """Return if nothing lies where the lineage's lake goes, or the lake that an earlier run of this rebuild began.

    The table's name is the mark: it is the lineage's, which lies in its checkpoint's folder from before the table is made until after it is gone.

    Args:
        config: Any settings of the state.
        lineage_url: The lineage's folder.
        address: ``lake.address``, beside which the lake goes.

    Raises:
        OperatorError: Something else lies there.
    """
    where = lake_url(lineage_url, address)
    keys = open_storage(where).list()
    if not keys:
        return
    name = named_lineage(lineage_url)
    found = f"{len(keys)} objects that are no lake of this rebuild"
    if name is not None and any(key.startswith(_LOG) for key in keys):
        elsewhere = config.model_copy(update={"lake": config.lake.model_copy(update={"address": address})})
        try:
            open_lake(elsewhere, lineage_url, lambda: name).last_batch()
        except StorageError as error:
            if "table" not in error.facts:
                raise
            found = f"the table {error.facts['table']}"
        else:
            return
    what = f"Rebuild: something lies where the new lineage's lake is to go, {where}"
    do = "look at it and remove it yourself, or give `lake.address` another place"
    raise OperatorError(what, got=found, allowed="nothing, or what an earlier run of this rebuild began", do=do, address=where)


def make_room(lineage_url: str, address: str) -> None:
    """Empty the place that `check_room` has looked at. The table's log goes last and its first entry at the very end: what is left has the mark."""
    lake = open_storage(lake_url(lineage_url, address))
    keys = lake.list()
    log = [key for key in keys if key.startswith(_LOG)]
    for key in (*(key for key in keys if not key.startswith(_LOG)), *reversed(log)):
        lake.delete(key)
    tidy(lake)
