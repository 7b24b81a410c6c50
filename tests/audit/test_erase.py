"""What is erased is gone, wherever the library copied it; the chain and every other replay stay."""

from __future__ import annotations

import logging
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import pairwise
from typing import Any, Final, TypedDict

import pytest
from attrs import define, field
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, event

from conversation_store import Client, Conversation, Image, Store, Turn
from conversation_store.audit import erase as erasing
from conversation_store.errors import (
    APIError,
    BusyError,
    CodecError,
    ConfigurationError,
    ConflictError,
    ContentError,
    HeldError,
    IdempotencyError,
    LeaseLostError,
    TransferError,
    UnknownOutcomeError,
)
from conversation_store.record import erasure as records
from conversation_store.record.chain import draft
from conversation_store.record.turns import fields_of
from conversation_store.storage import engine, identity, log, search
from conversation_store.storage import erasure as storage
from conversation_store.testing import Answer, Fault, MessagesAPI
from tests import pictures
from tests.audit import canaries

SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-haiku-4-5", "max_tokens": 64}


class Why(TypedDict):
    """Who erases, and why."""

    reason: str
    by: str


WHY: Final[Why] = {"reason": "asked for it", "by": "a clerk"}
PIN: Final = "4711"
MARK: Final = "#PIN#"
PICTURE: Final = pictures.png(8, 8, padding=5000)


@define
class Place:
    """A store whose client speaks to the loopback API, and where it is kept."""

    store: Store
    api: MessagesAPI
    url: str
    texts: list[bytes] = field(factory=list)


@contextmanager
def opened(url: str, **options: Any) -> Iterator[Place]:
    """Open a store on a loopback API."""
    with (
        MessagesAPI(strict=False) as api,
        Client(api_key=api.key, base_url=api.url, max_attempts=1) as client,
        Store(url, client=client, **options) as store,
    ):
        yield Place(store, api, url)


@pytest.fixture
def place(database_url: str) -> Iterator[Place]:
    """Give a store on each engine in turn."""
    with opened(database_url) as found:
        yield found


# --- what goes and what stays ------------------------------------------------------------------------------------


def test_a_turn_goes_and_the_rest_is_replayed(place: Place) -> None:
    """Requests that held the turn lose their replay, all others keep it; the chain verifies, in forks as well."""
    place.api.answer("One.", "Two.", "Three.", "In the fork.")
    chat = place.store.open("k", **SETTINGS)
    chat.send("first")
    before = chat.replay(chat.exchanges[0])
    chat.send("second SECRETWORD")
    chat.send("third")
    fork = chat.fork(1)
    fork.send("without it")
    forked = fork.replay(fork.exchanges[0])
    both = chat.fork()

    preview = chat.erase(2, **WHY, preview=True)
    assert chat.refresh().turns[2].text == "second SECRETWORD"
    erasure = chat.erase(2, **WHY)

    held = [(chat.id, each.position) for each in chat.exchanges[1:]]
    assert erasure.exchanges == preview.exchanges == tuple(held)
    assert erasure.turns == preview.turns
    assert len(erasure.turns) == 1
    assert erasure.size == len(b'{"role":"user","content":"second SECRETWORD"}')
    assert [turn.text for turn in chat.turns] == ["first", "One.", "Two.", "third", "Three."]
    assert [turn.text for turn in both.refresh().turns] == ["first", "One.", "Two.", "third", "Three."]
    assert chat.replay(chat.exchanges[0]) == before
    assert fork.replay(fork.exchanges[0]) == forked
    for exchange in chat.exchanges[1:]:
        with pytest.raises(CodecError, match="erased"):
            chat.replay(exchange)
    assert b"SECRETWORD" not in chat.request(check=False).body
    assert place.store.search("secretword") == []
    assert place.store.verify() == []
    assert chat.erase(erasing_place(erasure.turns[0]), **WHY).content == ()


def erasing_place(where: tuple[Any, int]) -> Any:
    """Name a turn by its place, as a hit of a search does."""

    @define
    class Hit:
        conversation: Any
        position: int

    return Hit(*where)


def test_the_entry_says_what_went_who_and_why(place: Place) -> None:
    """The log tells of an erasure in runs of positions; who and why are in its about."""
    place.api.answer("One.")
    chat = place.store.open("k", **SETTINGS)
    chat.user("a"), chat.user("b")
    chat.send("c")
    erasure = chat.erase(0, 1, **WHY)
    entry = chat._history.entry(chat.version - 2)
    assert entry.kind == "erased"
    ((_, request),) = erasure.exchanges
    told = fields_of(entry.header)
    assert told["erased"] == {"content": [[2, 3]], "request": [[request, request]]}
    assert set(told) == {"about", "erased"}
    assert entry.about == b'{"by":"a clerk","reason":"asked for it"}'


