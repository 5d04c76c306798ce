from __future__ import annotations

import json
import shlex
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from streamrec.cli import app
from streamrec.config import Config, LogConfig, load_config, parse_config
from streamrec.events.codec import EventCodec
from streamrec.log.base import LogAddress
from streamrec.log.connect import open_table_reader
from streamrec.log.offsets import OffsetRange

ACTIONS = ("page_view", "add_to_cart", "remove_from_cart", "purchase", "wobble")
NUM = 400


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAMREC_CONFIG", raising=False)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    rows = (f"{row},c {row % 23},p{row * 7 % 31},{row % 5},2025-11-24T10:{row // 60:02d}:{row % 60:02d}Z,{ACTIONS[row % 5]}\n" for row in range(NUM))
    path = tmp_path / "my shop.csv"
    path.write_text("row,Visitor Id,productSku,qty,event_time,action\n" + "".join(rows))
    return path


def call(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def test_what_init_writes_and_says_works_with_backtest_and_replay_as_it_stands(shop: Path) -> None:
    said = call("init", shop.name, "--json")
    assert said.exit_code == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["mapping"] == {"user": "Visitor Id", "item": "productSku", "time": "event_time", "type": "action"}
    assert found["facts"] == {"rows": NUM, "events": NUM, "users": 23, "items": 31}
    backtest, replay, *_ = (shlex.split(command)[1:] for command in found["next"])
    played = call(*backtest, "--no-teachers", "--max-blocks", "1", "--json", "--student-dim", "8")
    assert played.exit_code == 0, played.stderr
    sent = call(*replay, "--to", "local")
    assert sent.exit_code == 0, sent.stderr
    config, log = load_config(), LogConfig()
    assert config.state == "runs/my-shop"
    reader = open_table_reader(LogAddress("local", str(Path("runs/my-shop/log").absolute())), log)
    rows = reader.read_table([OffsetRange(log.events_topic, number, 0, end) for number, end in reader.latest(log.events_topic).items()])
    decoded = EventCodec(config.events).decode(rows, 2_000_000_000_000)
    assert (decoded.valid.num_rows, decoded.rejected.num_rows) == (NUM, 0)
    roles = {name: config.events.meanings[name].role for name in ACTIONS}
    assert roles == {name: "negative" if name == "remove_from_cart" else "target" for name in ACTIONS}


def test_what_is_commented_out_is_the_default(shop: Path) -> None:
    assert call("init", shop.name).exit_code == 0
    lines = [line for line in Path("streamrec.toml").read_text().splitlines() if "--map" not in line and not line.startswith("[events.meanings")]
    settings = [line.removeprefix("# ") for line in lines if line.startswith("[") or (line.startswith("# ") and " = " in line)]
    shown = parse_config({**tomllib.loads("\n".join(settings)), "state": Config().state})
    written = load_config()
    assert shown.model_copy(update={"events": Config().events}) == Config()
    assert written.model_copy(update={"events": Config().events, "state": Config().state}) == Config()
    assert len([line for line in settings if not line.startswith("[")]) > 10


def test_people_are_told_what_was_guessed_and_why(shop: Path) -> None:
    said = call("init", shop.name).stdout
    assert "user          Visitor Id  (its name says so, 23 different ones in 400 rows)" in said
    assert "event type    wobble: target, its name says nothing: is it what you want to recommend for?" in said
    assert "400 events of 23 users with 31 items, 2025-11-24 to 2025-11-24" in said
    assert "    streamrec backtest --data 'my shop.csv' --map 'user=Visitor Id,item=productSku,time=event_time,type=action'" in said
    assert "--map 'user=Visitor Id,item=productSku,time=event_time,type=action'\n" in Path("streamrec.toml").read_text()


def test_settings_that_are_there_stay_unless_they_are_to_go(shop: Path) -> None:
    Path("streamrec.toml").write_text("seed = 7\n")
    refused = call("init", shop.name)
    assert (refused.exit_code, refused.stdout, Path("streamrec.toml").read_text()) == (1, "", "seed = 7\n")
    assert "Init: streamrec.toml is there already, name another file with --out, or take --force" in refused.stderr
    assert call("init", shop.name, "--out", "other.toml").exit_code == 0
    assert "--config other.toml" in call("init", shop.name, "--out", "other.toml", "--force").stdout
    assert call("init", shop.name, "--force").exit_code == 0
    assert load_config().seed == 0


@pytest.mark.parametrize(
    "words",
    [
        ["nowhere.csv"],
        ["bad.csv"],
        ["my shop.csv", "--map", "user=nobody"],
        ["my shop.csv", "--out", "no/folder/a.toml"],
        ["my shop.csv", "--out", ".", "--force"],
    ],
)
def test_where_it_fails_nothing_is_written(shop: Path, words: list[str]) -> None:
    Path("bad.csv").write_text("user,item,time\nu,i,1764000000\nu,,1764000001\n")
    before = sorted(Path.cwd().iterdir())
    failed = call("init", *words)
    assert (failed.exit_code, failed.stdout, failed.stderr.count("\n")) == (1, "", 1)
    assert sorted(Path.cwd().iterdir()) == before


def test_a_known_format_needs_no_mapping_and_parquet_is_read_by_its_columns() -> None:
    lines = "".join(f"{row % 20},{row % 30},5,{1_000_000_000 + row}\n" for row in range(100))
    Path("ratings.csv").write_text("userId,movieId,rating,timestamp\n" + lines)
    known = json.loads(call("init", "ratings.csv", "--json").stdout)
    assert (known["kind"], known["mapping"], known["next"][0]) == ("movielens", {}, "streamrec backtest --data ratings.csv")
    pq.write_table(pa.table({"member": [1, 2, 1], "track": [7, 7, 8], "score": [4.0, None, 2.5]}), "plays.parquet")
    guessed = json.loads(call("init", "plays.parquet", "--force", "--json").stdout)
    assert guessed["mapping"] == {"user": "member", "item": "track", "value": "score"}
    assert guessed["event_types"] == {"rating": "target"}
    assert "time          none: the file's order" in call("init", "plays.parquet", "--force").stdout


def test_columns_whose_names_say_nothing_are_found_by_what_is_in_them_and_what_is_not_read_is_named() -> None:
    rows = (f"k{row % 3};a{row % 4};{('view', 'buy')[row % 2]};01.03.2025 08:{row:02d}:36;{row}\n" for row in range(24))
    Path("laden.csv").write_text("Kunden-Nr.;Artikel;was;Stempel;Menge\n" + "".join(rows))
    said = call("init", "laden.csv", "--map", "user=Kunden-Nr.,item=Artikel")
    assert "time          Stempel  (no name says so; from 2025-03-01T08:00 to 2025-03-01T08:23: look whether it is right)" in said.stdout
    assert "type          was  (no name says so; buy, view: look whether it is right)" in said.stdout
    assert "not read      Menge; name one with --map FIELD=COLUMN, of user, item, time, type, value, session, basket, split" in said.stdout
    assert "event type    buy: target, because of 'buy'" in said.stdout
    known = json.loads(call("init", "laden.csv", "--map", "user=Kunden-Nr.,item=Artikel", "--json", "--force").stdout)
    assert (known["not_read"], known["mapping"]["time"], known["mapping"]["type"]) == (["Menge"], "Stempel", "was")


def test_a_column_of_words_that_say_nothing_of_what_was_done_is_no_event_type() -> None:
    Path("shop.csv").write_text("user,item,country\n" + "".join(f"u{row % 3},i{row % 4},{('France', 'Spain')[row % 2]}\n" for row in range(12)))
    said = json.loads(call("init", "shop.csv", "--json").stdout)
    assert (said["mapping"], said["not_read"]) == ({"user": "user", "item": "item"}, ["country"])


def test_what_it_says_of_columns_with_commas_separated_by_semicolons_can_be_copied() -> None:
    header = '"Kunden Nr., neu";Artikel;item id;Zeit;at'
    Path("laden.csv").write_text(header + "\n" + "".join(f"k{row % 3};x{row};i{row % 4};0;2025-11-24 08:{row:02d}\n" for row in range(12)))
    said = json.loads(call("init", "laden.csv", "--map", '"user=Kunden Nr., neu"', "--json").stdout)
    assert said["mapping"] == {"user": "Kunden Nr., neu", "item": "item id", "time": "at"}
    played = call(*shlex.split(said["next"][1])[1:], "--to", "local")
    assert (played.exit_code, "12" in played.stdout + played.stderr) == (0, True), played.stderr


def test_a_time_that_cannot_be_read_is_told_of_and_left_out_only_when_it_is_asked_for() -> None:
    Path("shop.csv").write_text("user,item,time\n" + "".join(f"u{row % 3},i{row % 4},13/13/2025 08:{row:02d}\n" for row in range(12)))
    refused = call("init", "shop.csv")
    assert (refused.exit_code, refused.stdout, Path("streamrec.toml").exists()) == (1, "", False)
    assert "column 'time' of shop.csv is named like a time and can't be read as one, got '13/13/2025 08:00', allowed seconds" in refused.stderr
    said = call("init", "shop.csv", "--map", "time=none")
    assert "time          none: the file's order, one second a row" in said.stdout
    assert "--map user=user,item=item\n" in said.stdout


def test_where_nothing_is_to_be_predicted_it_is_said() -> None:
    Path("returns.csv").write_text("user,item,event\n" + "".join(f"u{row % 3},i{row % 4},{('refund', 'search')[row % 2]}\n" for row in range(12)))
    said = call("init", "returns.csv")
    assert (said.exit_code, said.stderr) == (0, "no event of the sample is something to predict: set the role of one event type to target\n")


def test_room_is_made_for_more_than_a_large_sample_has(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrec.cli.first_config.ROOM", 100_000)
    assert call("init", shop.name).exit_code == 0
    features = load_config().features
    assert (features.max_items, features.max_users) == (3_100_000, 2_300_000)
