"""
A conversation in the terminal, or through a pipe: the command ``chat``.

``Chat._ask`` is the only place that waits for the API and shows what came.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import Any, Final, Literal

import click

from conversation_store.api.client import Client
from conversation_store.cli.arrivals import Arrival
from conversation_store.cli.databases import database_options, find, key_argument, to_write
from conversation_store.cli.failures import Code, code_of, told
from conversation_store.cli.terminal import Screen, complain, notices
from conversation_store.cli.transcripts import block_line, exchange_line, name_of, print_turn
from conversation_store.conversation import Conversation
from conversation_store.errors import (
    APIError,
    ConfigurationError,
    ConflictError,
    ContentError,
    ConversationStoreError,
    NotFoundError,
    NotSavedError,
    UnknownOutcomeError,
)
from conversation_store.formats.wording import counted, moment, words_of
from conversation_store.record.blocks import Block, Document, Image
from conversation_store.record.exchange import Exchange, State
from conversation_store.record.reply import Reply
from conversation_store.store import Store
from conversation_store.streaming import Stream
from conversation_store.testing import MODELS, MessagesAPI

MODEL: Final = "claude-sonnet-5-5"
MAX_TOKENS: Final = 4096
KEY: Final = "chat"

OnUnknown = Literal["resend", "keep-partial", "give-up"]

_PROMPT: Final = "you> "
_QUESTION: Final = "send it again, or give up? [s/g] "
_GOING_ON: Final = ", going on"
_SHOWN: Final = 4
_PARTIAL: Final = 600
_CHOICES: Final[dict[str, OnUnknown]] = {
    **dict.fromkeys(("s", "send", "r", "resend"), "resend"),
    **dict.fromkeys(("k", "keep", "c", "continue"), "keep-partial"),
    **dict.fromkeys(("g", "give up", "give-up"), "give-up"),
}
_HELP: Final = """\
/image PATH  send a picture or a PDF (a path, or an https address) with the next message
/retry       send the last message again, if it has no answer
/continue    go on from the words that came of an answer that was cut off
/help        this
/quit        leave; so does Ctrl-D
Ctrl-C stops an answer; what came is kept. A message that begins with / is written with // in front."""


