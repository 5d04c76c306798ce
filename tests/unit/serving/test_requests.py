import json
from dataclasses import replace

import pytest

from streamrec.errors import RequestError
from streamrec.serving.checks import RequestLimits, error_body, parse_json
from streamrec.serving.filters import Extras, Filters, ListRequest, Seen
from streamrec.serving.requests import RecommendRequest, parse_recommend, parse_recommend_query

LIMITS = RequestLimits(namespace="shop", max_n=50, max_history=3, max_id_bytes=10)


def parse(**values):
    return parse_recommend(json.dumps(values).encode(), LIMITS)


def test_a_user_alone_gets_the_defaults():
    assert parse(user_id="u") == RecommendRequest("u", "shop", None, 20, (), True, None)


def test_every_field_is_read():
    request = parse(user_id="u", history=["a", "b"], namespace="blog", n=5, exclude=["c"], exclude_seen=False, context={"page": 3, "app": True})
    assert request == RecommendRequest("u", "blog", ("a", "b"), 5, ("c",), False, {"page": 3, "app": True})


def test_a_history_alone_is_enough():
    assert parse(history=[]).user_id is None


def test_the_default_number_of_items_respects_a_smaller_bound():
    assert parse_recommend(b'{"user_id": "u"}', RequestLimits(max_n=7)).n == 7


@pytest.mark.parametrize(
    ("values", "field", "got", "allowed"),
    [
        ({}, "user_id", None, "a user_id, a history, or both"),
        ({"user_id": "u", "n": 0}, "n", 0, "1 to 50"),
        ({"user_id": "u", "n": 10_000}, "n", 10_000, "1 to 50"),
        ({"user_id": "u", "n": True}, "n", True, "1 to 50"),
        ({"user_id": "u", "n": 2.0}, "n", 2.0, "1 to 50"),
        ({"user_id": "u", "n": None}, "n", None, "1 to 50"),
        ({"user_id": ""}, "user_id", "", "non-empty"),
        ({"user_id": 7}, "user_id", 7, "non-empty"),
        ({"user_id": "u" * 11}, "user_id", "11 characters", "10 bytes"),
        ({"user_id": "é" * 6}, "user_id", "6 characters", "10 bytes"),
        ({"history": "a"}, "history", "str", "list"),
        ({"history": ["a"] * 4}, "history", "4 ids", "at most 3"),
        ({"history": [1]}, "history", 1, "non-empty"),
        ({"user_id": "u", "exclude": [None]}, "exclude", None, "non-empty"),
        ({"user_id": "u", "exclude_seen": 1}, "exclude_seen", 1, "true or false"),
        ({"user_id": "u", "namespace": ""}, "namespace", "", "1 to 64"),
        ({"user_id": "u", "namespace": "商" * 28}, "namespace", "商" * 28, "81 bytes"),
        ({"user_id": "u", "context": []}, "context", "list", "object"),
        ({"user_id": "u", "context": {"a": []}}, "context.a", "list", "string"),
        ({"user_id": "u", "excluded": []}, "excluded", "an unknown field", "did you mean exclude?"),
    ],
)
def test_a_refusal_names_the_field_what_was_got_and_what_is_allowed(values, field, got, allowed):
    with pytest.raises(RequestError) as caught:
        parse(**values)
    error = error_body(caught.value)["error"]
    assert (error["field"], error["got"]) == (field, got)
    assert allowed in error["allowed"]
    assert field in error["message"]