@given(st.sets(st.integers(0, 60)), st.integers(-1, 61))
def test_runs_name_what_they_were_made_of(positions: set[int], asked: int) -> None:
    """Runs are ascending, apart from each other, and hold just their positions."""
    runs = records.runs(positions)
    assert all(first <= last for first, last in runs)
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(runs))
    gone = records.Gone.read([records.fields(positions, ())])
    assert gone.holds("content", asked) == (asked in positions)
    assert not gone.holds("request", asked)


@pytest.mark.parametrize("header", [{}, {"erased": 1}, {"erased": {"content": [[1], [True, 2], "x", [1, 2, 3]]}}])
def test_what_is_no_run_names_nothing(header: dict[str, Any]) -> None:
    """A hostile header explains nothing."""
    assert not records.Gone.read([header]).holds("content", 1)


def test_an_attachment_goes_with_its_last_use(place: Place) -> None:
    """A picture that another turn uses stays; with its last use its bytes go."""
    one, two = (place.store.open(key, **SETTINGS) for key in ("a", "b"))
    one.user(Image.from_bytes(PICTURE), "this")
    two.user(Image.from_bytes(PICTURE), "that")
    assert one.erase(0, **WHY).blobs == 0
    assert picture_of(two.turns[0]) == PICTURE
    erasure = two.erase(0, **WHY)
    assert (erasure.blobs, erasure.blob_size) == (1, len(PICTURE))
    assert sha256(PICTURE).digest() not in set(canaries.values(place.url))
    assert place.store.verify() == []
    one.user(Image.from_bytes(PICTURE), "again")
    assert picture_of(one.turns[-1]) == PICTURE


def picture_of(turn: Turn) -> bytes | None:
    """Read the picture that a turn begins with."""
    block = turn.content[0]
    assert isinstance(block, Image)
    return block.data


def test_a_prefill_and_its_answer_go_together(place: Place) -> None:
    """The prefill's words are in the answer: erasing either erases both, and the outcome that digests them."""
    place.api.answer("FIRST)", "SECOND)")
    chat = place.store.open("k", **SETTINGS)
    chat.send("a", prefill="It is (")
    chat.send("b", prefill="It was (")
    erasure = chat.erase(1, **WHY)
    kinds = [chat._history.entry(position).kind for _, position in erasure.content]
    assert sorted(kinds) == ["outcome", "turn", "turn"]
    prefill = chat.as_seen_by(chat.exchanges[1])[-1]
    assert len(chat.erase(prefill, **WHY).turns) == 2
    assert [turn.text for turn in chat.turns] == ["a", "b"]
    with pytest.raises(CodecError, match="erased"):
        chat.replay(chat.exchanges[1])
    assert place.store.verify() == []


@pytest.mark.parametrize("prefilled", [True, False])
def test_a_broken_answer_goes_with_the_one_that_went_on_from_it(place: Place, prefilled: bool) -> None:
    """What had arrived of an answer is kept by its exchange and quoted in the next: all of it goes."""
    spoken = "PARTIALWORD " * 40
    place.api.answer(Fault.cut(after=1200, answer=spoken), "goes on")
    chat = place.store.open("k", **(SETTINGS if prefilled else {**SETTINGS, "model": "claude-sonnet-5-5"}))
    with pytest.raises(APIError), chat.stream("tell me") as stream:
        list(stream)
    assert "PARTIALWORD" in chat.partial_text(chat.exchanges[-1])
    chat.recover("keep_partial")
    assert canaries.words_left(place.store, place.url, ["PARTIALWORD"])
    assert chat.turns[-1].text.endswith("goes on")
    chat.erase(-1, **WHY)
    assert canaries.words_left(place.store, place.url, ["PARTIALWORD"]) == set()
    assert [turn.text for turn in chat.turns] == ["tell me"]
    assert place.store.verify() == []


def test_title_and_metadata_go_when_asked(place: Place) -> None:
    """All that was ever a title goes; a later title is another one."""
    chat = place.store.open("k", **SETTINGS)
    chat.label(title="CANARYTITLE")
    chat.label(title="Later", metadata={"who": "CANARYNAME"})
    assert chat.erase(labels=True, **WHY).labels == 2
    assert (chat.title, dict(chat.metadata)) == (None, {})
    assert canaries.words_left(place.store, place.url, ["CANARYTITLE", "CANARYNAME"]) == set()
    chat.label(title="New")
    assert place.store.get("k").title == "New"
    assert place.store.verify() == []


def test_summaries_are_named_and_left(place: Place) -> None:
    """A summary that stands after an erased turn may hold it in other words: the receipt names it."""
    chat = place.store.open("k", **SETTINGS)
    chat.user("SECRETWORD")
    chat._history.append([summary("they said something")])
    chat.refresh()
    erasure = chat.erase(0, **WHY)
    assert erasure.summaries == ((chat.id, 3),)
    assert chat.turns[0].text == "they said something"


def summary(words: str) -> Any:
    """Write a summary turn."""
    body = b'{"role":"user","content":"%s"}' % words.encode()
    fields = {"origin": "summary"}
    return draft("turn", at=identity.now(), salt=identity.new_salt(), fields=fields, body=body)