class Chat:
    """
    One conversation and the person, or pipe, it is held with.

    Attributes:
        code: The exit code as far as it is known: what last went wrong, when nobody was there to see it.
    """

    def __init__(self, conversation: Conversation, screen: Screen, *, person: bool, missing: Mapping[str, Any]) -> None:
        self._conversation = conversation
        self._screen = screen
        self._person = person
        self._missing = missing  # settings that the conversation lacks and no request can
        self._attached: list[Block] = []
        self._unsaved: NotSavedError | None = None
        self.code = Code.DONE

    def greet(self) -> None:
        """Show a person where the conversation stands."""
        if not self._person:
            return
        turns = self._conversation.turns
        model = {**self._missing, **self._conversation.settings}.get("model")
        self._screen.line(
            (name_of(self._conversation), "bold"),
            (f"  {counted(len(turns), 'turn')}, {model}; /help lists commands, Ctrl-D leaves", "dim"),
        )
        if len(turns) > _SHOWN:
            self._screen.line((f"… {counted(len(turns) - _SHOWN, 'earlier turn')}", "dim"))
        for turn in turns[-_SHOWN:]:
            print_turn(self._screen, turn)

    def settle(self, on_unknown: OnUnknown | None) -> bool:
        """
        Look what an earlier run left behind; a person is asked what to do about it.

        Returns:
            Whether to go on; False when the person left.

        Raises:
            UnknownOutcomeError: Nobody is there to be asked, and *on_unknown* does not say.
        """
        last = self._last()
        if last is None:
            return True
        words = self._conversation.partial_text(last) if last.state in {State.UNKNOWN, State.INTERRUPTED} else ""
        if last.state is State.UNKNOWN:
            return self._decide(last, words, on_unknown)
        if not self._person:
            return True
        if words:
            return self._decide(last, words, None)
        if last.state is State.PENDING:
            complain("another process waits for an answer in this conversation; what you say has to wait for it")
        elif last.state in {State.FAILED, State.INTERRUPTED}:
            complain(f"the last message has no answer ({exchange_line(last)}); /retry sends it again")
        return True

    def _decide(self, last: Exchange, words: str, on_unknown: OnUnknown | None) -> bool:
        choice = on_unknown or self._choice(last, words)
        if choice is None:
            return False
        if choice == "resend":
            self._ask(self._again)
        elif choice == "keep-partial":
            self._go_on()
        elif last.state is State.UNKNOWN:
            self._conversation.recover("give_up")
        return True

    def _choice(self, last: Exchange, words: str) -> OnUnknown | None:
        if not self._person:
            raise UnknownOutcomeError(self._conversation.id, last.position, last.state)
        if last.state is State.UNKNOWN:
            begun = f"The request of {moment(last.begun)} has no outcome"
            self._screen.line((f"{begun}: it may have been answered and billed. Your message is kept.", "yellow"))
        else:
            self._screen.line((f"The answer of {moment(last.begun)} was cut off. Your message is kept.", "yellow"))
        if words:
            self._screen.line((f"{counted(len(words), 'character')} of an answer had come:", "yellow"))
            self._screen.paragraph((words if len(words) <= _PARTIAL else f"… {words[-_PARTIAL:]}", "dim"), indent=4)
        question = "send it again, keep this and go on, or give up? [s/k/g] " if words else _QUESTION
        while True:
            try:
                said = read(question, self._screen)
            except (EOFError, KeyboardInterrupt):
                self._screen.line()
                return None
            choice = _CHOICES.get(said.strip().lower())
            if choice is not None and (words or choice != "keep-partial"):
                return choice

    def hold(self) -> None:
        """Take lines until there are no more: a line is a turn, or a command."""
        for line in self._lines():
            command, _, rest = line.strip().partition(" ")
            if not command:
                continue
            if command == "/quit":
                return
            if not command.startswith("/") or command.startswith("//"):
                self._say(line.replace("//", "/", 1) if command.startswith("//") else line)
            elif command == "/help":
                self._screen.paragraph(_HELP)
            elif command == "/retry":
                self._retry()
            elif command == "/continue":
                self._go_on()
            elif command == "/image":
                self._attach(rest.strip())
            else:
                self._failed(ContentError("", f"there is no command {command}; /help lists them, // begins words"))

    def _lines(self) -> Iterator[str]:
        if not self._person:
            for line in sys.stdin:
                yield line.rstrip("\r\n")
            return
        while True:
            try:
                line = read(_PROMPT, self._screen)
            except EOFError:
                self._screen.line()
                return
            except KeyboardInterrupt:
                self._screen.line()
                continue
            yield line

    def _say(self, text: str) -> None:
        before = self._conversation.version
        self._ask(lambda: self._conversation.stream(*self._attached, text, **self._missing))
        if self._conversation.version != before:
            self._attached.clear()

    def _retry(self) -> None:
        if self._unsaved is None:
            self._ask(self._again)
            return
        try:
            reply = self._unsaved.pending.finish()
        except ConversationStoreError as error:
            self._failed(error)
            return
        self._unsaved = None
        complain("the answer is saved now")
        self._notice(reply)

    def _last(self) -> Exchange | None:
        exchanges = self._conversation.exchanges
        return exchanges[-1] if exchanges else None

    def _again(self) -> Stream:
        last, turns = self._last(), self._conversation.turns
        if last is not None and last.state is State.UNKNOWN:
            return self._conversation.recover_stream("resend")
        if turns and turns[-1].role == "user" and (last is None or last.state is State.ANSWERED):
            return self._conversation.stream(**self._missing)
        return self._conversation.retry_stream()

    def _go_on(self) -> None:
        last = self._last()
        if last is None or not self._conversation.partial_text(last).strip():
            self._failed(ContentError("", "there are no words to go on from; /retry sends a message without an answer"))
        else:
            self._ask(lambda: self._conversation.recover_stream("keep_partial"), note=_GOING_ON)

    def _ask(self, asked: Callable[[], Stream], note: str = "") -> None:
        """Show an answer while it comes; whatever goes wrong is one line, and the chat goes on."""
        before = self._conversation.version
        try:
            with stoppable(), Arrival(self._screen, person=self._person, note=note) as arrival, asked() as stream:
                for event in stream:
                    arrival.show(event)
                reply = stream.reply
        except KeyboardInterrupt:
            self._stopped(before)
            if not self._person:
                raise
        except NotSavedError as error:
            self._unsaved = error
            self._failed(error)
        except ConflictError as error:
            seen = {(turn.conversation, turn.position) for turn in self._conversation.turns}
            self._conversation.refresh()
            self._failed(error)
            if self._person:
                for turn in self._conversation.turns:
                    if (turn.conversation, turn.position) not in seen:
                        print_turn(self._screen, turn)
        except ConversationStoreError as error:
            self._failed(error)
        else:
            self._notice(reply)

    def _stopped(self, before: int) -> None:
        """Make sure that what was stopped is on the record, at whatever moment that was."""
        pending = self._conversation.pending
        if pending is not None and pending.exchange.position >= before:
            pending.fail(APIError("stopped by the user"))
        last = self._last()
        if self._conversation.version == before or last is None or last.position < before:
            complain("stopped before anything was sent or kept")
        elif last.state is State.ANSWERED:
            complain("the answer was there already, and is kept")
        elif self._conversation.partial_text(last).strip():
            complain("stopped; what came is kept: /continue goes on from it, /retry asks again, or say something else")
        else:
            complain("stopped; your message is kept and may be billed; /retry sends it again")

    def _failed(self, error: ConversationStoreError) -> None:
        complain(told(error))
        if not self._person:
            self.code = code_of(error)

    def _notice(self, reply: Reply) -> None:
        """Say what the words of an answer do not."""
        if reply.refused:
            self._failed(APIError("the model declined; messages without an answer are set aside; say it differently"))
        elif reply.stop_reason == "max_tokens":
            complain("the answer stopped at max_tokens; say 'go on', or give --max-tokens more")
        elif reply.turn is None:
            complain("the answer was empty; say more")
        elif reply.tool_uses:
            names = ", ".join(dict.fromkeys(words_of(call.name) for call in reply.tool_uses))
            complain(f"the model calls {names}; chat runs no tools: whoever does has to answer")

    def _attach(self, where: str) -> None:
        where = where.strip("'\"")
        try:
            if not where:
                raise ContentError("", "/image needs a path")
            block = picture(where)
        except ConversationStoreError as error:
            self._failed(error)
            return
        self._attached.append(block)
        if self._person:
            self._screen.line((f"{block_line(block)} goes with your next message", "dim"))


