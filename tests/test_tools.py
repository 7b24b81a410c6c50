"""Tools through a conversation: calls and results, the loop that runs them, and every kind of block they bring."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import define, field
from sqlalchemy import Engine, create_engine, func, select, update

from conversation_store import Client, Conversation, Document, Image, Store, Text, ToolUse
from conversation_store.errors import (
    ConflictError,
    ContentError,
    OverloadedError,
    RuleViolationError,
    ToolOutcomeError,
    UnknownOutcomeError,
)
from conversation_store.history import History
from conversation_store.record import canonical
from conversation_store.record.blocks import KNOWN
from conversation_store.record.codec import block_of
from conversation_store.storage.engine import Database
from conversation_store.storage.tables import conversation as conversation_table
from conversation_store.storage.tables import conversation_blob
from conversation_store.testing import Answer, Fault, MessagesAPI
from conversation_store.testing.wire import Request
from tests import pictures
from tests.faulty import FaultyAPI, Sent, framed
from tests.strategies import spelled

ROOT: Final = Path(__file__).parents[1]


def tool(name: str) -> dict[str, Any]:
    """Define a tool."""
    return {"name": name, "input_schema": {"type": "object"}}


SETTINGS: Final[Mapping[str, Any]] = {
    "model": "claude-sonnet-5-5",
    "max_tokens": 64,
    "tools": [tool("add"), tool("weather"), tool("pay")],
}


def call(id_: str, name: str = "weather", **given: Any) -> dict[str, Any]:
    """Write a call of a tool."""
    return {"type": "tool_use", "id": id_, "name": name, "input": given}


@pytest.fixture
def api() -> Iterator[MessagesAPI]:
    """Give a Messages API on loopback."""
    with MessagesAPI() as running:
        yield running


@pytest.fixture
def client(api: MessagesAPI) -> Iterator[Client]:
    """Give a client that tries once."""
    with Client(api.key, base_url=api.url, timeout=20, max_attempts=1) as made:
        yield made


@pytest.fixture
def store(database_url: str, client: Client) -> Iterator[Store]:
    """Give a store with that client."""
    with Store(database_url, client=client) as opened:
        yield opened


@pytest.fixture
def chat(store: Store) -> Conversation:
    """Give a conversation with tools in which nothing was said yet."""
    return store.open("telegram:42", **SETTINGS)


@pytest.fixture
def tables(store: Store, database_url: str) -> Iterator[Engine]:
    """Reach the database past the library."""
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


def asked(api: MessagesAPI, n: int = -1) -> list[Any]:
    """List the messages of a request."""
    return list(api.requests[n].body["messages"])


def sound(store: Store, chat: Conversation) -> None:
    """Make sure that this object, a fresh one and the chain agree."""
    fresh = store.get(chat.id)
    chat.refresh()
    assert (chat.version, chat.head, chat.open_calls) == (fresh.version, fresh.head, fresh.open_calls)
    assert chat.request(check=False).body == fresh.request(check=False).body
    assert fresh.verify() == []


# --- calls and results -------------------------------------------------------------------------------------------


def test_calls_are_in_the_reply_and_open(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """reply.tool_uses lists the calls, open_calls those that wait, one by one as they are answered."""
    api.answer(Answer([{"type": "text", "text": "Let me see."}, call("toolu_1", city="Paris"), call("toolu_2", "add")]))
    reply = chat.send("Weather?")
    first, second = ToolUse("toolu_1", "weather", {"city": "Paris"}), ToolUse("toolu_2", "add", {})
    assert reply.stop_reason == "tool_use"
    assert reply.tool_uses == chat.open_calls == store.get(chat.id).open_calls == (first, second)
    chat.tool_result("toolu_2", "3")
    assert chat.open_calls == store.get(chat.id).open_calls == (first,)
    chat.tool_result("toolu_1", "18")
    assert [*chat.open_calls, *store.get(chat.id).open_calls] == []
    chat.send()
    assert not chat.open_calls
    sound(store, chat)


PICTURE: Final = pictures.png(padding=2000)
RESULTS: Final[Sequence[tuple[Any, Mapping[str, Any]]]] = (
    ("18 degrees", {"content": "18 degrees"}),
    ({"type": "text", "text": "18"}, {"content": [{"type": "text", "text": "18"}]}),
    ([Text("a"), "b", {"type": "text", "text": "c"}], {"content": [{"type": "text", "text": each} for each in "abc"]}),
    (None, {}),
    (Document.from_text("a text"), {"content": [{"type": "document", "source": Document.from_text("a text").source}]}),
    (Image.from_bytes(PICTURE), {"content": [{"type": "image", "source": Image.from_bytes(PICTURE).source}]}),
    (
        ["see", Image.from_bytes(PICTURE)],
        {"content": [{"type": "text", "text": "see"}, {"type": "image", "source": Image.from_bytes(PICTURE).source}]},
    ),
)


@pytest.mark.parametrize("result", RESULTS, ids=["text", "dict", "list", "nothing", "document", "image", "both"])
@pytest.mark.parametrize("is_error", [False, True], ids=["", "error"])
def test_a_result_can_be_anything_a_tool_says(
    chat: Conversation, store: Store, api: MessagesAPI, result: tuple[Any, Mapping[str, Any]], is_error: bool
) -> None:
    """Text, dicts, lists, pictures, documents and nothing are sent in the API's shape; the API takes them."""
    content, sent = result
    if is_error and isinstance(content, Document):
        content, sent = "no", {"content": "no"}
    api.answer(Answer([call("toolu_1")]))
    chat.send("Weather?")
    chat.tool_result("toolu_1", content, is_error)
    chat.send()
    expected = {"type": "tool_result", "tool_use_id": "toolu_1", **sent}
    assert asked(api)[2] == {"role": "user", "content": [expected | ({"is_error": True} if is_error else {})]}
    sound(store, chat)


