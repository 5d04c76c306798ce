"""Write what a verb gives: to the output, whose failure is a sentence, or into a file, in one move."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from streamrec.errors import ConfigError, OperatorError


class _Noting:
    """Pass everything on to the output, and note what it fails with: a verb's own OSError is none of the output's."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self.failed: OSError | None = None

    def write(self, text: str) -> int:
        written: int = self._noted(self._output.write, text)
        return written

    def writelines(self, lines: Any) -> None:
        self._noted(self._output.writelines, lines)

    def flush(self) -> None:
        self._noted(self._output.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._output, name)

    def _noted(self, call: Callable[..., Any], *given: Any) -> Any:
        try:
            return call(*given)
        except OSError as error:
            self.failed = error
            raise


@contextmanager
def told_output() -> Iterator[None]:
    """Write out what is left in the end; an output that can't be written is a sentence and exit status 1, one that nobody reads the status alone."""
    output, noting = sys.stdout, _Noting(sys.stdout)
    sys.stdout = cast("TextIO", noting)
    try:
        try:
            yield
        finally:
            noting.flush()
    except OSError as error:
        if error is not noting.failed:
            raise
        with suppress(OSError):  # What is still held would fail once more when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
        if error.errno != errno.EPIPE:
            what = f"Output: it can't be written ({error.strerror})"
            sys.stderr.write(f"{OperatorError(what, do='make room, or send it elsewhere')}\n")
        raise SystemExit(1) from error
    finally:
        sys.stdout = output


def write_json(**facts: Any) -> None:
    """Print one JSON object on a line."""
    sys.stdout.write(json.dumps(facts) + "\n")


def write_whole(path: Path, text: str, noun: str) -> None:
    """Write the whole file of ``--out`` in one move, or nothing.

    Raises:
        ConfigError: It can't be written; ``noun`` begins the message.
    """
    if path.is_dir():
        what = f"{noun}: {path} can't be written"
        raise ConfigError(what, got="a folder", allowed="a file", do=f"name a file in it, such as {path / 'NAME'}, with --out")
    making = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        making.write_text(text, encoding="utf-8")
        making.replace(path)
    except OSError as error:
        with suppress(OSError):
            making.unlink(missing_ok=True)
        what = f"{noun}: {path} can't be written"
        raise ConfigError(what, got=error.strerror, do="name another file with --out") from error
