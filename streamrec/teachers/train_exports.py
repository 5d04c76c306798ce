"""Take back what fits under Ray Train leave in the GCS: each exports six classes of actors anew, 130 KB that stay for as long as the job lives."""

from __future__ import annotations

import pickletools

import ray
from ray._private import ray_constants  # noqa: PLC2701 - the table's name
from ray.experimental import internal_kv

_TABLE = ray_constants.KV_NAMESPACE_FUNCTION_TABLE


def exported_by_train() -> list[bytes]:
    """Return the keys of Ray Train's classes that this job has exported."""
    prefix = f"ActorClass:{ray.get_runtime_context().get_job_id()}:".encode()
    keys: list[bytes] = internal_kv._internal_kv_list(prefix, namespace=_TABLE)
    return [key for key in keys if _module_of(internal_kv._internal_kv_get(key, namespace=_TABLE) or b"").startswith("ray.train.")]


def take_back() -> None:
    """Remove Ray Train's classes; to be called when no fit of this job runs."""
    for key in exported_by_train():
        internal_kv._internal_kv_del(key, namespace=_TABLE)


def _module_of(export: bytes) -> str:
    """Return the module of an exported class, read from the record's words: nothing is unpickled."""
    words = (value for _, value, _ in pickletools.genops(export) if isinstance(value, str)) if export else iter(())
    return next(words, "") if "module" in words else ""
