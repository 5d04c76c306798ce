"""What the pages of migration say of others' files works: their columns are found, their times are read, their types have meanings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serve.operations import OPERATIONS
from streamrec.events.datasets import load_dataset, parse_mapping
from streamrec.events.guessing import guess_mapping, guess_meaning
from streamrec.events.readers import read_any_table

GORSE = """
feedback_type,user_id,item_id,time_stamp,comment
star,bob,vue,2022-02-24 00:00:00,
read,bob,d3,2022-02-25 00:00:00,
star,eve,d3,2022-02-26 00:00:00,
"""
PERSONALIZE = """
USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,EVENT_VALUE
u1,i1,1543631760,click,1
u1,i2,1543631770,watch,0.5
u2,i1,1543631780,click,1
"""
FILES = {"gorse": GORSE.lstrip(), "personalize": PERSONALIZE.lstrip()}


@pytest.mark.parametrize("other", FILES)
def test_the_command_of_the_page_reads_their_file_and_init_finds_the_same_columns(docs: Path, tmp_path: Path, other: str) -> None:
    file = tmp_path / "file.csv"
    file.write_text(FILES[other])
    page = (docs / f"migrate/{other}.md").read_text()
    (mapping,) = set(re.findall(r"streamrec replay \S+ --map (\S+)", page))
    stated = parse_mapping(mapping)
    guessed = {guess.field: guess.column for guess in guess_mapping(read_any_table(file), file)}
    assert {field: guessed[field] for field in stated} == stated
    loaded = load_dataset(file, stated)
    assert (loaded.facts["events"], loaded.facts["users"], loaded.facts["items"]) == (3, 2, 2)
    assert 1_500_000_000_000 < loaded.events["event_time"][0].as_py() < 1_700_000_000_000


@pytest.mark.parametrize("other", FILES)
def test_the_routes_that_the_page_names_are_there(docs: Path, other: str) -> None:
    there = {(one.method, one.path) for one in OPERATIONS}
    named = set(re.findall(r"`(GET|POST|PUT|DELETE) (/v1/[^?`]+)", (docs / f"migrate/{other}.md").read_text()))
    assert named
    assert named <= there


def test_what_was_only_read_there_is_to_be_looked_at() -> None:
    assert guess_meaning("star").role == "target"
    assert guess_meaning("read").role == "target"  # The page says to make it context.
