"""Measure what recommendations are worth, on published protocols: student, the same student on events alone, and each teacher.

    python -m benchmarks.quality --data FOLDER [--sets diginetica,online-retail] [--arms default,linear] [--seeds 3] [--max_blocks N] [--quick]
        [--set student.losses.kl=0.3] [--threads 1]

FOLDER holds the sets as they are downloaded: ``diginetica/sessions.csv.gz``, ``online-retail/online-retail.csv.gz``,
``citeulike/interactions.csv.gz``, ``ml-latest-small/``, ``taobao-slice/user-behaviour.csv.gz``; the variable ``STREAMREC_DATA`` names it too.
MovieLens 100K comes by itself. One default configuration serves all sets; only the dimension differs where a protocol gives it.

One (set, arm, seed) is played at a time in a folder of its own below ``runs/quality``, named by a hash of configuration, protocol and code: what was
played is not played again, and what was broken off goes on after its last block. ``--set`` tries other settings on top of an arm's; with
``--threads 1`` several such runs stand side by side, a core each. A row says mean and spread over seeds, and the gain over the student
on events alone with the standard error of the paired differences per block. The last line is one flat JSON object: ``<set>.<model>.<metric>``
(default arm) and ``<set>.gain.recall@20``; null: not measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks._common import ROOT, facts, finish
from streamrec.config import Config, parse_config, parse_overrides
from streamrec.config.teacher_names import CONTROL, ENSEMBLE, STUDENT
from streamrec.environment import cache_folder
from streamrec.events.datasets import load_dataset
from streamrec.events.demo import demo_dataset
from streamrec.pipeline.backtest import BacktestResult, run_backtest
from streamrec.pipeline.controller import Controller
from streamrec.testing.spoiled import SPOILINGS, Spoiling, spoil

METRICS = ("recall@20", "mrr@20", "ndcg@10", "ndcg@20")
WATCHED = (STUDENT, CONTROL, ENSEMBLE)
CODE = ("evaluation", "events", "features", "models", "pipeline", "soft_labels", "student", "teachers")
"""Rooms of the library that a backtest's figures depend on."""


@dataclass(frozen=True)
class DataSet:
    """A file (None: MovieLens 100K), its protocol, the settings that the protocol gives, and further metrics that are published for it."""

    path: str | None
    protocol: str
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    also: tuple[str, ...] = ()


SETS = {
    "diginetica": DataSet("diginetica/sessions.csv.gz", "sessions"),
    "online-retail": DataSet("online-retail/online-retail.csv.gz", "progressive"),
    "citeulike-20": DataSet("citeulike/interactions.csv.gz", "static", {"student": {"dim": 20}}, ("recall@50",)),
    "citeulike-10": DataSet("citeulike/interactions.csv.gz", "static", {"student": {"dim": 10}}, ("recall@50",)),
    "ml-latest-small": DataSet("ml-latest-small", "leave-one-out"),
    "ml-100k": DataSet(None, "progressive"),
    "taobao": DataSet("taobao-slice/user-behaviour.csv.gz", "progressive"),
}
QUICK = ("ml-100k",)
QUICK_EVENTS = 2000
QUICK_SETTINGS = {"teachers": {"transformer": {"first_steps": 20, "refresh_steps": 10}}}


COUNTING = ("repeats", "transitions", "neighbours")
OPTIONS: dict[str, dict[str, dict[str, object]]] = {
    "kl": {"student": {"losses": {"kl": 0.5}}},
    "listwise": {"student": {"losses": {"listwise": 0.3}}},
    "dynamic-temperature": {"student": {"losses": {"dynamic_temperature": True}}},
    "replay-recency": {"student": {"replay_kind": "recency"}},
    "replay-quota": {"student": {"replay_kind": "quota"}},
}
"""Options of the student that are off by default."""


def arms(config: Config) -> dict[str, dict[str, dict[str, object]]]:
    """Return the settings of each arm: the default ones, all teachers there are, each alone, `OPTIONS`; the default ones spoiled (`SPOILINGS`)."""
    every = tuple(dict.fromkeys((*config.teachers.enabled, *COUNTING)))
    alone: dict[str, dict[str, dict[str, object]]] = {name: {"teachers": {"enabled": [name]}} for name in every}
    return {"default": {}, "all": {"teachers": {"enabled": every}}, **alone, **OPTIONS, **{name: {} for name in SPOILINGS}}