def test_all_of_a_conversation_goes(place: Place) -> None:
    """Turns, settings, key, labels, errors and who asked by which key: what is left has no words."""
    place.api.answer("CANARYANSWER")
    place.api.fail(Fault.status(400, message="CANARYERROR"))
    chat = place.store.open("CANARYKEY", **SETTINGS, system="CANARYSYSTEM")
    chat.label(title="CANARYTITLE", metadata={"a": "CANARYNOTE"})
    chat.send("CANARYUSER", idempotency_key="CANARYIDEMPOTENT", prefill="CANARYPREFILL")
    with pytest.raises(APIError):
        chat.send("more", stop_sequences=["CANARYSTOP"])
    fork = chat.fork(key="fork")
    fork.user("mine")
    words = [
        f"CANARY{each}"
        for each in ("KEY", "SYSTEM", "TITLE", "NOTE", "USER", "IDEMPOTENT", "PREFILL", "STOP", "ANSWER", "ERROR")
    ]
    place.store.search("canaryuser")
    # The fork began with a copy of the parent's settings: they are its own.
    assert set(words) - canaries.words_left(place.store, place.url, words) == set()
    erasure = place.store.erase("CANARYKEY", **WHY)
    assert canaries.words_left(place.store, place.url, words) == {"CANARYSYSTEM"}
    assert erasure.keys == (chat.id,)
    assert [turn.text for turn in fork.refresh().turns] == ["mine"]
    assert place.store.verify() == []
    assert place.store.erase(chat.id, **WHY).content == ()
    assert place.store.open("CANARYKEY", **SETTINGS).id != chat.id
    again = place.store.get(chat.id)
    again.update(**SETTINGS)
    place.api.answer("Goes on.")
    assert again.send("Hello").text
    assert again.replay(again.exchanges[-1])
    assert place.store.verify() == []


def test_a_whole_scope(place: Place) -> None:
    """Everything of a scope goes when everything is said; nothing of another scope does."""
    with Store(place.url, scope="other") as other:
        other.open("a", **SETTINGS).user("stays")
        for key in "abc":
            place.store.open(key, **SETTINGS).user("goes")
        for wrong in ((), ("a",)):
            with pytest.raises(ContentError, match="which"):
                place.store.erase(*wrong, everything=bool(wrong), **WHY)
        assert len(place.store.erase(everything=True, **WHY).keys) == 3
        assert canaries.words_left(other, place.url, ["goes", "stays"]) == {"stays"}


# --- bad input and what is in the way ----------------------------------------------------------------------------


def test_bad_input_is_refused_before_anything_is_written(place: Place) -> None:
    """No turn, another conversation's, no reason, nobody: each a typed error, and nothing changes."""
    chat, other = (place.store.open(key, **SETTINGS) for key in ("a", "b"))
    turn = chat.user("one")
    other.user("two")
    wrong: list[Callable[[], object]] = [
        lambda: chat.erase(**WHY),
        lambda: chat.erase(7, **WHY),
        lambda: chat.erase("one", **WHY),  # type: ignore[arg-type]
        lambda: chat.erase(other.turns[0], **WHY),
        lambda: chat.erase(erasing_place((chat.id, 1)), **WHY),
        lambda: chat.erase(turn, reason=" ", by="me"),
        lambda: chat.erase(turn, reason="so", by=""),
        lambda: chat.hold("", "me"),
        lambda: chat.release("so", "me"),
    ]
    version = chat.version
    for each in wrong:
        with pytest.raises(ContentError):
            each()
    assert chat.refresh().version == version


