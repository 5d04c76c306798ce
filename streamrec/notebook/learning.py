"""Learn in this process, by the stream's own controller: a backtest, one teacher, one student."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamrec.clock import SystemClock
from streamrec.config import Config, parse_config
from streamrec.errors import ConfigError
from streamrec.events.codec import encode_table
from streamrec.events.datasets import Dataset
from streamrec.features.vocabulary import Vocabulary
from streamrec.log.base import Record
from streamrec.log.memory import MemoryLog
from streamrec.notebook.asking import Model
from streamrec.pipeline.backtest import BacktestResult, run_backtest, threads_restored
from streamrec.pipeline.bootstrap import bootstrap, check_learned, chunk_of, learn, plan_of
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.temporary import temporary_folder
from streamrec.pipeline.wiring import build_local
from streamrec.storage import open_storage
from streamrec.teachers.kinds import load_teacher
from streamrec.teachers.protocol import LoadedTeacher
from streamrec.teachers.store import TeacherStore


def backtest(events: Dataset, settings: Config | None = None, *, protocol: str = "progressive", max_blocks: int | None = None) -> BacktestResult:
    """Play events through the stream's own learner and say what each model would have recommended: `streamrec backtest` for notebooks.

    Args:
        events: What `load_events` returns.
        settings: The configuration; None takes the defaults.
        protocol: ``progressive``, ``sessions``, ``leave-one-out`` or ``static`` (`streamrec.evaluation.protocols`).
        max_blocks: Stop after so many test blocks.

    Returns:
        ``metrics`` by model, means over test blocks, ``blocks`` in order, and what the stages took.

    Raises:
        DatasetError: The events do not fit the protocol, or leave nothing to test.

    Example:
        >>> import streamrec as sr
        >>> quick = sr.settings(student={"dim": 16, "control": False}, teachers={"enabled": ["linear"]})
        >>> found = sr.backtest(sr.sample_events(num_events=1200), quick, max_blocks=2)
        >>> len(found.blocks), sorted(found.metrics)
        (2, ['linear', 'own_history', 'popular', 'recent_popular', 'student'])
        >>> found.metrics["linear"]["recall@20"] > found.metrics["popular"]["recall@20"]
        True
    """
    return run_backtest(events, settings or Config(), protocol, max_blocks=max_blocks)


@dataclass(frozen=True)
class Teacher:
    """Answer with one version of a teacher.

    Attributes:
        name: Which one.
        facts: What its refresh told, such as losses and seconds.
    """

    name: str
    facts: Mapping[str, Any]
    _loaded: LoadedTeacher
    _vocabulary: Vocabulary
    _namespace: str

    def rank(self, history: Sequence[str], n: int = 10) -> list[tuple[str, float]]:
        """Return the best items for a history and their raw scores.

        Args:
            history: Item ids, newest last; those that it does not know are left out.
            n: How many.
        """
        rows = [row for item in history if (row := self._vocabulary.find(self._namespace, item)) >= 0]
        if not rows:
            return []
        known = np.flatnonzero(self._loaded.generations >= 0).astype(np.int32)
        with torch.no_grad():
            (scores,) = self._loaded.score(np.array([rows[::-1]], np.int32), known)
        best = [place for place in np.argsort(-scores, kind="stable")[:n].tolist() if np.isfinite(scores[place])]
        return [(self._vocabulary.key_of(int(known[place]))[1], float(scores[place])) for place in best]


def train_teacher(name: str, events: Dataset, settings: Config | None = None) -> Teacher:
    """Train one teacher on events, as a stream's bootstrap does, and keep nothing on disk.

    Args:
        name: A teacher that comes in versions: ``transformer``, ``linear``, ``text``, or one of an installed package.
        events: What `load_events` returns.
        settings: The configuration; ``teachers.NAME`` shapes it.

    Raises:
        ConfigError: There is no such teacher, or it counts with each event and so has no versions.
        DataError: Nothing can be learned from the events.

    Example:
        >>> import streamrec as sr
        >>> teacher = sr.train_teacher("linear", sr.sample_events())
        >>> [int(item[1:]) % 6 for item, _ in teacher.rank(["i7", "i1"], n=3)]
        [1, 1, 1]
    """
    given = (settings or Config()).model_dump(mode="json")
    config = parse_config({**given, "teachers": {**given["teachers"], "enabled": [name]}})
    if name not in config.teachers.refreshed:
        what = f"Teacher: {name} counts with each event and is never trained"
        raise ConfigError(what, allowed="transformer, linear, text or a package's teacher", do="see what it is worth by a backtest")
    # Nobody asks the student; a pass is needed all the same, because the teachers' statistics go with it.
    least = config.student.model_copy(update={"dim": 2, "control": False, "bootstrap_passes": 1, "bootstrap_rounds": 1, "replay_passes": 0})
    with temporary_folder("notebook-") as folder, threads_restored():
        controller, ends = _opened(events, config.model_copy(update={"student": least, "students": {}}), str(folder))
        learn(controller, ends, chunk_of(controller.state.offsets, ends), lambda report: None)
        check_learned(controller)
        controller.run(plan_of(controller, start_refresh=(name,)))
        store, version = TeacherStore(open_storage(str(folder))), controller.state.pending[name]
        loaded = load_teacher(store.load(name, version))
        return Teacher(name, store.facts(name, version), loaded, controller.ingest.vocabulary, config.events.namespace)


def distil(events: Dataset, settings: Config | None = None, *, state: str | Path | None = None) -> Model:
    """Learn events, train the teachers on them, and return the student that they taught, ready to answer.

    What ``python -m jobs.bootstrap`` does with a log, in this process.

    Args:
        events: What `load_events` returns.
        settings: The configuration; None takes the defaults.
        state: An empty folder that keeps versions, teachers and the commit, for `open_model` and the command line. No stream goes on from it, because
            its log ends with this process. None keeps them as long as the model is in use.

    Raises:
        ConfigError: The folder holds something.
        DataError: Nothing can be learned from the events.

    Example:
        >>> import streamrec as sr
        >>> quick = sr.settings(student={"dim": 16}, teachers={"enabled": ["linear"]})
        >>> model = sr.distil(sr.sample_events(), quick)
        >>> [int(item["item_id"][1:]) % 6 for item in sr.recommend(model, "u1", n=3)["items"]]
        [1, 1, 1]
    """
    if state is not None and Path(state).exists() and any(Path(state).iterdir()):
        what = f"Distil: {state} holds something"
        raise ConfigError(what, allowed="an empty folder, or one that is not there", do="name another one, or open what it has by open_model")
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder("notebook-")) if state is None else Path(state).absolute()
        config = (settings or Config()).model_copy(update={"state": str(folder)})
        with threads_restored():
            controller, ends = _opened(events, config, str(folder))
            bootstrap(controller, ends)
        model = Model(config)
        weakref.finalize(model, stack.pop_all().close)
    return model


def _opened(events: Dataset, config: Config, folder: str) -> tuple[Controller, dict[int, int]]:
    """Return a controller over a log in memory that holds the events, and where the log ends."""
    log, topic = MemoryLog(), config.log.events_topic
    log.ensure_topic(topic, 1)
    for table in (events.items, events.events):
        if table is not None:
            log.append(topic, [Record(key, value) for key, value in zip(*encode_table(table), strict=True)])
    controller = build_local(config, log, folder, SystemClock())
    torch.set_num_threads(os.cpu_count() or 1)  # The scorer has asked for one, as suits an actor beside others.
    controller.recover()
    return controller, controller.intake.ends()
