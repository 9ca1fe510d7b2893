"""What foreign errors are taken for, as a table."""

import json

import anthropic
import httpx
import ollama
import openai
import pytest

from langflow_sluice.errors import (
    UpstreamError,
    UpstreamRefused,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from langflow_sluice.failures import diagnose_http, retry_after

REQUEST = httpx.Request(
    "POST", "https://user:canary-password@api.example.com/v1?key=canary-key", content="canary prompt"
)
CANARY = "canary: your prompt 'canary prompt' with key canary-key"


def sdk_error(status, *, headers=None, body=None):
    """The error that openai's client makes of an answer."""
    response = httpx.Response(status, headers=headers, json={"error": body or {}}, request=REQUEST)
    client = openai.OpenAI(api_key="canary-key", http_client=httpx.Client())
    error = client._make_status_error_from_response(response)
    assert isinstance(error, openai.APIStatusError)
    return error


def http_error(status, *, headers=None):
    response = httpx.Response(status, headers=headers, text=CANARY, request=REQUEST)
    return httpx.HTTPStatusError(CANARY, request=REQUEST, response=response)


def caused(error, cause):
    error.__cause__ = cause
    return error


def diagnose(error, **kwargs):
    failure = diagnose_http(error, "api.example.com", **kwargs)
    if failure is not None:
        assert "canary" not in repr((failure, str(failure.error), failure.error.args, failure.error.__dict__))
        assert failure.error.__cause__ is None
        assert "api.example.com" in failure.error.message
        assert failure.error.hint
    return failure


TRANSPORT = [
    (httpx.ConnectError, UpstreamUnavailable, "base_url"),
    (httpx.ReadError, UpstreamUnavailable, "base_url"),
    (httpx.RemoteProtocolError, UpstreamUnavailable, "base_url"),
    (httpx.ConnectTimeout, UpstreamTimeout, "connect_timeout"),
    (httpx.ReadTimeout, UpstreamTimeout, "read_timeout"),
    (httpx.WriteTimeout, UpstreamTimeout, "write_timeout"),
    (httpx.PoolTimeout, UpstreamTimeout, "max_concurrency"),
]


@pytest.mark.parametrize(("kind", "meaning", "setting"), TRANSPORT)
def test_an_error_on_the_way_is_retryable_and_names_the_setting(kind, meaning, setting):
    for error in (
        kind(CANARY, request=REQUEST),
        caused(openai.APIConnectionError(message=CANARY, request=REQUEST), kind(CANARY)),
        caused(openai.APITimeoutError(REQUEST), kind(CANARY)),
    ):
        failure = diagnose(error)
        assert type(failure.error) is meaning
        assert setting in str(failure.error)
        assert (failure.retryable, failure.service_fault, failure.retry_after_s) == (True, True, None)


def test_a_full_pool_of_the_client_is_not_blamed_on_the_service_and_asks_for_fewer_calls():
    failure = diagnose(httpx.PoolTimeout(CANARY))
    assert "was not asked" in failure.error.message
    assert failure.error.hint.startswith("Let fewer calls in at once (max_concurrency")
    assert "aise" not in failure.error.hint
    assert not failure.reached


@pytest.mark.parametrize(("kind", "meaning", "setting"), TRANSPORT)
def test_langchains_own_subclasses_of_the_sdks_errors_mean_the_same(kind, meaning, setting):
    from langchain_openai.chat_models.base import OpenAIConnectionError, OpenAITimeoutError

    inner = caused(openai.APIConnectionError(message=CANARY, request=REQUEST), kind(CANARY))
    for error in (OpenAIConnectionError(message=CANARY, request=REQUEST), OpenAITimeoutError(REQUEST)):
        failure = diagnose(caused(error, inner))
        assert type(failure.error) is meaning
        assert setting in str(failure.error)
        assert failure.retryable


def test_a_connection_error_without_a_known_cause_is_an_unreachable_service():
    failure = diagnose(openai.APIConnectionError(message=CANARY, request=REQUEST))
    assert isinstance(failure.error, UpstreamUnavailable)
    assert failure.retryable


@pytest.mark.parametrize(
    ("status", "headers", "meaning", "retryable", "service_fault", "wait_s", "says"),
    [
        (400, {}, UpstreamRefused, False, False, None, "parameters"),
        (401, {}, UpstreamRefused, False, False, None, "api_key"),
        (403, {}, UpstreamRefused, False, False, None, "permissions"),
        (404, {}, UpstreamRefused, False, False, None, "model_name"),
        (408, {}, UpstreamUnavailable, True, True, None, "itself failed"),
        (409, {}, UpstreamRefused, True, False, None, "409"),
        (422, {}, UpstreamRefused, False, False, None, "422"),
        (429, {}, UpstreamThrottled, True, False, None, "max_concurrency"),
        (429, {"Retry-After": "7"}, UpstreamThrottled, True, False, 7.0, "requests_per_minute"),
        (500, {}, UpstreamUnavailable, True, True, None, "500"),
        (500, {"Retry-After": "7"}, UpstreamUnavailable, True, True, None, "500"),
        (503, {}, UpstreamUnavailable, True, True, None, "503"),
        (503, {"Retry-After": "7"}, UpstreamThrottled, True, False, 7.0, "503"),
        (529, {}, UpstreamThrottled, True, False, None, "529"),
        (307, {}, UpstreamRefused, False, False, None, "307"),
    ],
)
def test_a_status_decides_on_blame_and_retry(status, headers, meaning, retryable, service_fault, wait_s, says):
    for error in (sdk_error(status, headers=headers, body={"message": CANARY}), http_error(status, headers=headers)):
        failure = diagnose(error)
        assert type(failure.error) is meaning
        assert (failure.retryable, failure.service_fault, failure.retry_after_s) == (retryable, service_fault, wait_s)
        assert f"answered {status}" in failure.error.message
        assert says in str(failure.error)


def test_a_quota_that_is_used_up_is_not_asked_again():
    body = {"message": CANARY, "type": "insufficient_quota", "code": "insufficient_quota"}
    failure = diagnose(sdk_error(429, headers={"Retry-After": "1"}, body=body))
    assert isinstance(failure.error, UpstreamThrottled)
    assert (failure.retryable, failure.retry_after_s) == (False, None)
    assert "billing" in failure.error.hint


def test_the_machine_readable_fields_are_told_and_the_message_is_not():
    body = {"message": CANARY, "type": "invalid_request_error", "param": "temperature", "code": "unsupported_value"}
    text = str(diagnose(sdk_error(400, body=body)).error)
    assert "(code: unsupported_value, type: invalid_request_error, param: temperature)" in text


@pytest.mark.parametrize("value", [CANARY * 2, 42, None, {"canary": 1}, ["canary"]])
def test_fields_that_are_no_short_names_are_left_out(value):
    assert diagnose(sdk_error(400, body={"code": value})).error.message.endswith("refuses this request.")


@pytest.mark.parametrize(
    "error",
    [
        json.JSONDecodeError("Expecting value", CANARY, 0),
        openai.APIResponseValidationError(httpx.Response(200, text=CANARY, request=REQUEST), None, message=CANARY),
        httpx.DecodingError(CANARY),
    ],
)
def test_an_answer_that_cannot_be_read_points_to_the_address(error):
    failure = diagnose(error)
    assert type(failure.error) is UpstreamError
    assert "base_url" in failure.error.hint
    assert (failure.retryable, failure.service_fault) == (False, False)


def test_the_good_status_of_an_unreadable_answer_is_not_taken_for_a_refusal():
    # langchain-openai hangs the answer onto whatever went wrong in reading it.
    error = json.JSONDecodeError("Expecting value", CANARY, 0)
    error.response = httpx.Response(200, text=CANARY, request=REQUEST)
    assert type(diagnose(error).error) is UpstreamError
    wrong = ValueError(CANARY)
    wrong.response = httpx.Response(200, text=CANARY, request=REQUEST)
    assert diagnose(wrong) is None


def test_an_error_event_in_a_stream_is_the_services_own():
    failure = diagnose(openai.APIError(CANARY, REQUEST, body={"type": "server_error", "message": CANARY}))
    assert type(failure.error) is UpstreamError
    assert "(type: server_error)" in failure.error.message
    assert (failure.retryable, failure.service_fault) == (False, True)


class OtherLibrarysError(Exception):
    """Like botocore's: its response is a dict."""

    response = {"Error": {"Code": "Throttling"}}


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("x"), OSError(), ZeroDivisionError(), OtherLibrarysError()]
)
def test_other_errors_are_none_of_its_business(error):
    assert diagnose(error) is None


