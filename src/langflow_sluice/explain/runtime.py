"""Errors of the Python process and the machine: event loops, workers, memory, names, certificates."""

from __future__ import annotations

import httpx

from langflow_sluice.explain import database, provider, redis
from langflow_sluice.explain.diagnosis import Diagnosis, Recogniser, diagnosed, recogniser
from langflow_sluice.failures import diagnose_http

ASYNCIO = "Python's event loop"
_GUNICORN = "Langflow's worker (gunicorn)"
_NETWORK = "the network"
_LOOPS = (
    "stock OpenAI models: Rate-Limited LLM, Rate-Limited Embeddings or a Guarded Model in their place",
    "nodes of your own: no asyncio.run and no client in a global variable; make clients where they are used",
)


def _http(error: Exception) -> Diagnosis:
    failure = diagnose_http(error, "The service")
    assert failure is not None  # noqa: S101 - an error of httpx
    where = ("base_url of the model's node", "the service (a local Ollama or vLLM must be running)")
    return diagnosed("connection_refused", _NETWORK, failure.error, where, is_load=False)


_REFUSED = _http(httpx.ConnectError(""))
_DATABASE = database.UNREACHABLE.diagnosis
_TIMEOUT = next(each.diagnosis for each in provider.RECOGNISERS if each.diagnosis.cause == "provider_timeout")

