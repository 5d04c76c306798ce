"""Each code that the code has, has a section on the page of codes: what it means and what to do; and the page has no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from streamrec import errors
from streamrec.events.schema import Reason as Rejection
from streamrec.pipeline.challenge import Outcome
from streamrec.registry.gate import Reason as Gate
from streamrec.serving import answers
from streamrec.serving.replies import CODES
from streamrec.teachers.policy import Reason as Refresh

WHY = (
    "unknown user", "no known items in history", "the model has no items in this namespace", "no log is followed and no history was given",
    "the user's history can't be known",
)  # fmt: skip
"""Of `Answerer.why`."""
ALL = {
    "Rejected events": [*Rejection, "kind_not_accepted"],
    "Refusals of the HTTP interface": list(CODES.values()),
    "Decisions of the gate": list(Gate),
    "Decisions on refreshes": list(Refresh),
    "What became of a new teacher": list(Outcome),
    "Why an answer is not the student's": [*WHY, answers.DEADLINE],
    "Errors of Python": [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.StreamrecError)],
}


@pytest.fixture(scope="module")
def parts(docs: Path) -> dict[str, dict[str, str]]:
    """Sections by part of the page and title."""
    found = re.split(r"^## (.+)\n", (docs / "codes.md").read_text(), flags=re.MULTILINE)
    split = {title: re.split(r"^### (.+)\n", text, flags=re.MULTILINE) for title, text in zip(found[1::2], found[2::2], strict=True)}
    return {title: dict(zip(entries[1::2], entries[2::2], strict=True)) for title, entries in split.items()}


@pytest.mark.parametrize("part", ALL)
def test_every_code_has_its_section_and_no_section_is_of_a_code_that_is_gone(parts: dict[str, dict[str, str]], part: str) -> None:
    assert sorted(parts[part]) == sorted(ALL[part])
    for code, text in parts[part].items():
        assert code == "StreamrecError" or ("**Means**" in text and "**Do**" in text), code


def test_the_page_has_these_parts(parts: dict[str, dict[str, str]]) -> None:
    assert list(parts) == list(ALL)


def test_the_reasons_of_answers_are_those_in_the_code() -> None:
    source = Path(answers.__file__).read_text()
    body = source[source.index("def why(") : source.index("def _knows_nothing(")]
    assert set(re.findall(r'return "(.+)"', body)) == set(WHY)
