from __future__ import annotations

import ast
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

import pytest
from pydantic import BaseModel, ValidationError

import streamrec
from streamrec.config import Config, load_config, parse_config, parse_duration_s, parse_overrides
from streamrec.environment import cache_folder
from streamrec.errors import ConfigError

CHECKOUT = Path(streamrec.__file__).parents[1]


def fields(model: type[BaseModel] = Config, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All settings that are no sections: (path, default)."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, BaseModel):
            yield from fields(kind, (*path, name))
        else:
            yield (*path, name), field.get_default(call_default_factory=True)


def another(path: tuple[str, ...], default: Any) -> Any:
    """A valid value that is not the default."""
    special: dict[str, Any] = {
        "namespace": "shop",
        "enabled": ["linear"],
        "plugins": {"ours": {"depth": 3}},
        "resources": {"spot": 0.5},
        "worker_resources": {"spot": 0.5},
        "meanings": {"poke": {"role": "context"}},
        "host": "0.0.0.0",
        "accepts": ["interaction"],
        "cors_origins": ["https://shop.example"],
        "max_replicas": 5,
        "replay_kind": "quota",
        "security_protocol": "SSL",
        "sasl_mechanism": "PLAIN",
        "oauth_token_url": "https://login.example/token",
        "students": {"small": {"dim": 16}},
        "log_format": "json",
        "histories": "redis",
        "redis_url": "rediss://serving@histories.example:6380/2",
        "traces_endpoint": "http://collector:4318",
    }
    if path[-1] in special and not isinstance(default, bool):
        return special[path[-1]]
    if path[-2:] in {("transformer", "dim"), ("transformer", "num_heads")}:  # The heads share the dimensions.
        return default * 2
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default - 1 if default > 2 else default + 1
    if isinstance(default, float):
        return default * 0.6 + 0.07
    return f"{default}x"


def to_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {to_toml(part)}" for key, part in value.items() if part is not None) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(to_toml(part) for part in value) + "]"
    return json.dumps(value)


ALL = dict(fields())


@pytest.mark.parametrize("path", ALL, ids=".".join)
def test_each_setting_changes_the_resolved_configuration_and_survives_toml(path: tuple[str, ...]) -> None:
    value = another(path, ALL[path])
    config = load_config_of(f"{'.'.join(path)} = {to_toml(value)}")
    assert config != Config()
    found: Any = config
    for name in path:
        found = getattr(found, name)
    if path == ("students",):
        assert found["small"].dim == 16
    elif path[-1] != "meanings":
        assert found == (tuple(value) if isinstance(value, list) else value)
    dumped = config.model_dump(mode="json")
    assert parse_config(tomllib.loads("\n".join(f"{key} = {to_toml(part)}" for key, part in dumped.items()))) == config


def load_config_of(text: str) -> Config:
    return parse_config(tomllib.loads(text))


