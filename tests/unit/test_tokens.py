"""Estimates of tokens, made without a network."""

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from langflow_sluice.models.tokens import TOKENS_PER_MESSAGE, estimate_messages, estimate_text


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("x" * 400, 100)])
def test_four_characters_are_a_token_and_the_rest_rounds_up(text, tokens):
    assert estimate_text(text) == tokens


def test_every_message_has_a_share_of_its_own_and_the_longest_answer_counts_in_full():
    messages = [SystemMessage("x" * 8), HumanMessage("x" * 4)]
    assert estimate_messages(messages, None) == 2 * TOKENS_PER_MESSAGE + 2 + 1
    assert estimate_messages(messages, 500) == 2 * TOKENS_PER_MESSAGE + 2 + 1 + 500
    assert estimate_messages([], None) == 0


def test_the_texts_among_the_parts_of_a_message_count_and_pictures_do_not():
    parts = [
        "x" * 4,
        {"type": "text", "text": "x" * 8},
        {"type": "image_url", "image_url": {"url": "data:" + "x" * 99}},
    ]
    assert estimate_messages([HumanMessage(parts)], None) == TOKENS_PER_MESSAGE + 1 + 2
    assert estimate_messages([AIMessage([{"type": "text", "text": None}])], None) == TOKENS_PER_MESSAGE