PLAIN = [
    {"user_id": "u"}, {"user_id": None, "history": ["a"]}, {"history": []}, {"user_id": "u", "n": 50}, {"user_id": "u", "exclude": ["c"]},
    {"user_id": "u", "exclude_seen": False}, {"user_id": "u", "context": {"page": 3, "app": True}}, {"user_id": "u", "namespace": "blog"},
    {"user_id": "u", "context": None}, {"user_id": "u", "namespace": None},
    {}, {"user_id": "u", "n": 0}, {"user_id": "u", "n": 51}, {"user_id": "u", "n": True}, {"user_id": "u", "n": 2.0}, {"user_id": "u", "n": None},
    {"user_id": ""}, {"user_id": 7}, {"user_id": "u" * 11}, {"user_id": "é" * 6}, {"history": "a"}, {"history": ["a"] * 4}, {"history": [1]},
    {"user_id": "u", "exclude": [None]}, {"user_id": "u", "exclude": None}, {"user_id": "u", "exclude_seen": 1},
    {"user_id": "u", "exclude_seen": None},
    {"user_id": "u", "namespace": ""}, {"user_id": "u", "namespace": "商" * 28}, {"user_id": "u", "context": []},
    {"user_id": "u", "context": {"a": []}}, {"user_id": "u", "excluded": []},
]  # fmt: skip


@pytest.mark.parametrize("values", PLAIN)
def test_the_parser_and_the_model_that_the_document_shows_take_and_refuse_the_same(values):
    """With a field that only the model reads, and that changes nothing."""
    found = []
    for more in ({}, {"explain": False}):
        try:
            found.append(replace(parse(**values, **more), extras=None))
        except RequestError as error:
            found.append(error_body(error)["error"]["field"].partition(".")[0])
    assert found[0] == found[1]


def test_every_extra_is_read():
    asked = {
        "user_id": "u",
        "categories": ["a"],
        "min_price": 1,
        "max_price": 2.5,
        "locale": "en",
        "available": False,
        "items": ["i"],
        "explain": True,
    }
    lists = [{"name": "one", "n": 3, "max_price": None, "exclude": ["x"], "exclude_seen": False}, {"name": "two"}]
    request = parse(**asked, lists=lists, repeat_items=True, exclude_seen={"last": 2}, exclude=["y"])
    own = Filters(("a",), (1, 2.5), "en", False, ("i",))
    one = ListRequest("one", 3, Filters(("a",), (1, None), "en", False, ("i",)), ("x",), Seen(is_excluded=False))
    two = ListRequest("two", 20, own, ("y",), Seen(last=2))
    assert request.extras == Extras(own, Seen(last=2), (one, two), True, True)
    assert (request.exclude_seen, request.exclude, parse(user_id="u").extras) == (True, ("y",), None)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"user_id": "u"} x', b'{"user_id": NaN}'])
def test_a_body_that_is_not_json_is_refused_with_the_place(body):
    with pytest.raises(RequestError, match=r"not JSON .* line 1"):
        parse_json(body)


def test_a_document_that_is_no_object_is_refused():
    with pytest.raises(RequestError, match="body"):
        parse_recommend(b"[]", LIMITS)


def test_a_refusal_of_a_long_value_stays_short():
    with pytest.raises(RequestError) as caught:
        parse(**{"x" * 100_000: 1})
    assert len(json.dumps(error_body(caught.value))) < 1_000


def test_the_query_string_is_read():
    request = parse_recommend_query("u", b"n=3&namespace=blog&exclude_seen=false", LIMITS)
    assert request == RecommendRequest("u", "blog", None, 3, (), False, None)
    assert parse_recommend_query("u", b"", LIMITS) == RecommendRequest("u", "shop")


@pytest.mark.parametrize(
    ("user_id", "query", "field"),
    [("u", b"n=0", "n"), ("u", b"n=51", "n"), ("u", b"n=x", "n"), ("u", b"n=", "n"), ("u", b"n=" + b"9" * 5000, "n"),
     ("u", b"exclude_seen=maybe", "exclude_seen"), ("u", b"count=3", "count"), ("u" * 11, b"", "user_id"), ("u", b"namespace=", "namespace")],
)  # fmt: skip
def test_a_bad_query_is_refused_by_field(user_id, query, field):
    with pytest.raises(RequestError) as caught:
        parse_recommend_query(user_id, query, LIMITS)
    assert error_body(caught.value)["error"]["field"] == field
