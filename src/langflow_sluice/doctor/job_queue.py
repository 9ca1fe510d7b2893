"""Whether the queue that several workers share is there."""

from __future__ import annotations


def queue_problem(url: str, *, timeout_s: float) -> str:
    """Why the Redis at this address does not serve; empty if it does. Never raises for it, never shows the address.

    Args:
        url: Its address, which may hold a password.
        timeout_s: Seconds to connect, and again for the answer.
    """
    import redis

    try:
        client = redis.Redis.from_url(
            url, socket_connect_timeout=timeout_s, socket_timeout=timeout_s, retry=None, retry_on_timeout=False
        )
    except ValueError:
        return "its address is no address of a Redis"
    try:
        client.ping()
    except redis.AuthenticationError:
        return "it does not accept the password"
    except redis.RedisError as exc:
        return f"it does not answer ({type(exc).__name__})"
    finally:
        client.close()
    return ""