def anthropic_error(status, *, headers=None, kind="", in_stream=False):
    """The error that anthropic's client makes of an answer, or of an error event in the middle of one."""
    body = {"type": "error", "error": {"type": kind, "message": CANARY}}
    response = httpx.Response(200 if in_stream else status, headers=headers, json=body, request=REQUEST)
    client = anthropic.Anthropic(api_key="canary-key", http_client=httpx.Client())
    if in_stream:  # as anthropic._streaming does
        return client._make_status_error(CANARY, body=body, response=response)
    return client._make_status_error_from_response(response)


@pytest.mark.parametrize(
    ("status", "kind", "meaning", "retryable", "service_fault"),
    [
        (400, "invalid_request_error", UpstreamRefused, False, False),
        (401, "authentication_error", UpstreamRefused, False, False),
        (404, "not_found_error", UpstreamRefused, False, False),
        (413, "request_too_large", UpstreamRefused, False, False),
        (429, "rate_limit_error", UpstreamThrottled, True, False),
        (500, "api_error", UpstreamUnavailable, True, True),
        (504, "timeout_error", UpstreamUnavailable, True, True),
        (529, "overloaded_error", UpstreamThrottled, True, False),
    ],
)
def test_anthropics_errors_are_known_by_their_status(status, kind, meaning, retryable, service_fault):
    failure = diagnose(anthropic_error(status, kind=kind))
    assert (type(failure.error), failure.retryable, failure.service_fault) == (meaning, retryable, service_fault)
    assert f"answered {status}" in failure.error.message
    assert f"(type: {kind})" in failure.error.message


