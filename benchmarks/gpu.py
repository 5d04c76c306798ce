"""Measure the transformer's training loop on one GPU, without Ray: tokens a second, share of the card's matmul peak, the largest item table.

    python -m benchmarks.gpu [--quick] [--items N] [--dim D] [--layers L] [--length S] [--tokens T] [--negatives N]

Steps are those of `streamrec.teachers.training.Training`, the making of their batches included: shared negatives, bfloat16, once compiled and once
not, on the same batches. The peak is that of a bfloat16 product of two 8192 x 8192 matrices in the same run. The largest table is what is left of the
card's memory beside a step, by the bytes of a row; that it fits, and that a twentieth more does not, is tried with ballast of as many bytes. Before
all that a small training is done on GPU and CPU: their losses differ by what bfloat16 does. Without a GPU all figures are null.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks._common import arguments, facts, finish
from streamrec.config import TransformerConfig
from streamrec.teachers.batches import Sequences
from streamrec.teachers.train_loop import build_transformer, train_transformer
from streamrec.teachers.training import Place, Training

SIDE = 8192
"""Of the matrices whose product is the peak."""
IN_A_ROW = 8
"""Steps between two looks at the clock."""
FITS, TOO_MUCH = 1.0, 1.05
"""Tables that are tried, as parts of the largest one."""
FIGURES = (
    "tokens_per_s_compiled", "tokens_per_s_eager", "compiled_to_eager", "share_of_peak_compiled", "share_of_peak_eager", "peak_tflops",
    "step_peak_gib", "bytes_per_item", "largest_table_items", "loss_difference_to_cpu",
)  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "", items=1_000_000, dim=512, layers=8, length=200, tokens=32_768, negatives=8192)
    if not torch.cuda.is_available():
        print("no GPU here: nothing is measured")
        finish(dict.fromkeys(FIGURES), facts())
        return
    result = measure(options)
    finish({name: result.get(name) for name in FIGURES}, facts(gpu=torch.cuda.get_device_name(), cuda=torch.version.cuda, **vars(options)))


def measure(options: argparse.Namespace) -> dict[str, float | int | None]:
    """Return the figures."""
    peak = matmul_flops_per_s()
    difference = loss_difference_to_cpu()
    said(f"matmul {peak / 1e12:.0f} TFLOP/s, losses differ from the CPU's by {difference:.4f} at most")
    config = TransformerConfig(
        dim=options.dim, num_layers=options.layers, num_heads=max(1, options.dim // 64), sequence_length=options.length, batch_events=options.tokens,
        num_negatives=options.negatives,
    )  # fmt: skip
    torch.manual_seed(0)
    model = build_transformer(np.zeros(options.items, np.int32), config, None)
    training = Training(model, sequences_of(options.items, options.length), config, 0, Place(device=torch.device("cuda")))
    say_size(training)
    batches = Batches(training, max(1, options.tokens // options.length))
    num_steps = 24 if options.quick else 80
    with torch.compiler.set_stance("force_eager"):
        eager = timed(batches.step, num_steps)
    said(f"eager {1000 * eager:.1f} ms a step")
    compiled = timed(batches.step, num_steps)
    said(f"compiled {1000 * compiled:.1f} ms a step")
    flops = batches.flops(config)
    tokens = batches.num_sequences * options.length
    bytes_per_item = training.table.num_bytes / options.items
    held, most = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    largest = None if options.quick else largest_table(batches.step, training.table.num_bytes, bytes_per_item, most - held)
    return {
        "tokens_per_s_compiled": tokens / compiled,
        "tokens_per_s_eager": tokens / eager,
        "compiled_to_eager": eager / compiled,
        "share_of_peak_compiled": flops / compiled / peak,
        "share_of_peak_eager": flops / eager / peak,
        "peak_tflops": peak / 1e12,
        "step_peak_gib": (most - held) / 2**30,
        "bytes_per_item": bytes_per_item,
        "largest_table_items": largest,
        "loss_difference_to_cpu": difference,
    }


class Batches:
    """Take steps over batches of so many sequences, one after another."""

    def __init__(self, training: Training, num_sequences: int) -> None:
        self.training, self.num_sequences = training, num_sequences
        self._number = self._num_candidates = 0

    def step(self) -> None:
        """Take the next step."""
        chosen = self._chosen()
        self._num_candidates = len(self.training.candidates(chosen, self._number)[0]) if not self._num_candidates else self._num_candidates
        self._number += 1
        self.training.step(chosen)

    def _chosen(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        first = self._number * self.num_sequences
        return np.arange(first, first + self.num_sequences) % 4096

    def flops(self, config: TransformerConfig) -> float:
        """Return the multiplications and additions that a step needs, forward and backward: products with parameters, attention, candidates."""
        length, dim = config.sequence_length, config.dim
        tokens = self.num_sequences * length
        parameters = config.num_layers * 8 * dim**2
        attention = config.num_layers * 2 * tokens * length * dim  # Two products, half of each by causality.
        return 3 * (2 * tokens * parameters + attention + 2 * tokens * self._num_candidates * dim)


def timed(step: Callable[[], None], num_steps: int) -> float:
    """Return the median of a step's seconds, in rows of `IN_A_ROW`: the host prepares a step while the card does the one before."""
    for _ in range(IN_A_ROW):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(num_steps // IN_A_ROW):
        began = time.perf_counter()
        for _ in range(IN_A_ROW):
            step()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - began) / IN_A_ROW)
    return statistics.median(times)


