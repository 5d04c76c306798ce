"""Write log lines as JSON, one object a line, where the configuration asks for it; else nothing here changes any line.

But for one thing: Serve takes what its replicas write to the error output for lines of a file of its own, a thousand of which it holds back. A
replica's lines go to its real error output, in either form, when they are written.
"""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

JSON = "json"
FACTS = ("request_id", "model_version", "batch", "offsets", "replica")
"""What a line may say beside its message: by ``extra`` of the call, or by `about`."""

logger = logging.getLogger(__name__)

_about: ContextVar[Mapping[str, Any]] = ContextVar("streamrec_about", default={})  # noqa: B039 - never changed, only replaced


@contextmanager
def about(**facts: Any) -> Iterator[None]:
    """Say of every line of the block, in this thread or task, what it is about: some of `FACTS`."""
    token = _about.set({**_about.get(), **facts})
    try:
        yield
    finally:
        _about.reset(token)


class JsonFormatter(logging.Formatter):
    r"""Make a record one line of JSON in ASCII, whatever is in it: nothing that a client sent ends a line or begins another.

    Args:
        process: What the process is, such as ``replica``.

    Example:
        >>> record = logging.makeLogRecord({"msg": "refused\n{}", "levelname": "ERROR", "name": "serve", "created": 0.25})
        >>> JsonFormatter("replica").format(record)
        '{"time": "1970-01-01T00:00:00.250Z", "level": "error", "logger": "serve", "process": "replica", "message": "refused\\n{}"}'
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {"time": time, "level": record.levelname.lower(), "logger": record.name, "process": self._process}
        line["message"] = _message(record)
        told = {**_about.get(), **{name: getattr(record, name) for name in FACTS if hasattr(record, name)}}
        line |= {name: told[name] for name in FACTS if told.get(name) is not None}
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, default=str)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # The arguments don't fit: the line is worth more than its form.
        return f"{record.msg} {record.args!r}"


class _Lines:
    """Hold what was changed in this process, to change it back."""

    def __init__(self, process: str) -> None:
        formatter = JsonFormatter(process)
        root = logging.getLogger()
        known = [
            root,
            *(one for one in root.manager.loggerDict.values() if isinstance(one, logging.Logger)),
        ]  # Ray and Serve have handlers of their own.
        self._before = [(handler, handler.formatter) for one in known for handler in one.handlers if _is_shown(handler)]
        for handler, _ in self._before:
            handler.setFormatter(formatter)
        self._added: logging.Handler | None = None
        if not any(map(_is_shown, root.handlers)):
            # Where Serve takes its replicas' error output for lines of its own file, a line would be wrapped in another one.
            self._added = logging.StreamHandler(sys.stderr if isinstance(sys.stderr, io.TextIOBase) else sys.__stderr__)
            self._added.setFormatter(formatter)
            root.addHandler(self._added)
        self._hooks = sys.excepthook, threading.excepthook
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_uncaught_in_thread
        logging.captureWarnings(True)

    def undo(self) -> None:
        for handler, formatter in self._before:
            handler.setFormatter(formatter)
        if self._added is not None:
            logging.getLogger().removeHandler(self._added)
        sys.excepthook, threading.excepthook = self._hooks
        logging.captureWarnings(False)


class _PlainLines:
    """Write lines to the process' real error output where `sys.stderr` is no file."""

    def __init__(self) -> None:
        self._added = logging.StreamHandler(sys.__stderr__)
        self._added.setLevel(logging.WARNING)
        self._added.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(self._added)

    def undo(self) -> None:
        logging.getLogger().removeHandler(self._added)


_lines: _Lines | _PlainLines | None = None


def set_up(log_format: str, process: str) -> None:
    """Let this process' lines be JSON from now on, or plain again; a second call changes what the first one did.

    Args:
        log_format: ``telemetry.log_format``.
        process: What this process is, for its lines.
    """
    global _lines
    if _lines is not None:
        _lines.undo()
    _lines = None
    if log_format == JSON:
        _lines = _Lines(process)
    elif not isinstance(sys.stderr, io.TextIOBase):
        _lines = _PlainLines()


def is_json() -> bool:
    """Return whether this process' lines are JSON."""
    return isinstance(_lines, _Lines)


def set_up_first(log_format: str, process: str, build: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `set_up`, then build something: for an actor, which lives elsewhere."""
    set_up(log_format, process)
    return build(*args, **kwargs)


def _is_shown(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and handler.stream in {sys.stderr, sys.__stderr__, sys.stdout, sys.__stdout__}


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logger.critical("ended by %s: %s", kind.__name__, error, exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
        name = args.thread.name if args.thread is not None else "a thread"
        logger.error("%s ended by %s: %s", name, args.exc_type.__name__, args.exc_value, exc_info=args.exc_value)