def test_a_pending_request_that_holds_the_turn_is_waited_for(place: Place) -> None:
    """What comes of it could hold the words again; a turn it does not hold can be erased meanwhile."""
    chat = place.store.open("k", **SETTINGS)
    chat.user("aside")
    aside = chat.turns[0]
    chat.set_aside(0)
    chat.user("SECRETWORD")
    pending = place.store.get("k").begin("go")
    chat.refresh()
    with pytest.raises(BusyError):
        chat.erase(0, **WHY)
    with pytest.raises(BusyError):
        place.store.erase("k", **WHY)
    chat.erase(aside, **WHY)
    message = {"type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "Done."}]}
    pending.finish(message)
    assert [turn.text for turn in chat.refresh().turns] == ["SECRETWORD", "go", "Done."]
    chat.erase(0, **WHY)
    lost = chat.begin("lost", lease=0)
    with pytest.raises(UnknownOutcomeError):
        chat.erase(0, **WHY)
    chat.recover("give_up")
    chat.erase(0, **WHY)
    # What came too late becomes a note, and goes with what its request held.
    with pytest.raises(LeaseLostError):
        lost.finish({**message, "content": [{"type": "text", "text": "LATEWORD"}]})
    assert canaries.words_left(place.store, place.url, ["LATEWORD"]) == {"LATEWORD"}
    chat.erase(-1, **WHY)
    assert canaries.words_left(place.store, place.url, ["LATEWORD"]) == set()
    assert place.store.verify() == []


def test_who_has_the_words_in_memory_does_not_send_them(place: Place) -> None:
    """Another process that knew the turn, and one that has a fork of it open, find their view changed."""
    place.api.answer("One.", "Two.", "Three.")
    chat = place.store.open("k", **SETTINGS)
    chat.send("SECRETWORD")
    fork = chat.fork()
    other = place.store.get("k")
    for each in (other, fork):
        assert b"SECRETWORD" in each.request(check=False).body
    place.store.get("k").erase(0, **WHY)
    for each in (other, fork):
        with pytest.raises(ConflictError):
            each.send("more", check=False)
        each.refresh().send("more", check=False)
        assert b"SECRETWORD" not in place.api.requests[-1].raw
        assert each.replay(each.exchanges[-1]) == place.api.requests[-1].raw
    assert place.store.verify() == []


OTHER: Final = """
import sys
from conversation_store import Store
from conversation_store.errors import ConflictError

with Store(sys.argv[1]) as store:
    chat = store.get("k")
    assert b"SECRETWORD" in chat.request(check=False).body
    print("known", flush=True)
    sys.stdin.readline()
    try:
        chat.begin("more", check=False)
    except ConflictError:
        print("conflict", b"SECRETWORD" in chat.refresh().request(check=False).body, flush=True)
    sys.stdin.readline()
"""


def test_another_process_that_has_it_open(place: Place) -> None:
    """It begins nothing with the words it still knows; and its open connections keep nothing in SQLite's log."""
    chat = place.store.open("k", **SETTINGS)
    chat.user("SECRETWORD")
    arguments = [sys.executable, "-c", OTHER, place.url]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "known\n"
        erasure = chat.erase(0, **WHY)
        assert erasure.clean == place.url.startswith("sqlite")
        assert b"SECRETWORD" not in canaries.files(place.url)
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "conflict False\n"
        other.communicate("\n", timeout=30)
        assert other.returncode == 0


def test_an_append_between_looking_and_writing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever says something or forks at the very moment is not overrun: the erasure looks again."""
    place.api.answer("One.", "Two.")
    chat = place.store.open("k", **SETTINGS)
    chat.send("SECRETWORD")
    other = place.store.get("k")
    meanwhile: list[Callable[[], object]] = [lambda: other.send("in between"), lambda: made.append(other.fork())]
    made: list[Conversation] = []
    prepared = erasing._prepared

    def slow(*given: Any) -> Any:
        if meanwhile:
            meanwhile.pop(0)()
        return prepared(*given)

    monkeypatch.setattr(erasing, "_prepared", slow)
    erasure = chat.erase(0, **WHY)
    assert len(erasure.exchanges) == 2
    (fork,) = made
    assert "SECRETWORD" not in [turn.text for turn in fork.refresh().turns]
    assert place.store.verify() == []


def test_a_fork_made_meanwhile_loses_its_salts_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork that was made and asked after the look and before the writing is found by the last look."""
    place.api.answer("One.", "Two.")
    chat = place.store.open("k", **SETTINGS)
    chat.send("SECRETWORD")
    made: list[Conversation] = []
    prepared = erasing._prepared

    def slow(*given: Any) -> Any:
        if not made:
            made.append(place.store.get("k").fork())
            made[0].send("asked with it")
        return prepared(*given)

    monkeypatch.setattr(erasing, "_prepared", slow)
    erasure = chat.erase(0, **WHY)
    assert {of for of, _ in erasure.exchanges} == {chat.id, made[0].id}
    with pytest.raises(CodecError, match="erased"):
        made[0].replay(made[0].exchanges[0])
    assert place.store.verify() == []


def test_a_hold_forbids_it(place: Place) -> None:
    """Neither turns nor the whole, nor a parent whose fork is held, until the last hold is released."""
    place.api.answer("One.")
    chat = place.store.open("k", **SETTINGS)
    chat.user("SECRETWORD")
    fork = chat.fork()
    fork.send("go on")
    first = fork.hold("case 7", "counsel")
    second = fork.hold("case 8", "counsel")
    with pytest.raises(HeldError, match="case 7") as held:
        chat.erase(0, **WHY)
    assert (held.value.conversation, held.value.position) == (fork.id, first.position)
    with pytest.raises(HeldError):
        place.store.erase("k", fork.id, **WHY)
    assert fork.release("settled", "counsel", hold=first) == (first,)
    with pytest.raises(HeldError, match="case 8"):
        place.store.erase(everything=True, **WHY)
    assert place.store.get("k").turns
    assert [each.reason for each in fork.holds] == ["case 8"]
    with Store("sqlite://") as there:
        there.load(place.store.export())
        assert there.get(fork.id).holds == (second,)
        with pytest.raises(HeldError, match="case 8"):
            there.erase(fork.id, **WHY)
    fork.release("settled", "counsel")
    assert fork.holds == ()
    place.store.erase(everything=True, **WHY)
    assert canaries.words_left(place.store, place.url, ["SECRETWORD"]) == set()
    assert canaries.words_left(place.store, place.url, ["case 7"]) == {"case 7"}
    assert second.at >= first.at
    assert place.store.verify() == []


def test_check_says_what_was_orphaned(place: Place) -> None:
    """A call without its result, a result without its call, and thinking whose earlier turns changed."""
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "seen"}

    def transcript(key: str) -> Conversation:
        chat = place.store.open(key, **SETTINGS)
        chat.append(
            {"role": "user", "content": "look"},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
            {"role": "assistant", "content": "I saw."},
            {"role": "user", "content": "and?"},
        )
        assert chat.check() == []
        return chat

    for key, n in (("call", 2), ("result", 1)):
        chat = transcript(key)
        chat.erase(n, **WHY)
        assert any(finding.severity == "error" and "tool" in finding.message for finding in chat.check())
    place.api.answer(Answer("Well.", thinking="hm"))
    chat = place.store.open("thinks", model="claude-sonnet-5-5", max_tokens=4000, thinking={"type": "adaptive"})
    chat.user("SECRETWORD")
    chat.send("think")
    assert chat.check("more") == []
    chat.erase(0, **WHY)
    assert "thinking_bound" in [finding.rule for finding in chat.check("more")]