def test_results_are_gathered_into_one_message_first_in_it(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """Whatever the user says in between and after, the results come first, in order, in one user message."""
    api.answer(Answer([call("toolu_1"), call("toolu_2"), call("toolu_3")]))
    chat.send("Weather?")
    chat.user("Are you there?")
    chat.tool_result("toolu_2", "two")
    chat.user("Hello?", Image.from_bytes(PICTURE))
    chat.tool_result("toolu_1", ["one", Image.from_bytes(PICTURE)])
    chat.tool_result("toolu_3", is_error=True)
    chat.send("Well?")
    assert [message["role"] for message in asked(api)] == ["user", "assistant", "user"]
    content = asked(api)[2]["content"]
    assert [block.get("tool_use_id", block.get("text", block["type"])) for block in content] == [
        "toolu_2",
        "toolu_1",
        "toolu_3",
        "Are you there?",
        "Hello?",
        "image",
        "Well?",
    ]
    assert [turn.origin.value for turn in chat.turns[2:6]] == ["human", "tool", "human", "tool"]
    assert chat.replay(chat.exchanges[-1]) == api.requests[-1].raw
    sound(store, chat)


def test_results_said_in_one_go(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """Results may be given as content of send or append, with words after them, beside those given one by one."""
    api.answer(Answer([call("toolu_1"), call("toolu_2")]))
    chat.send("Weather?")
    chat.tool_result("toolu_1", "one")
    chat.send({"type": "tool_result", "tool_use_id": "toolu_2", "content": "two"}, "And now?")
    assert [message["role"] for message in asked(api)] == ["user", "assistant", "user"]
    assert [block["type"] for block in asked(api)[2]["content"]] == ["tool_result", "tool_result", "text"]
    sound(store, chat)


def test_results_given_by_send_come_before_what_the_user_said(
    chat: Conversation, store: Store, api: MessagesAPI
) -> None:
    """The user's words between a result given alone and one given by send stand after both."""
    api.answer(Answer([call("toolu_1"), call("toolu_2")]))
    chat.send("Weather?")
    chat.tool_result("toolu_1", "one")
    chat.user("Well?")
    chat.send({"type": "tool_result", "tool_use_id": "toolu_2", "content": "two"})
    kinds = [block["type"] for message in asked(api)[2:] for block in message["content"]]
    assert kinds == ["tool_result", "tool_result", "text"]
    sound(store, chat)


@pytest.mark.parametrize("wrong", ["toolu_9", "toolu_1", ""], ids=["unknown", "answered", "empty"])
def test_a_result_nobody_asked_for_is_refused(chat: Conversation, api: MessagesAPI, wrong: str) -> None:
    """A result with another id is refused before it is written, in the API's words, by each door."""
    api.answer(Answer([call("toolu_1"), call("toolu_2")]))
    chat.send("Weather?")
    chat.tool_result("toolu_1", "one")
    version = chat.version
    with pytest.raises(RuleViolationError, match="unexpected `tool_use_id`"):
        chat.tool_result(wrong, "x")
    result = {"type": "tool_result", "tool_use_id": wrong, "content": "x"}
    refused = "must have a single result" if wrong == "toolu_1" else "unexpected `tool_use_id`"
    with pytest.raises(RuleViolationError, match=refused):
        chat.send({**result, "tool_use_id": "toolu_2"}, result)
    assert chat.version == version
    assert len(api.requests) == 1


def test_an_open_call_forbids_the_next_request(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """Sending before every call is answered is refused with the API's text; so does check() say."""
    api.answer(Answer([call("toolu_1"), call("toolu_2")]))
    chat.send("Weather?")
    chat.tool_result("toolu_1", "one")
    version = chat.version
    text = "`tool_use` ids were found without `tool_result` blocks immediately after: toolu_2"
    with pytest.raises(RuleViolationError, match=text):
        chat.send("And?")
    with pytest.raises(RuleViolationError, match=text), chat.stream():
        pass
    with pytest.raises(RuleViolationError, match=text):
        store.get(chat.id).begin()
    assert (chat.version, len(api.requests)) == (version, 1)
    chat.tool_result("toolu_2")
    assert chat.send("And?").text
    sound(store, chat)


def test_calls_by_stream_are_the_same(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """A streamed call has the input the model wrote, and is answered like any other."""
    api.answer(Answer([call("toolu_1", city="Zürich", days=[1, 2.50])]))
    with chat.stream("Weather?") as stream:
        reply = stream.reply
    assert reply.tool_uses == chat.open_calls == (ToolUse("toolu_1", "weather", {"city": "Zürich", "days": [1, 2.5]}),)
    chat.tool_result("toolu_1", "rain")
    assert chat.send().text == "The tool answered: rain."
    sound(store, chat)


# --- toolsets ----------------------------------------------------------------------------------------------------


def test_members_of_toolsets(chat: Conversation, store: Store, api: MessagesAPI, tables: Engine) -> None:
    """Results echo toolset_name, are run by toolset.name, and a screenshot is stored once however often it comes."""
    chat.update(tools=[{"type": "computer_toolset_20260801"}, tool("screenshot")])
    shots = [{**call(f"toolu_{n}", "screenshot"), "toolset_name": "computer"} for n in range(3)]
    api.answer(Answer(shots), Answer([call("toolu_own", "screenshot")]), "Done.")
    chat.send("Look")
    chat.run_tools({"computer.screenshot": lambda: Image.from_bytes(PICTURE), "screenshot": lambda: "my own"})
    results = [block for message in asked(api) if message["role"] == "user" for block in message["content"][:3]][-4:]
    assert [block.get("toolset_name") for block in results] == ["computer"] * 3 + [None]
    assert [block["content"][0]["type"] for block in results[:3]] == ["image"] * 3
    assert results[3]["content"] == "my own"
    with tables.connect() as connection:
        assert connection.execute(select(func.count()).select_from(conversation_blob)).scalar() == 1
    sound(store, chat)


# --- the loop ----------------------------------------------------------------------------------------------------


def two_rounds(request: Request) -> Answer:
    """Call two tools at once, then a third, then say what came."""
    results = {
        block["tool_use_id"]: block.get("content")
        for message in request.body["messages"]
        if message["role"] == "user" and isinstance(message["content"], list)
        for block in message["content"]
        if block["type"] == "tool_result"
    }
    if not results:
        both = [call("toolu_1", "add", a=1, b=2), call("toolu_2", "pay", x=9)]
        return Answer([{"type": "text", "text": "Both."}, *both])
    if "toolu_3" not in results:
        return Answer([call("toolu_3", "weather", city="Paris")])
    return Answer(f"{results['toolu_1']} {results['toolu_2']} {results['toolu_3']}")


@define
class Tools:
    """Tools that count how often they ran."""

    ran: Counter[str] = field(factory=Counter)

    def add(self, a: int, b: int) -> int:
        """Add."""
        self.ran["add"] += 1
        return a + b

    def pay(self, x: int) -> str:
        """Have an effect."""
        self.ran["pay"] += 1
        return f"paid {x}"

    def weather(self, city: str) -> Mapping[str, Any]:
        """Look out of the window."""
        self.ran["weather"] += 1
        return {"city": city, "degrees": 18}

    def by_name(self) -> dict[str, Callable[..., Any]]:
        """List them as run_tools takes them."""
        return {"add": self.add, "pay": self.pay, "weather": self.weather}


SAID: Final = '3 paid 9 {"city":"Paris","degrees":18}'


def test_the_loop_runs_until_no_more_is_called(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """Each round is an exchange; parallel calls are answered in one message; the last reply comes back."""
    api.answer(two_rounds, two_rounds, two_rounds)
    chat.send("Go")
    tools = Tools()
    reply = chat.run_tools(tools.by_name(), max_rounds=5, max_tokens=50)
    assert reply.text == SAID
    assert tools.ran == {"add": 1, "pay": 1, "weather": 1}
    assert [exchange.state.value for exchange in chat.exchanges] == ["answered"] * 3
    assert [message["role"] for message in asked(api)] == ["user", "assistant"] * 2 + ["user"]
    assert [each.body["max_tokens"] for each in api.requests] == [64, 50, 50]
    again = chat.run_tools(tools.by_name())
    assert again == reply
    assert (tools.ran.total(), len(api.requests)) == (3, 3)
    sound(store, chat)


def boom() -> None:
    """Fail."""
    raise ValueError("out of cheese")


RETURNED: Final[Sequence[tuple[Callable[..., Any], Mapping[str, Any]]]] = (
    (lambda: "words", {"content": "words"}),
    (lambda: None, {}),
    (lambda: {"degrees": 18}, {"content": '{"degrees":18}'}),
    (lambda: [1, "two", None], {"content": '[1,"two",null]'}),
    (lambda: 3.5, {"content": "3.5"}),
    (lambda: True, {"content": "true"}),
    (lambda: {"type": "text", "text": "a"}, {"content": [{"type": "text", "text": "a"}]}),
    (lambda: [Text("a"), {"type": "text", "text": "b"}], {"content": [{"type": "text", "text": x} for x in "ab"]}),
    (list, {"content": "[]"}),
    (lambda: Path("a"), {"content": "a"}),
    (boom, {"content": "ValueError: out of cheese", "is_error": True}),
    (lambda needed: needed, {"is_error": True}),
    (lambda: [{"type": "no such kind"}], {"is_error": True}),
    (lambda: "", {"content": ""}),
    (lambda: {1: 2}, {"content": "{1: 2}"}),
    (lambda: {"type": "image", "source": {"type": "base64"}}, {"is_error": True}),
)


@pytest.mark.parametrize("n", range(len(RETURNED)), ids=lambda n: str(RETURNED[n][1])[:30])
def test_what_a_function_returns_or_raises_is_the_result(
    chat: Conversation, store: Store, api: MessagesAPI, n: int
) -> None:
    """Text, blocks, other JSON and nothing are results as they are; an exception is an error result."""
    function, result = RETURNED[n]
    api.answer(Answer([call("toolu_1")]), "Done.")
    chat.send("Weather?")
    assert chat.run_tools({"weather": function}).text == "Done."
    sent = asked(api)[2]["content"][0]
    assert sent | result == sent
    assert sent.get("is_error", False) == result.get("is_error", False)
    sound(store, chat)


def test_an_unknown_tool_is_an_error_result(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """A call of a tool nobody has, or with an input that is no object, is answered with an error."""
    api.answer(Answer([call("toolu_1", "add", a=1)]), "Sorry.")
    chat.send("Go")
    assert chat.run_tools({}).text == "Sorry."
    result = asked(api)[2]["content"][0]
    assert (result["is_error"], result["content"]) == (True, "there is no tool add")
    sound(store, chat)


def test_the_loop_ends_after_max_rounds(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """A model that never stops calling is stopped; its last calls stay open and can be gone on with."""
    numbers = iter(range(100))
    api.answer(*[lambda _: Answer([call(f"toolu_{next(numbers)}")]) for _ in range(5)])
    chat.send("Go")
    reply = chat.run_tools({"weather": lambda: "rain"}, max_rounds=3)
    assert len(api.requests) == 4
    assert reply.tool_uses == chat.open_calls
    assert len(chat.open_calls) == 1
    chat.run_tools({"weather": lambda: "rain"}, max_rounds=1)
    assert len(api.requests) == 5
    sound(store, chat)


def test_a_refusal_ends_the_loop(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """Its results are set aside, so that the calls are open again; they are not run again unasked."""
    api.answer(Answer.calls(("add", {"a": 1, "b": 2})), Answer.refusal(), "3.")
    chat.send("What is 1 + 2?")
    ran: list[int] = []
    reply = chat.run_tools({"add": lambda a, b: ran.append(a + b)})
    assert (reply.refused, ran, len(api.requests)) == (True, [3], 2)
    assert chat.retry().text == "3."
    sound(store, chat)


def test_without_a_call_there_is_nothing_to_run(chat: Conversation, api: MessagesAPI) -> None:
    """An empty conversation has nothing to run; one that was answered gives its last reply."""
    with pytest.raises(ContentError, match="no call to answer"):
        chat.run_tools({})
    reply = chat.send("Hello, Claude")
    assert chat.run_tools({}) == reply
    assert len(api.requests) == 1


# --- crashes -----------------------------------------------------------------------------------------------------


class KilledError(BaseException):
    """Ends a worker at once: nothing that comes after is done."""


@define
class Steps:
    """
    The steps of a worker that reach outside, and the one at which it is killed.

    Attributes:
        armed: Before or after which step: twice its number, one more for after; None for never.
        taken: How many steps were taken.
    """

    armed: int | None = None
    taken: int = 0
    dead: bool = False

    def around(self, patch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        """Make every call of a method a step."""
        real = getattr(owner, name)

        def step(*given: Any, **named: Any) -> Any:
            if self.dead:
                raise KilledError
            number = self.taken
            self.taken += 1
            self._reach(2 * number)
            result = real(*given, **named)
            self._reach(2 * number + 1)
            return result

        patch.setattr(owner, name, step)

    def _reach(self, moment: int) -> None:
        if moment == self.armed:
            self.dead = True
            raise KilledError


def crashed(url: str, api: MessagesAPI, key: str, armed: int | None, effects: Sequence[str]) -> tuple[Steps, Tools]:
    """Begin a conversation, and run its tools until the armed moment, in a store of its own."""
    tools, steps = Tools(), Steps(armed)
    with Client(api.key, base_url=api.url, max_attempts=1) as client, Store(url, client=client) as store:
        chat = store.open(key, **SETTINGS)
        chat.send("Go")
        with pytest.MonkeyPatch.context() as patch:
            steps.around(patch, Database, "write")
            steps.around(patch, Client, "send")
            if armed is None:
                assert chat.run_tools(tools.by_name(), effects=effects).text == SAID
            else:
                with pytest.raises(KilledError):
                    chat.run_tools(tools.by_name(), effects=effects)
    return steps, tools


@pytest.mark.parametrize("effects", [(), ("pay",)], ids=["", "effects"])
def test_the_loop_goes_on_after_a_crash_at_any_step(
    database_url: str, api: MessagesAPI, tables: Engine, effects: Sequence[str]
) -> None:
    """Killed before or after any write or send, another process goes on: answered calls are not run again."""
    api.otherwise = two_rounds
    steps, _ = crashed(database_url, api, "undisturbed", None, effects)
    moments = 2 * steps.taken
    assert moments >= 2 * (3 + 2 * 3)
    asked_twice = 0
    for armed in range(moments):
        _, tools = crashed(database_url, api, f"chat {armed}", armed, effects)
        with tables.begin() as connection:
            connection.execute(update(conversation_table).values(lease_until=0))
        with Client(api.key, base_url=api.url, max_attempts=1) as client, Store(database_url, client=client) as store:
            chat = store.get(f"chat {armed}")
            answered = tools.ran - Counter({KNOWN_AS[each.id]: 1 for each in chat.open_calls})
            if chat.pending is not None:
                with pytest.raises(UnknownOutcomeError):
                    chat.run_tools(tools.by_name(), effects=effects)
                chat.recover("resend")
            try:
                reply = chat.run_tools(tools.by_name(), effects=effects)
            except ToolOutcomeError as error:
                asked_twice += (error.name, error.call) == ("pay", "toolu_2")
                reply = chat.run_tools(tools.by_name(), effects=effects, rerun=True)
            else:
                assert "pay" not in effects or tools.ran["pay"] == 1
            assert reply.text == SAID, armed
            assert all(tools.ran[name] == 1 for name in answered), (armed, tools.ran)
            assert max(tools.ran.values()) <= 2
            assert chat.open_calls == ()
            assert chat.verify() == []
    assert bool(asked_twice) == bool(effects)


KNOWN_AS: Final = {"toolu_1": "add", "toolu_2": "pay", "toolu_3": "weather"}


def test_effects_are_not_had_twice_unasked(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """A tool with effects that was begun is answered by its caller, or run again when told to, never by itself."""
    api.answer(two_rounds, two_rounds, two_rounds)
    chat.send("Go")
    tools = Tools()

    def dying(x: int) -> str:
        tools.pay(x)
        raise KilledError

    with pytest.raises(KilledError):
        chat.run_tools({**tools.by_name(), "pay": dying}, effects={"pay"})
    for _ in range(2):
        with pytest.raises(ToolOutcomeError, match="may have run") as caught:
            store.get(chat.id).run_tools(tools.by_name(), effects={"pay"})
        assert (caught.value.call, caught.value.name) == ("toolu_2", "pay")
    assert tools.ran == {"add": 1, "pay": 1}
    fresh = store.get(chat.id)
    fresh.tool_result("toolu_2", "paid 9")
    assert fresh.run_tools(tools.by_name(), effects={"pay"}).text == SAID
    assert tools.ran == {"add": 1, "pay": 1, "weather": 1}
    sound(store, fresh)


def test_two_workers_do_not_both_begin_an_effect(
    chat: Conversation, store: Store, api: MessagesAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both found that nobody had begun it; the one that is later with saying so does not run it."""
    api.answer(Answer.calls(("pay", {"x": 1})))
    chat.send("Pay.")
    other = store.get("telegram:42")
    ran: list[str] = []
    look = History.was_begun

    def die(x: int) -> None:
        ran.append(f"other {x}")
        raise KilledError

    def outrun(known: History, which: ToolUse) -> bool:
        found = look(known, which)
        monkeypatch.setattr(History, "was_begun", look)
        with pytest.raises(KilledError):
            other.run_tools({"pay": die}, effects=["pay"])
        return found

    monkeypatch.setattr(History, "was_begun", outrun)
    with pytest.raises(ConflictError):
        chat.run_tools({"pay": lambda x: ran.append(f"this {x}")}, effects=["pay"])
    assert ran == ["other 1"]
    with pytest.raises(ToolOutcomeError):
        chat.refresh().run_tools({"pay": lambda x: ran.append(f"this {x}")}, effects=["pay"])
    sound(store, chat)


def test_a_fault_in_the_loop_is_tried_again_without_running_tools(
    chat: Conversation, store: Store, api: MessagesAPI
) -> None:
    """Where the API fails in a round, the results are in the record, and running again only sends."""
    api.answer(two_rounds, Fault.status(529), two_rounds, two_rounds)
    chat.send("Go")
    tools = Tools()
    with pytest.raises(OverloadedError):
        chat.run_tools(tools.by_name())
    assert chat.open_calls == ()
    assert store.get(chat.id).run_tools(tools.by_name()).text == SAID
    assert tools.ran == {"add": 1, "pay": 1, "weather": 1}
    sound(store, chat)


WORKER: Final = """
import os, signal, sys
from conversation_store import Client, Store
url, api, moment = sys.argv[1:]
def die(): os.kill(os.getpid(), signal.SIGKILL)
def add(a, b): return a + b
def pay(x):
    if moment == "in a tool": die()
    return f"paid {x}"
def weather(city):
    if moment == "in the second round": die()
    return {"city": city, "degrees": 18}
real = Client.send
def send(self, *given, **named):
    answer = real(self, *given, **named)
    if moment == "before finish": die()
    return answer
Client.send = send
with Client("sk-ant-loopback", base_url=api) as client, Store(url, client=client) as store:
    store.get("telegram:42").run_tools({"add": add, "pay": pay, "weather": weather}, effects={"pay"})
"""


@pytest.mark.parametrize("moment", ["in a tool", "before finish", "in the second round"])
def test_the_loop_goes_on_after_sigkill(
    chat: Conversation, store: Store, database_url: str, api: MessagesAPI, moment: str
) -> None:
    """A real process is killed in the loop, and this one goes on where it stopped."""
    api.otherwise = two_rounds
    chat.send("Go")
    command = [sys.executable, "-W", "error", "-c", WORKER, database_url, api.url, moment]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (-9, b"")
    chat = store.get(chat.id)
    tools = Tools()
    if moment == "before finish":
        chat.recover("resend")
    if moment == "in a tool":
        with pytest.raises(ToolOutcomeError):
            chat.run_tools(tools.by_name(), effects={"pay"})
    assert chat.run_tools(tools.by_name(), effects={"pay"}, rerun=True).text == SAID
    again = {"weather": 1, **({"pay": 1} if moment == "in a tool" else {})}
    assert tools.ran == again
    sound(store, chat)


# --- tools of the API's own --------------------------------------------------------------------------------------


def message(content: Sequence[Any], stop_reason: str, seed: int = 0, **fields: Any) -> bytes:
    """Write an answer in a spelling of its own."""
    whole = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5", "content": 0}
    rest = {"stop_reason": stop_reason, "usage": {"input_tokens": 1, "output_tokens": 1}, **fields}
    head = json.dumps({**whole, **rest}).encode()
    return head.replace(b'"content": 0', b'"content": ' + spelled(content, seed))


def content_of(body: bytes) -> bytes:
    """Cut the content of a message out of its bytes."""
    member = canonical.members(body)["content"]
    return body[member.start : member.end]


SEARCH: Final = {"type": "web_search_20250305", "name": "web_search"}
CODE: Final = {"type": "code_execution_20260120", "name": "code_execution"}
SEARCHING: Final = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "ants"}}
FOUND: Final = {
    "type": "web_search_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": [
        {"type": "web_search_result", "url": "https://example.com", "title": "Ants", "encrypted_content": "RWE="}
    ],
}


def test_a_mixed_turn_waits_for_its_server_tool(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """A server call and a client call in one turn: results alone go back, and the server's result comes next."""
    chat.update(tools=[SEARCH, tool("weather")])
    first = message([SEARCHING, call("toolu_1")], "tool_use", 1)
    second = message([FOUND, {"type": "text", "text": "Ants it is."}], "end_turn", 2)
    api.answer(first, second)
    reply = chat.send("Search")
    assert [each.id for each in reply.tool_uses] == [each.id for each in chat.open_calls] == ["toolu_1"]
    assert chat.run_tools({"weather": lambda: "rain"}).text == "Ants it is."
    chat.send("Thanks")
    for answer in (first, second):
        assert content_of(answer) in api.requests[-1].raw
    assert [each["role"] for each in asked(api)] == ["user", "assistant", "user", "assistant", "user"]
    sound(store, chat)


def test_a_programmatic_call_keeps_its_caller_and_container(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """While code waits for a call, the container goes along with the results; `caller` stays byte for byte."""
    chat.update(tools=[CODE, {**tool("weather"), "allowed_callers": ["code_execution_20260120"]}])
    code = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "code_execution", "input": {"code": "weather()"}}
    asking = {**call("toolu_1"), "caller": {"type": "code_execution_20260120", "tool_id": "srvtoolu_1"}}
    ran = {"type": "code_execution_result", "stdout": "rain", "stderr": "", "return_code": 0, "content": []}
    done = {"type": "code_execution_tool_result", "tool_use_id": "srvtoolu_1", "content": ran}
    container = {"id": "container_1", "expires_at": "2099-01-01T00:00:00Z", "skills": None}
    first = message([code, asking], "tool_use", 3, container=container)
    second = message([done, {"type": "text", "text": "Rain."}], "end_turn", 4, container=container)
    api.answer(first, Fault.status(529), second)
    reply = chat.send("Weather?")
    assert reply.tool_uses[0].caller == asking["caller"]
    assert reply.fields["container"] == container
    chat.tool_result("toolu_1", "rain")
    assert store.get(chat.id).request().params["container"] == "container_1"
    fork = chat.fork()
    assert fork.request().params["container"] == "container_1"
    with pytest.raises(OverloadedError):
        chat.send()
    assert store.get(chat.id).send().text == "Rain."
    assert [each.body.get("container") for each in api.requests] == [None, "container_1", "container_1"]
    assert content_of(first) in api.requests[-1].raw
    chat.refresh()
    assert [chat.replay(each) for each in chat.exchanges] == [each.raw for each in api.requests]
    chat.send("Thanks", container="another")
    assert api.requests[-1].body["container"] == "another"
    sound(store, chat)


def test_blocks_of_mcp_servers_are_kept(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """Listings, calls and results of MCP servers go back byte for byte, and are no calls of the caller's."""
    blocks = [
        {"type": "mcp_tool_listing", "mcp_server_name": "s", "tools": [{"name": "t", "input_schema": {"a": 1.50}}]},
        {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "t", "server_name": "s", "input": {"b": 1, "a": None}},
        {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "content": "plain", "is_error": False},
        {"type": "text", "text": "So."},
    ]
    answer = message(blocks, "end_turn", 5)
    with MessagesAPI(strict=False) as lenient:
        lenient.answer(answer)
        with Client(lenient.key, base_url=lenient.url) as client, Store(store._database.engine, client=client) as other:
            same = other.get(chat.id)
            assert same.send("Go").tool_uses == ()
            assert same.open_calls == ()
            same.send("Thanks")
        assert content_of(answer) in lenient.requests[-1].raw


# --- every kind of block -----------------------------------------------------------------------------------------

SOURCE: Final = Image.from_bytes(PICTURE).source
PDF: Final = Document.from_bytes(pictures.pdf()).source
PLAIN: Final = {"type": "text", "text": "found"}
CITED: Final = {"type": "web_search_result_location", "cited_text": "a", "encrypted_index": "RQ==", "title": None}

NEW: Final[Mapping[str, Any]] = {"type": "a kind of next year", "x": [1.0, {"y": None}]}
NARRATED: Final[Mapping[str, Any]] = {"type": "connector_text", "connector_text": "narration", "signature": "c2ln"}
CHANGES: Final = (
    {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "add"}},
    {"type": "tool_removal", "tool": {"type": "mcp_toolset_reference", "server_name": "s"}},
)
COMPACTED: Final[Mapping[str, Any]] = {"type": "compaction", "content": "So far.", "tool_changes": list(CHANGES)}
FETCHED: Final[Mapping[str, Any]] = {
    "type": "web_fetch_result",
    "url": "u",
    "content": {"type": "document", "source": PDF, "title": None, "citations": {"enabled": True}},
    "retrieved_at": None,
}
REFERENCE: Final[Mapping[str, Any]] = {"type": "tool_reference", "tool_name": "f"}

USER: Final[Sequence[Mapping[str, Any]]] = (
    COMPACTED,
    {"type": "text", "text": "Look:\u2028 \U0001f41c"},
    {"type": "image", "source": SOURCE, "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}, "transformations": None},
    {"type": "document", "source": PDF, "title": None, "context": "c"},
    {"type": "document", "source": {"type": "content", "content": [PLAIN, {"type": "image", "source": SOURCE}]}},
    {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
    {"type": "search_result", "source": "s", "title": "t", "content": [PLAIN]},
    {"type": "container_upload", "file_id": "file_2"},
    NARRATED,
    NEW,
)
MODEL: Final[Sequence[Mapping[str, Any]]] = (
    {"type": "compaction", "content": None, "encrypted_content": "RQ==", "signature": "cw==", "tool_changes": None},
    {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}, "trigger": {"type": "refusal"}},
    {"type": "thinking", "thinking": "", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "ZGF0YQ=="},
    COMPACTED,
    NARRATED,
    {"type": "text", "text": "So.", "citations": None},
    {"type": "text", "text": "And so.", "citations": [{**CITED, "url": "https://example.com"}]},
    SEARCHING,
    FOUND,
    *(
        block
        for n, (kind, name, content) in enumerate(
            (
                ("web_fetch_tool_result", "web_fetch", FETCHED),
                ("code_execution_tool_result", "code_execution", {"type": "encrypted_code_execution_result"}),
                ("bash_code_execution_tool_result", "bash_code_execution", {"type": "bash_code_execution_result"}),
                ("text_editor_code_execution_tool_result", "text_editor_code_execution", {"type": "x", "num_lines": 1}),
                ("tool_search_tool_result", "tool_search_tool_regex", {"tool_references": [REFERENCE]}),
                ("advisor_tool_result", "advisor", {"type": "advisor_result", "text": "yes", "stop_reason": None}),
            ),
            2,
        )
        for block in (
            {"type": "server_tool_use", "id": f"srvtoolu_{n}", "name": name, "input": {}},
            {"type": kind, "tool_use_id": f"srvtoolu_{n}", "content": content},
        )
    ),
    {"type": "mcp_tool_listing", "mcp_server_name": "s", "tools": []},
    {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "t", "server_name": "s", "input": {}},
    {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "content": "plain", "is_error": True},
    {"type": "mcp_tool_use", "id": "mcptoolu_2", "name": "t", "server_name": "s", "input": {"b": 1, "a": 2}},
    {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_2", "content": [PLAIN], "is_error": False},
    {"type": "container_upload", "file_id": "file_3"},
    NEW,
    {**call("toolu_1", b=1, a=12345678901234567890), "caller": {"type": "direct"}},
    {**call("toolu_2", "screenshot"), "toolset_name": "browser"},
    {**call("toolu_3"), "toolset_name": None},
    call("toolu_4"),
    call("toolu_5"),
)
RESULT_BLOCKS: Final[Sequence[Sequence[Mapping[str, Any]]]] = (
    [{"type": "text", "text": "t"}, {"type": "image", "source": SOURCE}, {"type": "document", "source": PDF}],
    [{"type": "image", "source": SOURCE}, {"type": "browser_state", "tabs": [], "state_changes": None}],
    [REFERENCE],
    [{"type": "search_result", "source": "s", "title": "t", "content": [PLAIN], "citations": {"enabled": True}}],
    [NEW],
)
SYSTEM: Final = ({"type": "text", "text": "From now on:"}, *CHANGES, NEW)

_CALLED: Final = ("thinking", "redacted_thinking", "server_tool_use", "tool_use", "fallback", "advisor_tool_result")
PLACES: Final[Mapping[str, str]] = {
    "text": "user assistant system result nested",
    "image": "user result nested",
    "document": "user result nested",
    "search_result": "user result",
    "tool_result": "user",
    **dict.fromkeys(_CALLED, "assistant"),
    **dict.fromkeys((kind for kind in KNOWN if kind.endswith("_tool_result")), "assistant"),
    "container_upload": "user assistant",
    "tool_reference": "result nested",
    "browser_state": "result",
    **dict.fromkeys(("mcp_tool_use", "mcp_tool_result", "mcp_tool_listing"), "assistant"),
    "compaction": "user assistant",
    "tool_addition": "system nested",
    "tool_removal": "system nested",
    "connector_text": "user assistant",
    "a kind of next year": "user assistant system result",
}
"""Where each kind of block may stand. Source: Messages API documentation, content blocks, 2026-11."""


def places_of(messages: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    """Find where each kind of block stands: whose message, a tool's result, or nested in another block."""
    found: dict[str, set[str]] = {}

    def note(value: object, place: str) -> None:
        if isinstance(value, list):
            for each in value:
                note(each, place)
        elif isinstance(value, dict):
            kind = value.get("type")
            known = isinstance(kind, str) and kind in PLACES
            if known:
                found.setdefault(str(kind), set()).add(place)
            for each in value.values():
                note(each, "result" if kind == "tool_result" else "nested" if known else place)

    for message in messages:
        note(message["content"], message["role"])
    return found


def said(blocks: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Give blocks as a caller says them, who must mean it where a kind is not known."""
    return [block if block["type"] in KNOWN else block_of(block) for block in blocks]


@pytest.mark.parametrize("seed", range(3))
def test_every_kind_of_block_survives(database_url: str, seed: int) -> None:
    """A transcript with every kind of block is stored, resumed in another store, and sent byte for byte the same."""
    answer = message(MODEL, "tool_use", seed)
    answers = iter([answer])
    last = message([{"type": "text", "text": "Done."}], "end_turn")

    def sent(_: bytes) -> Sent:
        return Sent(framed(next(answers, last), "length").wire)

    with FaultyAPI(sent) as api:
        with Client("sk-ant-loopback", base_url=api.url) as client, Store(database_url, client=client) as store:
            chat = store.open("telegram:42", **SETTINGS)
            chat.send(*said(USER), check=False)
            for use, content in zip(chat.open_calls, RESULT_BLOCKS, strict=True):
                chat.tool_result(use.id, said(content))
            chat.append({"role": "system", "content": said(SYSTEM)}, check=False)
            here = chat.request(check=False).body
        with Client("sk-ant-loopback", base_url=api.url) as client, Store(database_url, client=client) as store:
            chat = store.get("telegram:42")
            assert chat.request(check=False).body == here
            reply = chat.send(check=False)
            assert reply.text == "Done."
            assert api.bodies[-1] == here == chat.replay(reply.exchange)
            assert store.verify() == []
    body = json.loads(here)
    assert PLACES.keys() == KNOWN.keys() | {"connector_text", "a kind of next year"}
    assert {kind: " ".join(sorted(places)) for kind, places in places_of(body["messages"]).items()} == {
        kind: " ".join(sorted(places.split())) for kind, places in PLACES.items()
    }
    assert content_of(answer) in here
    assert canonical.dumps(list(USER)) in here
    results = body["messages"][2]["content"]
    assert [each["content"] for each in results] == list(RESULT_BLOCKS)
    assert [each.get("toolset_name", "-") for each in results] == ["-", "browser", "-", "-", "-"]
    assert canonical.dumps(list(SYSTEM)) in here