def main() -> None:
    """Play what is asked for and print a table and the flat JSON object."""
    options = _arguments()
    chosen = QUICK if options.quick else tuple(options.sets.split(","))
    wanted = ("default",) if options.quick else tuple(options.arms.split(","))
    seeds = range(1 if options.quick else options.seeds)
    max_blocks = 1 if options.quick else options.max_blocks
    result: dict[str, float | int | str | None] = {}
    code = code_digest()
    for name in chosen:
        path = demo_dataset(cache_folder()) if SETS[name].path is None else Path(options.data or "") / str(SETS[name].path)
        if not path.exists():
            print(f"{name}: {path} is not there, not measured")
            result |= {f"{name}.{STUDENT}.{metric}": None for metric in METRICS}
            continue
        for arm in wanted:
            runs = [play(name, arm, seed, path, max_blocks, code, options.set, options.threads, quick=options.quick) for seed in seeds]
            show(name, arm, runs)
            if arm == "default":
                result |= flat(name, runs)
    finish(result, facts(code=code, seeds=len(seeds), max_blocks=max_blocks or "all"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within 50 seconds")
    parser.add_argument("--data", default=os.environ.get("STREAMREC_DATA"), help="folder of the sets")
    parser.add_argument("--sets", default=",".join(SETS), help=f"of {', '.join(SETS)}")
    parser.add_argument("--arms", default="default", help=f"of {', '.join(arms(Config()))}")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1")
    parser.add_argument("--max_blocks", type=int, metavar="N", help="stop each after so many test blocks")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting of all arms")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch; by default all cores")
    parsed = parser.parse_args()
    for given, allowed in ((parsed.sets, SETS), (parsed.arms, arms(Config()))):
        if unknown := sorted(set(given.split(",")) - set(allowed)):
            parser.error(f"got {', '.join(unknown)}, allowed {', '.join(allowed)}")
    os.chdir(ROOT)
    return parsed


def code_digest() -> str:
    """Return a digest of the code that the figures depend on."""
    digest = hashlib.sha256()
    for path in _code():
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _code() -> Iterator[Path]:
    for room in CODE:
        yield from sorted((ROOT / "streamrec" / room).rglob("*.py"))


def play(
    name: str, arm: str, seed: int, path: Path, max_blocks: int | None, code: str, given: Sequence[str], threads: int | None, *, quick: bool
) -> BacktestResult:
    """Play one unit, or what is left of it."""
    on_top = [_nested(dotted.split("."), value) for dotted, value in parse_overrides(given).items()]
    config = parse_config(_merged({"seed": seed}, SETS[name].settings, arms(Config())[arm], QUICK_SETTINGS if quick else {}, *on_top))
    key = json.dumps([name, arm if arm in SPOILINGS else "", SETS[name].protocol, max_blocks, code, config.model_dump(mode="json")], sort_keys=True)
    folder = Path("runs") / "quality" / f"{name}.{arm}.{seed}.{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    began = time.monotonic()

    def say(done: int, total: int, metrics: Mapping[str, Mapping[str, float]]) -> None:
        found = " ".join(f"{model} {metrics[model]['recall@20']:.4f} {metrics[model]['mrr@20']:.4f}" for model in WATCHED if model in metrics)
        print(f"{name} {arm} seed {seed}: step {done} of {total}, {time.monotonic() - began:.0f} s {found}".rstrip(), flush=True)

    dataset = load_dataset(path)
    if quick:
        dataset = replace(dataset, events=dataset.events.slice(0, QUICK_EVENTS))

    def prepare(controller: Controller, state_url: str) -> None:
        if arm in SPOILINGS:
            spoil(controller, state_url, cast("Spoiling", arm))

    protocol = SETS[name].protocol
    return run_backtest(dataset, config, protocol, max_blocks=max_blocks, num_threads=threads, folder=folder, on_step=say, prepare=prepare)


def _nested(path: Sequence[str], value: object) -> dict[str, Any]:
    return {path[0]: _nested(path[1:], value) if len(path) > 1 else value}


def _merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            held = result.get(key)
            result[key] = _merged(held, value) if isinstance(held, Mapping) and isinstance(value, Mapping) else value
    return result


def gain(runs: Sequence[BacktestResult], metric: str) -> tuple[float, float] | None:
    """Return the mean of the paired differences per block, student less student on events alone, and its standard error."""
    pairs = [(block[STUDENT][metric], block[CONTROL][metric]) for run in runs for block in run.blocks if CONTROL in block and STUDENT in block]
    if len(pairs) < 2:
        return None
    differences = np.asarray([one - other for one, other in pairs])
    return float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(len(differences)))


def show(name: str, arm: str, runs: Sequence[BacktestResult]) -> None:
    """Print a row per model."""
    metrics = (*METRICS, *SETS[name].also)
    num_blocks, passes = len(runs[0].blocks), Config().student
    seconds = {stage: statistics.mean(run.seconds[stage] for run in runs) / num_blocks for stage in runs[0].seconds}
    head = f"{name}, {SETS[name].protocol}, {arm}: {num_blocks} blocks, {len(runs)} seeds"
    head += f", {passes.bootstrap_passes} new + {passes.replay_passes} replay passes"
    print(f"\n{head}, " + ", ".join(f"{stage} {value:.1f} s a block" for stage, value in seconds.items()))
    for model in runs[0].metrics:
        cells = []
        for metric in metrics:
            values = [run.metrics[model][metric] for run in runs]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{metric} {statistics.mean(values):.4f}{spread}")
        print(f"  {model:<22} " + "  ".join(cells))
    for metric in metrics:
        if (found := gain(runs, metric)) is not None:
            print(f"  gain over events alone {metric} {found[0]:+.4f} ± {found[1]:.4f} (standard error over blocks)")


def flat(name: str, runs: Sequence[BacktestResult]) -> dict[str, float | int | str | None]:
    """Return means over seeds as flat keys."""
    result: dict[str, float | int | str | None] = {}
    for model in runs[0].metrics:
        for metric in (*METRICS, *SETS[name].also):
            result[f"{name}.{model}.{metric}"] = statistics.mean(run.metrics[model][metric] for run in runs)
    found = gain(runs, "recall@20")
    return result | {f"{name}.gain.recall@20": found[0] if found is not None else None}


if __name__ == "__main__":
    main()
