"""The answer of a job from its events: text, reasoning and tool calls, however they are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.client import Answer, AssembledToolCall
from berlin_worker.testing import events

pytestmark = pytest.mark.unit

text = st.text(min_size=1, max_size=20)
calls = st.builds(AssembledToolCall, text, text, st.text(max_size=20))


@st.composite
def answers(draw):
    """Draw text, reasoning, tool calls, and the events that bring their pieces in any mixture."""
    said, thought = draw(st.text(max_size=20)), draw(st.text(max_size=20))
    asked = draw(st.lists(calls, max_size=3))
    queues = [
        [events.chunk(piece) for piece in said],
        [events.reasoning(piece) for piece in thought],
    ]
    for index, call in enumerate(asked):
        cut = draw(st.integers(0, len(call.arguments)))
        first = events.tool_call(call.arguments[:cut], index=index, id=call.id, name=call.name)
        rest = [events.tool_call(piece, index=index) for piece in call.arguments[cut:]]
        queues.append([first, *rest])
    mixed = []
    while queues := [queue for queue in queues if queue]:
        mixed.append(draw(st.sampled_from(queues)).pop(0))
    return said, thought, asked, mixed


def of(found):
    answer = Answer()
    for event in found:
        answer.add(event)
    return answer.text, answer.reasoning, list(answer.tool_calls.values())


@given(answers(), st.lists(st.sampled_from([events.started(), events.completed()])))
def test_answer_is_its_parts_however_they_are_cut_and_mixed(drawn, others):
    said, thought, asked, mixed = drawn
    assert of([*others, *mixed, *others]) == (said, thought, asked)


@given(answers(), answers())
def test_reset_discards_every_kind(void, valid):
    assert of([*void[3], events.reset(), *valid[3]]) == valid[:3]


@pytest.mark.parametrize(
    ("arguments", "complete"),
    [("{}", True), ('{"a": 1}', True), ('{"a"', False), ("", False), ("[" * 100_000, False)],
)
def test_call_that_was_cut_is_not_complete(arguments, complete):
    assert AssembledToolCall("c", "f", arguments).is_complete is complete


def test_call_goes_into_the_messages_of_the_next_job():
    call = AssembledToolCall("c", "f", "{}")
    function = {"name": "f", "arguments": "{}"}
    assert call.as_message_part() == {"id": "c", "type": "function", "function": function}