def test_a_redelivery_does_not_bring_it_back(place: Place) -> None:
    """The same idempotency key again is refused: the words were erased, and nobody is asked."""
    place.api.answer("One.")
    chat = place.store.open("k", **SETTINGS)
    chat.send("SECRETWORD", idempotency_key="u1")
    chat.erase(0, 1, **WHY)
    version, asked = chat.version, len(place.api.requests)
    with pytest.raises(IdempotencyError, match="erased"):
        chat.send("SECRETWORD", idempotency_key="u1")
    assert (chat.refresh().version, len(place.api.requests)) == (version, asked)


def test_everything_that_reads_copes(place: Place) -> None:
    """After an erasure every reading door opens."""
    place.api.answer("One.", "Two.", "Three.")
    chat = place.store.open("k", **SETTINGS, cache="auto")
    turn = chat.user(Image.from_bytes(PICTURE), "look")
    for said in ("a", "b"):
        chat.send(said, prefill="It is (" if said == "b" else None)
    chat.erase(0, 2, -1, **WHY)
    assert chat.tokens().total >= 0
    with pytest.raises(CodecError, match="erased"):
        chat.explain_cache()
    chat.tree()
    assert chat.as_seen_by(chat.exchanges[-1])
    assert chat.usage.exchanges == 2
    with pytest.raises(ContentError, match="erased"):
        chat.edit(turn, "other")
    with pytest.raises(ContentError, match="erased"):
        chat.set_aside(turn)
    with pytest.raises(ContentError, match="erased"):
        chat.bring_back(turn)
    assert b"".join(chat.export("markdown")).count(b"## erased") == 3
    assert b"".join(chat.export("html")).count(b">erased ") == 3
    chat.rewind(0)
    assert len(chat.turns) == 1


# --- elsewhere ---------------------------------------------------------------------------------------------------


def test_an_export_of_it_is_taken_elsewhere(place: Place, tmp_path: Any) -> None:
    """Erased conversations come over with the same heads, verify there, and are erased no less."""
    secretive(place)
    lines = list(place.store.export())
    with Store(f"sqlite:///{tmp_path / 'elsewhere.db'}") as there:
        there.load(lines)
        assert there.verify() == []
        assert list(there.export()) == lines
        for listed in place.store.list():
            assert there.get(listed.id).head == place.store.get(listed.id).head
    mended = [each.replace(b'"kind":"erased"', b'"kind":"noted"') for each in lines]
    with Store(f"sqlite:///{tmp_path / 'other.db'}") as there, pytest.raises(TransferError):
        there.load(mended)


def test_what_is_missing_without_an_entry_is_a_fault(place: Place, tmp_path: Any) -> None:
    """A body taken past the library is no erasure: verify says so, and an import refuses it."""
    chat = place.store.open("k", **SETTINGS)
    turn = chat.user("SECRETWORD")
    place.store._database.write(lambda one: storage.take(one, chat.id, [turn.position], []))
    assert [(fault.code, fault.position) for fault in chat.verify()] == [("missing", turn.position)]
    with Store(f"sqlite:///{tmp_path / 'elsewhere.db'}") as there, pytest.raises(TransferError, match="missing"):
        there.load(place.store.export())


# --- canaries ----------------------------------------------------------------------------------------------------

_SAID: Final = re.compile(rb"(?<![0-9a-z])%s(?![0-9a-z])" % PIN.encode())
WORDS: Final = ("CANARYWORD", "CANARYNAME", f"PIN is {PIN}")


