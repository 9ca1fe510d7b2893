"""What a model provider says about its limits, by one cheap request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from langflow_sluice.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

REQUESTS_HEADERS = ("x-ratelimit-limit-requests", "anthropic-ratelimit-requests-limit")
_FIRST_ERROR = 400


@dataclass(frozen=True, slots=True)
class ProviderFacts:
    """What was seen of a provider.

    Attributes:
        where: Its host.
        problem: Why nothing was seen; empty if it answered.
        requests_per_minute: What its headers allow; 0 where they do not tell.
    """

    where: str
    problem: str = ""
    requests_per_minute: float = 0.0


def look_at_provider(base_url: str, api_key: str, *, timeout_s: float) -> ProviderFacts:
    """Asks for the list of models and reads the headers of the answer; never raises for the provider.

    Args:
        base_url: The API's root, such as ``https://api.openai.com/v1``.
        api_key: Goes to that host only: redirects are not followed.
        timeout_s: Seconds for each phase.

    Raises:
        InvalidInput: The address is none, or carries a password.
    """
    import httpx

    parts = urlsplit(base_url)
    if parts.username or parts.password or parts.scheme not in {"http", "https"} or not parts.hostname:
        name, fix = "provider_url", "Give one such as https://api.openai.com/v1, with the key in OPENAI_API_KEY."
        raise InvalidInput.of(name, "(not shown)", "it is no plain web address", fix=fix)
    where = parts.netloc
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        answer = httpx.get(f"{base_url.rstrip('/')}/models", headers=headers, timeout=timeout_s)
    except (httpx.HTTPError, ValueError) as exc:  # a key with a line break is a ValueError, which would show it
        return ProviderFacts(where, f"it did not answer ({type(exc).__name__})")
    if answer.status_code >= _FIRST_ERROR:
        return ProviderFacts(where, f"it answered {answer.status_code}")
    return ProviderFacts(where, requests_per_minute=_allowed(answer.headers))


def _allowed(headers: Mapping[str, str]) -> float:
    told = next((headers[name] for name in REQUESTS_HEADERS if name in headers), "")
    return float(told) if told.isascii() and told.isdigit() else 0.0