def test_anthropic_says_in_a_header_how_long_to_wait():
    failure = diagnose(anthropic_error(529, kind="overloaded_error", headers={"Retry-After": "7"}))
    assert failure.retry_after_s == 7.0
    assert not failure.reached


@pytest.mark.parametrize(
    ("kind", "meaning", "retryable", "service_fault"),
    [
        ("overloaded_error", UpstreamThrottled, True, False),
        ("rate_limit_error", UpstreamThrottled, True, False),
        ("api_error", UpstreamError, False, True),
    ],
)
def test_an_error_event_of_anthropics_comes_with_the_status_200_and_means_what_its_type_says(
    kind, meaning, retryable, service_fault
):
    failure = diagnose(anthropic_error(0, kind=kind, in_stream=True))
    assert (type(failure.error), failure.retryable, failure.service_fault) == (meaning, retryable, service_fault)
    assert f"type: {kind}" in failure.error.message


@pytest.mark.parametrize(
    ("status", "meaning", "retryable"),
    [
        (400, UpstreamRefused, False),
        (404, UpstreamRefused, False),
        (429, UpstreamThrottled, True),
        (500, UpstreamUnavailable, True),
        (503, UpstreamUnavailable, True),
    ],
)
def test_ollamas_errors_are_known_by_their_status(status, meaning, retryable):
    failure = diagnose(ollama.ResponseError(json.dumps({"error": CANARY}), status))
    assert (type(failure.error), failure.retryable) == (meaning, retryable)


def test_ollamas_other_errors_tell_a_broken_answer_from_a_service_that_is_not_there():
    failure = diagnose(ollama.ResponseError(CANARY))
    assert type(failure.error) is UpstreamError
    assert "ended its answer with an error" in failure.error.message
    assert (failure.retryable, failure.service_fault) == (False, True)
    # Its client hides httpx's error behind one of Python's.
    failure = diagnose(ConnectionError("Failed to connect to Ollama. canary"))
    assert (type(failure.error), failure.retryable) == (UpstreamUnavailable, True)