def secretive(place: Place, *, erase: bool = True) -> Conversation:
    """
    Hold a conversation whose secrets get everywhere, and erase the turns that hold them.

    ``place.texts`` are then all texts that held the PIN, with a mark in its place.
    """
    place.api.answer("Hi.", f"Noted: {PIN}.", f"{PIN}) CANARYWORD")
    chat = place.store.open("k", **SETTINGS)
    chat.send("harmless")
    chat.send(Image.from_bytes(PICTURE), f"My PIN is {PIN}, CANARYNAME")
    chat.send("And?", prefill=f"It is ({PIN},")
    place.api.fail(Fault.status(400, message=f"messages.2: 'My PIN is {PIN}, CANARYNAME' is wrong"))
    with suppress(APIError):
        chat.send("rejected")
    place.api.answer(Answer(f"I will not say {PIN}", stop_reason="refusal"))
    chat.send("refused")
    late = chat.begin("late", lease=0)
    chat.recover("give_up")
    fork = chat.fork()
    fork.send("in the fork")
    message = {"type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": PIN}]}
    with suppress(LeaseLostError):
        late.finish(message)
    place.store.search(PIN)
    for of in (chat, fork):
        for entry in read_all(of):
            place.texts += [part for part in (entry.body, entry.about) if part is not None]
    for request in place.api.requests:
        place.texts += [request.raw, request.response]
    # Where it stands for itself: an id or a time that stays may have these digits by chance.
    place.texts = [_SAID.sub(MARK.encode(), text) for text in place.texts if _SAID.search(text)]
    if erase:
        chat.refresh()
        telling = [n for n, turn in enumerate(chat.turns) if PIN in turn.text]
        assert len(telling) == 3
        chat.erase(*telling, **WHY)
    return chat


def read_all(chat: Conversation) -> Any:
    """Read every entry of a log."""
    with chat._history.database.read() as connection:
        return log.read(connection, chat.id, 0, chat.refresh().version)


def test_no_canary_is_left(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Words, the picture's digest, and every PIN tried against every value that is left: nothing is found."""
    caplog.set_level(logging.DEBUG)
    secretive(place)
    assert canaries.words_left(place.store, place.url, WORDS) == set()
    assert sha256(PICTURE).digest() not in set(canaries.values(place.url))
    assert len(place.texts) > 6
    assert canaries.pins_left(place.url, place.texts, MARK) == set()
    assert not any(word in caplog.text for word in WORDS)
    assert place.store.verify() == []


def test_the_canaries_are_found_before(place: Place) -> None:
    """The search for them finds each, where nothing was erased."""
    secretive(place, erase=False)
    assert canaries.words_left(place.store, place.url, WORDS) == set(WORDS)
    assert sha256(PICTURE).digest() in set(canaries.values(place.url))
    assert canaries.pins_left(place.url, place.texts, MARK, ["1234", PIN]) == {PIN}


def _no_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    take = storage.take
    monkeypatch.setattr(storage, "take", lambda one, of, content, _: take(one, of, content, []))


def _no_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing._Chain, "left_by", lambda *_: iter(()))


def _no_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "_spoken", lambda *_: (set(), set()))


def _no_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "drop_unused", lambda *_: [])


def _no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "wipe", lambda *_: 0)


def _no_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "_forks", lambda *_: iter(()))


def _no_salts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "new_salt", lambda: bytes(32))


GUARDS: Final = {
    "a salt for each": _no_salts,
    "the salts of requests": _no_requests,
    "outcomes and late answers": _no_outcomes,
    "prefills and their answers": _no_prefill,
    "attachments": _no_blobs,
    "the index": _no_index,
    "forks": _no_forks,
}


