"""What Langflow itself says, on the canvas and in its log, and the proxies in front of it."""

from __future__ import annotations

from langflow_sluice.explain.diagnosis import Diagnosis, Recogniser, recogniser

LANGFLOW = "Langflow"
_PROXY = "the proxy or load balancer in front of Langflow"
_STREAM = "call /api/v1/run?stream=true, or /api/v2/workflows with mode=background for long work"

RECOGNISERS: tuple[Recogniser, ...] = (
    recogniser(
        Diagnosis(
            "event_stream_overflow",
            "Langflow's event stream",
            "A run made more events than the canvas took: the stream holds 256, and the run fails beyond that.",
            "Let the run make fewer events: use Fan-Out or Guarded Batch Run instead of Loop for many rows.",
            ("Fan-Out (its body's events are thinned out) in place of Loop", "/api/v2/workflows with mode=background"),
        ),
        r"event stream exceeded buffering capacity",
        ("exceeded buffering capacity",),
    ),
    recogniser(
        Diagnosis(
            "workflow_timeout",
            LANGFLOW,
            "A run took longer than Langflow's ceiling for workflows.",
            "Make the slow node faster or run it in the background; raise the ceiling if it is meant to be so slow.",
            ("LANGFLOW_WORKFLOW_EXECUTION_TIMEOUT (300 s)", "/api/v2/workflows with mode=background"),
        ),
        r"\bWorkflow execution timed out\b|Workflow run .{1,100} exceeded \d{1,9}(?:\.\d{1,6})?s execution ceiling",
        ("workflow execution timed out", "execution ceiling"),
    ),
    recogniser(
        Diagnosis(
            "server_busy",
            LANGFLOW,
            "The canvas asked Langflow for a sign of life and got none in time: its event loop was blocked, or no"
            " connection of its own database pool came free.",
            "Look into the server's log at that time for pool timeouts, worker timeouts and failing calls: they are the"
            " cause, this is how it shows.",
            (
                "LANGFLOW_DB_CONNECTION_SETTINGS: pool_size, max_overflow",
                "LANGFLOW_PRETTY_LOGS=false: with pretty logs a failed call takes 10 s of CPU",
                "nodes of your own with blocking calls (time.sleep, requests): make them synchronous methods",
                "LANGFLOW_WORKERS",
            ),
        ),
        # Providers say "The server is busy" too; Langflow says it without the article.
        r"(?<!the )\bServer is busy\W{1,3}Please wait|wait a few moments while the server processes your request"
        r"|^\W{0,40}Server is busy\W{0,20}$",
        ("server is busy", "while the server processes"),
    ),
    recogniser(
        Diagnosis(
            "gateway_timeout",
            _PROXY,
            "The proxy gave up waiting for Langflow's answer (nginx and AWS load balancers after 60 s by default); the"
            " run itself goes on.",
            "Set the proxy's read timeout above the longest run and LANGFLOW_WORKER_TIMEOUT, or stream, so that"
            " something is sent meanwhile.",
            (
                "nginx: proxy_read_timeout, proxy_send_timeout; AWS load balancer: idle timeout",
                _STREAM,
                "LANGFLOW_WORKER_TIMEOUT (300 s): above what the nodes may take",
            ),
        ),
        r"\b504 Gateway[ -]Time-?out|\b504 Server Error: Gateway|upstream timed out \(\d{1,5}: |HTTP/\d(?:\.\d)?\" 504 "
        r"|status(?:[ _]?code)?['\"]?\W{1,3}504\b|\bGATEWAY_TIMEOUT\b",
        ("504", "upstream timed out", "gateway_timeout"),
    ),
    recogniser(
        Diagnosis(
            "bad_gateway",
            _PROXY,
            "The proxy found nobody at Langflow's port, or Langflow hung up in the middle: a worker was killed or is"
            " not up yet.",
            "Look into Langflow's log for worker timeouts, memory and failed starts.",
            ("LANGFLOW_WORKER_TIMEOUT, LANGFLOW_WORKERS", "the container's memory limit"),
        ),
        r"\b502 Bad Gateway|upstream prematurely closed connection|connect\(\) failed \(\d{1,5}: Connection refused\)"
        r" while connecting to upstream|no live upstreams while",
        ("502", "upstream prematurely closed", "connecting to upstream", "no live upstreams"),
    ),
    recogniser(
        Diagnosis(
            "canvas_lost_the_server",
            LANGFLOW,
            "The canvas got no answer from Langflow: a proxy cut the request off (after 60 s by default), or the"
            " worker was killed.",
            "Find out which: a 504 or 502 in the proxy's log, or a worker timeout in Langflow's.",
            ("nginx: proxy_read_timeout; AWS load balancer: idle timeout", "LANGFLOW_WORKER_TIMEOUT"),
        ),
        r"Network error\. Please check the connection to the server",
        ("please check the connection to the server",),
    ),
)
