"""The OpenAPI document against the server that serves it: schemathesis makes valid and invalid requests from it, and judges the answers by it."""

import re

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from schemathesis import GenerationMode
from schemathesis.core.parameters import ParameterLocation
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from serve.access import SCOPE_OF, Action
from serve.document import REPLIES
from serve.operations import OPERATIONS
from streamrec.config import FLOAT32_MAX, MAX_NAMESPACE_BYTES, MAX_TIME_MS, MIN_SENT_TIME_MS
from streamrec.config.keys import ApiKey, digest_of
from streamrec.serving.checks import RequestLimits

EXAMPLES = {GenerationMode.POSITIVE: 12, GenerationMode.NEGATIVE: 25}
KEY = {"Authorization": "Bearer k-all"}
NOTHING_TO_NEGATE = {"models", "healthz", "readyz"}


@pytest.fixture(scope="module")
def client(made_replica):
    """A client of a replica that asks for keys, as an ASGI application without start and stop."""
    everything = ["interaction", "impression", "item_update", "deletion"]
    keys = {"all": ApiKey(sha256=digest_of(b"k-all"), scopes=("read", "events", "admin"))}
    replica = made_replica(keys=keys, accepts=everything)

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            for what in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{what}.complete"})
        else:
            await replica.routes(scope, receive, send)

    with asgi.get_client(app) as opened:
        opened.app = app
        yield opened


@pytest.fixture(scope="module")
def schema(client):
    return schemathesis.openapi.from_asgi("/openapi.json", client.app, headers=KEY)


def fits(part):
    """Whether no text is longer in UTF-8 than names may be: a schema bounds characters."""
    if isinstance(part, dict):
        return all(fits(one) for one in part.values())
    if isinstance(part, list):
        return all(fits(one) for one in part)
    return not isinstance(part, str) or len(part.encode("utf-8", "surrogatepass")) <= MAX_NAMESPACE_BYTES


def in_the_past(body):
    """A body whose event is not of the far future, which depends on the configuration and on the hour."""
    if isinstance(body, dict) and isinstance(body.get("event_time"), int):
        return {**body, "event_time": body["event_time"] % 1_764_000_000_000}
    return body


def of_short_lists(body):
    """A body whose lists together hold no more items than they may, which a schema can't say."""
    if isinstance(body, dict) and isinstance(body.get("lists"), list):
        return {**body, "lists": [{**one, "n": min(one.get("n") or 20, 50)} for one in body["lists"]]}
    return body


