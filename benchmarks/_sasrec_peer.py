"""Tune and train RecTools' SASRec on a set's training events, to stand beside our transformer.

It runs in an environment of its own (``pip install "rectools[torch]"``), which need not have streamrec:

    .venv/bin/python -m benchmarks._sasrec_peer export FOLDER/ml-latest-small events.csv
    OTHER/bin/python benchmarks/_sasrec_peer.py tune events.csv [--settings 22] [--threads 1]

``events.csv`` has user, item and part (train or test) of each event in order of time, cut by the protocol ``leave-one-out``. Each user's last
training event is set apart to choose by. All settings are trained for `FIRST` epochs, the better quarter for `LAST` in all, and the best one, with
as many epochs as did best, is trained anew on all training events and judged on the test events: full ranking, items the user has had masked. The
last line is one flat JSON object.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DIM, BLOCKS = 64, 2
"""As our transformer has by default."""
EVERY = 10
FIRST, LAST = 20, 80
CHOICES: Mapping[str, Sequence[Any]] = {
    "lr": (5e-4, 1e-3, 2e-3, 5e-3),
    "dropout_rate": (0.1, 0.2, 0.35, 0.5),
    "session_max_len": (50, 100, 200),
    "n_heads": (1, 2, 4),
    "batch_size": (32, 64, 128),
    "loss": ("softmax", "sampled_softmax", "gBCE", "BCE"),
}
NEGATIVES = 256

Rows = list[tuple[str, str]]


def export(source: Path, target: Path) -> None:
    """Write the events of a set, cut by the protocol."""
    np = importlib.import_module("numpy")
    load, cut = (importlib.import_module(f"streamrec.{name}") for name in ("events.datasets", "evaluation.protocols"))
    events = load.load_dataset(source).events
    block = np.zeros(len(events), np.int64)
    blocks = cut.cut(events, "leave-one-out", np.ones(len(events), bool))
    block[blocks.order] = blocks.block
    with target.open("w", newline="", encoding="utf-8") as file:
        rows = zip(events["user_id"].to_pylist(), events["item_id"].to_pylist(), block.tolist(), strict=True)
        csv.writer(file).writerows([("user", "item", "part"), *((user, item, "test" if part else "train") for user, item, part in rows)])


def settings(number: int) -> dict[str, Any]:
    """Return the settings of a number; the first is RecTools' own default at our size."""
    if number == 0:
        return {"lr": 1e-3, "dropout_rate": 0.2, "session_max_len": 100, "n_heads": 2, "batch_size": 128, "loss": "softmax"}
    drawn = random.Random(number)
    return {name: drawn.choice(values) for name, values in CHOICES.items()}


class Trial:
    """Train one setting on ``train`` as far as asked, judging it on ``held``, one event a user."""

    def __init__(self, chosen: Mapping[str, Any], train: Rows, held: Rows, seed: int = 0) -> None:
        pd, torch = importlib.import_module("pandas"), importlib.import_module("torch")
        models, data = importlib.import_module("rectools.models"), importlib.import_module("rectools.dataset")
        torch.manual_seed(seed)
        frame = pd.DataFrame(train, columns=["user_id", "item_id"])
        frame["weight"], frame["datetime"] = 1.0, pd.date_range("2000-01-01", periods=len(frame), freq="s")
        self._data = data.Dataset.construct(frame)
        negatives = {} if chosen["loss"] == "softmax" else {"n_negatives": NEGATIVES}
        self._model = models.SASRecModel(n_blocks=BLOCKS, n_factors=DIM, epochs=LAST, recommend_torch_device="cpu", **chosen, **negatives)
        self._held = dict(held)
        self.chosen, self.epochs, self.found = chosen, 0, [(0.0, 0)]

    @property
    def best(self) -> tuple[float, int]:
        """Return the best NDCG@10 and after how many epochs it was."""
        return max(self.found)

    def train(self, epochs: int) -> None:
        """Train up to so many epochs in all, judging every `EVERY`."""
        while self.epochs < epochs:
            more = min(EVERY, epochs - self.epochs)
            self._model.fit_partial(self._data, min_epochs=more, max_epochs=more)
            self.epochs += more
            self.found.append((self.judge()["ndcg@10"], self.epochs))

    def judge(self) -> dict[str, float]:
        """Return means over all users who have an event held back; one whose item nobody trained on is a miss."""
        known = set(self._data.user_id_map.external_ids)
        users = [user for user in self._held if user in known]
        shown = self._model.recommend(users, self._data, k=20, filter_viewed=True)
        places = {(row.user_id, row.item_id): row.rank - 1 for row in shown.itertuples()}
        ranks = [places.get((user, item)) for user, item in self._held.items()]
        hits = [rank for rank in ranks if rank is not None]
        total = len(ranks)
        gain = sum(1 / math.log2(rank + 2) for rank in hits if rank < 10) / total
        return {"ndcg@10": gain, "recall@20": len(hits) / total, "mrr@20": sum(1 / (rank + 1) for rank in hits) / total}


def tune(path: Path, num_settings: int, seeds: int) -> None:
    """Try settings, train the best one anew, and print what it is worth."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(row["user"], row["item"], row["part"]) for row in csv.DictReader(file)]
    train = [(user, item) for user, item, part in rows if part == "train"]
    test = [(user, item) for user, item, part in rows if part == "test"]
    last = {user: number for number, (user, _) in enumerate(train)}
    chosen_by = [train[number] for number in last.values()]
    rest = [pair for number, pair in enumerate(train) if last[pair[0]] != number]
    trials = []
    for number in range(num_settings):
        trials.append(Trial(settings(number), rest, chosen_by))
        _told(number, trials[-1], FIRST)
    for trial in sorted(trials, key=lambda one: -one.best[0])[: math.ceil(num_settings / 4)]:
        _told(trials.index(trial), trial, LAST)
    best = max(trials, key=lambda one: one.best[0])
    results = []
    for seed in range(seeds):
        final = Trial(best.chosen, train, test, seed)
        final.train(best.best[1])
        results.append(final.judge())
        print(f"seed {seed}: {results[-1]}", flush=True)
    means = {name: sum(result[name] for result in results) / len(results) for name in results[0]}
    print(json.dumps({"settings": num_settings, "epochs": best.best[1], "chosen_ndcg@10": best.best[0], **best.chosen, **means}))


def _told(number: int, trial: Trial, epochs: int) -> None:
    began = time.monotonic()
    trial.train(epochs)
    print(f"{number}: {dict(trial.chosen)} {trial.best}, {time.monotonic() - began:.0f} s", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("export")
    one.add_argument("source", type=Path)
    one.add_argument("target", type=Path)
    two = verbs.add_parser("tune")
    two.add_argument("events", type=Path)
    two.add_argument("--settings", type=int, default=22)
    two.add_argument("--seeds", type=int, default=3)
    two.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Do what the first argument says."""
    options = _arguments()
    if options.verb == "export":
        export(options.source, options.target)
        return
    importlib.import_module("torch").set_num_threads(options.threads)
    tune(options.events, options.settings, options.seeds)


if __name__ == "__main__":
    main()
