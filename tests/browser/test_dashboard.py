"""The dashboard as a person meets it: in a real browser, against a real small server whose numbers move."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from streamrec.config.keys import ApiKey, digest_of

PAGES = {"now": "Now", "learning": "Learning", "models": "Models", "try": "Try it", "stream": "Stream", "system": "System"}
PICTURES_WIDTH = 1120

HOSTILE = '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>'

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

Open = Callable[..., Any]


def until(page: Any, holds: str) -> None:
    """Wait until an expression holds; as a function, because the page's policy lets nobody evaluate text."""
    page.wait_for_function(f"() => {holds}")


def filled(opened: Any, name: str) -> Any:
    """Wait until a page shows live data, and return it."""
    page = opened.page
    page.wait_for_selector(".status.live")
    if name == "now":
        until(page, "/^[\\d.,]+$/.test(document.querySelector('.flow .value').textContent)")
        until(page, "/ms$/.test(document.querySelectorAll('.tiles dd')[8].textContent)")
    elif name == "learning":
        page.wait_for_selector(".plot canvas")
    elif name == "models":
        page.wait_for_selector("summary.verdict")
        page.wait_for_selector("tbody tr")
    elif name == "stream":
        page.wait_for_selector(".letters li")
        page.wait_for_selector(".plot canvas")
    elif name == "system":
        page.wait_for_selector(".processes tbody tr")
    else:
        page.get_by_label("or items").fill("lamp-river, chair-oak")
        page.get_by_role("button", name="Recommend").click()
        page.wait_for_selector("li.item")
    return page


def picture(page: Any, name: str, folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, 0)")
    page.evaluate("document.activeElement.blur()")
    page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def look_nice(page: Any, name: str, server: Any) -> None:
    """Wait for what a picture should show and a test does not ask for."""
    if name == "now":
        page.wait_for_timeout(15_000)
    elif name == "models":
        page.locator("summary.verdict").nth(1).click()
    elif name == "stream":
        page.locator(".letters summary").filter(has_text="not json").last.click()
    elif name == "try":
        page.get_by_label("or items").fill("rug-linen, clock-oak")
        page.get_by_role("button", name="Recommend").click()
        page.get_by_text("for Oak clock").first.wait_for()
        server.promote()
        page.wait_for_selector(".answers.pair", timeout=15_000)


@pytest.fixture(scope="module")
def pictures() -> str:
    """Where screenshots go; nowhere by default."""
    return os.environ.get("STREAMREC_PICTURES", "")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_each_page_shows_live_data_without_an_error_and_for_everybody(open_page: Open, server: Any, name: str, scheme: str, pictures: str) -> None:
    opened = open_page(name, width=PICTURES_WIDTH, scheme=scheme)
    page = filled(opened, name)
    assert page.get_by_role("navigation").get_by_role("link", name=PAGES[name]).get_attribute("aria-current") == "page"
    assert page.title() == f"{PAGES[name]} · streamrec"
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in {"serious", "critical"}] == []
    if pictures and (scheme == "light" or name in {"learning", "stream"}):
        look_nice(page, name, server)
        picture(page, f"dashboard-{name}{'' if scheme == 'light' else '-dark'}", pictures)
    assert opened.errors == []


@pytest.mark.parametrize("name", PAGES)
def test_on_a_phone_nothing_scrolls_sideways(open_page: Open, name: str, pictures: str) -> None:
    opened = open_page(name, width=360, height=740)
    page = filled(opened, name)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    if name == "now" and pictures:
        picture(page, "dashboard-phone", pictures)
    assert opened.errors == []


def test_numbers_move_while_the_page_is_open(open_page: Open) -> None:
    page = filled(open_page("now"), "now")
    learned = "document.querySelectorAll('.flow .unit')[1].textContent"
    before = page.evaluate(learned)
    until(page, f"{learned} !== {before!r}")
    requests = float(page.evaluate("document.querySelectorAll('.flow .value')[3].textContent"))
    assert 2 < requests < 40
    assert re.match(r"Events: [\d.,]+ events a second", page.locator(".flow").get_attribute("aria-label"))
    assert re.search(r"[1-9][\d.,]* learned so far", page.locator(".flow").text_content())


BEGINS = """async () => {
  const { rate, spread } = await import("./dashboard/numbers.js");
  const frame = (second, value) => ({ at_ms: second * 1000, numbers: value === null ? {} : { seen: [{ value, buckets: [value, 0] }] } });
  const begun = [frame(0, null), frame(2, 0), frame(4, 40)];
  const anew = rate([frame(0, 9), frame(1, 5)], "seen");
  return [rate(begun, "seen"), spread(begun, { seen: [1] }, "seen", {}, []).count, anew, rate(begun.slice(0, 2), "seen")];
}"""


