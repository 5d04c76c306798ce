"""The switches of a stream, turned by HTTP: the same ones as the command line's, with who and why."""

from __future__ import annotations

import pytest

from streamrec.config.keys import ApiKey, digest_of
from streamrec.pipeline.switches import SwitchBoard
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage

BEARER = ((b"authorization", b"Bearer k-nights"),)


@pytest.fixture
def registry(tmp_path, version):
    made = Registry(open_storage(str(tmp_path / "registry")))
    for number in (11, 12):
        made.publish(f"v000000{number}", *version(40, prefix="i", seed=number))
        made.promote(f"v000000{number}", "a test")
    return made


@pytest.fixture
def board(tmp_path):
    return SwitchBoard(open_storage(str(tmp_path)))


@pytest.mark.parametrize(("on", "off", "name"), [("pause", "resume", "paused"), ("freeze-publishing", "unfreeze-publishing", "frozen")])
def test_a_switch_is_turned_there_and_back_and_stays_in_the_history(serving, board, on, off, name):
    replica = serving(has_state=True, keys={"nights": ApiKey(sha256=digest_of(b"k-nights"), scopes=("admin",))})
    turned = replica.ask("POST", f"/v1/stream:{on}", {"reason": "incident 12"}, BEARER)
    assert turned.status == 200, turned.body
    now = getattr(board.now(), name)
    assert (now.by, now.reason, turned.body["in_force"]) == ("key nights", "incident 12", board.now().in_force())
    again = replica.ask("POST", f"/v1/stream:{on}", {"reason": "incident 13"}, BEARER).body
    assert (again["number"], again[name]) == (1, now.model_dump())  # It is so already.
    assert replica.ask("GET", "/v1/stream", headers=BEARER).body[name] == now.model_dump()
    assert replica.ask("POST", f"/v1/stream:{off}", headers=BEARER).body["in_force"] == []
    assert [entry.turn.reason for entry in board.history()] == ["incident 12", "asked by HTTP"]


def test_a_pinned_version_goes_live_and_stays_it_until_it_is_let_go(serving, registry, board):
    replica = serving(is_local=True, has_state=True)
    pinned = replica.ask("POST", "/v1/models/v00000011:pin", {"reason": "fewer orders"})
    assert (pinned.status, pinned.body["held"]["default"]["version"], registry.live()) == (200, "v00000011", "v00000011")
    assert (registry.alias().reason, board.now().held["default"].by) == ("pinned live by HTTP: fewer orders", "HTTP")
    refused = replica.ask("POST", "/v1/models/v00000012:promote")
    assert (refused.status, "v00000011 is pinned live" in refused.body["error"]["message"]) == (409, True)
    other = replica.ask("POST", "/v1/models/v00000012:unpin")
    assert (other.status, "v00000012" in other.body["error"]["message"], board.now().held.keys()) == (409, True, {"default"})
    assert replica.ask("POST", "/v1/models/v00000011:unpin").body["held"] == {}
    assert (replica.ask("POST", "/v1/models/v00000012:promote").status, registry.live()) == (200, "v00000012")
    missing = replica.ask("POST", "/v1/models/v00000099:pin")
    assert (missing.status, "v00000099" in missing.body["error"]["message"], board.now().held) == (409, True, {})


def test_without_the_record_of_deletions_nothing_is_promoted(serving, registry, tmp_path):
    registry.forget_before("v00000012", "gone")
    (tmp_path / "deletions").mkdir()
    (tmp_path / "deletions" / "one.json").write_text("{}")
    (tmp_path / "registry" / "default" / "forgotten").unlink()
    refused = serving(is_local=True, has_state=True).ask("POST", "/v1/models/v00000011:promote")
    assert (refused.status, "the record of deletions is gone" in refused.body["error"]["message"]) == (409, True)
    assert registry.live() == "v00000012"


@pytest.mark.parametrize("path", ["/v1/stream:pause", "/v1/models/v00000011:pin", "/v1/models/v00000011:unpin"])
def test_a_server_without_a_state_says_that_it_has_no_switches(serving, registry, path):
    answer = serving(is_local=True).ask("POST", path)
    assert (answer.status, "without a state" in answer.body["error"]["message"], registry.live()) == (409, True, "v00000012")


def test_nobody_turns_a_switch_where_models_may_not_be_moved(serving, board):
    assert serving(has_state=True).ask("POST", "/v1/stream:pause").status == 403
    assert board.now().in_force() == []


def test_every_turn_is_noted_for_an_audit(serving, caplog):
    replica = serving(is_local=True, has_state=True)
    with caplog.at_level("INFO"):
        replica.ask("POST", "/v1/stream:pause", headers=((b"x-request-id", b"r-17"),))
        replica.ask("GET", "/v1/stream")
    (audited,) = [record.getMessage() for record in caplog.records if "Audit" in record.getMessage()]
    assert "switch: pause" in audited
    assert "r-17" in audited
