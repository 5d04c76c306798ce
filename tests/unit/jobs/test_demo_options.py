from __future__ import annotations

from pathlib import Path

import pytest

from jobs import demo


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


def test_a_folder_that_is_no_demos_is_not_emptied(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finished.parent / demo.MARKER).unlink()
    assert demo.main(["--data", "ratings.csv"]) == 1
    assert "holds another run" in capsys.readouterr().err.replace("\n", " ")
    assert finished.exists()
