"""Where the cluster's Redis is, and what of its address is shown."""

from __future__ import annotations

import pytest

from langflow_sluice.cluster.redis_settings import RedisSettings, redis_settings
from langflow_sluice.errors import InvalidInput

CANARY = "canary"
QUEUE = {"LANGFLOW_JOB_QUEUE_TYPE": "redis"}
CACHE = {"LANGFLOW_CACHE_TYPE": "redis"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLUICE_REDIS_URL": " "},
        {"SLUICE_REDIS_PREFIX": "x", "SLUICE_REDIS_TIMEOUT": "2"},
        # Not in force in Langflow without the type.
        {"LANGFLOW_REDIS_URL": "redis://cache", "LANGFLOW_REDIS_QUEUE_URL": "redis://queue"},
        {"LANGFLOW_JOB_QUEUE_TYPE": "asyncio", "LANGFLOW_CACHE_TYPE": "memory", "LANGFLOW_REDIS_HOST": "cache"},
    ],
)
def test_where_none_is_configured_there_is_none(environment: dict[str, str]) -> None:
    assert redis_settings(environment) is None


@pytest.mark.parametrize(
    ("environment", "url", "variable"),
    [
        ({**QUEUE, **CACHE, "SLUICE_REDIS_URL": "redis://own:1/2"}, "redis://own:1/2", "SLUICE_REDIS_URL"),
        (
            {**QUEUE, "LANGFLOW_REDIS_QUEUE_URL": "redis://queue", "LANGFLOW_REDIS_QUEUE_HOST": "other"},
            "redis://queue",
            "LANGFLOW_REDIS_QUEUE_URL",
        ),
        (
            {**QUEUE, **CACHE, "LANGFLOW_REDIS_QUEUE_HOST": "queue", "LANGFLOW_REDIS_QUEUE_PORT": "7"},
            "redis://queue:7/1",
            "LANGFLOW_REDIS_QUEUE_HOST",
        ),
        (
            {**QUEUE, "LANGFLOW_REDIS_HOST": "cache", "LANGFLOW_REDIS_PORT": "8", "LANGFLOW_REDIS_QUEUE_DB": "3"},
            "redis://cache:8/3",
            "LANGFLOW_REDIS_QUEUE_HOST",
        ),
        ({**QUEUE, "LANGFLOW_REDIS_URL": "redis://cache"}, "redis://localhost:6379/1", "LANGFLOW_REDIS_QUEUE_HOST"),
        ({**CACHE, "LANGFLOW_REDIS_URL": "redis://cache"}, "redis://cache", "LANGFLOW_REDIS_URL"),
        (
            {**CACHE, "LANGFLOW_REDIS_HOST": "::1", "LANGFLOW_REDIS_DB": "4"},
            "redis://[::1]:6379/4",
            "LANGFLOW_REDIS_HOST",
        ),
    ],
)
def test_our_own_comes_before_the_queues_and_that_before_the_caches(
    environment: dict[str, str], url: str, variable: str
) -> None:
    settings = redis_settings(environment)
    assert settings is not None
    assert (settings.url, settings.variable) == (url, variable)


def test_langflow_knows_these_settings_with_these_defaults() -> None:
    from lfx.services.settings.base import Settings

    fields = Settings.model_fields
    assert fields["redis_host"].default == "localhost"
    assert fields["redis_port"].default == 6379
    assert fields["redis_db"].default == 0
    assert fields["redis_queue_db"].default == 1
    assert {"redis_url", "redis_queue_url", "redis_queue_host", "redis_queue_port"} <= set(fields)
    assert {"job_queue_type", "cache_type"} <= set(fields)


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("redis://", "localhost:6379/0"),
        (f"redis://:{CANARY}@example.com", "example.com:6379/0"),
        (f"rediss://{CANARY}:{CANARY}@example.com:7/5?ssl_cert_reqs=none", "example.com:7/5"),
        (f"redis://example.com:7/5?db=2&password={CANARY}", "example.com:7/2"),
        (f"redis://{CANARY}:{CANARY}@[::1]:7", "[::1]:7/0"),
        (f"unix://{CANARY}:{CANARY}@/run/redis.sock?db=3", "/run/redis.sock/3"),
        ("redis://h?socket_timeout=9&retry_on_timeout=yes&max_connections=900", "h:6379/0"),
    ],
)
def test_a_label_and_the_repr_tell_the_place_and_no_login(url: str, label: str) -> None:
    settings = RedisSettings(url)
    assert settings.label == label
    assert label in repr(settings)
    for shown in (repr(settings), str(settings), f"{settings}", settings.label):
        assert CANARY not in shown


