"""An item table that is split over two processes, beside the one that each holds whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel

from streamrec.config import TransformerConfig
from streamrec.state import ComponentState, from_bytes, to_bytes
from streamrec.teachers.batches import Sequences
from streamrec.teachers.train_loop import budget, build_transformer
from streamrec.teachers.training import Place, Training

NUM_ITEMS = 500
CONFIG = TransformerConfig(
    dim=16, num_layers=1, num_heads=2, sequence_length=8, batch_events=200, first_epochs=4, first_steps=25, num_negatives=40,
    full_softmax_items=10, checkpoint_steps=10,
)  # fmt: skip


def window() -> Sequences:
    rng = np.random.default_rng(5)
    rows = rng.integers(0, NUM_ITEMS, (120, 9)).astype(np.int32)
    rows[::2, 5:] = -1
    return Sequences(rows, rows >= 0, np.zeros(len(rows), np.int64), len(rows))


class Kept:
    """Keeps this process's parts in files."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank

    def load(self) -> list[ComponentState]:
        return [from_bytes(path.read_bytes()) for path in sorted(self.folder.glob("part-*"))]

    def save(self, part: ComponentState | None) -> None:
        if part is not None:
            (self.folder / f"part-{self.rank}").write_bytes(to_bytes(part))


def trained(shard: bool, place: Place, num_steps: int) -> tuple[dict[str, torch.Tensor], Training]:
    config = CONFIG.model_copy(update={"shard_items": shard})
    torch.manual_seed(0)
    model = build_transformer(np.zeros(NUM_ITEMS, np.int32), config, None)
    training = Training(model, window(), config, 7, place)
    training.run(budget(window(), None, config, 7)[0], num_steps)
    training.write_into(model)
    return model.state_dict(), training


def process(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet-{world}", rank=rank, world_size=world)
    parts: dict[str, Any] = {}
    for name, shard in (("whole", False), ("sharded", True)):
        kept = Path(folder) / name
        kept.mkdir(exist_ok=True)
        place = Place(rank, world, wrap=DistributedDataParallel, checkpoints=Kept(kept, rank))
        values, training = trained(shard, place, 25)
        parts[name] = values
        parts[f"{name}_bytes"] = training.table.num_bytes
    _, grown = trained(True, Place(rank, world, wrap=DistributedDataParallel, checkpoints=Kept(Path(folder) / "alone", rank)), 20)
    parts["grown"] = {**grown.table.own, **dict(grown._network.state_dict())}
    parts["grown_steps"] = len(grown.losses)
    distributed.barrier()
    distributed.destroy_process_group()
    torch.save(parts, f"{folder}/result-{rank}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sharded")
    (made / "alone").mkdir()
    trained(False, Place(checkpoints=Kept(made / "alone", 0)), 25)
    spawn(process, (2, str(made)), nprocs=2)
    return made


def test_a_sharded_table_learns_what_a_whole_one_learns_in_half_the_memory(folder: Path) -> None:
    for rank in range(2):
        found = torch.load(folder / f"result-{rank}", weights_only=True)
        for name, whole in found["whole"].items():
            torch.testing.assert_close(found["sharded"][name], whole, atol=1e-6, rtol=0, msg=name)
        assert found["sharded_bytes"] == found["whole_bytes"] // 2


@pytest.mark.parametrize("name", ["whole", "sharded"])
def test_what_two_kept_one_goes_on_from(folder: Path, name: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    for path in (folder / name).iterdir():
        (kept / path.name).write_bytes(path.read_bytes())
    assert len(list(kept.iterdir())) == (2 if name == "sharded" else 1)
    _, training = trained(False, Place(checkpoints=Kept(kept, 0)), 20)
    assert len(training.losses) == 20, "it was kept after 20 steps, and that is all"
    both = [from_bytes((folder / name / f"part-{rank}").read_bytes()).arrays for rank in range(2 if name == "sharded" else 1)]
    for key, value in training.table.own.items():
        for first, part in enumerate(both):
            np.testing.assert_array_equal(value.numpy()[first :: len(both)], part[f"table/{key}"])


def test_what_one_kept_two_go_on_from(folder: Path) -> None:
    (kept,) = Kept(folder / "alone", 0).load()
    for rank in range(2):
        found = torch.load(folder / f"result-{rank}", weights_only=True)
        assert found["grown_steps"] == 20
        for key, array in kept.arrays.items():
            kind, _, name = key.partition("/")
            if kind in {"table", "network"}:
                np.testing.assert_array_equal(found["grown"][name].numpy(), array[rank::2] if kind == "table" else array)
