"""Measure what a training step of the transformer costs under Ray Train: beside a bare PyTorch loop, and on two workers beside one.

    python -m benchmarks.train [--quick] [--items N]

One Ray Train group of two workers with a thread each does all, in turn. In a round the first worker takes steps by itself while the other waits,
then the same steps by a bare loop (a module, AdamW, ready-made tensors, the same loss), then both workers take steps together over the same batches,
shared out, whose gradients they exchange (gloo), and at last both take the same steps by themselves at the same time, which is what the machine's
two cores are worth. So whatever else the machine does falls on all. The last line is one flat JSON object:
``ratio_to_bare``, a bare step's time by one of ours, ours including the making of its batch; ``scaling_2_workers``, examples a second of two workers
by those of one; ``ceiling_2_processes``, the same of two that exchange and share nothing; all ratios of medians; and ``refresh_to_label_s``, which
this does not measure.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.train import RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchTrainer, prepare_model
from torch import distributed, nn

from benchmarks._common import ROOT, arguments, facts, finish
from streamrec.config import TransformerConfig
from streamrec.models.candidates import Own, candidate_cross_entropy
from streamrec.teachers.batches import Sequences, batch_of
from streamrec.teachers.train_loop import budget, build_transformer
from streamrec.teachers.training import Place, Training

STEPS = 6
"""A round's steps of each."""


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "", items=20_000)
    usual = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1", "RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ.update({name: value for name, value in usual.items() if name not in os.environ})
    rounds = 6 if options.quick else 30
    with tempfile.TemporaryDirectory(prefix="sr-bench-", dir="/tmp") as folder:
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING, _temp_dir=f"{folder}/ray",
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}}, object_store_memory=200 * 2**20,
        )  # fmt: skip
        try:
            trainer = TorchTrainer(
                measure,
                train_loop_config={"items": options.items, "rounds": rounds, "result": f"{folder}/result.json"},
                scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
                run_config=RunConfig(storage_path=f"{folder}/run"),
            )
            trainer.fit()
            found: dict[str, list[float]] = json.loads(Path(folder, "result.json").read_text(encoding="utf-8"))
        finally:
            ray.shutdown()
    medians = {name: statistics.median(values) for name, values in found.items()}
    result = {
        "ratio_to_bare": medians["bare"] / medians["one"],
        "scaling_2_workers": medians["one"] / medians["two"],
        "ceiling_2_processes": 2 * medians["one"] / medians["each"],
        "refresh_to_label_s": None,
        **{f"{name}_step_ms": 1000 * value for name, value in medians.items()},
    }
    finish(result, facts(items=options.items, rounds=rounds, steps=STEPS), {"ratio_to_bare": "at least 0.9", "scaling_2_workers": "at least 1.6"})


def measure(options: dict[str, Any]) -> None:
    """Time steps as one of the workers; the first one writes what it found."""
    torch.set_num_threads(1)
    rank, config = get_context().get_world_rank(), TransformerConfig()
    generations, sequences = np.zeros(options["items"], np.int32), sequences_of(options["items"], config.sequence_length)
    torch.manual_seed(0)
    model = build_transformer(generations, config, None)
    alone = Training(model, sequences, config, 0, Place())
    both = Training(model, sequences, config, 0, Place(rank, 2, wrap=wrap))
    passes, _ = budget(sequences, None, config, 0)
    batches = passes.batches(0, STEPS * (options["rounds"] + 1))
    bare = Bare(config, options["items"])
    beside = Training(build_transformer(generations, config, None), sequences, config, 0, Place())
    found: dict[str, list[float]] = {"one": [], "bare": [], "two": [], "each": []}
    for number in range(options["rounds"] + 1):
        chosen = [next(batches) for _ in range(STEPS)]
        times: dict[str, float] = {}
        if rank == 0:
            times["one"] = timed(alone.step, [(batch,) for batch in chosen])
            ready = list(tensors_of(alone, sequences, chosen))
            times["bare"] = timed(bare.step, ready)
        distributed.barrier()
        times["two"] = timed(both.step, [(batch,) for batch in chosen])
        distributed.barrier()
        times["each"] = timed(beside.step, [(batch,) for batch in chosen])
        distributed.barrier()
        for name, value in times.items() if number else ():  # The first round warms up.
            found[name].append(value)
    if rank == 0:
        Path(options["result"]).write_text(json.dumps(found), encoding="utf-8")


def wrap(module: nn.Module) -> nn.Module:
    """Make the network distributed as a fit does."""
    prepared: nn.Module = prepare_model(module)
    return prepared


def timed(step: Callable[..., None], inputs: list[tuple[Any, ...]]) -> float:
    """Return the seconds of a step."""
    began = time.perf_counter()
    for values in inputs:
        step(*values)
    return (time.perf_counter() - began) / len(inputs)


def sequences_of(num_items: int, length: int) -> Sequences:
    """Return sequences of 5 to all items, popular ones more often."""
    rng = np.random.default_rng(0)
    rows = (num_items * rng.random((4000, length + 1)) ** 3).astype(np.int32)
    rows[np.arange(length + 1) >= rng.integers(5, length + 2, len(rows))[:, None]] = -1
    return Sequences(rows, rows >= 0, np.zeros(len(rows), np.int64), len(rows))


def tensors_of(training: Training, sequences: Sequences, batches: list[Any]) -> Iterator[tuple[torch.Tensor, ...]]:
    """Return what a bare step needs, ready-made: candidates, their chances, item rows of the sequences, states and targets."""
    for step, chosen in enumerate(batches):
        rows, chance = training.candidates(chosen, step)
        batch = batch_of(sequences, chosen)
        places = np.where(batch.rows < 0, -1, np.searchsorted(rows, batch.rows))
        arrays = (rows, chance, np.maximum(batch.rows[:, :-1], 0).astype(np.int64), batch.source, np.searchsorted(rows, batch.targets), places)
        yield tuple(torch.from_numpy(array) for array in arrays)


class Bare:
    """Train as one would without any of our parts: one module, one optimiser over all of its parameters."""

    def __init__(self, config: TransformerConfig, num_items: int) -> None:
        torch.manual_seed(0)
        self.model = build_transformer(np.zeros(num_items, np.int32), config, None)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=config.learning_rate, weight_decay=0.0)

    def step(
        self, rows: torch.Tensor, chance: torch.Tensor, sequence: torch.Tensor, source: torch.Tensor, targets: torch.Tensor, places: torch.Tensor
    ) -> None:
        """Take a step."""
        states, length = self.model(sequence).flatten(0, 1)[source], sequence.shape[1]
        vectors, bias, state_of = self.model.items.weight[rows], self.model.bias[rows], torch.arange(len(states))
        own = Own.of(places, source // length, self.model.own_biases(length + 1, source % length))
        loss = candidate_cross_entropy(states, vectors, bias, chance, state_of, targets, own).mean()
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()


if __name__ == "__main__":
    main()