@pytest.mark.parametrize(
    ("body", "meaning"),
    [
        ({"type": "server_error", "code": None}, UpstreamError),
        ({"type": "requests", "code": "rate_limit_exceeded"}, UpstreamThrottled),
        ({"type": "tokens", "code": "rate_limit_exceeded"}, UpstreamThrottled),
        ({"type": "rate_limit_error"}, UpstreamThrottled),
        ({"code": 429}, UpstreamThrottled),
        ({"code": "429"}, UpstreamThrottled),
        ({"code": 502}, UpstreamUnavailable),
        ({"code": 400}, UpstreamRefused),
        ({"code": 7}, UpstreamError),
        ({"code": True}, UpstreamError),
        ({}, UpstreamError),
    ],
)
def test_an_error_in_the_body_of_an_answer_or_of_a_stream_means_what_its_fields_say(body, meaning):
    body = {**body, "message": CANARY}
    # The first as langchain-openai raises it for an answer of 200, the second as the SDK does in a stream.
    for error in (ValueError(body), openai.APIError(CANARY, REQUEST, body=body)):
        assert type(diagnose(error).error) is meaning


@pytest.mark.parametrize("argument", [{}, "canary", ["canary"], None, 429])
def test_a_value_error_that_holds_no_error_of_a_service_is_none_of_its_business(argument):
    assert diagnose(ValueError(argument)) is None
    assert diagnose(ValueError()) is None


def google_error(status, kind="ClientError"):
    from google.genai import errors

    details = {"error": {"code": status, "message": CANARY, "status": "RESOURCE_EXHAUSTED"}}
    return getattr(errors, kind)(status, details, httpx.Response(status, json=details, request=REQUEST))


@pytest.mark.parametrize(
    ("status", "kind", "meaning", "retryable"),
    [
        (400, "ClientError", UpstreamRefused, False),
        (403, "ClientError", UpstreamRefused, False),
        (429, "ClientError", UpstreamThrottled, True),
        (500, "ServerError", UpstreamUnavailable, True),
        (503, "ServerError", UpstreamUnavailable, True),
    ],
)
def test_googles_errors_are_known_by_their_code_also_inside_langchains(status, kind, meaning, retryable):
    chat_models = pytest.importorskip("langchain_google_genai.chat_models")
    error = google_error(status, kind)
    wrapped = caused(chat_models.ChatGoogleGenerativeAIError(CANARY), google_error(status, kind))
    without_answer = google_error(status, kind)
    without_answer.response = None
    for each in (error, wrapped, without_answer):
        failure = diagnose(each)
        assert (type(failure.error), failure.retryable) == (meaning, retryable)
        assert f"answered {status}" in failure.error.message


@pytest.mark.parametrize(
    ("name", "meaning", "retryable"),
    [
        ("TooManyRequests", UpstreamThrottled, True),
        ("ServiceUnavailable", UpstreamUnavailable, True),
        ("DeadlineExceeded", UpstreamUnavailable, True),
        ("Unauthenticated", UpstreamRefused, False),
        ("InvalidArgument", UpstreamRefused, False),
    ],
)
def test_the_errors_of_googles_older_client_too(name, meaning, retryable):
    exceptions = pytest.importorskip("google.api_core.exceptions")
    failure = diagnose(getattr(exceptions, name)(CANARY))
    assert (type(failure.error), failure.retryable) == (meaning, retryable)


def aws_error(status, code, headers=None, kind="ClientError"):
    exceptions = pytest.importorskip("botocore.exceptions")
    response = {"Error": {"Code": code, "Message": CANARY}}
    if status:
        response["ResponseMetadata"] = {"HTTPStatusCode": status, "HTTPHeaders": headers or {}}
    return getattr(exceptions, kind)(response, "Converse")


@pytest.mark.parametrize(
    ("status", "code", "meaning", "retryable", "service_fault"),
    [
        (400, "ValidationException", UpstreamRefused, False, False),
        (403, "AccessDeniedException", UpstreamRefused, False, False),
        (429, "ThrottlingException", UpstreamThrottled, True, False),
        (500, "InternalServerException", UpstreamUnavailable, True, True),
        (503, "ServiceUnavailableException", UpstreamUnavailable, True, True),
    ],
)
def test_the_errors_of_amazons_client_are_known_by_their_status(status, code, meaning, retryable, service_fault):
    failure = diagnose(aws_error(status, code))
    assert (type(failure.error), failure.retryable, failure.service_fault) == (meaning, retryable, service_fault)
    assert f"(code: {code})" in failure.error.message


