"""Share what every benchmark does: arguments, facts about the machine, one flat JSON object as the last line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def arguments(description: str, **numbers: int) -> argparse.Namespace:
    """Parse ``--quick`` (under 50 s, floors only) and make the checkout the current folder, so that Ray's workers import from it.

    Args:
        description: Of the benchmark.
        numbers: Options that are whole numbers, with their defaults.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="end within 50 seconds")
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"default {default}")
    parsed = parser.parse_args()
    os.chdir(ROOT)
    return parsed


def facts(**more: object) -> dict[str, object]:
    """Return what a figure depends on besides the code: commit, machine, versions."""
    return {
        "commit": _git("rev-parse", "--short=12", "HEAD") + ("+changes" if _git("status", "--porcelain") else ""),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in ("ray", "numpy", "torch", "pyarrow")},
        **more,
    }


def finish(result: Mapping[str, float | int | str | None], about: Mapping[str, object], bars: Mapping[str, str] | None = None) -> None:
    """Print the machine's facts, what each bar asks for, and the result as one flat JSON object on the last line; None: not measured."""
    print("facts " + json.dumps(about))
    for name, bar in (bars or {}).items():
        print(f"bar   {name} {result.get(name)} (asked for: {bar})")
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in result.items()}
    sys.stdout.flush()
    print(json.dumps(rounded), flush=True)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