def test_a_series_that_begins_counts_from_where_it_was_first_seen(open_page: Open) -> None:
    assert open_page("now").page.evaluate(BEGINS) == [10, 40, 5, 0]


def test_how_fresh_answers_are_is_said_of_histories_and_of_the_model(open_page: Open) -> None:
    page = filled(open_page("now"), "now")
    tiles = page.locator(".tiles div")
    until(page, "!document.querySelector('.tiles dd').textContent.includes('–')")
    told = dict(text.split("\n", 1) for text in tiles.all_inner_texts()[:2])
    assert re.fullmatch(r"1[0-9] ms\nhalf of them; 95 % within 4\d ms", told["Events are in histories within"])
    assert re.fullmatch(r"1\.\d+ s\nhalf of them; 95 % within 2\.\d+ s", told["Learned and live within"])


def test_a_version_shows_what_the_student_itself_finds(open_page: Open) -> None:
    """Its facts have the baselines', too, and there is room for a few."""
    page = filled(open_page("models"), "models")
    shown = page.get_by_role("main").text_content()
    assert "student.recall@20" in shown
    assert "popular.recall@20" not in shown


def test_a_chart_says_the_same_in_a_table(open_page: Open) -> None:
    page = filled(open_page("learning"), "learning")
    page.get_by_text("Show as a table").first.click()
    table = page.locator("table").first
    assert table.locator("thead th").all_inner_texts()[:3] == ["Time", "Student", "Student without teachers"]
    assert table.locator("tbody tr").count() == 12
    newest = [float(text) for text in table.locator("tbody tr").first.locator("td").all_inner_texts()[:2]]
    assert newest[0] > newest[1] > 0.2
    assert page.get_by_role("heading", level=1).inner_text() == "Better than what is popular, and teachers help"


def test_the_answer_changes_after_an_event_and_stays_beside_the_new_one_after_a_swap(open_page: Open, server: Any) -> None:
    opened = open_page("try")
    page = opened.page
    page.get_by_label("User").fill("u-browser")
    page.get_by_role("button", name="Recommend").click()
    page.wait_for_selector("li.item")
    assert "popular" in page.locator(".answer p").first.inner_text()
    first = page.locator("li.item .title").all_inner_texts()
    event = {"event_id": "b1", "user_id": "u-browser", "item_id": "clock-copper", "event_type": "click", "event_time": 1_764_000_000_000}
    assert server.ask("POST", "/v1/events", event)[1]["accepted"] == 1
    server.wait_for("/v1/users/u-browser", "items")
    page.get_by_role("button", name="Recommend").click()
    until(page, "document.querySelector('.answer p').textContent.startsWith('by the student, from 1 event')")
    second = page.locator("li.item .title").all_inner_texts()
    assert second != first
    assert page.locator("li.item").first.locator(".why .name").first.inner_text() == "for Copper clock"
    taught = page.locator("li.item").first.locator(".by").inner_text()
    assert re.fullmatch(r"In all users' newest labels by (transformer|linear) \d+ %(, (transformer|linear) \d+ %)?", taught)
    before, version = server.board.state.version, server.promote()
    page.wait_for_selector(".answers.pair", timeout=15_000)
    sides = page.locator(".answer")
    assert [sides.nth(side).locator(".tag").inner_text() for side in (0, 1)] == [before, version]
    assert sides.nth(0).locator(".title").all_inner_texts() == second
    assert opened.errors == []


def test_who_asks_while_an_answer_is_under_way_is_answered_next(open_page: Open) -> None:
    opened = open_page("try")
    page = opened.page
    held: list[Any] = []
    page.route("**/v1/recommend", lambda route: route.continue_() if held else held.append(route))
    page.get_by_label("or items").fill("lamp-oak")
    page.get_by_role("button", name="Recommend").click()
    while not held:
        page.wait_for_timeout(10)
    page.get_by_label("or items").fill("rug-linen")
    page.get_by_role("button", name="Recommend").click()
    held[0].continue_()
    page.get_by_text("for Linen rug").first.wait_for()
    assert page.get_by_text("for Oak lamp").count() == 0
    assert opened.errors == []