def without_point_zero(value):
    """A value without 3.0 in place of 3, which JSON Schema takes for an integer and the server does not."""
    if isinstance(value, dict):
        return {name: without_point_zero(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_point_zero(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


WAYS = [(one, mode) for one in OPERATIONS for mode in EXAMPLES if mode is GenerationMode.POSITIVE or one.name not in NOTHING_TO_NEGATE]


@pytest.mark.parametrize(("operation", "mode"), WAYS, ids=lambda one: getattr(one, "name", one).lower())
def test_what_the_document_says_is_what_the_server_does(client, schema, operation, mode):
    described = schema[operation.path][operation.method]

    # The event types, the far future and the bytes of an id depend on the configuration, so valid events by the document may be rejected.
    left_out = [positive_data_acceptance] if operation.name == "events" else []

    @settings(max_examples=EXAMPLES[mode], derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=described.as_strategy(generation_mode=mode))
    def holds(case):
        if mode is GenerationMode.POSITIVE:
            case.body = of_short_lists(in_the_past(without_point_zero(case.body)))
            assume(all(fits(part) for part in (case.body, case.query, case.path_parameters)))
        body = case.meta.components.get(ParameterLocation.BODY)
        # In a query all is text: `false` is a namespace of five letters.
        is_negated = body is not None and body.mode is GenerationMode.NEGATIVE
        # Of several events those that are good are taken: the answer is a success, and says which are not.
        are_several = operation.name == "events" and isinstance(case.body, list)
        unasked = [] if is_negated and not are_several else [negative_data_rejection]
        answer = case.call_and_validate(session=client, headers=KEY, excluded_checks=[*left_out, *unasked])
        assert not (is_negated and are_several) or answer.status_code >= 400 or answer.json()["rejected"]

    holds()


@pytest.fixture(scope="module")
def document(client):
    return client.get("/openapi.json", headers=KEY).json()


def refs(value):
    if isinstance(value, dict):
        return {value["$ref"]} if "$ref" in value else set().union(*map(refs, value.values()))
    return set().union(*map(refs, value)) if isinstance(value, list) else set()


def test_all_that_the_document_refers_to_is_in_it(document):
    named = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert refs(document) <= named
    assert {"#/components/schemas/Recommendation", "#/components/schemas/ErrorReply"} <= refs(document["paths"])


def described(document, operation):
    return document["paths"][operation.path][operation.method.lower()]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_a_route_says_which_key_it_takes_and_how_it_refuses(document, operation):
    said = described(document, operation)
    if operation.action is Action.PROBE:
        assert ("security" in said, {"401", "403", "429"} & said["responses"].keys()) == (False, set())
        return
    assert said["security"] == [{name: [SCOPE_OF[operation.action]]} for name in ("bearer", "apiKey")]
    for status in ("400", "401", "403", "429", "500"):
        assert re.search("ErrorReply", str(said["responses"][status]["content"]))
    assert "retry-after" in said["responses"]["429"]["headers"]
    assert set(document["components"]["securitySchemes"]) == {"bearer", "apiKey"}


def test_without_keys_the_document_says_that_none_is_needed(open_replica):
    document = open_replica.ask("GET", "/openapi.json").body
    assert {} in described(document, OPERATIONS[0])["security"]


def test_the_document_says_between_which_times_an_item_may_be_put(document, open_replica):
    said = document["components"]["schemas"]["ItemBody"]["properties"]["event_time"]["anyOf"][0]
    assert (said["minimum"], said["maximum"]) == (MIN_SENT_TIME_MS, MAX_TIME_MS)
    for time in (-1, 1_795_901_562, MAX_TIME_MS + 1):
        refused = open_replica.ask("PUT", "/v1/items/i1", {"event_time": time})
        assert (refused.status, refused.body["error"]["field"]) == (400, "event_time")
    assert open_replica.ask("PUT", "/v1/items/i1", {"event_time": MIN_SENT_TIME_MS}).status == 200


def test_the_document_says_how_large_a_number_of_a_vector_may_be(document, open_replica):
    said = document["components"]["schemas"]["ItemBody"]["properties"]["vectors"]["anyOf"][0]["additionalProperties"]["items"]
    assert (said["minimum"], said["maximum"]) == (-FLOAT32_MAX, FLOAT32_MAX)
    for number, status in ((FLOAT32_MAX, 200), (-FLOAT32_MAX, 200), (1e39, 400)):
        assert open_replica.ask("PUT", "/v1/items/i1", {"vectors": {"image": [1.0, number]}}).status == status


def test_the_document_has_the_bounds_of_this_server(made_replica):
    schemas = made_replica(max_n=7, max_history=9).ask("GET", "/openapi.json").body["components"]["schemas"]
    body = schemas["RecommendBody"]["properties"]
    assert (body["n"]["maximum"], body["n"]["default"], body["history"]["anyOf"][0]["maxItems"]) == (7, 7, 9)
    assert body["user_id"]["anyOf"][0]["maxLength"] == RequestLimits().max_id_bytes
    assert "HTTPValidationError" not in schemas


def unknown_fields(model):
    """What an answer holds beyond its model."""
    found = dict(model.model_extra or {})
    for name in type(model).model_fields:
        value = getattr(model, name)
        for part in value if isinstance(value, list) else [value]:
            if hasattr(part, "model_extra"):
                found |= unknown_fields(part)
    return found


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_every_field_of_a_documented_answer_is_in_its_model(operation):
    assert unknown_fields(REPLIES[operation.name].model_validate(operation.answer, strict=True)) == {}