def test_amazons_headers_and_the_errors_in_its_streams_are_read_too():
    assert diagnose(aws_error(429, "ThrottlingException", {"retry-after": "3"})).retry_after_s == 3.0
    busy = diagnose(aws_error(None, "throttlingException", kind="EventStreamError"))
    assert (type(busy.error), busy.retryable) == (UpstreamThrottled, True)
    broken = diagnose(aws_error(None, "modelStreamErrorException", kind="EventStreamError"))
    assert (type(broken.error), broken.service_fault) == (UpstreamError, True)
    assert "ended its answer with an error (code: modelStreamErrorException)" in broken.error.message


@pytest.mark.parametrize(
    ("module", "name", "meaning", "setting"),
    [
        ("botocore.exceptions", "ConnectTimeoutError", UpstreamTimeout, "connect_timeout"),
        ("botocore.exceptions", "ReadTimeoutError", UpstreamTimeout, "read_timeout"),
        ("botocore.exceptions", "EndpointConnectionError", UpstreamUnavailable, "base_url"),
        ("botocore.exceptions", "ConnectionClosedError", UpstreamUnavailable, "base_url"),
        ("requests.exceptions", "ConnectTimeout", UpstreamTimeout, "connect_timeout"),
        ("requests.exceptions", "ReadTimeout", UpstreamTimeout, "read_timeout"),
        ("requests.exceptions", "ConnectionError", UpstreamUnavailable, "base_url"),
        ("aiohttp", "ServerTimeoutError", UpstreamTimeout, "read_timeout"),
        ("aiohttp", "ServerDisconnectedError", UpstreamUnavailable, "base_url"),
        ("builtins", "TimeoutError", UpstreamTimeout, "read_timeout"),
        ("builtins", "ConnectionResetError", UpstreamUnavailable, "base_url"),
    ],
)
def test_an_error_on_the_way_of_any_client_is_retryable(module, name, meaning, setting):
    kind = getattr(pytest.importorskip(module), name)
    error = kind(endpoint_url=CANARY, error=CANARY) if module.startswith("botocore") else kind(CANARY)
    failure = diagnose(error)
    assert type(failure.error) is meaning
    assert setting in str(failure.error)
    assert (failure.retryable, failure.service_fault) == (True, True)


def test_the_phrases_that_langflow_looks_for_are_kept_and_nothing_around_them():
    from lfx.base.models.model_remediation import REMEDIATIONS, find_remediation

    for remediation in REMEDIATIONS:
        for marker in remediation.markers:
            said = f"Unsupported value: {marker.upper()} in 'canary prompt'."
            provider = (remediation.providers or (None,))[0]
            for error in (
                sdk_error(400, body={"message": said}),
                openai.BadRequestError("canary", response=http_error(400).response, body={"message": said}),
            ):
                failure = diagnose(error)
                assert f"reason: {marker}" in failure.error.message
                found = find_remediation(str(failure.error), provider, already_applied=set())
                assert found is remediation
    assert "reason" not in str(diagnose(sdk_error(400, body={"message": "temperature must be between 0 and 2"})).error)


def test_a_refusal_keeps_its_status_for_those_who_decide_by_it():
    assert diagnose(anthropic_error(404, kind="not_found_error")).error.status == 404
    assert diagnose(ValueError({"code": 402, "message": CANARY})).error.status == 402


NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "30"}, 30.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "30"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "30"}, 30.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:14:20 GMT"}, 60.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:14:20 -0000"}, 60.0),
        ({"retry-after": "Tue, 14 Nov 2023 23:14:20 +0100"}, 60.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:00:00 GMT"}, 0.0),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after-ms": "-5"}, 0.0),
        ({"retry-after": "1e6"}, 1e6),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "12, 13"}, None),
        ({"retry-after": "Tue, 99 Nov 2023 99:99:99 GMT"}, None),
        ({"retry-after": "Tue, 14 Nov 99999 22:13:20 GMT"}, None),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:20 +99999999999999999999"}, None),
    ],
)
def test_the_time_to_wait_is_read_from_every_form_of_the_header_and_garbage_is_ignored(headers, seconds):
    assert retry_after(httpx.Headers(headers), now=NOW) == seconds
    assert diagnose(http_error(429, headers=headers), now=NOW).retry_after_s == seconds