def test_titles_and_ids_that_mean_harm_are_text(open_page: Open) -> None:
    opened = open_page("try")
    page = opened.page
    page.wait_for_selector(".status.live")
    page.get_by_label("User").fill(HOSTILE)
    page.get_by_label("or items").fill("lamp-hostile, <b>nobody</b>")
    page.get_by_role("button", name="Recommend").click()
    page.get_by_text(f"for {HOSTILE}", exact=True).first.wait_for()
    assert page.locator("main img, main script, main b").count() == 0
    assert page.evaluate("window.hurt") is None
    refused = "(() => { try { document.createElement('p').innerHTML = '<b>'; return ''; } catch (error) { return error.name; } })()"
    assert page.evaluate(refused) == "TypeError"  # The policy itself refuses to make markup out of text.
    assert opened.errors[:-1] == []
    assert "TrustedHTML" in opened.errors[-1]


def test_promote_and_roll_back_ask_for_a_reason_and_then_move(open_page: Open, server: Any) -> None:
    server.promote()
    opened = open_page("models")
    page = filled(opened, "models")
    live = page.locator(".big").first
    other = page.get_by_role("button", name=re.compile(r"Promote v\d+")).first
    version = other.get_attribute("aria-label").removeprefix("Promote ")
    other.click()
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_role("heading").inner_text() == f"Promote {version}?"
    page.keyboard.press("Escape")
    assert dialog.count() == 0
    num_moves = server.registry.alias().number
    other.click()
    for nothing in ("", "   "):  # Without a reason nothing moves.
        page.get_by_label("Why?").fill(nothing)
        dialog.get_by_role("button", name=f"Promote {version}").click()
        assert dialog.count() == 1
    assert server.registry.alias().number == num_moves
    page.get_by_label("Why?").fill("better on holdout")
    page.keyboard.press("Enter")
    until(page, f"document.querySelector('.big').textContent === {version!r}")
    move = server.registry.alias()
    assert (move.version, move.action, move.reason) == (version, "promote", "better on holdout")
    page.get_by_role("button", name="Roll back…").click()
    page.get_by_label("Why?").fill("complaints")
    dialog.get_by_role("button", name="Roll back").click()
    until(page, f"document.querySelector('.big').textContent !== {version!r}")
    move = server.registry.alias()
    assert (move.action, move.reason) == ("rollback", "complaints")
    assert live.inner_text() == move.version
    assert f"{move.version} is live by your order" in page.locator(".note").first.inner_text()
    assert opened.errors == []


def test_a_move_that_is_refused_says_why(open_page: Open) -> None:
    opened = open_page("models")
    page = filled(opened, "models")
    page.get_by_label("Version").fill("v99999999")
    page.locator("form button.quiet").click()
    page.get_by_label("Why?").fill("a try")
    page.keyboard.press("Enter")
    page.locator(".error:visible").wait_for()
    assert "v99999999" in page.locator(".error:visible").inner_text()


def test_a_key_is_asked_for_once_and_one_that_only_reads_moves_nothing(open_page: Open, make_server: Callable[..., Any]) -> None:
    keys = {name: ApiKey(sha256=digest_of(name.encode()), scopes=scopes) for name, scopes in (("reads", ("read",)), ("moves", ("read", "admin")))}
    locked = make_server(keys=keys, is_local=False)
    page = open_page("models", url=locked.url).page
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    assert page.locator(".big").count() == 0
    page.get_by_label("Key").last.fill("wrong")
    page.keyboard.press("Enter")
    page.get_by_text("nobody has this key").wait_for()
    page.locator("#the-key").fill("reads")
    page.keyboard.press("Enter")
    page.wait_for_selector(".big")
    page.get_by_text("Read only:").wait_for()
    assert page.get_by_role("button", name=re.compile("Promote|Roll back")).count() == 0
    page.goto(f"{locked.url}#stream")
    page.get_by_text("Read only: Access").wait_for()
    assert page.get_by_role("button", name=re.compile("Replay|Look again")).count() == 0
    page.goto(f"{locked.url}#models")
    assert page.evaluate("[document.cookie, Object.keys(localStorage).length]") == ["", 0]
    page.reload()
    page.wait_for_selector(".big")  # Kept for this tab.
    page.get_by_role("button", name="Key").click()
    page.locator("#the-key").fill("moves")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Roll back…").wait_for()


POST = """async ([url, mode]) => {
  const sent = { method: "POST", mode, body: '{"reason": "a page"}' };
  return (await fetch(url, sent).catch(() => ({ status: "failed" }))).status;
}"""


