from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from jobs import demo
from streamrec.config import parse_config
from streamrec.config.keys import ApiKey, check_own_key, digest_of


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A figure of an earlier run, in the working folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "demo"
    folder.mkdir(parents=True)
    (folder / demo.MARKER).write_text("{}")
    (folder / "summary.json").write_text("{}")
    lines = "".join(f"{number % 40},{number % 70},{number % 5 + 1},{1_000_000_000 + number}\n" for number in range(3000))
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + lines)
    return folder / "summary.json"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-events", "0"], "--max-events is out of bounds, got 0, allowed 2000 or more"),
        (["--max-events", "-5"], "--max-events is out of bounds, got -5"),
        (["--seconds", "0"], "--seconds is out of bounds"),
        (["--name", "../demo"], "--name is out of bounds, got ../demo, allowed letters"),
        (["--data", "absent.csv"], "can't be read"),
        (["--set", "student.dim=x"], "student.dim is not valid"),
        (["--set", "student.dmi=8"], "did you mean 'student.dim'"),
    ],
)
def test_a_wrong_option_is_refused_and_costs_no_earlier_run(
    finished: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    given = options if "--data" in options else ["--data", "ratings.csv", *options]
    assert demo.main(given) == 1
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert finished.exists()


@pytest.mark.parametrize(
    ("given", "made", "got"),
    [
        (None, {"scopes": ("read", "events")}, "none in STREAMREC_API_KEY"),
        ("srk_other", {"scopes": ("read", "events")}, "one that the file does not have"),
        ("srk_demo", {"scopes": ("read",)}, "one that may do less"),
        ("srk_demo", {"scopes": ("read", "events"), "namespaces": ("shop",)}, "one that may do less"),
        ("srk_demo", {"scopes": ("read", "events"), "rate": 5}, "one that may do less"),
    ],
)
def test_a_demo_whose_requests_would_be_refused_says_which_key_it_needs_before_it_begins(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, given: str | None, made: dict[str, Any], got: str
) -> None:
    table = ApiKey(sha256=digest_of(b"srk_demo"), **made).model_dump(mode="json")
    Path("keys.toml").write_text(tomli_w.dumps({"demo": table}))
    monkeypatch.setenv("STREAMREC_API_KEY", given) if given else monkeypatch.delenv("STREAMREC_API_KEY", raising=False)
    assert demo.main(["--data", "ratings.csv", "--set", "serving.keys_file=keys.toml"]) == 1
    said = capsys.readouterr().err.replace("\n", " ")
    assert f"the requests of the demo need a key, got {got}, allowed scopes read and events in namespace default, no rate" in said
    assert "--scope read --scope events >> keys.toml" in said
    assert finished.exists()


def test_a_demo_has_the_key_that_it_needs(tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text(tomli_w.dumps({"demo": {"sha256": digest_of(b"srk_demo"), "scopes": ["read", "events", "admin"]}}))
    check_own_key(parse_config({"serving": {"keys_file": str(tmp_path / "keys.toml")}}), "srk_demo", "the demo")
    check_own_key(parse_config({}), None, "the demo")


def test_a_folder_that_is_no_demos_is_not_emptied(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finished.parent / demo.MARKER).unlink()
    assert demo.main(["--data", "ratings.csv"]) == 1
    assert "holds another run" in capsys.readouterr().err.replace("\n", " ")
    assert finished.exists()
