"""The machine's clock: wake-ups come in time, cancelled ones are forgotten."""

import threading

from langflow_sluice.guard.clock import SystemClock

HOUR_S = 3600.0
DEADLINE_S = 30.0


def test_cancelled_wake_ups_are_forgotten_long_before_they_fall_due_and_the_others_are_kept():
    clock = SystemClock()
    kept = [clock.call_at(clock.now() + HOUR_S, lambda: None) for _ in range(100)]
    for _ in range(10_000):
        clock.call_at(clock.now() + HOUR_S, lambda: None).cancel()
    assert len(clock._timers) <= 600
    assert {entry[2] for entry in clock._timers} >= set(kept)


def test_a_wake_up_comes_after_thousands_of_cancelled_ones():
    clock = SystemClock()
    woken = threading.Event()
    clock.call_at(clock.now() + HOUR_S, lambda: None)
    timer = clock.call_at(clock.now() + 0.05, woken.set)
    for _ in range(2_000):
        clock.call_at(clock.now() + 0.01, lambda: None).cancel()
    assert woken.wait(DEADLINE_S)
    assert not timer.cancelled
