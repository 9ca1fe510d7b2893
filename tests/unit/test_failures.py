"""What foreign errors are taken for, as a table."""

import json

import httpx
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
    (httpx.WriteTimeout, UpstreamTimeout, "read_timeout"),
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
        (529, {}, UpstreamUnavailable, True, True, None, "529"),
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
    "error", [ValueError("x"), KeyError("x"), TimeoutError(), OSError(), ZeroDivisionError(), OtherLibrarysError()]
)
def test_other_errors_are_none_of_its_business(error):
    assert diagnose(error) is None


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
