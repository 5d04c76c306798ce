from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamrec.cli import app
from streamrec.config.keys import digest_of, load_keys
from streamrec.errors import ConfigError


def made(*arguments: str) -> tuple[str, str]:
    """The key and its table, as the verb prints them."""
    result = CliRunner().invoke(app, ("key", *arguments))
    assert result.exit_code == 0, result.stderr
    key = result.stderr.splitlines()[0].rpartition(" ")[2]
    return key, result.stdout


def test_a_key_is_shown_once_and_its_table_is_what_the_server_loads(tmp_path: Path) -> None:
    key, table = made("shop web", "--scope", "read", "--scope", "events", "--namespace", "shop", "--rate", "5", "--burst", "9")
    other, another_table = made("ops", "--scope", "admin")
    (tmp_path / "keys.toml").write_text(f"{table}\n{another_table}")
    keys = load_keys(str(tmp_path / "keys.toml"))
    assert keys["shop web"].sha256 == digest_of(key.encode()) != digest_of(other.encode())
    assert (keys["shop web"].scopes, keys["shop web"].namespaces, keys["shop web"].rate, keys["shop web"].burst) == (
        ("read", "events"),
        ("shop",),
        5,
        9,
    )
    assert (keys["ops"].scopes, keys["ops"].namespaces, keys["ops"].rate) == (("admin",), (), 0)
    assert key not in table
    assert len(key) > 40


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("x",), "no scope, got none, allowed answers, read, events, admin"),
        (("x", "--scope", "write"), "no such scope, got write"),
        (("", "--scope", "read"), "name is empty"),
        (("a\nb", "--scope", "read"), "not printable"),
        (("x", "--scope", "read", "--namespace", "n" * 65), "at most 64 characters"),
    ],
)
def test_a_key_that_would_be_of_no_use_is_not_made(arguments: tuple[str, ...], says: str) -> None:
    result = CliRunner().invoke(app, ("key", *arguments))
    assert (result.exit_code, result.stdout) == (1, "")
    assert says in result.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has none"),
        ("a = [", "does not parse"),
        ('[web]\nsha256 = "srk_the-key-itself"\nscopes = ["read"]', r"web\.sha256 of .* is not valid"),
        (f'[web]\nsha256 = "{"0" * 64}"\nscopes = ["srk_the-key-itself"]', r"web\.scopes\.0 of"),
        (f'[web]\nsha256 = "{"0" * 64}"\nscopes = []', r"web\.scopes of"),
        (f'[web]\nsha256 = "{"0" * 64}"\nscopes = ["read"]\nnamespace = "srk_the-key-itself"', r"web\.namespace of"),
        (f'[a]\nsha256 = "{"0" * 64}"\nscopes = ["read"]\n[b]\nsha256 = "{"0" * 64}"\nscopes = ["admin"]', "one key twice, got a and b"),
    ],
)
def test_a_file_of_keys_that_is_wrong_is_refused_and_nothing_of_it_is_shown(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "keys.toml").write_text(text)
    with pytest.raises(ConfigError, match=says) as raised:
        load_keys(str(tmp_path / "keys.toml"))
    assert "the-key-itself" not in str(raised.value)
    assert raised.value.__cause__ is None or "the-key-itself" not in str(raised.value.__cause__)


def test_a_missing_file_of_keys_is_an_error_and_no_file_means_no_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml can't be read"):
        load_keys(str(tmp_path / "missing.toml"))
    assert load_keys("") == {}


def test_the_configuration_shows_the_files_name_and_no_digest(tmp_path: Path) -> None:
    _, table = made("web", "--scope", "read")
    (tmp_path / "keys.toml").write_text(table)
    shown = CliRunner().invoke(app, ("config", "show", "--set", f"serving.keys_file={tmp_path / 'keys.toml'}")).stdout
    assert "keys.toml" in shown
    assert tomllib.loads(table)["web"]["sha256"] not in shown