@pytest.mark.parametrize("guard", GUARDS)
def test_each_guard_is_needed(place: Place, guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of the guards a canary is found: each of them does something, and the search would see it fail."""
    GUARDS[guard](monkeypatch)
    secretive(place)
    found: set[str] = canaries.words_left(place.store, place.url, WORDS)
    found |= canaries.pins_left(place.url, place.texts, MARK, ["1234", PIN])
    if sha256(PICTURE).digest() in set(canaries.values(place.url)):
        found.add("the picture")
    assert found


def test_the_key_of_an_import_goes_with_its_first_turn(place: Place) -> None:
    """A key made of the transcript's digest could be tried out: it goes, and a new import is a new conversation."""
    text = b'[{"role":"user","content":"My PIN is %s"},{"role":"user","content":"and more"}]'
    taken = place.store.import_messages(text % PIN.encode())
    texts = [text % MARK.encode()]
    assert canaries.pins_left(place.url, texts, MARK, ["1234", PIN]) == {PIN}
    chat = place.store.get(taken.id)
    assert chat.erase(0, **WHY).keys == (chat.id,)
    assert chat.key is None
    assert canaries.pins_left(place.url, texts, MARK) == set()
    assert place.store.verify() == []
    assert place.store.import_messages(text % PIN.encode()).id != taken.id


# --- whatever the views were ---------------------------------------------------------------------------------------

ANSWER: Final = {"type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "Yes."}]}
STEPS: Final = st.lists(
    st.tuples(
        st.sampled_from(
            ["ask", "ask", "say", "prefill", "set_aside", "bring_back", "rewind", "fork", "erase", "erase"]
        ),
        st.integers(0, 40),
    ),
    min_size=5,
    max_size=25,
)


@define
class Told:
    """A store in which everything said has a token of its own, and every body that was sent is remembered."""

    store: Store
    chats: list[Conversation]
    bodies: dict[tuple[Any, int], bytes] = field(factory=dict)
    lost: set[tuple[Any, int]] = field(factory=set)
    erased: set[str] = field(factory=set)
    aside: list[tuple[Conversation, Turn]] = field(factory=list)
    said: int = 0

    def token(self) -> str:
        """Say something that was never said before."""
        self.said += 1
        return f"<{self.said}>"

    def step(self, what: str, n: int) -> None:
        """Do one thing, where it can be done."""
        chat = self.chats[n % len(self.chats)].refresh()
        turns = chat.turns
        if what in {"ask", "prefill"}:
            begun = chat.begin(self.token(), prefill=self.token() if what == "prefill" else None, check=False)
            self.bodies[chat.id, begun.exchange.position] = begun.body
            begun.finish(ANSWER)
        elif what == "say":
            chat.user(self.token())
        elif what == "bring_back" and self.aside:
            of, turn = self.aside.pop()
            with suppress(ContentError):
                of.refresh().bring_back(turn)
        elif turns:
            self._change(what, chat, turns[n % len(turns)])

    def _change(self, what: str, chat: Conversation, turn: Turn) -> None:
        if what == "set_aside":
            chat.set_aside(turn)
            self.aside.append((chat, turn))
        elif what == "rewind":
            chat.rewind(turn)
        elif what == "fork" and len(self.chats) < 4:
            self.chats.append(chat.fork(turn))
        elif what == "erase":
            self._erase(chat, turn)

    def _erase(self, chat: Conversation, turn: Turn) -> None:
        tokens = set(re.findall("<[0-9]+>", turn.text))
        if not tokens:
            return  # an answer, which all have the same
        held = {
            place for place, body in self.bodies.items() if any(token.encode() in body for token in tokens)
        } - self.lost
        assert set(chat.erase(turn, **WHY).exchanges) == held
        self.lost |= held
        self.erased |= tokens


@settings(max_examples=40)
@given(STEPS)
def test_just_those_requests_are_lost_that_held_it(steps: list[tuple[str, int]]) -> None:
    """However views were forked, cut and mended: what held the turn loses its replay, all else has the very bytes."""
    with Store("sqlite://") as store:
        told = Told(store, [store.open("k", **SETTINGS)])
        for what, n in steps:
            told.step(what, n)
        for (of, position), body in told.bodies.items():
            chat = store.get(of)
            if (of, position) in told.lost:
                with pytest.raises(CodecError, match="erased"):
                    chat.replay(position)
            else:
                assert chat.replay(position) == body
        assert store.verify() == []
        everything = b"".join(store.export())
        assert not [token for token in told.erased if token.encode() in everything]
        with Store("sqlite://") as there:
            there.load(store.export())
            assert there.verify() == []


# --- SQLite's file -----------------------------------------------------------------------------------------------

FILLER: Final = st.sampled_from([1, 40, 900])


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), FILLER), min_size=60, max_size=150))
def test_nothing_is_left_in_the_file(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[bool, int, int]]
) -> None:
    """Whatever was moved between pages before, no piece of an erased word is in the file or beside it."""
    url = f"sqlite:///{tmp_path_factory.mktemp('erased') / 'bot.db'}"
    with Store(url) as store:
        chats = [store.open(f"k{n}", **SETTINGS) for n in range(5)]
        secrets: list[tuple[Conversation, Turn]] = []
        for n, (secret, which, times) in enumerate(said):
            words = "CANARYWORD " if secret else "filler "
            turn = chats[which].user(f"{n} {words * times}")
            if secret:
                secrets.append((chats[which], turn))
            if n % 40 == 0:
                store.search("filler")
        store.search("canaryword")
        for chat in chats:
            mine = [turn for of, turn in secrets if of is chat]
            if mine:
                assert chat.erase(*mine, **WHY).clean
        assert b"canary" not in canaries.files(url).lower()


