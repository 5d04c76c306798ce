"""The dashboard's files: what is served, with which headers, to whom, and nothing else."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from serve.pages import FOLDER, Pages
from streamrec.config.keys import ApiKey, digest_of

Answer = tuple[int, dict[bytes, bytes], bytes]


def get(replica: Any, path: str, headers: tuple[tuple[bytes, bytes], ...] = (), method: str = "GET", mount: str = "") -> Answer:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    full = f"{mount}{path}"
    scope = {"type": "http", "method": method, "path": full, "raw_path": full.encode(), "root_path": mount, "query_string": b"", "headers": headers}
    asyncio.run(replica.routes(scope, receive, send))
    start, body = sent
    return start["status"], dict(start["headers"]), body["body"]


@pytest.fixture
def replica(open_replica: Any) -> Any:
    return open_replica


def test_the_page_comes_with_its_type_and_a_policy_that_lets_nothing_foreign_in(replica: Any) -> None:
    status, headers, body = get(replica, "/")
    assert (status, headers[b"content-type"]) == (200, b"text/html; charset=utf-8")
    policy = dict(part.strip().partition(" ")[::2] for part in headers[b"content-security-policy"].decode().split(";"))
    assert policy["default-src"] == policy.get("script-src", "'self'") == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in str(policy)
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert int(headers[b"content-length"]) == len(body) == len((FOLDER / "index.html").read_bytes())


def test_every_file_is_there_under_its_path_and_has_a_type(replica: Any) -> None:
    for path in Pages().paths:
        status, headers, body = get(replica, path)
        assert status == (307 if path == "" else 200), path
        assert path == "" or (headers[b"content-type"] and body)
    assert get(replica, "/dashboard/app.js")[1][b"content-type"] == b"text/javascript; charset=utf-8"
    assert get(replica, "/dashboard/style.css")[1][b"content-type"] == b"text/css; charset=utf-8"
    assert get(replica, "/dashboard/vendor/uPlot.LICENSE.txt")[2].startswith(b"The MIT License")


def test_all_that_the_files_name_is_among_them_and_nothing_is_of_another_host_or_inline() -> None:
    pages = Pages()
    html = (FOLDER / "index.html").read_text()
    assert {f"/{name}" for name in re.findall(r'(?:src|href)="(dashboard/[^"]+)"', html)} <= set(pages.paths)
    assert not re.findall(r"<style|style=|\son\w+=|<script(?![^>]*\ssrc=)", html)
    ours = [file for file in FOLDER.rglob("*") if file.suffix in {".js", ".css", ".html"} and "vendor" not in file.parts]
    for file in ours:
        text = file.read_text()
        assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), file
        assert not [url for url in re.findall(r"https?://[^\s\"'`)]+", text) if url != "http://www.w3.org/2000/svg"], file
        for name in re.findall(r'from "(\.[^"]+)"', text):
            assert (file.parent / name).resolve().is_file(), (file, name)


def test_a_file_that_the_browser_has_is_not_sent_again(replica: Any) -> None:
    etag = get(replica, "/dashboard/app.js")[1][b"etag"]
    status, headers, body = get(replica, "/dashboard/app.js", ((b"if-none-match", b'"other", W/' + etag),))
    assert (status, body, headers[b"etag"]) == (304, b"", etag)
    assert headers[b"content-security-policy"]
    assert get(replica, "/dashboard/app.js", ((b"if-none-match", b'"other"'),))[0] == 200


def test_head_has_the_headers_alone_and_other_methods_are_refused(replica: Any) -> None:
    status, headers, body = get(replica, "/", method="HEAD")
    assert (status, body) == (200, b"")
    assert headers == get(replica, "/")[1]
    status, headers, _ = get(replica, "/", method="POST")
    assert (status, headers[b"allow"]) == (405, b"GET, HEAD")


@pytest.mark.parametrize(
    "path",
    ["/dashboard", "/dashboard/", "/dashboard/index.html", "/dashboard/../pages.py", "/dashboard/%2e%2e/pages.py", "/dashboard//app.js",
     "/dashboard/App.js", "/dashboard/../../pyproject.toml", "/dashboard/vendor", "/dashboard/app.js/", "/dashboard/app.js%00",
     "//etc/passwd", "/../etc/passwd", "/index.html"],
)  # fmt: skip
def test_no_other_path_names_a_file(replica: Any, path: str) -> None:
    status, headers, body = get(replica, path)
    assert status == 404, body
    assert headers[b"content-type"] == b"application/json"


def test_files_need_no_key_and_data_does(serving: Any) -> None:
    replica = serving(keys={"reader": ApiKey(sha256=digest_of(b"read"), scopes=("read",))})
    assert get(replica, "/")[0] == get(replica, "/dashboard/app.js")[0] == 200
    assert get(replica, "/v1/live")[0] == get(replica, "/v1/models")[0] == get(replica, "/dashboard/none.js")[0] == 401


def test_below_a_mount_point_the_page_is_there_with_a_slash_and_found_without(replica: Any) -> None:
    assert get(replica, "/", mount="/shop")[0] == get(replica, "/dashboard/app.js", mount="/shop")[0] == 200
    status, headers, _ = get(replica, "", mount="/api/shop")
    assert (status, headers[b"location"]) == (307, b"shop/")


def test_the_files_are_no_part_of_the_interface(replica: Any) -> None:
    document = replica.ask("GET", "/openapi.json").body
    assert not [path for path in document["paths"] if path == "/" or "dashboard" in path or "live" in path]
