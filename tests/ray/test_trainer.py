from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from streamrec.config import TeachersConfig, TransformerConfig
from streamrec.state import ComponentState, to_bytes
from streamrec.storage import LocalStorage
from streamrec.teachers.requests import RefreshRequest
from streamrec.teachers.store import TeacherStore
from streamrec.teachers.train_loop import train_transformer
from streamrec.teachers.trainer import fit_transformer

# Without dropout, and with sequences of one length, two workers' mean gradients are the mean over the whole batch.
TRANSFORMER = TransformerConfig(dim=8, num_layers=1, num_heads=1, sequence_length=6, batch_size=8, first_steps=12, dropout=0.0, learning_rate=1e-2)
NUM_ITEMS = 12


@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_train_the_version_that_one_trains_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    window = ((np.arange(40)[:, None] + np.arange(7)[None, :]) % NUM_ITEMS).astype(np.int32)
    generations = np.zeros(NUM_ITEMS, np.int32)
    payload = ComponentState({"sequences": window, "generation": generations}, {"num_items": NUM_ITEMS})
    storage = LocalStorage(tmp_path)
    storage.write_new("window", to_bytes(payload))
    request = RefreshRequest("transformer", "v00000007", None, 3, NUM_ITEMS, payload)
    facts = {name: value for name, value in asdict(request).items() if name != "payload"}
    teachers = TeachersConfig(transformer=TRANSFORMER, num_train_workers=2, cpus_per_worker=0.5)

    fit_transformer(facts, "window", teachers, str(tmp_path))

    store = TeacherStore(storage)
    alone, _ = train_transformer(window, generations, None, TRANSFORMER, 3)
    half, _ = train_transformer(window, generations, None, TRANSFORMER.model_copy(update={"batch_size": 4}), 3)
    assert store.facts("transformer", "v00000007")["num_workers"] == 2
    together = store.load("transformer", "v00000007")
    assert together.arrays.keys() == alone.arrays.keys()
    for name, array in alone.arrays.items():
        np.testing.assert_allclose(together.arrays[name], array, atol=2e-4, err_msg=name)
    assert not np.allclose(half.arrays["items.weight"], alone.arrays["items.weight"], atol=2e-3)  # What a worker that heard nobody would have.