def test_every_setting_is_read_somewhere() -> None:
    """A setting that nothing reads changes nothing and goes."""
    read: set[str] = set()
    for folder in ("streamrec", "jobs", "serve"):
        for path in (CHECKOUT / folder).rglob("*.py"):
            if path.parent == CHECKOUT / "streamrec" / "config":
                continue
            read |= {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert {".".join(path) for path in ALL if path[-1] not in read} == set()


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("student.dims = 3", "student.dim"),
        ("studnet.dim = 3", "student"),
        ("teachers.transformer.layers = 3", "teachers.transformer.num_layers"),
        ("events.meanings.view.wait = 3", "events.meanings.view.weight"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_nearest_one(text: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{near}'"):
        load_config_of(text)


@pytest.mark.parametrize(("text", "seconds"), [("250ms", 0.25), ("10s", 10), ("5m", 300), ("1.5h", 5400), (" 7 d ", 604_800), (3, 3), (0.5, 0.5)])
def test_durations_are_seconds(text: object, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["10", "ten seconds", "-3s", "", None, True, [1], "1s2"])
def test_other_durations_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="allowed a number with a unit"):
        parse_duration_s(text)


DURATIONS = [".".join(path) for path, default in ALL.items() if path[-1].endswith("_s") and isinstance(default, float)]


@pytest.mark.parametrize("value", ["inf", "nan", "1e17", "9" * 400, "'36501d'", f"'{'9' * 400}d'"])
@pytest.mark.parametrize("name", DURATIONS)
def test_every_duration_is_finite(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is not valid, got .*, allowed a finite time, up to '36500d'"):
        load_config_of(f"{name} = {value}")


def test_a_duration_of_a_hundred_years_stands_for_never() -> None:
    assert load_config_of("lake.keep_for_s = '36500d'").lake.keep_for_s == 36_500 * 86_400


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_a_number_is_finite(value: str) -> None:
    with pytest.raises(ConfigError, match=r"student\.learning_rate is not valid, got .*, allowed a finite number"):
        load_config_of(f"student.learning_rate = {value}")


@pytest.mark.parametrize(
    "text",
    [
        "teachers.transformer.num_heads = 7",
        "teachers.num_train_workers = 33",
        "teachers.min_train_workers = 2",
        "teachers.gpus_per_worker = 1.5",
        "teachers.worker_resources = { GPU = 1 }",
        "placement.learners.resources = { CPU = 1 }",
        "placement.scorer.resources = { spot = 0 }",
        "placement.refreshes.resources = { memory = 1 }",
        "student.dim = 0",
        "pipeline.checkpoint_interval_s = -1",
        "seed = 'x'",
        "log.events_topic = 'a b'",
        "log.read_timeout_s = nan",
    ],
)
def test_a_value_out_of_bounds_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(ConfigError, match=text.split(" ")[0]):
        load_config_of(text)


def test_a_wrong_duration_is_named_once() -> None:
    with pytest.raises(ConfigError, match=r"batch_interval_s is not valid, got '5x', allowed a number with a unit such as '10s'"):
        load_config_of("pipeline.batch_interval_s = '5x'")


def test_a_value_that_does_not_fit_another_one_is_refused_with_both() -> None:
    with pytest.raises(ConfigError, match=r"teachers\.transformer\.num_heads is not valid, got 2, allowed a divisor of dim = 31"):
        load_config_of("teachers.transformer.dim = 31")


def test_workers_of_one_fit_share_no_gpu_and_one_alone_may_have_a_part() -> None:
    assert load_config_of("teachers.gpus_per_worker = 0.5").teachers.gpus_per_worker == 0.5
    with pytest.raises(ConfigError, match=r"gpus_per_worker is not valid, got 0\.5, allowed 1 or more with num_train_workers = 2"):
        load_config_of("teachers.gpus_per_worker = 0.5\nteachers.num_train_workers = 2")


@pytest.mark.parametrize("text", ["log.dead_letter_topic = 'streamrec.events'", "log.events_topic = 'streamrec.dead-letters'"])
def test_dead_letters_in_the_events_topic_are_refused_with_both_names(text: str) -> None:
    topic = text.split("'")[1]
    says = rf"log\.dead_letter_topic is not valid, got '{topic}', allowed another topic than log\.events_topic = '{topic}'"
    with pytest.raises(ConfigError, match=says):
        load_config_of(text)


def test_a_configuration_is_frozen() -> None:
    config = Config()
    with pytest.raises(ValidationError):
        config.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.student.dim = 3  # type: ignore[misc]


def test_a_users_meanings_are_added_to_the_defaults() -> None:
    meanings = load_config_of('events.meanings.poke = { role = "context" }\nevents.meanings.view = { role = "negative" }').events.meanings
    assert meanings["poke"].role == "context"
    assert meanings["view"].role == "negative"
    assert meanings["purchase"].role == "target"


def test_files_and_overrides_are_read_in_that_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml, yaml = tmp_path / "a.toml", tmp_path / "b.yaml"
    toml.write_text("[student]\ndim = 32\nscale = 4.0\n")
    yaml.write_text("student:\n  dim: 16\n")
    assert load_config(toml, {"student.dim": 8}).student.dim == 8
    assert load_config(toml, {"student.dim": 8}).student.scale == 4.0
    assert load_config(yaml).student.dim == 16
    monkeypatch.setenv("STREAMREC_CONFIG", str(toml))
    assert load_config().student.dim == 32
    monkeypatch.delenv("STREAMREC_CONFIG")
    monkeypatch.chdir(tmp_path)
    assert load_config() == Config()
    (tmp_path / "streamrec.toml").write_text("seed = 9")
    assert load_config().seed == 9


@pytest.mark.parametrize(("name", "text"), [("a.toml", "seed = "), ("a.yaml", "a: [1"), ("a.yaml", "- 1\n- 2")])
def test_a_file_that_does_not_parse_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=name):
        load_config(tmp_path / name)
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        load_config(tmp_path / "missing.toml")


@pytest.mark.parametrize("name", ["a.toml", "a.yaml"])
def test_a_file_as_editors_of_windows_save_it_is_read_or_its_encoding_told(tmp_path: Path, name: str) -> None:
    text = {"a.toml": "seed = 9\n", "a.yaml": "seed: 9\n"}[name]
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert load_config(tmp_path / name).seed == 9
    (tmp_path / name).write_bytes(b"\xff\xfe" + text.encode("utf-16-le"))
    with pytest.raises(ConfigError, match=rf"{name} is not UTF-8, got byte 0xff at 0, allowed UTF-8, save it as UTF-8$"):
        load_config(tmp_path / name)


def test_an_override_below_a_value_that_is_no_section_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed"):
        load_config(None, {"seed": 3, "seed.x": 1})


def test_overrides_are_toml_values_or_texts() -> None:
    assert parse_overrides(["a.b=3", "c=[1, 2]", "d=true", "e=10s", "f=x=y"]) == {"a.b": 3, "c": [1, 2], "d": True, "e": "10s", "f": "x=y"}
    for text in ("novalue", "=3"):
        with pytest.raises(ConfigError, match="KEY=VALUE"):
            parse_overrides([text])


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMREC_CACHE", "/x/own")
    assert cache_folder() == Path("/x/own")
    monkeypatch.delenv("STREAMREC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/cache")
    assert cache_folder() == Path("/x/cache/streamrec")


def test_the_least_a_micro_batch_takes_is_not_above_the_most() -> None:
    with pytest.raises(ConfigError, match=r"pipeline\.min_batch_events is not valid, got 20, allowed 1 to max_batch_events = 10"):
        parse_config({"pipeline": {"max_batch_events": 10, "min_batch_events": 20}})
    small = parse_config({"pipeline": {"max_batch_events": 10}}).pipeline
    assert (small.min_batch_events, small.max_batch_events) == (10, 10)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"student": {"dim": "wide"}}, "student.dim is not valid, got 'wide', allowed a whole number"),
        ({"student": {"dim": 2.5}}, "student.dim is not valid, got 2.5, allowed a whole number"),
        ({"student": {"replay_capacity": -1}}, "student.replay_capacity is not valid, got -1, allowed at least 0"),
        ({"student": 5}, "student is not valid, got 5, allowed a table of settings"),
        ({"events": {"meanings": {"poke": {}}}}, "events.meanings.poke.role is not valid, got {}, allowed a value, which is required"),
        (
            {"events": {"namespace": "n" * 65}},
            "n' (65 characters), allowed a text of at most 64 characters",
        ),
        ({"events": {"namespace": "中" * 28}}, "中', allowed at most 81 bytes in UTF-8"),
        ({"state": "s3://"}, "state is not valid, got 's3://', allowed s3://BUCKET or s3://BUCKET/PREFIX, correct the value"),
        ({"state": "gs:///runs"}, "state is not valid, got 'gs:///runs', allowed gs://BUCKET or gs://BUCKET/PREFIX"),
        ({"lake": {"address": "s3:/events"}}, "lake.address is not valid, got 's3:/events', allowed s3://BUCKET"),
        ({"log": {"broker": ""}}, "log.broker is not valid, got '', allowed a text of at least 1 characters"),
        ({"log": {"events_topic": "a b"}}, "log.events_topic is not valid, got 'a b', allowed a text that matches"),
        ({"telemetry": {"log_format": "xml"}}, "telemetry.log_format is not valid, got 'xml', allowed 'plain' or 'json'"),
        (
            {"telemetry": {"traces_endpoint": "http://me:secret@collector"}},
            "telemetry.traces_endpoint is not valid, got 'http://***@collector', allowed a text that matches",
        ),
    ],
)
def test_a_value_that_is_not_valid_is_told_in_our_words(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(values)
    assert message in str(raised.value)
    assert "Input should" not in str(raised.value)


def test_each_bound_on_a_length_and_each_pattern_is_told() -> None:
    """Also those of settings to come."""
    num_told = 0
    for path, _ in fields():
        model: Any = Config
        for name in path[:-1]:
            model = model.model_fields[name].annotation
        for bound in model.model_fields[path[-1]].metadata:
            wrong: dict[str, object] = {"min_length": "", "max_length": "x" * (getattr(bound, "max_length", None) or 0) + "x", "pattern": "no topic!"}
            for name, value in wrong.items():
                limit = getattr(bound, name, None)
                if limit is None:
                    continue
                num_told += 1
                with pytest.raises(ConfigError) as raised:
                    load_config(overrides={".".join(path): value})
                assert str(limit) in str(raised.value).partition(" allowed ")[2], path
    assert num_told > 5