@pytest.mark.parametrize(
    ("url", "shown", "problem"),
    [
        (CANARY, "***", "does not start with"),
        (f"http://{CANARY}@h", "http://***@h", "does not start with"),
        (f"redis://:{CANARY}/x@h:1/0", "redis://***@h:1/0", "cannot be taken apart"),
        (f"redis://:{CANARY}#x@h:1/0", "redis://***@h:1/0", "cannot be taken apart"),
        (f"redis://:{CANARY}?x@h:1/0", "redis://***", "cannot be taken apart"),
        (f"redis://:12/{CANARY}@h:1/0", "redis://***@h:1/0", "cannot be taken apart"),
        (f"redis://h?password={CANARY}@x", "redis://***", "cannot be taken apart"),
        (f"redis://:{CANARY}", "redis://***", "cannot be taken apart"),
        (f"redis://{CANARY}:{CANARY}", "redis://***", "cannot be taken apart"),
        (f"redis://:{CANARY}@[::1", "redis://***", "cannot be taken apart"),
        (f"redis://:{CANARY}@h:1/{CANARY}", "redis://***", "database is not a number"),
        (f"redis://:{CANARY}@h:1/-1", "redis://***", "database is not a number"),
        (f"redis://:{CANARY} x@h:1/0", "redis://***@h:1/0", "spaces or control characters"),
        (f"redis://:{CANARY}\n@h:1/0", "redis://***@h:1/0", "spaces or control characters"),
        (f"unix://:{CANARY}@", "unix://***@", "names no socket"),
        (f"redis://:{CANARY}@h?ssl_cert_reqs=none", "redis://***@h", "is for TLS"),
        (f"rediss://:{CANARY}@h?ssl_cert_reqs={CANARY}", "rediss://***@h", "none of those"),
        (f"redis://:{CANARY}@h?{CANARY}2=1", "redis://***@h", "no option of that name"),
        ("rediss://h?ssl_cert_req=none", "rediss://h", "no option 'ssl_cert_req'"),
    ],
)
def test_a_wrong_address_is_refused_without_showing_what_may_be_a_password(url: str, shown: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        redis_settings({"SLUICE_REDIS_URL": url})
    assert caught.value.message.startswith(f"SLUICE_REDIS_URL is {shown!r}: ")
    assert problem in caught.value.message
    assert caught.value.hint
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("variable", ["LANGFLOW_REDIS_PORT", "LANGFLOW_REDIS_DB"])
def test_a_wrong_port_or_database_of_langflows_is_named(variable: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{variable} is 'x': it is no number"):
        redis_settings({**CACHE, variable: "x"})


@pytest.mark.parametrize("prefix", ["a b", "a\tb", "{a}", "}", "a\n", "x" * 65, " "])
def test_a_prefix_that_no_key_can_have_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidInput, match=r"^SLUICE_REDIS_PREFIX is "):
        redis_settings({"SLUICE_REDIS_URL": "redis://h", "SLUICE_REDIS_PREFIX": prefix})


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "61", "soon"])
def test_a_timeout_that_would_not_end_is_refused(timeout: str) -> None:
    with pytest.raises(InvalidInput, match=f"^SLUICE_REDIS_TIMEOUT is '{timeout}'"):
        redis_settings({"SLUICE_REDIS_URL": "redis://h", "SLUICE_REDIS_TIMEOUT": timeout})


def test_prefix_and_timeout_are_read_and_have_defaults() -> None:
    given = {"SLUICE_REDIS_URL": "redis://h", "SLUICE_REDIS_PREFIX": "team:a", "SLUICE_REDIS_TIMEOUT": "0.25"}
    settings = redis_settings(given)
    assert settings == RedisSettings("redis://h", prefix="team:a", timeout_s=0.25)
    assert hash(settings) == hash(RedisSettings("redis://h", prefix="team:a", timeout_s=0.25))
    usual = redis_settings({"SLUICE_REDIS_URL": "redis://h"})
    assert usual is not None
    assert (usual.prefix, usual.timeout_s) == ("sluice", 1.0)


def test_the_environment_of_the_process_is_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_REDIS_URL", "redis://of-the-process")
    settings = redis_settings()
    assert settings is not None
    assert settings.label == "of-the-process:6379/0"
