"""Backtest a file and print what each model would have recommended."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from streamrec.cli.options import Backtest
from streamrec.cli.sending import err_console
from streamrec.cli.show_config import resolve_only
from streamrec.code_version import code_version
from streamrec.config.teacher_names import CONTROL, STUDENT
from streamrec.evaluation.protocols import check_protocol
from streamrec.evaluation.ranking import METRICS
from streamrec.events.datasets import load_dataset, parse_mapping
from streamrec.pipeline.backtest import BacktestResult, run_backtest
from streamrec.report.numbers import public

FIRST = (STUDENT, CONTROL)
BLOCK_METRIC = "recall@20"
PLAIN_WIDTH = 200  # columns of a table that goes to a file: none is cut off


def run(options: Backtest) -> int:
    """Play the file, show the progress on the error output, and print tables or JSON."""
    check_protocol(options.protocol)
    config = resolve_only(options.settings, options.shortcuts)
    dataset = load_dataset(options.data, parse_mapping(options.mapping) if options.mapping else None)
    with _Steps(err_console(), dataset.name, as_json=options.json) as steps:
        result = run_backtest(dataset, config, options.protocol, max_blocks=options.max_blocks, on_step=steps.show)
    if options.json:
        about = {"dataset": {"name": dataset.name, "events": dataset.events.num_rows}, "config": public(config.model_dump(mode="json"))}
        _write_json({**result.to_json(), **about, "code": code_version()})
    else:
        _print_tables(result, dataset.name)
    return 0


class _Steps:
    """Show the steps: a bar with the remaining time in a terminal, else a line per step; with JSON also a line per block on the output."""

    def __init__(self, console: Console, name: str, *, as_json: bool) -> None:
        self._console = console
        self._as_json = as_json
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=console, transient=True)
        self._task = self._bar.add_task(name, total=None, note="")
        self._num_blocks = 0

    def __enter__(self) -> _Steps:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def show(self, done: int, total: int, metrics: Mapping[str, Mapping[str, float]]) -> None:
        """Show a step; ``metrics`` is empty for a step of the base."""
        note = " ".join(f"{name} {metrics[name][BLOCK_METRIC]:.3f}" for name in FIRST if name in metrics)
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, total=total, note=note)
        else:
            self._console.print(f"step {done} of {total} {note}".rstrip())
        if metrics and self._as_json:
            self._num_blocks += 1
            _write_json({"block": self._num_blocks, "metrics": metrics})


def _write_json(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _print_tables(result: BacktestResult, name: str) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    models = sorted(result.metrics, key=lambda model: (model not in FIRST, FIRST.index(model) if model in FIRST else 0))
    per_block = Table("block", "queries", *models, title=f"{name}, {result.protocol}: {BLOCK_METRIC} of each block")
    for number, (block, num_queries) in enumerate(zip(result.blocks, result.queries, strict=True), 1):
        per_block.add_row(str(number), str(num_queries), *(_figure(block.get(model), BLOCK_METRIC) for model in models))
    mean = Table("model", *METRICS, title=f"mean of {len(result.blocks)} blocks")
    for model in models:
        mean.add_row(model, *(_figure(result.metrics[model], metric) for metric in METRICS))
    console.print(per_block)
    console.print(mean)
    for model, found in result.forgetting.items():
        told = f"learned {found['la']:.4f}, retained {found['ra']:.4f}, harmonic mean {found['h_mean']:.4f}"
        console.print(f"{model}: {told} ({BLOCK_METRIC} on blocks that it has learned)")
    console.print(", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items()))


def _figure(values: Mapping[str, float] | None, metric: str) -> str:
    return "–" if values is None else f"{values[metric]:.4f}"