RECOGNISERS: tuple[Recogniser, ...] = (
    recogniser(
        Diagnosis(
            "event_loop_closed",
            ASYNCIO,
            "A client or connection made on one event loop was used after that loop had been closed.",
            "Use clients that keep one connection pool for each loop, as Sluice's nodes do; LangChain's cached OpenAI"
            " client does not, and sends the request a second time.",
            _LOOPS,
            is_load=False,
        ),
        r"\bRuntimeError\W{1,3}Event loop is closed|^\W{0,40}Event loop is closed\W{0,20}$",
        ("event loop is closed",),
    ),
    recogniser(
        Diagnosis(
            "different_event_loop",
            ASYNCIO,
            "Something made on one event loop (a lock, a client, a connection) was waited for on another.",
            "Use one client for each loop; Sluice's guards, clients and pools may be used from all loops and threads.",
            _LOOPS,
            is_load=False,
        ),
        r"\battached to a different (?:event )?loop\b|\bis bound to a different event loop\b",
        ("to a different",),
    ),
    recogniser(
        Diagnosis(
            "connection_shared_by_tasks",
            "asyncpg",
            "Two tasks used one database connection at the same time.",
            "Take a connection of the pool for each task, and none across tasks or loops.",
            ("nodes of your own: one connection or session for each call", "Pooled PG Retriever, Pooled PG Writer"),
            is_load=False,
        ),
        r"cannot perform operation: another operation is in progress",
        ("another operation is in progress",),
    ),
    recogniser(
        Diagnosis(
            "out_of_memory",
            "the machine's memory",
            "The process needed more memory than there is, and was ended or refused.",
            "Run fewer workers, give the container more memory, or let fewer big jobs in at once.",
            (
                "LANGFLOW_WORKERS",
                "the container's memory limit",
                "Fan-Out, Guarded Batch Run, Concurrency Gate: max_concurrency",
            ),
        ),
        r"\bOut of memory: Kill(?:ed)? process|\boom-kill:|\bOOMKilled\b|^\W{0,40}MemoryError\b|invoked oom-killer"
        r"|exited with code 137\b|exit code 137\b",
        ("out of memory", "oom-kill", "oomkilled", "memoryerror", "137"),
    ),
    recogniser(
        Diagnosis(
            "worker_timeout",
            _GUNICORN,
            "A worker gave no sign of life for LANGFLOW_WORKER_TIMEOUT and was killed, with all the runs in it: its"
            " event loop was blocked.",
            "Find what blocks the loop: synchronous calls in asynchronous code, big tracebacks in the log; a longer"
            " timeout only hides it.",
            (
                "nodes of your own: blocking calls (time.sleep, requests, parsing) belong in synchronous methods",
                "LANGFLOW_PRETTY_LOGS=false",
                "LANGFLOW_WORKER_TIMEOUT (300 s)",
            ),
        ),
        r"\bWORKER TIMEOUT \(pid: ?\d{1,9}\)|Worker with pid \d{1,9} was terminated due to signal 6\b"
        r"|Worker \(pid: ?\d{1,9}\) was sent SIGABRT",
        ("worker timeout", "signal 6", "sigabrt"),
    ),
    recogniser(
        Diagnosis(
            "worker_killed",
            _GUNICORN,
            "A worker was killed from outside (SIGKILL): by the kernel for want of memory, or by gunicorn after a"
            " worker timeout.",
            "If no WORKER TIMEOUT stands before it, it was memory: run fewer workers or give the container more.",
            ("LANGFLOW_WORKERS", "the container's memory limit", "LANGFLOW_WORKER_TIMEOUT"),
        ),
        r"Worker \(pid: ?\d{1,9}\) was sent SIGKILL|Worker with pid \d{1,9} was terminated due to signal 9\b",
        ("sigkill", "signal 9"),
    ),
    recogniser(
        Diagnosis(
            "too_many_open_files",
            "the machine's limit of open files",
            "The process has as many sockets and files open as it may.",
            "Find what opens connections without end (a client for each call), then raise the limit (ulimit -n).",
            ("stock models with a base URL: Guarded Model or Rate-Limited LLM share one client", "ulimit -n"),
        ),
        r"\[Errno 24\] Too many open files|\bEMFILE\b",
        ("errno 24", "emfile"),
    ),
    recogniser(
        Diagnosis(
            "certificate_or_tls",
            "the network (TLS)",
            "The two sides could not agree on an encrypted connection: the certificate is not trusted, or the other"
            " side does not speak TLS.",
            "Behind a company's proxy, add its certificate; else check http and https in the address. This is no load"
            " problem.",
            ("SSL_CERT_FILE or REQUESTS_CA_BUNDLE of the Langflow server", "base_url; sslmode in database_url"),
            is_load=False,
        ),
        r"\bCERTIFICATE_VERIFY_FAILED\b|\bSSLCertVerificationError\b|\[SSL: [A-Z0-9_]{3,60}\]|\bssl\.SSLError\b"
        r"|\bSSLError\(|certificate verify failed|server does not support SSL, but SSL was required",
        (
            "certificate_verify_failed",
            "sslcertverificationerror",
            "[ssl: ",
            "sslerror",
            "certificate verify failed",
            "ssl was required",
        ),
    ),
    recogniser(
        Diagnosis(
            "name_resolution",
            "the network (DNS)",
            "A host's name could not be looked up.",
            "Check the host in the address, and the name server of the container; inside Docker the host is the"
            " service's name. Temporary failures in a burst: the name server is overloaded.",
            ("base_url, database_url, LANGFLOW_DATABASE_URL: the host", "the container's DNS settings"),
            is_load=False,
        ),
        r"\[Errno -[235]\] |\bgetaddrinfo failed|Name or service not known|Temporary failure in name resolution"
        r"|nodename nor servname provided|\bENOTFOUND\b|\bEAI_AGAIN\b|\bNameResolutionError\b",
        (
            "errno -",
            "getaddrinfo",
            "name or service",
            "name resolution",
            "nodename nor",
            "enotfound",
            "eai_again",
            "nameresolutionerror",
        ),
    ),
    recogniser(
        _REFUSED,
        r"\bConnectionRefusedError\b|\[Errno 111\]|\bECONNREFUSED\b|\[WinError 10061\]|All connection attempts failed"
        r"|Failed to establish a new connection: \[Errno",
        (
            "connectionrefusederror",
            "errno 111",
            "econnrefused",
            "winerror 10061",
            "connection attempts failed",
            "failed to establish a new connection",
        ),
        vague=True,
        by_client={
            "database": _DATABASE,
            "redis": redis.UNREACHABLE.diagnosis,
        },
    ),
    recogniser(
        Diagnosis(
            "asyncio_timeout",
            ASYNCIO,
            "Something was given up because it took longer than its caller allowed (asyncio.wait_for or timeout).",
            "The traceback above it says what: the last frame outside of asyncio is the call to look at.",
            ("the node that the traceback names: its timeout",),
        ),
        r"\basyncio(?:\.exceptions)?\.TimeoutError\b|^\W{0,40}TimeoutError(?:: ?|\W{0,20})$",
        ("timeouterror",),
        vague=True,
        by_client={"database": _DATABASE, "redis": redis.TIMEOUT.diagnosis, "provider": _TIMEOUT},
    ),
)
