"""
The network's ways to fail, against real sockets: what is known afterwards, and that no byte that came is lost.

The first half is the table of faults, row by row, for blocking and for streamed requests. The second cuts recorded
answers: a sample of places every day, and at every byte in the `long` profile.
"""

from __future__ import annotations

import json
import random
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from email.utils import formatdate
from functools import cache
from typing import Any, Final

import pytest
from attrs import evolve, field, frozen

from conversation_store import Client, Conversation, Exchange, Reply, Store
from conversation_store.api.retry import Clock
from conversation_store.api.stream import decode_all
from conversation_store.errors import (
    APIError,
    AuthenticationError,
    BadRequestError,
    GatewayTimeoutError,
    InterruptedAnswerError,
    NoAnswerError,
    NotSentError,
    OverloadedError,
    RateLimitError,
    RequestConflictError,
    RequestTimeoutError,
    ServerError,
    StatusError,
)
from conversation_store.record import canonical, splices
from tests.corpus import lines, requires_corpus
from tests.faulty import ENDINGS, FRAMINGS, Ending, FaultyAPI, Framed, Framing, Sent, framed

SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-sonnet-5-5", "max_tokens": 64}
KEY: Final = "sk-ant-loopback"
MESSAGE: Final = (
    b'{"id":"msg_1", "type":"message","role":"assistant","model":"claude-sonnet-5-5","content":[{"type":"text",'
    b'"text":"It is a small thing, with six legs."}],"stop_reason":"end_turn","stop_sequence":null,'
    b'"usage":{"input_tokens":9,"output_tokens":11}}'
)
EVENTS: Final = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message","role":'
    b'"assistant","model":"claude-sonnet-5-5","content":[],"stop_reason":null,"usage":{"input_tokens":9,'
    b'"output_tokens":1}}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text",'
    b'"text":""}}\n\nevent: ping\ndata: {"type": "ping"}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta",'
    b'"text":"It is a small thing, "}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta",'
    b'"text":"with six legs."}}\n\n'
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
    b'"usage":{"output_tokens":11}}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
)
SSE: Final = "text/event-stream; charset=utf-8"

Ask = Callable[..., Reply]


def by_send(chat: Conversation, *content: str, **more: Any) -> Reply:
    """Ask, and wait for the whole answer."""
    return chat.send(*content, **more)


def by_stream(chat: Conversation, *content: str, **more: Any) -> Reply:
    """Ask, and read the answer as it arrives."""
    with chat.stream(*content, **more) as stream:
        return stream.reply


