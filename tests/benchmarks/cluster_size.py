"""What a guard costs Redis when a thousand workers share it: bytes, and microseconds for each script.

Run it: ``uv run python tests/benchmarks/cluster_size.py``. The workers are played by one process that sends what they
would send; figures are printed, nothing is asserted.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from langflow_sluice.cluster.exchange import NUMBER_OF_KEYS, Answer, Ask, keys, script
from langflow_sluice.embedded.redis import EmbeddedRedis

CALLS_OF_EACH = 20
CAP_OF_EACH = 4
LEASE_S = 600.0
GUARD, PREFIX = "0" * 24, "sluice"
NOTHING = Ask(
    fence=0,
    released=0,
    known=0,
    waiting=(0, 0, 0),
    tokens=(),
    limits="",
    seen=0,
    number=0,
    events=(),
    correction=0.0,
    longest_probe_s=60.0,
)


class Crowd:
    """Workers that share one guard.

    Args:
        server: Their Redis.
        size: How many there are.
    """

    def __init__(self, server: EmbeddedRedis, size: int) -> None:
        self._client = server.client()
        self._sha = self._client.script_load(script())
        self._keys = keys(PREFIX, GUARD)
        # Half of those who want a call must wait: each exchange hands permits over to somebody else.
        self._ask = replace(NOTHING, limits=f"{size * CAP_OF_EACH // 2}|0|0|0")
        self.workers = {secrets.token_hex(8): replace(self._ask) for _ in range(size)}

    def exchange(self, worker: str, ask: Ask) -> None:
        arguments = ask.arguments(worker, GUARD, PREFIX, lease_s=LEASE_S, server_run="benchmark", uncertain_s=0.0)
        answer = Answer.of(self._client.evalsha(self._sha, NUMBER_OF_KEYS, *self._keys, *arguments))
        self.workers[worker] = replace(ask, fence=answer.fence, known=answer.granted, number=ask.number + 1)

    def round(self) -> None:
        """Each worker ends a call, if it has one, and wants the next."""
        for worker, ask in list(self.workers.items()):
            ended = min(ask.known, ask.released + 1)
            event = ("o:0:0",) if ended > ask.released else ()
            self.exchange(worker, replace(ask, released=ended, waiting=(0, CAP_OF_EACH, 0), events=event))

    def bytes(self) -> dict[str, int]:
        found = {name.rsplit(":", 1)[1]: self._client.memory_usage(name, samples=0) for name in self._keys}
        return {part: size for part, size in found.items() if size}

    def close(self) -> None:
        self._client.flushall()
        self._client.close()


def measure(server: EmbeddedRedis, size: int) -> None:
    crowd = Crowd(server, size)
    crowd.round()
    server.reset_commandstats()
    for _ in range(max(2, CALLS_OF_EACH * 100 // size)):
        crowd.round()
    spent = server.commandstats()
    ours, handed_over = spent["evalsha"], spent["publish"]
    found = crowd.bytes()
    print(
        f"{size:5} workers: {ours.total_us / ours.calls:6.1f} us a script, {handed_over.calls / ours.calls:.2f} "
        f"messages for each, {sum(found.values()):7} bytes, {sum(found.values()) / size:.0f} a worker ({found})"
    )
    crowd.close()


if __name__ == "__main__":
    with EmbeddedRedis() as redis_server:
        for workers in (1, 10, 100, 1000):
            measure(redis_server, workers)