def test_moved_rows_leave_pieces_that_only_a_vacuum_takes(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test before: where the file is not written anew, pieces of what was moved are found in it."""
    monkeypatch.setattr(engine, "VACUUM_BYTES", 0)
    left: list[int] = []
    for seed in range(60):
        if any(left):
            break
        url = f"sqlite:///{tmp_path / f'{seed}.db'}"
        chance = random.Random(seed)
        with Store(url, durability="normal") as store:
            chats = [store.open(f"k{n}", **SETTINGS) for n in range(8)]
            secrets: dict[int, list[Turn]] = {}
            for _ in range(300):
                n, size = chance.randrange(8), chance.choice([1, 20, 60, 150])
                if chance.random() < 0.5:
                    secrets.setdefault(n, []).append(chats[n].user("CANARY " * size))
                else:
                    chats[n].user("filler " * size)
            for n, turns in secrets.items():
                assert not chats[n].erase(*turns, **WHY).clean
            left.append(canaries.files(url).count(b"CANARY"))
            store.vacuum()
            assert b"CANARY" not in canaries.files(url)
    assert any(left)


def test_a_reader_in_the_way_is_told(tmp_path: Any) -> None:
    """While somebody reads an older state the log cannot be emptied: the receipt says so, and vacuum does it later."""
    url = f"sqlite:///{tmp_path / 'bot.db'}"
    with Store(url) as store:
        chat = store.open("k", **SETTINGS)
        chat.user("CANARYWORD")
        with store._database.read() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM conversation_entry").scalar()
            assert not chat.erase(0, **WHY).clean
            assert b"CANARYWORD" in canaries.files(url)
        store.vacuum()
        assert b"CANARYWORD" not in canaries.files(url)


def test_an_engine_that_leaves_traces_is_refused(tmp_path: Any) -> None:
    """A host's SQLite engine without secure_delete is refused before anything is written, and taken with it."""
    url = f"sqlite:///{tmp_path / 'bot.db'}"
    with Store(url) as store:
        store.open("k", **SETTINGS).user("CANARYWORD")
    host = create_engine(url)
    wanted = ["OFF"]

    @event.listens_for(host, "connect")
    def set_up(connection: Any, _record: object) -> None:
        connection.execute(f"PRAGMA secure_delete={wanted[0]}")

    with pytest.warns(RuntimeWarning):
        store = Store(host)
    with store:
        with pytest.raises(ConfigurationError, match="secure_delete"):
            store.get("k").erase(0, **WHY)
        assert store.get("k").turns
    host.dispose()
    wanted[0] = "ON"
    with pytest.warns(RuntimeWarning):
        store = Store(host)
    with store:
        store.get("k").erase(0, **WHY)
        assert b"CANARYWORD" not in canaries.files(url)
    host.dispose()


def test_a_full_vacuum_takes_it_from_the_pages(place: Place) -> None:
    """On PostgreSQL dead rows stay in the pages until the tables are written anew."""
    chat = place.store.open("k", **SETTINGS)
    chat.user("CANARYWORD " * 20)
    place.store.search("canaryword")
    chat.erase(0, **WHY)
    place.store.vacuum()
    place.store.vacuum(full=True)
    engine_ = place.store._database.engine
    if engine_.dialect.name == "postgresql":
        with engine_.connect() as connection:
            connection.exec_driver_sql("CHECKPOINT")
            paths = connection.exec_driver_sql(
                "SELECT pg_relation_filepath(oid) FROM pg_class WHERE relname LIKE 'conversation%%' AND relkind = 'r' "
                "OR relname LIKE 'pg_toast%%' AND relkind = 't'"
            ).scalars()
            pages = b"".join(
                bytes(connection.exec_driver_sql("SELECT pg_read_binary_file(%s)", (path,)).scalar_one())
                for path in paths
                if path
            )
        assert b'"origin":"human"' in pages
        assert b"CANARYWORD" not in pages
    assert canaries.words_left(place.store, place.url, ["CANARYWORD"]) == set()
    assert place.store.verify() == []


# --- what it costs -----------------------------------------------------------------------------------------------


def test_no_body_is_read(place: Place) -> None:
    """The statements of an erasure are as many for a long conversation as for a short one, and ask for no body."""

    def counted(turns: int) -> list[str]:
        place.api.answer(*["Yes."] * 2)
        chat = place.store.open(f"k{turns}", **SETTINGS)
        chat.send("first")
        for n in range(turns):
            chat.user(f"filler {n}")
        chat.send("last")
        said: list[str] = []

        def listen(_c: Any, _cursor: Any, statement: str, *_: object) -> None:
            said.append(statement)

        event.listen(place.store._database.engine, "before_cursor_execute", listen)
        try:
            chat.erase(2, preview=True, **WHY)
            erasing.erase(
                place.store._database,
                "",
                [erasing.Target(conversation=chat.id, positions=frozenset([place_of(chat, 2)]))],
                **WHY,
            )
        finally:
            event.remove(place.store._database.engine, "before_cursor_execute", listen)
        return said

    few, many = counted(3), counted(200)
    assert len(many) == len(few)
    plans = [each for each in many if each.lstrip().upper().startswith("SELECT")]
    assert not [each for each in plans if "conversation_entry.body," in each and "= 'turn'" in each]


def place_of(chat: Conversation, index: int) -> int:
    """Say where a turn stands."""
    return chat.turns[index].position