@pytest.fixture(params=[by_send, by_stream], ids=["send", "stream"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Give each way to ask in turn."""
    return request.param  # type: ignore[no-any-return]


def answer_for(ask: Ask) -> tuple[bytes, str]:
    """Give the answer that fits a way to ask, and its content type."""
    return (MESSAGE, "application/json") if ask is by_send else (EVENTS, SSE)


@contextmanager
def conversing(url: str, base_url: str, **more: Any) -> Iterator[Conversation]:
    """Give a new conversation whose client tries twice and never really waits."""
    given: dict[str, Any] = {"timeout": 20, "max_attempts": 2, "clock": Clock(sleep=lambda _: None)} | more
    with Client(KEY, base_url=base_url, **given) as client, Store(url, client=client) as store:
        yield store.open("telegram:42", **SETTINGS)


def kept(chat: Conversation, exchange: Exchange) -> Mapping[str, Any]:
    """Read what the outcome says of the fault."""
    return chat._history.outcome(exchange)[1]["error"]  # type: ignore[no-any-return]


def partial(chat: Conversation, exchange: Exchange) -> bytes | None:
    """Read the bytes the outcome kept of an answer that broke off; None where it kept none."""
    said = kept(chat, exchange).get("partial")
    return None if said is None else splices.decode(said.encode())


# --- what an exception proves ------------------------------------------------------------------------------------


@frozen
class Row:
    """
    A row of the table: a fault, and what is then known.

    Attributes:
        name: The fault.
        sent: What the server sends, given the answer and its content type.
        errors: The classes the error may have.
        state: The exchange's state.
        billed: Whether the model may have run; None where that depends on the moment.
        attempts: How many attempts are made of two that are allowed.
        partial: How many bytes of the answer are kept; None for an exchange that is not interrupted.
        client: Arguments for the client.
        said: Arguments for the request.
        words: The user's words.
    """

    name: str
    sent: Callable[[bytes, str], Sent]
    errors: tuple[type[APIError], ...]
    state: str = "failed"
    billed: bool | None = True
    attempts: int | None = 1
    partial: int | None = None
    client: Mapping[str, Any] = field(factory=dict)
    said: Mapping[str, Any] = field(factory=dict)
    words: str = "Hello, Claude"


def cut(framing: Framing, after: int, then: Ending) -> Callable[[bytes, str], Sent]:
    """Send so many bytes of the answer, and then close, reset or stall."""

    def sent(body: bytes, kind: str) -> Sent:
        whole = framed(body, framing, kind=kind)
        end = next(at for at in range(whole.head, len(whole.wire) + 1) if whole.arrived(at) >= after)
        return Sent(whole.wire[:end], then)

    return sent


def broken_chunk(body: bytes, kind: str) -> Sent:
    """Send two good chunks and one whose size is no number."""
    head = framed(b"", "chunked", kind=kind)
    pieces = b"".join(b"28\r\n%b\r\n" % body[at : at + 40] for at in (0, 40))
    return Sent(head.wire[: head.head] + pieces + b"zz\r\n" + body[80:])


def status(line: str, more: str = "", body: bytes = b"{}", framing: Framing = "length") -> Callable[[bytes, str], Sent]:
    """Answer with an error status."""
    return lambda _, __: Sent(framed(body, framing, status=line, more=more).wire)


SOON: Final = {"timeout": 0.4}
IMPATIENT: Final = "retry-after: 0.01\r\n"
INTERRUPTED: Final = (InterruptedAnswerError,)
NO_ANSWER: Final = (NoAnswerError,)
SPENT: Final = b'{"error":{"type":"rate_limit_error","details":{"error_code":"enforced_spend_limit_reached"}}}'

ROWS: Final = (
    Row(
        "reset on accept",
        lambda _, __: Sent(b"", "reset", read=0),
        (NotSentError, NoAnswerError),
        billed=None,
        attempts=None,
    ),
    Row(
        "reset in the upload",
        lambda _, __: Sent(b"", "reset", read=100_000),
        (NotSentError,),
        billed=False,
        attempts=2,
        words="long " * 2_000_000,
    ),
    Row("closed before the status line", lambda _, __: Sent(b"", "close"), NO_ANSWER),
    Row("reset before the status line", lambda _, __: Sent(b"", "reset"), NO_ANSWER),
    Row("silence before the status line", lambda _, __: Sent(b"", "stall"), NO_ANSWER, client=SOON),
    Row("no HTTP", lambda _, __: Sent(b"\0\1\2\r\n\r\n"), NO_ANSWER),
    Row("half a status line", lambda _, __: Sent(b"HTTP/1.1 20", "reset"), NO_ANSWER),
    Row("reset after the headers", cut("length", 0, "reset"), INTERRUPTED, "interrupted", partial=0),
    Row("closed after the headers", cut("neither", 0, "close"), INTERRUPTED, "interrupted", partial=0),
    Row("chunked, closed", cut("chunked", 210, "close"), INTERRUPTED, "interrupted", partial=210),
    Row("chunked, reset", cut("chunked", 210, "reset"), INTERRUPTED, "interrupted", partial=210),
    Row("a broken chunk", broken_chunk, INTERRUPTED, "interrupted", partial=80),
    Row("a stall", cut("length", 150, "stall"), INTERRUPTED, "interrupted", partial=150, client=SOON),
    Row("a chunked stall", cut("chunked", 150, "stall"), INTERRUPTED, "interrupted", partial=150, client=SOON),
    Row("a length unmet", cut("length", 201, "close"), INTERRUPTED, "interrupted", partial=201),
    Row("a length unmet, reset", cut("length", 77, "reset"), INTERRUPTED, "interrupted", partial=77),
    Row("no length, closed", cut("neither", 199, "close"), INTERRUPTED, "interrupted", partial=199),
    Row("408", status("408 Request Timeout", IMPATIENT), (RequestTimeoutError,), billed=False, attempts=2),
    Row("409", status("409 Conflict", IMPATIENT), (RequestConflictError,), billed=False, attempts=2),
    Row("429", status("429 Too Many Requests", IMPATIENT), (RateLimitError,), billed=False, attempts=2),
    Row("503", status("503 Service Unavailable"), (ServerError,), billed=False, attempts=2),
    Row("529", status("529 Overloaded"), (OverloadedError,), billed=False, attempts=2),
    Row("429, money spent", status("429 Too Many Requests", "", SPENT), (RateLimitError,), billed=False),
    Row("429, money spent, wait", status("429 T", IMPATIENT, SPENT), (RateLimitError,), billed=False),
    Row("529, do not retry", status("529 Overloaded", "x-should-retry: false\r\n"), (OverloadedError,), billed=False),
    Row("500", status("500 Internal Server Error"), (ServerError,)),
    Row("502", status("502 Bad Gateway", "", b"<html>\xff"), (ServerError,)),
    Row("504", status("504 Gateway Timeout", "", b"", "neither"), (GatewayTimeoutError,)),
    Row("500, do retry", status("500 Internal Server Error", "x-should-retry: true\r\n"), (ServerError,), attempts=2),
    Row("500, resend", status("500 No"), (ServerError,), attempts=2, said={"on_unknown": "resend"}),
    Row("401", status("401 Unauthorized"), (AuthenticationError,), billed=False),
    Row("400", status("400 Bad Request"), (BadRequestError,), "rejected", billed=False),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_fault_is_what_it_proves(database_url: str, ask: Ask, row: Row) -> None:
    """State, error class, billing and attempts are those of the table, and every byte that arrived is kept."""
    body, kind = answer_for(ask)
    with FaultyAPI(row.sent(body, kind)) as api, conversing(database_url, api.url, **row.client) as chat:
        with pytest.raises(row.errors) as caught:
            ask(chat, row.words, **row.said)
        (exchange,) = chat.exchanges
        error = caught.value
        attempts = len(error.attempts)
        assert (exchange.state, exchange.attempts, exchange.turn) == (row.state, attempts, None)
        if row.attempts is not None:
            assert attempts == row.attempts
        billed = isinstance(error, NoAnswerError) if row.billed is None else row.billed
        assert exchange.maybe_billed is billed
        if row.partial is None:
            assert partial(chat, exchange) is None
        else:
            assert isinstance(error, InterruptedAnswerError)
            assert error.partial == partial(chat, exchange) == body[: row.partial]
            assert error.attempts[-1].fault == "interrupted"
        if isinstance(error, StatusError):
            assert kept(chat, exchange)["status"] == error.status
            assert kept(chat, exchange)["body"] == error.body.decode("utf-8", "backslashreplace")
        assert api.bodies == [chat.replay(exchange)] * len(api.bodies)
        assert len(api.bodies) <= attempts
        assert [turn.text for turn in chat.turns] == ([] if row.state == "rejected" else [row.words])
        assert chat.pending is None
        assert chat.verify() == []


@contextmanager
def nobody() -> Iterator[str]:
    """Give an address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def deaf() -> Iterator[str]:
    """Give an address that takes no more connections and does not say so."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):  # fill the queue that nobody empties
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        time.sleep(0.05)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def without_tls() -> Iterator[str]:
    """Give an https address whose server speaks none."""
    with FaultyAPI(Sent(b"HTTP/1.1 400 Bad Request\r\n\r\n", read=16)) as api:
        yield api.url.replace("http:", "https:")


@pytest.mark.parametrize("place", [nobody, deaf, without_tls], ids=["refused", "connect timeout", "no TLS"])
def test_without_a_connection_nothing_was_sent(database_url: str, ask: Ask, place: Callable[[], Any]) -> None:
    """What never connected did not run: it is tried again freely, and recorded as not billed."""
    with place() as url, conversing(database_url, url, connect_timeout=0.2) as chat:
        with pytest.raises(NotSentError) as caught:
            ask(chat, "Hello, Claude")
        (exchange,) = chat.exchanges
        assert (exchange.state, exchange.maybe_billed, exchange.attempts) == ("failed", False, 2)
        assert [each.fault for each in caught.value.attempts] == ["not sent"] * 2
        assert [turn.text for turn in chat.turns] == ["Hello, Claude"]


@pytest.mark.parametrize("first", ["529", "429", "503", "408", "409"])
def test_what_did_not_run_is_tried_again(database_url: str, ask: Ask, first: str) -> None:
    """A request that was turned away and then answered is answered; both attempts are in the record."""
    body, kind = answer_for(ask)
    answers = iter([Sent(framed(b"{}", "length", status=f"{first} No", more=IMPATIENT).wire)])
    good = Sent(framed(body, "chunked", kind=kind).wire)
    with FaultyAPI(lambda _: next(answers, good)) as api, conversing(database_url, api.url) as chat:
        reply = ask(chat, "Hello, Claude")
        assert reply.text == "It is a small thing, with six legs."
        assert (reply.exchange.state, reply.exchange.attempts) == ("answered", 2)
        outcome = chat._history.outcome(reply.exchange)[1]
        assert [each["status"] for each in outcome["attempts"]] == [int(first), 200]
        assert outcome["attempts"][1]["waited"] == 10_000
        assert len(set(api.bodies)) == 1
        assert chat.verify() == []


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ("retry-after: 7\r\n", 7),
        ("retry-after-ms: 250\r\nretry-after: 9\r\n", 0.25),
        ("retry-after: {date}\r\n", 100),
        ("", 0.5),
        ("retry-after: soon\r\n", 0.5),
        ("retry-after: -3\r\n", 0.5),
    ],
    ids=["seconds", "milliseconds first", "a date", "nothing", "no number", "the past"],
)
def test_the_wait_is_what_the_api_asked_for(database_url: str, ask: Ask, headers: str, seconds: float) -> None:
    """Milliseconds, seconds or a date are waited; where the API says nothing usable, a growing pause is."""
    body, kind = answer_for(ask)
    more = headers.format(date=formatdate(1_800_000_100, usegmt=True))
    answers = iter([Sent(framed(b"", "length", status="529 Overloaded", more=more).wire)])
    good = Sent(framed(body, "length", kind=kind).wire)
    waits: list[float] = []
    clock = Clock(sleep=waits.append, now=lambda: 1_800_000_000_000_000, random=lambda: 0.0)
    with (
        FaultyAPI(lambda _: next(answers, good)) as api,
        conversing(database_url, api.url, clock=clock, timeout=300) as chat,
    ):
        reply = ask(chat, "Hello, Claude")
        assert waits == [pytest.approx(seconds)]
        assert chat._history.outcome(reply.exchange)[1]["attempts"][1]["waited"] == pytest.approx(seconds * 1e6)


def test_the_total_deadline_is_kept(database_url: str, ask: Ask) -> None:
    """A wait that would outlast the deadline is not begun; a slow answer ends with the deadline."""
    refusing = Sent(framed(b"{}", "length", status="529 Overloaded", more="retry-after: 60\r\n").wire)
    with FaultyAPI(refusing) as api, conversing(database_url, api.url, timeout=1) as chat:
        with pytest.raises(OverloadedError) as caught:
            ask(chat, "Hello, Claude")
        assert (len(caught.value.attempts), caught.value.retry_after) == (1, 60)
    body, kind = answer_for(ask)
    begun = time.monotonic()
    with (
        FaultyAPI(cut("chunked", len(body) - 30, "stall")(body, kind)) as api,
        conversing(database_url, api.url, timeout=0.5) as chat,
    ):
        chat.refresh()
        with pytest.raises(InterruptedAnswerError, match="too long"):
            ask(chat, "Again")
    assert time.monotonic() - begun < 8


@pytest.mark.parametrize("body", [b"<html>busy</html>", b"", b"\xff\xfe\x00", b'{"error":"text"}', b"[" * 100_000])
def test_error_bodies_need_not_be_json(database_url: str, ask: Ask, body: bytes) -> None:
    """Whatever a gateway says in a body, the status is the news, and the body is kept."""
    with (
        FaultyAPI(Sent(framed(body, "neither", kind="text/html", status="502 Bad Gateway").wire)) as api,
        conversing(database_url, api.url) as chat,
    ):
        with pytest.raises(ServerError) as caught:
            ask(chat, "Hello, Claude")
        assert (caught.value.status, caught.value.body) == (502, body)
        assert kept(chat, chat.exchanges[-1])["body"].encode() == body or b"\xff" in body


@pytest.mark.parametrize("then", ENDINGS)
def test_an_error_status_outlives_its_body(database_url: str, ask: Ask, then: Ending) -> None:
    """A status whose body breaks off or stalls is that status all the same."""
    whole = framed(b'{"error":{"type":"api_error","message":"no"}}' * 9, "length", status="500 No")
    with (
        FaultyAPI(Sent(whole.wire[:-300], then)) as api,
        conversing(database_url, api.url, timeout=0.5) as chat,
        pytest.raises(ServerError) as caught,
    ):
        ask(chat, "Hello, Claude")
    assert caught.value.status == 500


def test_an_answer_that_is_no_message_is_interrupted(database_url: str, ask: Ask) -> None:
    """A page, an empty body or other JSON in the place of an answer is kept, and is no turn."""
    for body in (b"<html>hello</html>", b"", b"[1]", b'{"type":"message"}', b'{"type":"error","error":{}}'):
        with (
            FaultyAPI(Sent(framed(body, "length", kind="text/html").wire)) as api,
            conversing(database_url, api.url) as chat,
        ):
            with pytest.raises(InterruptedAnswerError):
                ask(chat, "Hello, Claude")
            last = chat.exchanges[-1]
            assert (last.state, partial(chat, last)) == ("interrupted", body)
            assert chat.turns[-1].role == "user"


# --- cut everywhere ----------------------------------------------------------------------------------------------

ANSWERS: Final = 10
"""How many recorded answers of each form are cut."""

_number: Final = re.compile(rb"cut (\d+)")


@frozen
class Recorded:
    """
    A recorded answer.

    Attributes:
        name: Its id in the corpus.
        body: Its bytes.
        content: The content it stands for.
        whole: How many of its bytes make it whole.
        kind: Its content type.
    """

    name: str
    body: bytes = field(repr=False)
    content: bytes = field(repr=False)
    whole: int
    kind: str


@cache
def recorded(form: str) -> Sequence[Recorded]:
    """Choose the smallest recorded answers, no more than three of the same make."""
    found = sorted(
        map(_blocking if form == "send" else _streamed, lines(_FILES[form])), key=lambda each: len(each.body)
    )
    makes: dict[tuple[str, ...], int] = {}
    chosen: list[Recorded] = []
    for each in found:
        make = tuple(block["type"] for block in json.loads(each.content))
        makes[make] = makes.get(make, 0) + 1
        if makes[make] <= 3 and each.whole and len(chosen) < ANSWERS:
            chosen.append(each)
    return chosen


_FILES: Final = {"send": "blocking", "stream": "streaming"}


def _blocking(line: Mapping[str, Any]) -> Recorded:
    body = json.dumps(line["response"]["body"], ensure_ascii=False).encode()
    content = canonical.members(body)["content"]
    return Recorded(line["id"], body, body[content.start : content.end], len(body), "application/json")


def _streamed(line: Mapping[str, Any]) -> Recorded:
    body = line["response"]["sse"].encode()
    message, _ = decode_all(body)
    if message is None or b'"refusal"' in body:
        return Recorded(line["id"], body, b"[]", 0, SSE)
    content = canonical.members(message)["content"]
    # Whole is what holds the JSON of message_stop to its last brace; looked for without the decoder's help.
    whole = body.index(b"}", body.rindex(b"message_stop")) + 1
    return Recorded(line["id"], body, message[content.start : content.end], whole, SSE)


@frozen
class Cut:
    """
    An answer on the wire, of which only the first bytes are sent.

    Attributes:
        answer: The answer.
        wire: The answer in its framing.
        at: How many bytes of the wire are sent.
    """

    answer: Recorded
    wire: Framed
    at: int

    @property
    def arrived(self) -> int:
        """How many bytes of the answer arrive."""
        return self.wire.arrived(self.at)

    @property
    def whole(self) -> bool:
        """Whether what arrives is the whole answer."""
        return self.arrived >= self.answer.whole


def framing_of(n: int, form: str) -> Framing:
    """Choose how the end of an answer is told; streams come without a length."""
    return FRAMINGS[n % 3] if form == "send" else ("chunked", "neither")[n % 2]


def on_the_wire(form: str, n: int) -> Cut:
    """Put one of the chosen answers on the wire, uncut."""
    answer = recorded(form)[n]
    wire = framed(answer.body, framing_of(n, form), kind=answer.kind)
    return Cut(answer, wire, len(wire.wire))


def cut_all(url: str, form: str, then: Ending, cuts: Sequence[Cut], *, timeout: float) -> None:
    """Ask once for each cut, many at a time, each in a conversation of its own, and hold it to what is true."""

    def sent(body: bytes) -> Sent:
        found = _number.search(body)
        assert found is not None
        cut = cuts[int(found[1])]
        return Sent(cut.wire.wire[: cut.at], then)

    ask = by_send if form == "send" else by_stream
    with (
        FaultyAPI(sent) as api,
        Client(KEY, base_url=api.url, max_attempts=1, timeout=timeout) as client,
        Store(url, client=client) as store,
        ThreadPoolExecutor(96 if then == "stall" else 4) as pool,
    ):
        for future in [pool.submit(hold, store.open(None, **SETTINGS), ask, n, cut) for n, cut in enumerate(cuts)]:
            future.result()


def hold(chat: Conversation, ask: Ask, n: int, cut: Cut) -> None:
    """Ask, and make sure that whole is whole, partial is partial, and every byte that arrived is kept."""
    where = (cut.answer.name, cut.at, cut.arrived, cut.answer.whole)
    try:
        reply = ask(chat, f"cut {n}")
    except NoAnswerError:
        assert cut.at < cut.wire.head, where
        assert chat.exchanges[0].state == "failed", where
        return
    except InterruptedAnswerError as error:
        arrived = error.partial
    else:
        assert cut.whole, where
        assert reply.exchange.state == "answered", where
        assert reply.raw_content == cut.answer.content, where
        return
    (exchange,) = chat.exchanges
    assert not cut.whole, where
    assert arrived == partial(chat, exchange) == cut.answer.body[: cut.arrived], where
    assert (exchange.state, exchange.turn, len(chat.turns)) == ("interrupted", None, 1), where


@requires_corpus
@pytest.mark.parametrize("then", ENDINGS)
@pytest.mark.parametrize("form", ["send", "stream"])
def test_a_cut_answer_is_partial_and_a_whole_one_whole(database_url: str, form: str, then: Ending) -> None:
    """At places chosen by chance and at every border: what is whole is answered, what is not keeps every byte."""
    chance = random.Random(f"{form} {then}")
    cuts = []
    for n in range(ANSWERS):
        case = on_the_wire(form, n)
        end = next(at for at in range(case.at + 1) if case.wire.arrived(at) >= case.answer.whole)
        some = [end - 1, end, *chance.sample(range(case.wire.head, end - 1), 2)]
        if then != "stall":
            some += [chance.randrange(case.wire.head), case.wire.head, case.at, chance.randrange(end)]
        cuts += [evolve(case, at=at) for at in some]
    cut_all(database_url, form, then, cuts, timeout=2.5 if then == "stall" else 20)


@pytest.mark.long
@requires_corpus
@pytest.mark.parametrize("then", ENDINGS)
@pytest.mark.parametrize("n", range(ANSWERS))
@pytest.mark.parametrize("form", ["send", "stream"])
def test_an_answer_is_cut_at_every_byte(database_url: str, form: str, n: int, then: Ending) -> None:
    """Each answer is cut after every byte of the wire, headers, sizes of chunks and all."""
    case = on_the_wire(form, n)
    cuts = [evolve(case, at=at) for at in range(case.at + 1)]
    cut_all(database_url, form, then, cuts, timeout=5.0 if then == "stall" else 60)
