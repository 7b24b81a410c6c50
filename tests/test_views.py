"""Fork, rewind, edit, regenerate, set aside, bring back: whatever is done, a view is what a list would be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Final
from uuid import UUID

import pytest
from attrs import evolve
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from conversation_store import Client, Conversation, Store, Turn
from conversation_store.api.retry import Clock
from conversation_store.errors import BusyError, ContentError, NotFoundError
from conversation_store.record.turns import Origin
from conversation_store.testing import MessagesAPI

SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-sonnet-5-5", "max_tokens": 64}
WEATHER: Final = {"name": "weather", "input_schema": {"type": "object"}}


@pytest.fixture
def api() -> Iterator[MessagesAPI]:
    """Give a Messages API on loopback."""
    with MessagesAPI() as running:
        yield running


@pytest.fixture
def client(api: MessagesAPI) -> Iterator[Client]:
    """Give a client that tries once."""
    with Client(api.key, base_url=api.url, timeout=20, max_attempts=1, clock=Clock(sleep=lambda _: None)) as made:
        yield made


@pytest.fixture
def store(database_url: str, client: Client) -> Iterator[Store]:
    """Give a store with that client."""
    with Store(database_url, client=client) as opened:
        yield opened


@pytest.fixture
def chat(store: Store) -> Conversation:
    """Give a conversation of three questions and answers."""
    chat = store.open("telegram:42", **SETTINGS, system="Be brief.")
    for n in range(3):
        chat.user(f"question {n}")
        chat.assistant(f"answer {n}")
    return chat


def words(chat: Conversation) -> list[str]:
    """List what is sent next, from what is kept alone."""
    return [turn.text for turn in chat.turns]


def same(chat: Conversation, store: Store, expected: Sequence[str]) -> None:
    """Hold an open conversation and one just read to the same words, and to a chain that holds."""
    fresh = store.get(chat.id)
    assert words(chat) == words(fresh) == list(expected)
    assert chat.request(check=False).body == fresh.request(check=False).body
    assert chat.verify() == []


SIX: Final = ["question 0", "answer 0", "question 1", "answer 1", "question 2", "answer 2"]


def test_a_fork_goes_its_own_way(chat: Conversation, store: Store) -> None:
    """It begins as its parent does, and neither sees what the other says afterwards."""
    fork = chat.fork(at=3, key="telegram:42:fork")
    fork.user("otherwise")
    chat.user("as before")
    same(fork, store, [*SIX[:4], "otherwise"])
    same(chat, store, [*SIX, "as before"])
    assert fork.key == "telegram:42:fork"
    assert fork.settings == chat.settings
    assert [turn.conversation for turn in fork.turns] == [chat.id] * 4 + [fork.id]
    with pytest.raises(ContentError, match="key already"):
        chat.fork(key="telegram:42:fork")


def test_a_fork_of_everything_and_of_a_fork(chat: Conversation, store: Store) -> None:
    """Without a turn all of it; and forks have forks."""
    fork = chat.fork()
    fork.user("three")
    deeper = fork.fork(at=fork.turns[1])
    deepest = deeper.fork()
    same(fork, store, [*SIX, "three"])
    same(deeper, store, SIX[:2])
    same(deepest, store, SIX[:2])
    tree = deepest.tree()
    assert (tree.id, tree.key, tree.at) == (chat.id, "telegram:42", None)
    assert [(branch.id, branch.at) for branch in tree.forks] == [(fork.id, (chat.id, chat.turns[-1].position))]
    (below,) = tree.forks[0].forks
    assert (below.id, below.at) == (deeper.id, (chat.id, chat.turns[1].position))
    assert [branch.id for branch in below.forks] == [deepest.id]
    assert chat.tree() == tree


def test_going_back(chat: Conversation, store: Store) -> None:
    """What was said after a turn is not sent any more; its entries are where they were."""
    before = [turn.wire for turn in chat.turns]
    gone = chat.turns[4]
    chat.rewind(to=3)
    same(chat, store, SIX[:4])
    chat.user("otherwise")
    same(chat, store, [*SIX[:4], "otherwise"])
    assert gone.wire == before[4]
    chat.bring_back(gone)
    same(chat, store, [*SIX[:5], "otherwise"])
    chat.rewind(None)
    same(chat, store, [])


def test_saying_it_otherwise(chat: Conversation, store: Store) -> None:
    """An edited turn stands in the place of the old one, and what came after that is gone from the view."""
    turn = chat.edit(2, "another question")
    assert (turn.origin, turn.reason) == ("human", "in the place of turn 4")
    same(chat, store, [*SIX[:2], "another question"])
    synthetic = chat.edit(chat.turns[1], "another answer")
    assert synthetic.origin == "synthetic"
    same(chat, store, [SIX[0], "another answer"])
    first = chat.edit(0, "from the start")
    same(chat, store, ["from the start"])
    assert first.position < chat.version


def test_asking_once_more(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """The last answer leaves the view, its question is sent again; both answers are in the record."""
    api.answer("one answer", "another answer")
    chat.send("question 3")
    reply = chat.regenerate(max_tokens=32)
    assert reply.text == "another answer"
    same(chat, store, [*SIX, "question 3", "another answer"])
    assert api.requests[0].body["messages"] == api.requests[1].body["messages"]
    assert api.requests[1].body["max_tokens"] == 32
    chat.user("question 4")
    with pytest.raises(ContentError, match="is no answer"):
        chat.regenerate()
    for exchange, sent in zip(chat.exchanges, api.requests, strict=True):
        assert chat.replay(exchange) == sent.raw


def test_setting_aside_and_bringing_back(chat: Conversation, store: Store) -> None:
    """A turn leaves the view and comes back to its place, here and in a fork."""
    second, third = chat.turns[1], chat.turns[2]
    assert chat.set_aside(1) == [second]
    assert chat.set_aside(third) == [third]
    fork = chat.fork()
    same(chat, store, [SIX[0], *SIX[3:]])
    chat.bring_back(third)
    same(chat, store, [SIX[0], *SIX[2:]])
    chat.bring_back(second)
    same(chat, store, SIX)
    fork.bring_back(third)
    same(fork, store, [SIX[0], *SIX[2:]])
    with pytest.raises(ContentError, match="is in the view"):
        chat.bring_back(second)
    stranger = store.open("other", **SETTINGS)
    with pytest.raises(ContentError, match="another conversation"):
        chat.bring_back(stranger.user("Hello"))


def test_where_two_part(chat: Conversation) -> None:
    """The first turns both have, and what each goes on with."""
    fork = chat.fork(at=3)
    fork.user("otherwise")
    difference = chat.diff(fork)
    assert difference.common == 4
    assert [turn.text for turn in difference.mine] == SIX[4:]
    assert [turn.text for turn in difference.theirs] == ["otherwise"]
    assert fork.diff(fork.fork()).mine == ()


@pytest.mark.parametrize("wrong", [6, -7, True, "first", None])
def test_a_turn_that_is_not_there(chat: Conversation, wrong: Any) -> None:
    """Said before anything is written."""
    version = chat.version
    for act in (chat.set_aside, chat.edit) if wrong is None else (chat.fork, chat.rewind, chat.set_aside, chat.edit):
        with pytest.raises(ContentError):
            act(wrong) if act != chat.edit else chat.edit(wrong, "words")
    assert chat.version == version


def test_a_turn_that_is_set_aside_is_no_place(chat: Conversation, store: Store) -> None:
    """Nor is one of another conversation."""
    (gone,) = chat.set_aside(5)
    for act in (chat.fork, chat.rewind, chat.set_aside):
        with pytest.raises(ContentError, match="not in the view"):
            act(gone)
    other = store.open("other", **SETTINGS).user("Hello")
    with pytest.raises(ContentError, match="not in the view"):
        chat.fork(other)


def replace_origin(turn: Turn | None) -> Turn:
    """Look at a turn as if it were the prefill of its request."""
    assert turn is not None
    return evolve(turn, origin=Origin.PREFILL, header=turn.header.replace(b'"origin":"model"', b'"origin":"prefill"'))


def test_a_prefill_is_no_place(store: Store, api: MessagesAPI) -> None:
    """It belongs to its request alone; the turn it became part of is one."""
    chat = store.open("telegram:42", **{**SETTINGS, "model": "claude-haiku-4-5"})
    reply = chat.send("one", prefill="It")
    said = replace_origin(reply.turn)
    with pytest.raises(ContentError, match="is a prefill"):
        chat.fork(at=said)
    assert reply.turn is not None
    fork = chat.fork(at=reply.turn)
    assert words(fork) == words(chat)


def calling(store: Store) -> Conversation:
    """Give a conversation with two calls in one turn, answered one by one, and an answer after them."""
    chat = store.open("telegram:42", **SETTINGS, tools=[WEATHER])
    calls = [{"type": "tool_use", "id": f"toolu_{n}", "name": "weather", "input": {}} for n in range(2)]
    chat.append({"role": "user", "content": "Is it warm?"}, {"role": "assistant", "content": calls})
    chat.tool_result("toolu_0", "Yes.")
    chat.tool_result("toolu_1", "No.")
    chat.append({"role": "assistant", "content": "Half."}, {"role": "user", "content": "Thanks"})
    return chat


def test_a_call_is_not_parted_from_its_result(store: Store, api: MessagesAPI) -> None:
    """A fork or a way back inside a tool loop is refused, and says where one is possible."""
    chat = calling(store)
    version = chat.version
    for act in (chat.fork, chat.rewind):
        for at in (1, 2):
            with pytest.raises(ContentError, match="answers a call of the turns before it"):
                act(at)
    assert chat.version == version
    for at in (0, 3, 4, 5):
        fork = chat.fork(at)
        assert len(fork.turns) == at + 1
        assert not [each for each in fork.check("Well?") if each.severity == "error" and "call" in each.rule]
    gone = chat.set_aside(1)
    assert [turn.role for turn in gone] == ["assistant", "user", "user"]
    assert [turn.text for turn in chat.turns] == ["Is it warm?", "Half.", "Thanks"]
    assert chat.send().exchange.state == "answered"


def test_open_calls_go_along(store: Store) -> None:
    """Calls that nobody answered yet are open in a fork too, and may be answered otherwise there."""
    chat = store.open("telegram:42", **SETTINGS, tools=[WEATHER])
    call = {"type": "tool_use", "id": "toolu_0", "name": "weather", "input": {}}
    chat.append({"role": "user", "content": "Is it warm?"}, {"role": "assistant", "content": [call]})
    fork = chat.fork()
    assert [each.id for each in fork.open_calls] == ["toolu_0"]
    fork.tool_result("toolu_0", "Yes.")
    chat.tool_result("toolu_0", "No.")
    assert (fork.open_calls, chat.open_calls) == ((), ())
    (gone,) = chat.set_aside(2)
    assert [each.id for each in chat.open_calls] == ["toolu_0"]
    chat.bring_back(gone)
    assert chat.open_calls == ()


def test_nothing_is_changed_while_an_exchange_is_pending(chat: Conversation) -> None:
    """But a fork copies nothing and disturbs nobody."""
    pending = chat.begin("question 3")
    for act in (lambda: chat.rewind(0), lambda: chat.set_aside(0), lambda: chat.edit(0, "x")):
        with pytest.raises(BusyError):
            act()
    assert words(chat.fork(at=0)) == SIX[:1]
    pending.fail(RuntimeError("no"))


def test_a_fork_has_an_exchange_of_its_own(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """Asked in the fork, replayed in the fork; the parent's exchanges stay the parent's."""
    chat.send("question 3")
    fork = chat.fork(at=1)
    reply = fork.send("otherwise")
    assert len(fork.exchanges) == 1
    assert fork.replay(reply.exchange) == api.requests[-1].raw
    assert [message["content"] for message in api.requests[-1].body["messages"]][:3] == [*SIX[:2], "otherwise"]
    assert fork.tokens().turns[2].prefix_exact
    assert store.verify() == []


# --- a machine ---------------------------------------------------------------------------------------------------


class Views(RuleBasedStateMachine):
    """Conversations and plain lists, changed alike."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[UUID, list[tuple[UUID, int, str]]] = {}
        self.gone: dict[UUID, list[Turn]] = {}
        self.summed: dict[tuple[UUID, int], tuple[Turn, list[tuple[UUID, int, str]]]] = {}
        self.open: dict[UUID, Conversation] = {}
        self.numbers = count()

    @initialize()
    def begin(self) -> None:
        """Make the first conversation."""
        self._known(self.store.open(None, **SETTINGS), [])

    def _known(self, chat: Conversation, turns: list[tuple[UUID, int, str]]) -> None:
        self.open[chat.id], self.model[chat.id], self.gone[chat.id] = chat, turns, []

    def _pick(self, data: st.DataObject) -> Conversation:
        return self.open[data.draw(st.sampled_from(sorted(self.open)))]

    @rule(data=st.data(), size=st.integers(1, 3))
    def say(self, data: st.DataObject, size: int) -> None:
        """Append some turns."""
        chat = self._pick(data)
        for _ in range(size):
            turn = chat.user(f"{next(self.numbers)}")
            self.model[chat.id].append((turn.conversation, turn.position, turn.text))

    @precondition(lambda self: len(self.open) < 6)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        """Begin another one."""
        chat = self._pick(data)
        turns = self.model[chat.id]
        at = data.draw(st.none() | st.integers(0, len(turns) - 1)) if turns else None
        which = chat.turns[at] if at is not None and data.draw(st.booleans()) else at
        self._known(chat.fork(at=which), list(turns if at is None else turns[: at + 1]))

    @rule(data=st.data())
    def rewind(self, data: st.DataObject) -> None:
        """Go back."""
        chat = self._pick(data)
        turns = self.model[chat.id]
        to = data.draw(st.integers(0, len(turns) - 1)) if turns else None
        chat.rewind(to)
        del turns[0 if to is None else to + 1 :]

    @rule(data=st.data())
    def edit(self, data: st.DataObject) -> None:
        """Say a turn otherwise."""
        chat = self._pick(data)
        turns = self.model[chat.id]
        if turns:
            at = data.draw(st.integers(0, len(turns) - 1))
            turn = chat.edit(at, f"{next(self.numbers)}")
            old = turns[at][:2]
            if old in self.summed:  # a summary said otherwise stands for the same
                self.summed[turn.place] = (turn, self.summed[old][1])
            turns[at:] = [(turn.conversation, turn.position, turn.text)]

    @rule(data=st.data())
    def set_aside(self, data: st.DataObject) -> None:
        """Leave a turn out."""
        chat = self._pick(data)
        turns = self.model[chat.id]
        if turns:
            at = data.draw(st.integers(0, len(turns) - 1))
            self.gone[chat.id] += chat.set_aside(at)
            del turns[at]

    @rule(data=st.data())
    def bring_back(self, data: st.DataObject) -> None:
        """Let it stand in the view again: before the first later turn of its log."""
        chat = self._pick(data)
        turns, gone = self.model[chat.id], self.gone[chat.id]
        left = [turn for turn in gone if (turn.conversation, turn.position, turn.text) not in turns]
        shown = {of for of, _, _ in turns} | {chat.id}
        left = [turn for turn in left if turn.conversation in shown]
        if left:
            turn = data.draw(st.sampled_from(left))
            first = turns[0][:2] if turns and turns[0][:2] in self.summed else None
            hidden = first is not None and turn.place in {each[:2] for each in self.summed[first][1]}
            try:
                chat.bring_back(turn)
            except ContentError:
                assert turn.conversation not in {of for of, _, _ in turns} or (turn.place in self.summed and hidden)
                return
            if turn.place in self.summed:  # it takes its turns' place again, before everything else
                assert not hidden
                turns[:] = [(*turn.place, turn.text), *self._without(turns, turn.place)]
                return
            before = [
                n for n, (of, position, _) in enumerate(turns) if of == turn.conversation and position < turn.position
            ]
            after = [
                n for n, (of, position, _) in enumerate(turns) if of == turn.conversation and position > turn.position
            ]
            at = before[-1] + 1 if before else after[0] if after else len(turns)
            at = max(at, int(first is not None))  # a summary stands before everything else
            turns.insert(at, (turn.conversation, turn.position, turn.text))

    @rule(data=st.data(), keep=st.integers(0, 2))
    def compact(self, data: st.DataObject, keep: int) -> None:
        """Let a summary stand for all turns but the last ones; here each is an exchange, the last one unanswered."""
        chat = self._pick(data)
        turns = self.model[chat.id]
        end = len(turns) - keep - 1
        if end < 1 or (end == 1 and turns[0][:2] in self.summed):
            with pytest.raises(ContentError, match="nothing is left"):
                chat.compact("so far", keep_last=keep)
            return
        turn = chat.compact(f"so far {next(self.numbers)}", keep_last=keep)
        self.summed[turn.place] = (turn, turns[:end])
        turns[:end] = [(*turn.place, turn.text)]

    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        """Let the turns that a summary stands for be sent again."""
        chat = self._pick(data)
        turns = self.model[chat.id]
        shown = [n for n, turn in enumerate(turns) if turn[:2] in self.summed]
        if shown:
            n = data.draw(st.sampled_from(shown))
            turn, before = self.summed[turns[n][:2]]
            chat.bring_back(turn)
            turns[:] = [
                *self._without(turns[:n], turn.place),
                *before,
                *self._without(turns[n + 1 :], turn.place),
            ]

    def _without(self, turns: list[tuple[UUID, int, str]], summary: tuple[UUID, int]) -> list[tuple[UUID, int, str]]:
        """Leave out what a summary stands for, and what the summary stands for with which that begins."""
        _, covered = self.summed[summary]
        left = [turn for turn in turns if turn not in covered]
        return self._without(left, covered[0][:2]) if covered[0][:2] in self.summed else left

    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        """Go on with what another process would read."""
        chat = self._pick(data)
        self.open[chat.id] = self.store.get(chat.id)

    @invariant()
    def views_are_lists(self) -> None:
        """Every view is its list, of an open conversation and of one just read."""
        for of, chat in self.open.items():
            for each in (chat, self.store.get(of)):
                found = [(turn.conversation, turn.position, turn.text) for turn in each.turns]
                assert found == self.model[of]
                body = json.loads(each.request(check=False).body)
                assert [message["content"] for message in body["messages"]] == [text for _, _, text in self.model[of]]

    def teardown(self) -> None:
        """At the end every chain holds."""
        for chat in self.open.values():
            assert chat.verify() == []


@pytest.mark.parametrize("examples", [25, pytest.param(2000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_every_view_is_what_a_list_would_be(store: Store, examples: int) -> None:
    """Forks of forks, rewinds of forks, forks of rewound conversations, in any order."""

    class Here(Views):
        pass

    Here.store = store
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        ),
    )


def test_a_conversation_that_is_gone_has_no_tree(store: Store) -> None:
    """An id that nobody has."""
    with pytest.raises(NotFoundError):
        store.get(UUID(int=1))
