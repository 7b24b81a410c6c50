"""
Check an evidence bundle offline: no database, no network, nothing of ours that needs either.

    python -m conversation_store.audit.verify BUNDLE [--key KEY]… [--pin FILE]

Keys and pins come from elsewhere, never from the bundle. Whatever the file holds, what is wrong with it is a
``Fault`` and never an exception. ``evidence.md`` beside this file says which checks there are, and in which order.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias
from uuid import UUID

from attrs import Factory, define, field, frozen

from conversation_store.audit import bundle
from conversation_store.audit.archive import Reader
from conversation_store.audit.bundle import Log, Manifest
from conversation_store.audit.checkpoints import Checkpoint as Kept
from conversation_store.audit.faults import NOBODY, Fault, named, part_faults, shown
from conversation_store.audit.keys import VerifyKey, is_signed, verify_keys
from conversation_store.errors import CodecError, ConfigurationError, ContentError
from conversation_store.record import canonical, chain, merkle
from conversation_store.record import seals as leaves
from conversation_store.record.erasure import Gone
from conversation_store.record.notes import Checkpoint, Consistency, Note, Proof

Pin: TypeAlias = "tuple[Note, Checkpoint] | Kept"
"""What an auditor kept: a checkpoint of a log of seals, or where conversations stood when they were verified."""

_HIDDEN: Final = frozenset({"digest", "entry", "log", "position"})
_TOLD: Final = frozenset({"at", "digest", "header", "kind", "log", "position"})
_PARTS: Final = frozenset({"about", "blobs", "body", "request_salt", "salt"})
_BLOB: Final = frozenset({"digest", "media_type", "salt", "size"})
_HEX: Final = frozenset("0123456789abcdef")


@frozen(kw_only=True)
class Report:
    """
    What checking a bundle came to.

    Attributes:
        faults: What is wrong, in the order in which it was found; empty for a sound bundle.
        claim: What is proved and what is not, in plain words.
    """

    faults: Sequence[Fault]
    claim: str

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


def verify(
    file: BinaryIO, *, key: str | VerifyKey | Sequence[str | VerifyKey] | None = None, pin: str | bytes | None = None
) -> Report:
    """
    Check a bundle.

    Args:
        file: The bundle; it can be sought in.
        key: The verifier key of the seals, or several that are trusted; with it, a signed checkpoint must cover the
            conversation.
        pin: What the auditor kept: a checkpoint of the seals (a note), or one that ``conversation-store verify
            --checkpoint`` wrote; the bundle must go on from it.

    Returns:
        What was found. The codes of its faults are those of ``evidence.md``.

    Raises:
        ConfigurationError: A key is none, or the extra ``seal`` is not installed and a key is given.
        ContentError: The pin is none.
        OSError: The file cannot be read.
    """
    checking = _Checking(file=file, keys=verify_keys(key), pin=None if pin is None else pin_of(pin))
    checking.all()
    return Report(faults=tuple(checking.faults), claim=_claim(checking))


def pin_of(given: str | bytes) -> Pin:
    """
    Read what an auditor kept.

    Raises:
        ContentError: It is no checkpoint of either kind.
    """
    data = given.encode() if isinstance(given, str) else given
    if data.lstrip().startswith(b"{"):
        return Kept.read(data)
    try:
        note = Note.read(data)
        return note, Checkpoint.read(note.text)
    except CodecError as error:
        raise ContentError("pin", f"is no checkpoint: {error}") from None


class _Stop(Exception):  # noqa: N818 - no error: there is nothing more to be looked at
    """What was found leaves nothing that could be checked further."""


@define
class _Known:
    """What is known of a member: its length, and the SHA-256 of its bytes."""

    size: int
    digest: bytes
    named: bool = False


@define
class _Erasures:
    """What the entries of a log say was erased, and what of the log is gone and what is there."""

    headers: list[Mapping[str, Any]] = Factory(list)
    gone: list[int] = Factory(list)
    there: list[int] = Factory(list)
    salted: list[int] = Factory(list)


@define(kw_only=True)
class _Checking:
    """One look at a bundle."""

    file: BinaryIO
    keys: tuple[VerifyKey, ...]
    pin: Pin | None
    faults: list[Fault] = field(factory=list, init=False)
    manifest: Manifest | None = field(default=None, init=False)
    revealed: int = field(default=0, init=False)
    withheld: int = field(default=0, init=False)
    erased: int = field(default=0, init=False)
    requests: int = field(default=0, init=False)
    sealed: int = field(default=0, init=False)
    checkpoint: Checkpoint | None = field(default=None, init=False)
    _members: dict[str, _Known] = field(factory=dict, init=False)
    _reader: Reader = field(init=False)
    _of: UUID = field(default=NOBODY, init=False)
    _proof: Proof | None = field(default=None, init=False)
    _digests: dict[int, bytes | None] = field(factory=dict, init=False)
    """The digests of the conversation's own log after so many entries, where somebody vouches for one."""
    _told: list[dict[str, Any]] = field(factory=list, init=False)
    """What erasures.json must say."""

    def _say(self, code: str, position: int, expected: object, found: object) -> None:
        said = [each if isinstance(each, str) else shown(each) for each in (expected, found)]
        self.faults.append(Fault(code, self._of, position, *said))

    @contextmanager
    def _guarded(self, code: str, expected: str, position: int = -1, *, stop: bool = False) -> Iterator[None]:
        """Turn what cannot be read into a fault."""
        try:
            yield
        except ValueError as error:
            self._say(code, position, expected, str(error)[:200])
            if stop:
                raise _Stop from None

    def all(self) -> None:
        """Check everything that can be."""
        try:
            with self._guarded("zip", "an archive of the format's layout", stop=True):
                self._reader = Reader(self.file)
            self._names()
            self._sums()
            with self._guarded("manifest", "a manifest", stop=True):
                self.manifest = Manifest.read(self._reader.read(bundle.MANIFEST))
            self._of = self.manifest.logs[0].conversation
            if self.manifest.readme != self._whole(bundle.README):
                self._say("readme", -1, "the words that the format gives", "others")
            self._read_proof()
            self._entries(self.manifest.logs)
            self._compare(bundle.ERASURES, canonical.header(self._told), "erasures")
            self._strays()
            self._prove()
            self._hold_pin()
        except _Stop:
            pass

    # --- the archive -----------------------------------------------------------------------------------------------

    def _names(self) -> None:
        members = self._reader.members
        for name in members:
            if not bundle.is_name(name):
                self._say("member", -1, "a name of the format", repr(name)[:200])
        for name in bundle.REQUIRED:
            if name not in members:
                self._say("member", -1, name, "none")
        for name, longest in bundle.LONGEST.items():
            if name in members and members[name].size > longest:
                self._say("member", -1, f"{name} of at most {longest} bytes", str(members[name].size))
        if self.faults:
            raise _Stop

    def _sums(self) -> None:
        """Read every member once, and hold it against sums.sha256."""
        for name, member in self._reader.members.items():
            state = sha256()
            with self._guarded("zip", "the CRC-32 of the bytes"):
                for piece in self._reader.pieces(name):
                    state.update(piece)
            self._members[name] = _Known(member.size, state.digest())
        expected = "".join(
            f"{known.digest.hex()}  {name}\n" for name, known in self._members.items() if name != bundle.SUMS
        )
        self._compare(bundle.SUMS, expected.encode(), "sum")

    def _whole(self, name: str) -> bytes:
        try:
            return self._reader.read(name)
        except CodecError:
            return b""  # said already, when its bytes were summed

    def _compare(self, name: str, expected: bytes, code: str) -> None:
        if self._members[name].digest != sha256(expected).digest():
            self._say(code, -1, f"{name} as the rest of the bundle has it", "another")

    def _known(self, name: str) -> _Known | None:
        known = self._members.get(name)
        if known is not None:
            known.named = True
        return known

    def _strays(self) -> None:
        for name in (*bundle.REQUIRED, bundle.INCLUSION, bundle.CONSISTENCY):
            self._known(name)
        for name, known in self._members.items():
            if not known.named:
                self._say("stray", -1, "a member that an entry names", name)

    # --- entries ---------------------------------------------------------------------------------------------------

    def _entries(self, logs: Sequence[Log]) -> None:
        lines = self._reader.lines(bundle.ENTRIES, bundle.LONGEST_LINE)
        try:
            for n, log in enumerate(logs):
                parent = self._log(n, log, lines)
                expected = _forked_from(logs[n + 1]) if n + 1 < len(logs) else None
                if parent != expected:
                    self._say("parent", 0, "no parent" if expected is None else expected, parent or "none")
            if next(lines, None) is not None:
                self._say("line", -1, "no more lines", "one more")
        except CodecError as error:
            self._say("line", -1, "lines as the format has them", str(error)[:200])
            raise _Stop from None

    def _log(self, n: int, log: Log, lines: Iterator[bytes]) -> str | None:
        """Check one log; gives what it says that it was forked from."""
        self._of = log.conversation
        digest, erasures = chain.genesis(log.conversation), _Erasures()
        parent: str | None = None
        for position in range(log.length):
            line = next(lines, None)
            if line is None:
                self._say("length", position, f"{log.length} entries", str(position))
                raise _Stop
            try:
                told = _line(line, n, position)
            except ValueError as error:
                self._say("line", position, "a line as the format has it", str(error)[:200])
                raise _Stop from None
            entry = _entry_of(log.conversation, told)
            expected, digest = chain.link(digest, entry), bytes.fromhex(told["digest"])
            if expected != digest:
                self._say("digest", position, expected, digest)
            if n == 0 and position + 1 in self._digests:
                self._digests[position + 1] = digest
            fields = self._look(log, n, told, erasures)
            if position == 0:
                parent = self._opened(told, fields)
        if digest != log.head:
            self._say("head", log.length - 1, log.head, digest)
        self._hold_erasures(erasures)
        self._of = self._own
        return parent

    @property
    def _own(self) -> UUID:
        return NOBODY if self.manifest is None else self.manifest.logs[0].conversation

    def _opened(self, told: Mapping[str, Any], fields: Mapping[str, Any]) -> str | None:
        if told.get("kind") != "opened":
            self._say("opened", 0, "the header of an opened entry", str(told.get("kind", "a digest alone")))
        return canonical.header(fields["parent"]).decode() if "parent" in fields else None

    def _look(self, log: Log, n: int, told: Mapping[str, Any], erasures: _Erasures) -> Mapping[str, Any]:
        """Look at what an entry commits to; gives its header's fields."""
        position = told["position"]
        if "entry" in told:
            if log.reveals(position):
                self._say("reveal", position, "an entry that is revealed", "a digest alone")
            return {}
        fields: Mapping[str, Any] = {}
        header = told["header"].encode()
        with self._guarded("header", "a header", position):
            fields = _header(header)
        if told["kind"] == "erased":
            erasures.headers.append(fields)
            self._told.append({"at": told["at"], "erased": fields.get("erased"), "log": n, "position": position})
        if "withheld" in told:
            self.withheld += n == 0
            if log.is_whole:
                self._say("reveal", position, "an entry that is revealed", "its header alone")
            return fields
        if not log.reveals(position):
            self._say("reveal", position, "an entry that is not revealed", "its content")
        self.revealed += n == 0
        self._content(n, told, fields, erasures)
        return fields

    def _content(self, n: int, told: Mapping[str, Any], fields: Mapping[str, Any], erasures: _Erasures) -> None:
        position = told["position"]
        committed = "body" in fields or "about" in fields
        parts = _Parts.of(told)
        if parts.content:
            erasures.there.append(position)
        elif committed:
            erasures.gone.append(position)
            self.erased += n == 0
        gone = frozenset({"request"} if parts.content or not committed else {"request", "content"})
        self.faults.extend(part_faults(self._of, parts, fields, erased=gone))
        if parts.content or "blobs" in told:
            self._blobs(n, told, fields)
        if told["kind"] == "request":
            self._request(n, told, fields, erasures)
        if n == 0 and told["kind"] == "outcome" and parts.salt is not None:
            self._response(parts.salt, told, fields)

    def _blobs(self, n: int, told: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        position, used, committed = told["position"], told.get("blobs", []), named(fields)
        if len(used) != len(committed):
            self._say("blob", position, f"{len(committed)} blobs", f"{len(used)} blobs")
            return
        for number, (use, expected) in enumerate(zip(used, committed, strict=True)):
            digest = bytes.fromhex(use["digest"])
            found = chain.part(bytes.fromhex(use["salt"]), use["media_type"], digest).hex()
            if found != expected:
                self._say("blob", position, shown(expected), found)
            raw = n == 0 and number == 0 and told["kind"] == "outcome" and "raw" in fields
            name = _response_of(fields) if raw else bundle.blob_name(digest)
            known = self._known(name)
            if known is None or (known.size, known.digest) != (use["size"], digest):
                self._say("blob", position, name, "none" if known is None else known.digest)

    def _request(self, n: int, told: Mapping[str, Any], fields: Mapping[str, Any], erasures: _Erasures) -> None:
        position = told["position"]
        known = None if n else self._known(bundle.request_name(position))
        if known is None and "request_salt" not in told:
            return
        if known is None or "request_salt" not in told:
            self._say("request", position, "a body and its salt, or neither", "one of them")
            return
        erasures.salted.append(position)
        self.requests += 1
        found = chain.part(bytes.fromhex(told["request_salt"]), chain.JSON_TYPE, known.digest).hex()
        if found != fields.get("request") or known.size != fields.get("length"):
            self._say("request", position, shown(fields.get("request")), found)

    def _response(self, salt: bytes, told: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        """Hold a response that is here against what the outcome commits to."""
        known = self._known(_response_of(fields))
        if known is None:
            return
        found = chain.part(salt, chain.JSON_TYPE, known.digest).hex()
        if found != fields.get("response") or known.size != fields.get("response_length"):
            self._say("response", told["position"], shown(fields.get("response")), found)

    def _hold_erasures(self, erasures: _Erasures) -> None:
        named_gone = Gone.read(erasures.headers)
        for position in erasures.gone:
            if not named_gone.holds("content", position):
                self._say("missing", position, "content", "none, and no entry erased it")
        for part, there in (("content", erasures.there), ("request", erasures.salted)):
            for position in there:
                if named_gone.holds(part, position):
                    self._say("erased", position, f"no {part}: it was erased", "some")

    # --- who vouches for it ----------------------------------------------------------------------------------------

    def _read_proof(self) -> None:
        """Note after which entries somebody vouches for the digest."""
        if bundle.INCLUSION in self._members:
            with self._guarded("proof", "a proof of a conversation"):
                proof = Proof.read(self._reader.read(bundle.INCLUSION))
                sealed = None if proof.extra is None else leaves.read(proof.extra)
                if sealed is None:
                    raise CodecError("a proof of no conversation")
                self._proof = proof
                self._digests[sealed.length] = None
        if isinstance(self.pin, Kept) and self._of in self.pin.heads:
            self._digests[self.pin.heads[self._of][0]] = None

    def _prove(self) -> None:
        """Follow the proof from the conversation's digest to a checkpoint, and that to a key."""
        proof = self._proof
        if proof is None:
            if self.keys:
                self._say("signature", -1, "a proof with a checkpoint signed by the key", "none")
            return
        with self._guarded("proof", "a proof of this conversation"):
            sealed = leaves.read(proof.extra or b"")
            note = Note.read(proof.checkpoint)
            checkpoint = Checkpoint.read(note.text)
            if sealed is None or sealed.conversation != self._of:
                raise CodecError("a proof of another conversation")
            if self._digests.get(sealed.length) != sealed.digest:
                raise CodecError(f"another digest after {sealed.length} entries")
            leaf = merkle.leaf_hash(sealed.leaf)
            if not merkle.is_included(leaf, proof.index, checkpoint.size, proof.path, checkpoint.root):
                raise CodecError("a path that does not lead to the checkpoint's root")
            if self.keys and not is_signed(note, self.keys):
                self._say("signature", -1, "a checkpoint signed by the key", "none that is right")
                return
            self.sealed, self.checkpoint = sealed.length, checkpoint

    def _hold_pin(self) -> None:
        if isinstance(self.pin, Kept):
            length, digest = self.pin.heads.get(self._of, (-1, b""))
            found = chain.genesis(self._of) if length == 0 else self._digests.get(length)
            if found != digest:
                self._say("pin", length - 1, digest, "another digest, or none" if found is None else found)
        elif self.pin is not None:
            note, older = self.pin
            if self.keys and not is_signed(note, self.keys):
                self._say("signature", -1, "a pin signed by the key", "none that is right")
            with self._guarded("pin", f"a checkpoint that goes on from {older.size} leaves"):
                self._go_on_from(older)

    def _go_on_from(self, older: Checkpoint) -> None:
        newer = self.checkpoint
        if newer is None or newer.origin != older.origin:
            raise CodecError("no checkpoint of this log")
        path: Sequence[bytes] = ()
        if older.size != newer.size:
            if bundle.CONSISTENCY not in self._members:
                raise CodecError("no proof of it: export with this pin")
            given = Consistency.read(self._reader.read(bundle.CONSISTENCY))
            if given.old != older.size or self._proof is None or given.checkpoint != self._proof.checkpoint:
                raise CodecError("a proof for other checkpoints")
            path = given.path
        if not merkle.is_consistent(older.size, newer.size, older.root, newer.root, path):
            raise CodecError("another history")


@frozen(kw_only=True)
class _Parts:
    """The parts of an entry that are told, as ``part_faults`` looks at them."""

    position: int
    kind: str
    body: bytes | None
    about: bytes | None
    salt: bytes | None
    request_salt: bytes | None
    content: bool

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> _Parts:
        def read(name: str, how: Callable[[str], bytes]) -> bytes | None:
            return how(told[name]) if name in told else None

        return cls(
            position=told["position"],
            kind=told["kind"],
            body=read("body", str.encode),
            about=read("about", str.encode),
            salt=read("salt", bytes.fromhex),
            request_salt=read("request_salt", bytes.fromhex),
            content=not _PARTS.isdisjoint(told.keys() - {"request_salt"}),
        )


def _response_of(fields: Mapping[str, Any]) -> str:
    """Name the member of the response that an outcome tells of."""
    request = fields.get("request")
    return bundle.response_name(request if type(request) is int else -1)


def _forked_from(log: Log) -> str:
    """Write what the ``opened`` entry of a fork of this log says of it."""
    told = {"conversation": log.conversation.hex, "digest": log.head.hex(), "length": log.length}
    return canonical.header(told).decode()


def _header(data: bytes) -> Mapping[str, Any]:
    fields = canonical.object_of(data)
    if canonical.header(fields) != data:
        raise CodecError("a header in another spelling")
    if any(fields.get(name, "") is None for name in ("about", "body")):
        raise CodecError("a header that commits to null")
    return fields


# --- lines -----------------------------------------------------------------------------------------------------------


def _line(data: bytes, log: int, position: int) -> Mapping[str, Any]:
    """Read a line of entries.jsonl; CodecError unless every member is what the format says, in its spelling."""
    told = canonical.object_of(data)
    if canonical.header(told) != data:
        raise CodecError("a line in another spelling")
    if (type(told.get("log")), type(told.get("position"))) != (int, int):
        raise CodecError("a line of no log and position")
    if (told["log"], told["position"]) != (log, position):
        raise CodecError(f"the line of log {told['log']}, position {told['position']}")
    _require(_is_hex(told.get("digest")), "digest")
    if "entry" in told:
        _require(told.keys() == _HIDDEN and _is_hex(told["entry"]), "entry")
        return told
    more = told.keys() - _TOLD
    _require(told.keys() >= _TOLD and (more == {"withheld"} or more <= _PARTS), "members")
    _require(type(told["at"]) is int and 0 <= told["at"] < 1 << 63, "at")
    _require(type(told["kind"]) is str and told["kind"] in chain.KINDS, "kind")
    _require(type(told["header"]) is str and told["header"].isascii(), "header")
    _require(told.get("withheld", True) is True, "withheld")
    for name in more & {"salt", "request_salt"}:
        _require(_is_hex(told[name]), name)
    for name in more & {"body", "about"}:
        _require(type(told[name]) is str and _is_text(told[name]), name)
    if "blobs" in more:
        _require(type(told["blobs"]) is list and bool(told["blobs"]) and all(map(_is_blob, told["blobs"])), "blobs")
    return told


def _require(is_so: bool, name: str) -> None:
    if not is_so:
        raise CodecError(f"a line whose {name} is none")


def _is_hex(value: object) -> bool:
    return type(value) is str and len(value) == 2 * chain.DIGEST and _HEX.issuperset(value)


def _is_text(value: str) -> bool:
    return not any("\ud800" <= each <= "\udfff" for each in value) if not value.isascii() else True


def _is_blob(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == _BLOB
        and _is_hex(value["digest"])
        and _is_hex(value["salt"])
        and type(value["media_type"]) is str
        and _is_text(value["media_type"])
        and type(value["size"]) is int
        and value["size"] >= 0
    )


def _entry_of(conversation: UUID, told: Mapping[str, Any]) -> bytes:
    if "entry" in told:
        return bytes.fromhex(told["entry"])
    return chain.entry_digest(conversation, told["position"], told["at"], told["kind"], told["header"].encode())


# --- the verdict in words --------------------------------------------------------------------------------------------


def _claim(checked: _Checking) -> str:
    """Say in one paragraph what is proved, and what is not."""
    manifest = checked.manifest
    if checked.faults or manifest is None:
        many = len(checked.faults)
        found = f"{many} {'fault was' if many == 1 else 'faults were'} found, the first {checked.faults[0].code!r}"
        return (
            f"This bundle proves nothing as it is: {found}. It was damaged or changed after it was written, or it is "
            "not what the key and the pin vouch for."
        )
    own = manifest.logs[0]
    hidden = own.length - checked.revealed - checked.withheld
    erased = f" ({checked.erased} of these were erased, and the record says so)" if checked.erased else ""
    said = [
        f"The record of conversation {own.conversation} is whole in itself:",
        f"{own.length} entries in their order, up to the digest {own.head.hex()}.",
        f"The content of {checked.revealed} of them is shown, and is what the record commits to{erased};",
        f"of {checked.withheld} the header alone is shown, and of {hidden} nothing but that they are there.",
        f"The bodies of {checked.requests} requests are the bytes that were recorded as sent.",
    ]
    if len(manifest.logs) > 1:
        more = len(manifest.logs) - 1
        said.append(f"What it was forked from is here too, over {more} log{'s' if more > 1 else ''}.")
    said += [_sealed(checked, own.length), _pinned(checked)]
    said.append(
        "Not proved: that what was recorded is true, that the clocks were right, why the bundle was made, and what is "
        "not revealed."
    )
    return " ".join(said)


def _sealed(checked: _Checking, length: int) -> str:
    checkpoint = checked.checkpoint
    if checkpoint is None:
        return (
            "No seal vouches for it: whoever could write the database could have made the whole record anew, unless "
            "you kept its digest."
        )
    if not checked.keys:
        return (
            f"A checkpoint of {checkpoint.origin!a} covers {checked.sealed} of the entries, but no key was given: "
            "anybody can have made it."
        )
    rest = length - checked.sealed
    return (
        f"A checkpoint of {checkpoint.origin!a}, signed by the key you gave, covers the first {checked.sealed} "
        "entries: they are those that were sealed." + (f" No seal covers the last {rest}." if rest else "")
    )


def _pinned(checked: _Checking) -> str:
    if checked.pin is None:
        return "Without a pin, a history that was forged with the signing key, or a restored backup, is not noticed."
    if isinstance(checked.pin, Kept):
        return "It goes on from the entries that you kept the digest of."
    return f"The log of seals goes on from the checkpoint of {checked.pin[1].size} leaves that you kept."


# --- the command -----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Check a bundle, print what is wrong and the verdict.

    Returns:
        0 for a sound bundle, 1 where something is wrong, 2 where it cannot be read or the arguments are wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m conversation_store.audit.verify", description="Check an evidence bundle, offline."
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the archive")
    parser.add_argument("--key", action="append", metavar="KEY", help="the verifier key of the seals, name+id+base64")
    parser.add_argument("--pin", type=Path, metavar="FILE", help="a checkpoint that you kept yourself")
    try:
        given = parser.parse_args(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    try:
        pin = None if given.pin is None else given.pin.read_bytes()
        with given.bundle.open("rb") as file:
            report = verify(file, key=given.key, pin=pin)
    except OSError as error:
        return _refused(f"cannot read {error.filename}: {error.strerror}")
    except (ConfigurationError, ContentError) as error:
        return _refused(str(error))
    for fault in report.faults:
        where = "" if fault.position < 0 else f" at entry {fault.position}"
        line = f"{fault.code}{where} of {fault.conversation}: expected {fault.expected}, found {fault.found}"
        sys.stdout.write(ascii(line)[1:-1] + "\n")
    sys.stdout.write(f"{'sound' if report.is_sound else 'not sound'}: {report.claim}\n")
    return 0 if report.is_sound else 1


def _refused(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
