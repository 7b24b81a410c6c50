"""Thinking that comes back to the loopback API: what keeps it valid, what breaks it, and what is done about it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from conversation_store.testing import Answer, MessagesAPI
from tests.testing.asking import HI, NEW, OLD, TOOL, ask, call, question, result, spoken, text

BINDING = "claude-fable-5-2"
CONTROLS = "thinking-binding-controls-2026-08-01"
BOUND = "block. The block is bound to a different conversation."
MARKER = {"type": "ephemeral"}
OTHER_TOOL = TOOL | {"name": "other"}


def thought(words: str | None = "Hm.") -> Answer:
    """Return an answer that thinks first."""
    return Answer("Yes.", thinking=words)


def conversation(api: MessagesAPI, model: str = BINDING, **parameters: Any) -> dict[str, Any]:
    """Have a conversation of three answers with thinking, and return the next request, four questions in all."""
    body = question("one", system="Be brief.", tools=[TOOL], model=model, **parameters)
    for number, following in enumerate(("two", "three", "four")):
        api.answer(thought(f"Thought {number}."))
        reply = ask(api, body)
        assert reply.status == 200, reply.error
        body["messages"] += [spoken("assistant", reply.json["content"]), spoken("user", following)]
    return body


@dataclass(frozen=True)
class Change:
    """One change to a request, and where the first block stands that does not survive it; None where all do."""

    name: str
    make: Callable[[dict[str, Any]], Any]
    broken: int | None = None


def at(message: int, change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[dict[str, Any]], Any]:
    """Change the content of one message."""
    return lambda body: change(body["messages"][message]["content"])


def drop_thinking(*messages: int) -> Callable[[dict[str, Any]], Any]:
    """Leave the thinking of some messages out."""

    def make(body: dict[str, Any]) -> None:
        for message in messages:
            del body["messages"][message]["content"][0]

    return make


CHANGES = [
    Change("nothing", lambda _: None),
    Change("more messages", lambda body: body["messages"].extend([spoken("assistant", "So."), HI])),
    Change("parameters", lambda body: body.update(max_tokens=99, metadata={"user_id": "a"}, stream=False)),
    Change("a cache marker", at(1, lambda blocks: blocks[1].update(cache_control=MARKER))),
    Change("a marker on a tool", lambda body: body["tools"][0].update(cache_control=MARKER)),
    Change("a system prompt in blocks", lambda body: body.update(system=[text("Be brief.", cache_control=MARKER)])),
    Change("a string in blocks", lambda body: body["messages"][0].update(content=[text("one")])),
    Change("a deferred tool", lambda body: body["tools"].append(OTHER_TOOL | {"defer_loading": True})),
    Change("the first thinking left out", drop_thinking(1)),
    Change("the first two left out", drop_thinking(1, 3)),
    Change("the last thinking left out", drop_thinking(5)),
    Change("all thinking left out", drop_thinking(1, 3, 5)),
    Change("the middle thinking left out", drop_thinking(3), 5),
    Change("another system prompt", lambda body: body.update(system="Be long."), 1),
    Change("no system prompt", lambda body: body.pop("system"), 1),
    Change("another tool", lambda body: body.update(tools=[OTHER_TOOL]), 1),
    Change("one tool more", lambda body: body["tools"].append(OTHER_TOOL), 1),
    Change("a tool described", lambda body: body["tools"][0].update(description="Tells the weather."), 1),
    Change("the first question", lambda body: body["messages"][0].update(content="ONE"), 1),
    Change("the second question", lambda body: body["messages"][2].update(content="TWO"), 3),
    Change("the second answer", at(3, lambda blocks: blocks[1].update(text="No.")), 5),
    Change("a block more", lambda body: body["messages"][2].update(content=[text("two"), text("more")]), 3),
    Change("a turn left out", lambda body: body["messages"].__delitem__(slice(2, 4)), 3),
    Change("the last question", lambda body: body["messages"][6].update(content="FOUR")),
]


@pytest.mark.parametrize("change", CHANGES, ids=[change.name for change in CHANGES])
def test_thinking_is_bound_to_what_precedes_it(api: MessagesAPI, change: Change) -> None:
    """What breaks the binding is refused where it is an error, dropped where that is asked for, else only told."""
    body = conversation(api)
    change.make(body)
    reply = ask(api, body)
    path = f"messages.{change.broken}.content.0"
    if change.broken is None:
        assert reply.status == 200, reply.error
    else:
        assert reply.status == 400
        assert reply.error.startswith(f"{path}: Invalid `signature` in `thinking` {BOUND} Remove the block, or set")
    binding = {"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "drop_block"}}
    dropped = ask(api, body | {"thinking": binding}, beta=CONTROLS)
    assert dropped.status == 200, dropped.error
    last = len(body["messages"]) - 1
    later = [number for number in (1, 3, 5) if change.broken is not None and change.broken <= number < last]
    assert dropped.json["input_transformations"] == [
        {"type": "thinking_dropped", "path": f"messages.{number}.content.0", "reason": "prefix_binding_mismatch"}
        for number in later
    ]
    assert list(api.requests[-1].transformations) == dropped.json["input_transformations"]


@pytest.mark.parametrize(
    ("model", "binding", "asked", "status"),
    [
        ("claude-fable-5-2", False, None, 400),
        ("claude-mythos-5-2", False, None, 400),
        (NEW, False, None, 200),
        (NEW, True, None, 400),
        (NEW, False, "error", 400),
        (NEW, True, "drop_block", 200),
        ("claude-opus-5-5", True, None, 400),
        ("claude-haiku-5-5", True, None, 400),
        ("claude-fable-5-1", True, None, 400),
        ("claude-opus-5", True, None, 200),
        ("claude-opus-5", True, "error", 200),
        (OLD, True, None, 200),
    ],
)
def test_the_model_the_account_and_the_request_decide(model: str, asked: Any, status: int, *, binding: bool) -> None:
    """Two models check always, four for newer accounts or where asked to, the others never."""
    with MessagesAPI(binding=binding) as api:
        body = conversation(api, model)
        body["messages"][0]["content"] = "ONE"
        if asked:
            body["thinking"] = {"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": asked}}
        assert ask(api, body, beta=CONTROLS).status == status
        count = {key: value for key, value in body.items() if key != "max_tokens"}
        assert ask(api, count, beta=CONTROLS, path="/v1/messages/count_tokens").status == status


def test_older_accounts_are_told(api: MessagesAPI) -> None:
    """Where a mismatch is allowed, the answer says so to those who send the beta header."""
    body = conversation(api, NEW)
    body["messages"][2]["content"] = "TWO"
    told = ask(api, body, beta=CONTROLS).json["input_transformations"]
    assert {(each["type"], each["path"]) for each in told} == {
        ("thinking_mismatch_allowed", "messages.3.content.0"),
        ("thinking_mismatch_allowed", "messages.5.content.0"),
    }
    assert "input_transformations" not in ask(api, body).json


@pytest.mark.parametrize("model", [BINDING, NEW, "claude-opus-5", OLD])
@pytest.mark.parametrize("key", ["thinking", "signature"])
def test_changed_thinking_is_refused_by_every_model(api: MessagesAPI, model: str, key: str) -> None:
    """Other words, or a damaged signature, are refused with the path of the block."""
    body = conversation(api, model)
    block = body["messages"][3]["content"][0]
    block[key] = "Thought nothing." if key == "thinking" else block[key][:-6] + "AAAA" + block[key][-2:]
    assert ask(api, body).error == "messages.3.content.0: Invalid `signature` in `thinking` block"


def test_redacted_thinking_is_sealed(api: MessagesAPI) -> None:
    """Data left out is filled in, and is bound like a signature."""
    api.answer(Answer([{"type": "redacted_thinking"}, text()]))
    content = ask(api, question(model=BINDING)).json["content"]
    body = question("Hello, Claude", content, "b", model=BINDING)
    assert ask(api, body).status == 200
    body["messages"][0]["content"] = "Hello"
    assert ask(api, body).error.startswith(f"messages.1.content.0: Invalid `data` in `redacted_thinking` {BOUND}")


@pytest.mark.parametrize(("model", "status"), [(BINDING, 400), (NEW, 200)])
def test_signatures_of_somebody_else(api: MessagesAPI, model: str, status: int) -> None:
    """A signature nobody here made is refused where thinking is bound, unless it was scripted."""
    block = {"type": "thinking", "thinking": "", "signature": "c29tZWJvZHk="}
    body = question("a", [block, text()], "b", model=model)
    assert ask(api, body).status == status
    api.answer(Answer([block, text()]))
    ask(api, question("a", model=model))
    assert ask(api, body).status == 200


def test_scripted_signatures_may_be_used_again() -> None:
    """One signature for several texts and conversations is bound to each of them."""
    with MessagesAPI(binding=True) as api:
        block = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
        for words, shown in (("a", "Hm."), ("b", "Hm."), ("c", "Oh.")):
            api.answer(Answer([block | {"thinking": shown}, text()]))
            ask(api, question(words))
        for words, shown, status in (("a", "Hm.", 200), ("b", "Hm.", 200), ("c", "Oh.", 200), ("c", "Hm.", 400)):
            assert ask(api, question(words, [block | {"thinking": shown}, text()], "d")).status == status


def test_another_process_knows_the_signatures(api: MessagesAPI) -> None:
    """What a signature is bound to stands in it: a second API checks what a first one signed."""
    body = conversation(api)
    with MessagesAPI(seed=7) as other:
        assert ask(other, body).status == 200
        body["system"] = "Be long."
        assert ask(other, body).status == 400


def test_another_model_leaves_foreign_thinking_alone(api: MessagesAPI) -> None:
    """After a change of model old thinking is no error, whatever was changed; it is dropped, and told."""
    body = conversation(api, NEW) | {"model": BINDING, "system": "Be long."}
    reply = ask(api, body, beta=CONTROLS)
    assert [each["reason"] for each in reply.json["input_transformations"]] == ["model_binding_mismatch"] * 3


@pytest.mark.parametrize("removed", [(1,), (1, 3), (1, 3, 5)])
def test_a_removed_block_that_comes_back_breaks_what_was_made_meanwhile(
    api: MessagesAPI, removed: tuple[int, ...]
) -> None:
    """Thinking left out once has to stay left out."""
    whole = conversation(api)
    short = copy.deepcopy(whole)
    drop_thinking(*removed)(short)
    api.answer(thought("Without them."))
    content = ask(api, short).json["content"]
    more = [spoken("assistant", content), spoken("user", "five")]
    assert ask(api, short | {"messages": [*short["messages"], *more]}).status == 200
    error = ask(api, whole | {"messages": [*whole["messages"], *more]}).error
    assert error.startswith("messages.7.content.0: ")
    assert error.endswith("What changed: an earlier thinking block.")


def test_thinking_in_a_tool_loop_is_bound_to_the_result(api: MessagesAPI) -> None:
    """Thinking after a result does not survive another result; the split into messages is of no account."""
    api.answer(Answer([call()], thinking="First."), thought("Then."))
    body = question("a", tools=[TOOL], model=BINDING)
    for more in (spoken("user", [result()]), HI):
        body["messages"] += [spoken("assistant", ask(api, body).json["content"]), more]
    assert ask(api, body).status == 200
    body["messages"][2:3] = [spoken("user", [result(cache_control=MARKER)])]
    assert ask(api, body).status == 200
    body["messages"][2]["content"] = [result(content="19 degrees")]
    assert ask(api, body).error.startswith("messages.3.content.0: ")


@pytest.mark.parametrize(("summarised", "kept", "status"), [(2, 2, 200), (4, 4, 200), (2, 4, 400), (4, 2, 400)])
def test_after_a_compaction_the_kept_turns_are_still_valid(
    api: MessagesAPI, summarised: int, kept: int, status: int
) -> None:
    """A compaction made on demand stands for exactly what it summarised; kept turns directly follow that."""
    beta = "compact-2026-09-04"
    body = conversation(api)
    api.answer(Answer.compaction("One was asked."))
    part = body | {"messages": body["messages"][:summarised], "compaction": {"type": "summarize"}}
    made = ask(api, part, beta=beta).json
    assert (made["stop_reason"], made["usage"]["input_tokens"]) == ("compaction", 0)
    assert made["usage"]["iterations"][0]["type"] == "compaction"
    after = [spoken("assistant", made["content"]), *body["messages"][kept:]]
    assert ask(api, body | {"messages": after}, beta=beta).status == status


@pytest.mark.parametrize(
    ("message", "words", "status"),
    [(None, "", 200), (0, "ONE", 200), (2, "TWO", 200), (6, "FOUR", 200), (8, "FIVE", 400)],
)
def test_what_stands_before_a_compaction_is_out_of_sight(
    api: MessagesAPI, message: int | None, words: str, status: int
) -> None:
    """Once a turn holds a compaction, what came before may be changed or left out; what follows may not."""
    beta = "compact-2026-01-12"
    body = conversation(api)
    compaction = {"type": "compaction", "content": "Three were asked."}
    for blocks, following in (([compaction, text("So.")], "five"), ([text("Yes.")], "six")):
        api.answer(Answer(blocks, thinking="Hm."))
        content = ask(api, body, beta=beta).json["content"]
        body["messages"] += [spoken("assistant", content), spoken("user", following)]
    if message is not None:
        body["messages"][message]["content"] = words
    reply = ask(api, body, beta=beta)
    assert reply.status == status, reply.error
    assert ask(api, body | {"messages": body["messages"][7:]}, beta=beta).status == 400  # thinking comes before it
    del body["messages"][7]["content"][0]
    assert ask(api, body, beta=beta).status == status
    assert ask(api, body | {"messages": body["messages"][7:]}, beta=beta).status == status


def test_what_a_fallback_leaves_behind_counts_for_nothing(api: MessagesAPI) -> None:
    """Thinking and calls before the switch are not sent back; what comes after is valid without them."""
    before = [{"type": "thinking", "thinking": "Hm."}, text("Well"), call()]
    after = [{"type": "thinking", "thinking": "Ah."}, text("Yes.")]
    api.answer(Answer.fallback(BINDING, after, before=before))
    content = ask(api, question("a", model="claude-fable-5-1")).json["content"]
    assert [block["type"] for block in content] == ["thinking", "text", "tool_use", "fallback", "thinking", "text"]
    kept = [content[1], *content[3:]]
    assert ask(api, question("a", kept, "b", model=BINDING)).status == 200
    assert ask(api, question("A", kept, "b", model=BINDING)).error.startswith("messages.1.content.2: ")


@pytest.mark.parametrize(
    ("model", "thinking", "words"),
    [
        (NEW, {"type": "adaptive"}, ""),
        (NEW, {"type": "adaptive", "display": "summarized"}, "Let me see what was said."),
        (NEW, {"type": "adaptive", "display": "omitted"}, ""),
        ("claude-opus-4-6", {"type": "adaptive"}, "Let me see what was said."),
        (OLD, {"type": "enabled", "budget_tokens": 1024}, "Let me see what was said."),
        (OLD, {"type": "disabled"}, None),
        (NEW, {"type": "between_tools"}, None),
        (NEW, None, None),
    ],
)
def test_the_offline_model_thinks_where_it_is_asked_to(
    api: MessagesAPI, model: str, thinking: Any, words: str | None
) -> None:
    """Thinking comes first and signed, without its words where they are not shown, and is taken back."""
    body = question(model=model, max_tokens=2000, **({"thinking": thinking} if thinking else {}))
    reply = ask(api, body)
    first, *_ = content = reply.json["content"]
    assert (first.get("thinking"), "signature" in first) == (words, words is not None)
    assert ("output_tokens_details" in reply.json["usage"]) == (words is not None)
    body["messages"] += [spoken("assistant", content), HI]
    assert ask(api, body).status == 200
