"""
What an evidence bundle is made of: names, limits, the manifest, and the words of its README.txt.

``evidence.md`` beside this file is the format; whoever writes and whoever checks a bundle keep to it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, get_args
from uuid import UUID

from attrs import frozen

from conversation_store.errors import CodecError
from conversation_store.record import canonical

FORMAT: Final = 1
"""The format that this release writes and reads."""

README: Final = "README.txt"
ENTRIES: Final = "entries.jsonl"
ERASURES: Final = "erasures.json"
MANIFEST: Final = "manifest.json"
INCLUSION: Final = "proofs/inclusion.tlog-proof"
CONSISTENCY: Final = "proofs/consistency.txt"
SUMS: Final = "sums.sha256"
REQUIRED: Final = (README, ENTRIES, ERASURES, MANIFEST, SUMS)

LONGEST_LINE: Final = 256 * 1024 * 1024
"""Bytes of a line of entries.jsonl, without its line feed."""

LONGEST: Final[Mapping[str, int]] = {
    README: 1024 * 1024,
    ERASURES: 64 * 1024 * 1024,
    MANIFEST: 64 * 1024 * 1024,
    INCLUSION: 1024 * 1024,
    CONSISTENCY: 1024 * 1024,
    SUMS: 256 * 1024 * 1024,
}
"""Bytes of members that are read whole."""

_NAME: Final = re.compile(
    r"README\.txt|entries\.jsonl|erasures\.json|manifest\.json|sums\.sha256"
    r"|proofs/(?:inclusion\.tlog-proof|consistency\.txt)"
    r"|blobs/[0-9a-f]{64}|requests/[0-9]{10}\.body|responses/[0-9]{10}\.raw"
)

Requests: TypeAlias = Literal["all", "last", "none"]
REQUESTS: Final = get_args(Requests)

Run: TypeAlias = tuple[int, int]
"""Positions from one to another, both included."""


def is_name(name: str) -> bool:
    """Say whether a member of a bundle may be called so."""
    return _NAME.fullmatch(name) is not None


def blob_name(digest: bytes) -> str:
    """Name the member that holds a blob, by the SHA-256 of its bytes."""
    return f"blobs/{digest.hex()}"


def request_name(position: int) -> str:
    """Name the member that holds the body of the request at a position."""
    return f"requests/{position:010d}.body"


def response_name(request: int) -> str:
    """Name the member that holds the response to the request at a position, as it was received."""
    return f"responses/{request:010d}.raw"


@frozen(kw_only=True)
class Log:
    """
    A log as far as a bundle has it.

    Attributes:
        conversation: Whose.
        length: How many of its entries are told of, from the first on.
        head: The digest of the last of them.
        reveal: The positions whose content is shown, as runs, ascending and merged.
    """

    conversation: UUID
    length: int
    head: bytes
    reveal: Sequence[Run] = ()

    def reveals(self, position: int) -> bool:
        """Say whether the content of an entry is shown."""
        n = bisect_right(self.reveal, (position, self.length)) - 1
        return n >= 0 and position <= self.reveal[n][1]

    @property
    def is_whole(self) -> bool:
        """Whether the content of every entry is shown."""
        return list(self.reveal) == [(0, self.length - 1)]

    @property
    def fields(self) -> Mapping[str, object]:
        """The log as the manifest tells it."""
        return {
            "conversation": self.conversation.hex,
            "head": self.head.hex(),
            "length": self.length,
            "reveal": [list(run) for run in self.reveal],
        }


@frozen(kw_only=True)
class Manifest:
    """
    What a bundle says of itself.

    Attributes:
        logs: The conversation's own log, then its parent's, the parent of that one, and so on.
        requests: Which bodies of requests were asked for.
        why: Why it was made; nothing proves that.
    """

    logs: Sequence[Log]
    requests: Requests = "all"
    why: str | None = None

    def json(self) -> bytes:
        """Write it."""
        said: dict[str, object] = {
            "conversation_store": "evidence",
            "format": FORMAT,
            "logs": [log.fields for log in self.logs],
            "requests": self.requests,
        }
        return canonical.header(said if self.why is None else {**said, "why": self.why})

    @classmethod
    def read(cls, data: bytes) -> Manifest:
        """
        Read what ``json`` wrote; only in its spelling.

        Raises:
            CodecError: It is none, or one of a later release.
        """
        said = canonical.object_of(data)
        if said.get("conversation_store") != "evidence" or said.get("format") != FORMAT:
            raise CodecError("no manifest of a format that this release reads")
        try:
            found = cls(logs=[_log(each) for each in said["logs"]], requests=said["requests"], why=said.get("why"))
        except (LookupError, TypeError, ValueError, AttributeError):
            raise CodecError("no manifest: a log that is none") from None
        if not found.logs or found.requests not in REQUESTS or not (found.why is None or type(found.why) is str):
            raise CodecError("no manifest: logs, requests or why")
        if found.json() != data:
            raise CodecError("a manifest in another spelling")
        return found

    @property
    def readme(self) -> bytes:
        """The words of README.txt."""
        own = self.logs[0]
        return _README.format(
            conversation=own.conversation,
            length=own.length,
            head=own.head.hex(),
            reveal=", ".join(f"{first} to {last}" for first, last in own.reveal) or "none",
            inherited=_inherited(self.logs[1:]),
            requests=_OF_REQUESTS[self.requests],
            why="none was given" if self.why is None else canonical.header(self.why).decode(),
        ).encode()


def _log(said: Any) -> Log:
    runs = [(first, last) for first, last in said["reveal"]]
    found = Log(
        conversation=UUID(hex=said["conversation"]),
        length=said["length"],
        head=bytes.fromhex(said["head"]),
        reveal=runs,
    )
    end = -2
    for first, last in runs:
        if type(first) is not int or type(last) is not int or not end + 1 < first <= last < found.length:
            raise ValueError("no runs")
        end = last
    if type(found.length) is not int or not 0 < found.length < 1 << 63 or len(found.head) != 32:  # noqa: PLR2004
        raise ValueError("no log")
    return found


def _inherited(logs: Sequence[Log]) -> str:
    if not logs:
        return "It was not forked from another conversation."
    told = "; ".join(f"{log.length} entries of {log.conversation}" for log in logs)
    return f"It was forked, and goes on from {told}."


_OF_REQUESTS: Final[Mapping[str, str]] = {
    "all": "every request whose body holds revealed entries alone",
    "last": "the last request whose body holds revealed entries alone",
    "none": "no request",
}

_README: Final = """\
EVIDENCE OF A CONVERSATION WITH THE MESSAGES API

This archive was written from the record of conversation
{conversation}:
{length} entries, of which the last has the digest
{head}.
{inherited}

Why it was made (nothing proves this): {why}

WHAT IT CLAIMS

Each line of entries.jsonl is one entry of the record, in order. The digest of
each covers the digest before it, so that no entry can be changed, left out,
added or moved without changing the last digest. An entry whose content is not
revealed is there as a digest of 32 bytes: its place is proved, its content is
neither told nor to be guessed.

Revealed entries: {reveal}.
Bodies are here of {requests}:
exactly the bytes that were sent, with names in the place of secrets.
Responses are here as they were received, where the record kept them.
Content that was erased lawfully is gone; erasures.json says what and when.

The archive alone shows only that the record is whole in itself. That it is
the record that was kept, and not one made afterwards, is shown by the proof
of a signed checkpoint (proofs/), checked with a key that you got elsewhere,
and by a checkpoint or a digest that you kept yourself.

It does not show that what was recorded is true, that the clocks were right,
or that nothing else was said elsewhere.

HOW TO CHECK IT

    python -m conversation_store.audit.verify BUNDLE --key KEY --pin FILE

needs no database and no network. The format is described in evidence.md,
which comes with the library; anybody can write another verifier from it.
"""