def picture(where: str) -> Block:
    """
    Take a picture or a PDF by path or by address.

    Raises:
        AttachmentError: It is neither, or cannot be read.
    """
    named = where.lower().endswith(".pdf")
    if where.startswith("https://"):
        return Document.from_url(where) if named else Image.from_url(where)
    path = os.path.expanduser(where)  # noqa: PTH111 - an error names the path as it was given
    return Document.open(path) if named else Image.open(path)


def read(prompt: str, screen: Screen) -> str:
    """Read a line from a person; the prompt goes where the person looks."""
    if screen.is_terminal:
        return input(prompt)
    sys.stderr.write(prompt)
    sys.stderr.flush()
    return input()


@contextmanager
def stoppable() -> Iterator[None]:
    """Let Ctrl-C stop what is under way, once: a second one must not stop its being recorded."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def client_of(*, offline: bool, models: tuple[str, ...], until: ExitStack) -> Client:
    """
    Make the client: of the environment, or one that speaks to a loopback API which ends with *until*.

    Raises:
        ConfigurationError: There is no key, or the address is no good.
    """
    if offline:
        known = {name for model in MODELS for name in (model.id, model.alias)}
        api = until.enter_context(MessagesAPI(models=[name for name in models if name not in known]))
        return until.enter_context(Client(api_key=api.key, base_url=api.url))
    if not (os.environ.get("ANTHROPIC_API_KEY") or os.environ.get("ANTHROPIC_AUTH_TOKEN")):
        raise ConfigurationError("there is no API key; set ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN, or use --offline")
    return until.enter_context(Client())


def opened(store: Store, key: str, settings: Mapping[str, Any]) -> tuple[Conversation, bool]:
    """Get a conversation, or make it with these settings; say whether it was there."""
    try:
        return find(store, key), True
    except NotFoundError:
        return store.open(key, **{"model": MODEL, "max_tokens": MAX_TOKENS, **settings}), False


@click.command("chat")
@key_argument("key", metavar="[KEY]", default=KEY)
@database_options
@click.option("--model", help=f"The model from now on; a new conversation has {MODEL}.")
@click.option("--system", help="The system prompt from now on.")
@click.option("--max-tokens", type=click.IntRange(min=1), help=f"Tokens of an answer from now on; new: {MAX_TOKENS}.")
@click.option("--offline", is_flag=True, help="Talk to a model that runs here and knows next to nothing.")
@click.option(
    "--on-unknown",
    type=click.Choice(("resend", "keep-partial", "give-up")),
    help="What to do with a request whose outcome an earlier run never learned: keep-partial goes on from the words "
    "that had come. A person is asked.",
)
def chat(
    *,
    key: str,
    database: str,
    scope: str,
    model: str | None,
    system: str | None,
    max_tokens: int | None,
    offline: bool,
    on_unknown: OnUnknown | None,
) -> int:
    """
    Hold the conversation KEY, and go on with it another day.

    The API key and address come from ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN, and ANTHROPIC_BASE_URL. Where
    standard input is no terminal, each of its lines is a turn and only the answers are printed.
    """
    given = {"model": model, "system": system, "max_tokens": max_tokens}
    settings = {name: value for name, value in given.items() if value is not None}
    person = sys.stdin.isatty()
    if person:
        with suppress(ImportError):
            import readline  # noqa: F401, PLC0415 - it gives input() a history and arrow keys
    with ExitStack() as until:
        client = client_of(offline=offline, models=(model,) if model else (), until=until)
        store = until.enter_context(to_write(database, scope, client))
        until.enter_context(notices())
        conversation, was_there = opened(store, key, settings)
        needed = {"model": MODEL, "max_tokens": MAX_TOKENS}
        missing = {name: value for name, value in needed.items() if name not in {**conversation.settings, **settings}}
        talk = Chat(conversation, Screen(), person=person, missing=missing)
        talk.greet()
        if talk.settle(on_unknown):
            if was_there and settings:
                conversation.update(**settings)
            talk.hold()
        return talk.code