def matmul_flops_per_s() -> float:
    """Return what the card reaches on one large product of random bfloat16 matrices."""
    one, other = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(one)

    def multiply() -> None:
        torch.mm(one, other, out=product)

    return 2 * SIDE**3 / timed(multiply, 40)


def largest_table(step: Callable[[], None], table_bytes: int, bytes_per_item: float, step_bytes: int) -> int | None:
    """Return how many items' rows fit beside a step, tried; None when it turned out otherwise."""
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    # What the allocator can't use of its blocks, and what a step of other sizes takes more.
    spare = free + (torch.cuda.memory_reserved() - torch.cuda.memory_allocated()) - int(1.1 * step_bytes)
    items = int((table_bytes + spare) / bytes_per_item)
    tried = [fits(step, int(part * items * bytes_per_item) - table_bytes) for part in (FITS, TOO_MUCH)]
    said(f"a table of {items:,} items fits: {tried[0]}, of a twentieth more: {tried[1]}")
    return items if tried[0] else None


def fits(step: Callable[[], None], ballast_bytes: int) -> bool:
    """Return whether steps run beside so many bytes that something else holds."""
    ballast = None
    try:
        ballast = torch.empty(ballast_bytes, dtype=torch.uint8, device="cuda")
        for _ in range(3):
            step()
        torch.cuda.synchronize()
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        del ballast
        torch.cuda.empty_cache()
    return True


def loss_difference_to_cpu() -> float:
    """Return how far the losses of a small training on the card are from the CPU's, as a share of these, at most."""
    config = TransformerConfig(dim=64, dropout=0.0, batch_events=512, first_epochs=1000, first_steps=20)
    sequences = sequences_of(2000, config.sequence_length)
    rows = np.zeros(2000, np.int32)
    devices = (torch.device(name) for name in ("cpu", "cuda"))
    ours, theirs = (np.array(train_transformer(sequences, rows, None, config, 1, Place(device=device))[1]) for device in devices)
    return float(np.abs(theirs / ours - 1).max())


def sequences_of(num_items: int, length: int) -> Sequences:
    """Return sequences of full length, popular items more often."""
    rows = (num_items * np.random.default_rng(0).random((4096, length + 1)) ** 3).astype(np.int32)
    return Sequences(rows, rows >= 0, np.zeros(len(rows), np.int64), len(rows))


def say_size(training: Training) -> None:
    """Say how much the table takes."""
    said(f"{training.table.num_rows:,} items take {training.table.num_bytes / 2**30:.2f} GiB, Adam's moments included")


def said(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