def test_over_plain_http_a_page_of_another_site_changes_nothing(browser: Any, make_server: Callable[..., Any]) -> None:
    local, open_to_all = make_server(), make_server(is_local=False, serving={"remote_promotion": True})
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://other.example:{local.port}/healthz")
    for one in (local, open_to_all):
        for host in ("127.0.0.1", "shop.internal"):
            assert page.evaluate(POST, [f"http://{host}:{one.port}/v1/stream:pause", "no-cors"]) == 0  # The page is not told what came of it.
        assert "paused" not in one.ask("GET", "/v1/stream")[1]
    assert page.evaluate(POST, [f"http://other.example:{local.port}/v1/stream:pause", "cors"]) == 403
    for path in ("stream/dead-letters", "models", "recommend/u1"):
        assert page.evaluate("async url => (await fetch(url)).status", f"http://other.example:{local.port}/v1/{path}") == 403
    page.goto(f"http://shop.internal:{open_to_all.port}/#models")
    page.wait_for_selector(".big")
    assert page.evaluate(POST, [f"http://shop.internal:{open_to_all.port}/v1/stream:pause", "cors"]) == 200
    assert open_to_all.ask("GET", "/v1/stream")[1]["paused"]["reason"] == "a page"
    context.close()


def test_rejected_records_are_text_and_go_to_the_stream_again_once(open_page: Open, server: Any) -> None:
    opened = open_page("stream")
    page = filled(opened, "stream")
    page.locator(".letters summary").filter(has_text="<img src=x").click()
    shown = page.locator(".letters pre:visible").inner_text()
    assert shown.startswith(HOSTILE)
    assert "\\x1b[2J \\u202e" in shown
    assert len(shown) < 5000
    assert page.locator("main img, main script").count() == 0
    assert page.evaluate("window.hurt") is None
    page.get_by_role("button", name="future time").click()
    assert page.locator(".letters li").count() == 1
    page.locator(".letters summary").click()
    page.get_by_role("button", name="Replay streamrec.events/0/").click()
    dialog = page.get_by_role("dialog")
    page.keyboard.press("Escape")  # Nothing is sent.
    assert server.ask("GET", "/v1/stream/dead-letters?last=6")[1]["letters"][0]["replays"] == 0
    page.get_by_role("button", name="Replay streamrec.events/0/").click()
    dialog.get_by_role("button", name="Replay").click()
    page.get_by_text("1 record is in the stream again").wait_for()
    server.wait_for("/v1/users/u-late", "items")
    page.locator(".letters .tag", has_text="replayed").wait_for()
    assert page.get_by_role("button", name="Replay streamrec.events/0/").count() == 0
    assert opened.errors == []


def test_the_gates_numbers_and_what_happened_are_told_in_words(open_page: Open) -> None:
    page = filled(open_page("models"), "models")
    entry = page.locator("summary.verdict").filter(has_text="rejected").last
    assert "worse than live by more than" in entry.inner_text()
    entry.click()
    told = page.locator("details[open]").last.inner_text()
    for part in ("Evidence that it is worse", "20 rejects", "streamrec.events to 0:", "linear v00000001"):
        assert part in told
    page = filled(open_page("learning"), "learning")
    happened = page.get_by_role("region", name="What happened").inner_text()
    for part in ("linear refreshed", "transformer refreshed", "choices moved", "a teacher's score fell", "promotions by the gate"):
        assert part in happened


def test_a_connection_that_is_lost_is_told_and_comes_back(open_page: Open, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.routes._live, "_lasts_s", 1.0)
    page = filled(open_page("now"), "now")
    page.route("**/v1/live", lambda route: route.abort())
    page.wait_for_selector(".status.lost")
    assert page.locator(".status").inner_text().startswith("Lost, asking again in")
    page.unroute("**/v1/live")
    page.wait_for_selector(".status.live")


def test_the_keyboard_reaches_all_and_sees_where_it_is(open_page: Open) -> None:
    page = filled(open_page("now"), "now")
    focused = "document.activeElement.textContent"
    seen = []
    for _ in range(10):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(focused))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert seen[:9] == ["Skip to the page", "streamrec", *PAGES.values(), "Key"]
    page.get_by_role("link", name="Models").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", level=1, name="Models").wait_for()
    assert page.evaluate("document.activeElement.id") == "main"


def test_nothing_is_asked_of_another_host(open_page: Open, server: Any) -> None:
    opened = open_page("now")
    asked: list[str] = []
    opened.page.on("request", lambda request: asked.append(request.url))
    opened.page.reload()
    filled(opened, "now")
    assert asked
    assert [url for url in asked if not url.startswith(server.url)] == []
