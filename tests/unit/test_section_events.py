"""What the canvas sees of the nodes inside a section."""

import pytest

from langflow_sluice.sections.events import MESSAGES_PER_SECOND, SectionEvents
from langflow_sluice.testing import ManualClock


class Outer:
    """A run's event manager that notes what reaches it."""

    def __init__(self):
        self.messages = []

    def on_message(self, *, data):
        self.messages.append(data)


@pytest.fixture
def clock():
    return ManualClock()


def test_a_few_messages_a_second_pass_and_the_rest_do_not(clock):
    outer = Outer()
    events = SectionEvents(outer, clock)
    for number in range(1000):
        events.on_message(data=number)
        clock.step(0.01)
    assert outer.messages[0] == 0
    assert 9 * MESSAGES_PER_SECOND <= len(outer.messages) <= 10 * MESSAGES_PER_SECOND


@pytest.mark.parametrize(
    "name", ["on_error", "on_token", "on_log", "on_build_start", "on_end_vertex", "on_remove_message", "on_anything"]
)
def test_what_the_nodes_tell_of_themselves_ends_here(clock, name):
    events = SectionEvents(object(), clock)
    assert getattr(events, name)(data={"event": 1}) is None


def test_where_nobody_listens_a_message_goes_nowhere(clock):
    SectionEvents(None, clock).on_message(data={})


def test_it_claims_nothing_but_events(clock):
    events = SectionEvents(Outer(), clock)
    with pytest.raises(AttributeError, match="send_event"):
        events.send_event  # noqa: B018
    assert not hasattr(events, "__deepcopy__")
