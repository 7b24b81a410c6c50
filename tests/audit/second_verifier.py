"""
A second verifier of evidence bundles, written from ``conversation_store/audit/evidence.md`` and nothing else.

It imports nothing of the package. The numbers in docstrings are the page's sections.
"""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from attrs import Factory, define
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

PAGE: Final = Path(__file__).parents[2] / "conversation_store" / "audit" / "evidence.md"
HEX: Final = re.compile(r"[0-9a-f]{64}")
NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")
CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
KINDS: Final = {"opened", "turn", "settings", "labelled", "view", "request", "outcome", "erased", "note"}
SMALL, LARGE, LONGEST = 1 << 20, 1 << 26, 1 << 28
MOST: Final = {"README.txt": SMALL, "erasures.json": LARGE, "manifest.json": LARGE, "sums.sha256": LONGEST}
PROOF, NEWER = "proofs/inclusion.tlog-proof", "proofs/consistency.txt"
NAME: Final = re.compile(r"blobs/[0-9a-f]{64}|requests/[0-9]{10}\.body|responses/[0-9]{10}\.raw|entries\.jsonl")

MALFORMED: Final = (AttributeError, KeyError, RecursionError, TypeError, ValueError, struct.error)
"""What reading raises where something is of another form than the page says."""


class Over(Exception):  # noqa: N818 - nothing more is checked
    """The rest is left out."""


def require(*claims: object) -> None:
    """Go on only where all of it is so."""
    if not all(claims):
        raise ValueError


def u64(number: int) -> bytes:
    """Write a number as the hashes have it (1)."""
    return number.to_bytes(8, "big")


def part(salt: bytes, data_digest: bytes, kind: str = "application/json") -> str:
    """Commit to bytes (1)."""
    tag, name = b"conversation_store/part/v1\0", kind.encode()
    return sha256(tag + salt + u64(len(name)) + name + data_digest).hexdigest()


def dumps(value: object) -> str:
    """Write canonical JSON (1)."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)


def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name that occurs twice."""
    require(len({name for name, _ in pairs}) == len(pairs))
    return dict(pairs)


def canonical(data: bytes) -> Any:
    """Read canonical JSON, or raise ValueError (1)."""
    deep = most = 0
    for bracket in re.findall(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', data):
        deep += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(bracket, 0)
        most = max(most, deep)
    require(most <= 200)
    value = json.loads(data.decode("ascii"), object_pairs_hook=once)
    require(dumps(value).encode() == data)
    return value


def is_int(value: object, first: int = 0, last: int = (1 << 63) - 1) -> bool:
    """Say whether it is an integer of a range; true is none."""
    return type(value) is int and first <= value <= last


def is_hex(value: object) -> bool:
    """Say whether it is a digest, a salt or a commitment."""
    return isinstance(value, str) and HEX.fullmatch(value) is not None


def is_text(value: object) -> bool:
    """Say whether it is a string without lone surrogates."""
    return isinstance(value, str) and not any("\ud800" <= each <= "\udfff" for each in value)


def unbase64(text: str) -> bytes:
    """Read base64 in its one spelling (6)."""
    data = base64.b64decode(text, validate=True)
    require(base64.b64encode(data).decode() == text)
    return data


def members_of(data: bytes) -> tuple[dict[str, bytes], bool]:
    """Take the archive apart (2); say too whether every CRC-32 is right."""
    require(len(data) >= 98)
    count, length, start = struct.unpack_from("<QQQ", data, len(data) - 98 + 32)
    require(count <= 1_000_000, length <= LONGEST, start + length + 98 == len(data))
    tail = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, start)
    tail += struct.pack("<4sIQI", b"PK\6\7", 0, start + length, 1)
    tail += struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    require(data[-98:] == tail)
    found: dict[str, bytes] = {}
    right, at, central, before = True, 0, start, ""
    for _ in range(count):
        crc, _, _, named = struct.unpack_from("<IIIH", data, central + 16)
        name = data[central + 46 : central + 46 + named].decode("ascii")
        size, _, offset = struct.unpack_from("<QQQ", data, central + 50 + named)
        both = (0x0800, 0, 0, 0x0021, crc, 0xFFFFFFFF, 0xFFFFFFFF, named)
        expected = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 45, 45, *both, 28, 0, 0, 0, 0, 0xFFFFFFFF)
        expected += name.encode() + struct.pack("<HHQQQ", 1, 24, size, size, offset)
        local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 45, *both, 20) + name.encode()
        local += struct.pack("<HHQQ", 1, 16, size, size)
        require(central + len(expected) <= start + length, data[central : central + len(expected)] == expected)
        require(offset == at, data[at : at + len(local)] == local, name > before)
        at, central, before = at + len(local) + size, central + len(expected), name
        require(at <= start)
        found[name] = data[at - size : at]
        right = right and zlib.crc32(found[name]) == crc
    require(at == start, central == start + length)
    return found, right


def runs_of(value: object) -> Iterator[range]:
    """Read runs of positions; what is none names nothing (4)."""
    for each in value if isinstance(value, list) else ():
        if isinstance(each, list) and len(each) == 2 and type(each[0]) is type(each[1]) is int:
            yield range(each[0], each[1] + 1)


@define
class Note:
    """A signed note that is a checkpoint (6)."""

    text: str
    origin: str
    size: int
    root: bytes
    signatures: list[tuple[str, bytes]]

    @classmethod
    def read(cls, data: bytes) -> Note:
        """Read one, or raise ValueError."""
        require(len(data) <= SMALL)
        told = data.decode()
        require(not CONTROL.search(told), "\n\n" in told)
        text, signed = told.rsplit("\n\n", 1)
        origin, size, root, *more = text.split("\n")
        require(origin, NUMBER.fullmatch(size), len(unbase64(root)) == 32, *more, not signed or signed.endswith("\n"))
        signatures = []
        for line in signed.split("\n")[:-1]:
            dash, name, signature = line.split(" ")
            require(dash == "—", name, "+" not in name, not re.search(r"\s", name), len(unbase64(signature)) > 4)
            signatures.append((name, unbase64(signature)))
        require(len(signatures) <= 100)
        return cls(text + "\n", origin, int(size), unbase64(root), signatures)

    def is_signed(self, keys: Sequence[str]) -> bool:
        """Say whether one of the keys signed it, and none wrongly."""
        done = []
        for key in keys:
            name, _, public = key.split("+", 2)
            raw = base64.b64decode(public)
            own = sha256(name.encode() + b"\n" + raw).digest()[:4]
            for signer, signature in self.signatures:
                if (signer, signature[:4]) == (name, own):
                    try:
                        Ed25519PublicKey.from_public_bytes(raw[1:]).verify(signature[4:], self.text.encode())
                        done.append(True)
                    except InvalidSignature:
                        done.append(False)
        return bool(done) and all(done)


def node(left: bytes, right: bytes) -> bytes:
    """Hash two nodes (RFC 6962)."""
    return sha256(b"\1" + left + right).digest()


def is_included(leaf: bytes, index: int, path: Sequence[bytes], note: Note) -> bool:
    """Check an inclusion proof (RFC 9162, 2.1.3.2)."""
    if index >= note.size:
        return False
    first, last, found = index, note.size - 1, sha256(b"\0" + leaf).digest()
    for each in path:
        if last == 0:
            return False
        if first & 1 or first == last:
            found = node(each, found)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            found = node(found, each)
        first, last = first >> 1, last >> 1
    return last == 0 and found == note.root


def is_consistent(old: Note, new: Note, path: Sequence[bytes]) -> bool:
    """Check a consistency proof (RFC 9162, 2.1.4.2)."""
    if old.size == new.size:
        return not path and old.root == new.root
    if not 0 < old.size < new.size or not path:
        return False
    path = [old.root, *path] if old.size & (old.size - 1) == 0 else path
    first, last = old.size - 1, new.size - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    one = two = path[0]
    for each in path[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            one, two = node(each, one), node(each, two)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            two = node(two, each)
        first, last = first >> 1, last >> 1
    return last == 0 and (one, two) == (old.root, new.root)


@define
class Log:
    """What the lines of one log said (4)."""

    said: Mapping[str, Any]
    digests: list[str] = Factory(list)
    empty: list[int] = Factory(list)
    full: list[int] = Factory(list)
    salted: list[int] = Factory(list)
    content: list[range] = Factory(list)
    request: list[range] = Factory(list)


@define
class Bundle:
    """The checks, in the page's order (8)."""

    data: bytes
    found: list[tuple[str, int]] = Factory(list)
    members: dict[str, bytes] = Factory(dict)
    logs: list[Log] = Factory(list)
    erasures: list[dict[str, Any]] = Factory(list)
    asked: set[str] = Factory(set)

    def say(self, code: str, position: int = -1, *, so: bool = False) -> None:
        """Note a finding, but where it is *so*."""
        if not so:
            self.found.append((code, position))

    def check(self, keys: Sequence[str], pin: bytes | None) -> None:
        """Do them all."""
        try:
            self.members, right = members_of(self.data)
        except MALFORMED:
            return self.say("zip")
        required = {*MOST, "entries.jsonl"} <= self.members.keys()
        most = {**MOST, PROOF: SMALL, NEWER: SMALL}
        known = all(NAME.fullmatch(name) or len(data) <= most.get(name, -1) for name, data in self.members.items())
        if not (required and known):
            return self.say("member")
        told = [f"{sha256(data).hexdigest()}  {name}\n" for name, data in self.members.items() if name != "sums.sha256"]
        self.say("zip", so=right)
        self.say("sum", so=self.members["sums.sha256"] == "".join(told).encode())
        try:
            manifest = self.manifest(self.members["manifest.json"])
        except MALFORMED:
            return self.say("manifest")
        self.say("readme", so=self.members["README.txt"] == self.readme(manifest))
        try:
            self.lines()
        except Over:
            return None
        self.say("erasures", so=self.members["erasures.json"] == dumps(self.erasures).encode())
        strays = {name for name in self.members if name.startswith(("blobs/", "requests/", "responses/"))}
        self.say("stray", so=strays <= self.asked)
        return self.vouched(keys, pin)

    def manifest(self, data: bytes) -> Mapping[str, Any]:
        """Read it, or raise ValueError (3)."""
        told = canonical(data)
        require(isinstance(told, dict), told.keys() - {"why"} == {"conversation_store", "format", "logs", "requests"})
        require(told["conversation_store"] == "evidence", type(told["format"]) is int, told["format"] == 1)
        require(told["requests"] in ("all", "last", "none"), "why" not in told or isinstance(told["why"], str))
        require(isinstance(told["logs"], list), told["logs"])
        for log in told["logs"]:
            require(isinstance(log, dict), log.keys() == {"conversation", "head", "length", "reveal"})
            require(isinstance(log["conversation"], str), re.fullmatch("[0-9a-f]{32}", log["conversation"]))
            require(is_hex(log["head"]), is_int(log["length"], 1), isinstance(log["reveal"], list))
            before = -2
            for run in log["reveal"]:
                require(isinstance(run, list), len(run) == 2, all(is_int(n, 0, log["length"] - 1) for n in run))
                require(before + 2 <= run[0] <= run[1])
                before = run[1]
            self.logs.append(Log(log))
        return told  # type: ignore[no-any-return]

    def readme(self, manifest: Mapping[str, Any]) -> bytes:
        """Write what has to stand there (7)."""
        own, *others = (log.said for log in self.logs)
        told = "; ".join(f"{log['length']} entries of {UUID(log['conversation'])}" for log in others)
        whose = "whose body holds revealed entries alone"
        values = {
            "conversation": str(UUID(own["conversation"])),
            "length": str(own["length"]),
            "head": own["head"],
            "inherited": f"It was forked, and goes on from {told}."
            if others
            else "It was not forked from another conversation.",
            "why": dumps(manifest["why"]) if "why" in manifest else "none was given",
            "reveal": ", ".join(f"{first} to {last}" for first, last in own["reveal"]) or "none",
            "requests": {"all": f"every request {whose}", "last": f"the last request {whose}", "none": "no request"}[
                manifest["requests"]
            ],
        }
        page = PAGE.read_text(encoding="utf-8").split("## 7. README.txt")[1].split("```text\n")[1].split("```")[0]
        return re.sub(r"{(\w+)}", lambda name: values[name[1]], page).encode()

    def lines(self) -> None:
        """Look at every line (4)."""
        left = iter(self.members["entries.jsonl"].split(b"\n"))
        line = next(left)
        for n, log in enumerate(self.logs):
            before = sha256(b"conversation_store/genesis/v1\0" + bytes.fromhex(log.said["conversation"])).hexdigest()
            for position in range(log.said["length"]):
                after = next(left, None)
                if after is None and not line:
                    self.say("length", position)
                    raise Over
                try:
                    require(after is not None, len(line) <= LONGEST)
                    told = self.form(canonical(line), n, position)
                except MALFORMED:
                    self.say("line", position)
                    raise Over from None
                self.entry(n, log, told, before)
                before, line = told["digest"], after or b""
                log.digests.append(before)
            self.end(log)
        if line or next(left, None) is not None:
            self.say("line")
            raise Over

    def form(self, told: Any, n: int, position: int) -> Any:
        """Hold a line against its three forms, or raise ValueError (4)."""
        require(isinstance(told, dict))
        places = (told.get("log"), told.get("position"))
        require(places == (n, position), all(map(is_int, places)), is_hex(told.get("digest")))
        rest = told.keys() - {"log", "position", "digest"}
        if rest == {"entry"}:
            require(is_hex(told["entry"]))
            return told
        require(is_int(told.get("at")), isinstance(told.get("kind"), str), told.get("kind") in KINDS)
        require(isinstance(told.get("header"), str), told["header"].isascii())
        more = rest - {"at", "kind", "header"}
        if "withheld" in more:
            require(more == {"withheld"}, told["withheld"] is True)
            return told
        require(more <= {"body", "about", "salt", "request_salt", "blobs"})
        require(*(is_text(told[name]) for name in more & {"body", "about"}))
        require(*(is_hex(told[name]) for name in more & {"salt", "request_salt"}))
        if "blobs" in more:
            require(isinstance(told["blobs"], list), told["blobs"])
            for blob in told["blobs"]:
                require(isinstance(blob, dict), blob.keys() == {"digest", "media_type", "salt", "size"})
                require(is_hex(blob["digest"]), is_hex(blob["salt"]), is_text(blob["media_type"]))
                require(type(blob["size"]) is int, blob["size"] >= 0)
        return told

    def entry(self, n: int, log: Log, told: dict[str, Any], before: str) -> None:
        """Do the checks of one line (4)."""
        position, hidden = told["position"], "entry" in told
        revealed = any(first <= position <= last for first, last in log.said["reveal"])
        withheld = "withheld" in told
        fields: dict[str, Any] = {}
        own = bytes.fromhex(told["entry"]) if hidden else b""
        if not hidden:
            header, kind = told["header"].encode(), told["kind"].encode()
            text = b"conversation_store/entry/v1\0" + bytes.fromhex(log.said["conversation"]) + u64(position)
            text += u64(told["at"]) + u64(len(kind)) + kind + u64(len(header)) + header
            own = sha256(text).digest()
        made = sha256(b"conversation_store/link/v1\0" + bytes.fromhex(before) + own).hexdigest()
        self.say("digest", position, so=made == told["digest"])
        whole = log.said["reveal"] == [[0, log.said["length"] - 1]]
        self.say("reveal", position, so=not revealed if hidden else not whole if withheld else revealed)
        readable = True
        if not hidden:
            try:
                value = canonical(told["header"].encode())
                require(isinstance(value, dict), *(value.get(name, "") is not None for name in ("body", "about")))
                fields = value
            except MALFORMED:
                readable = False
                self.say("header", position)
        if position == 0:
            self.say("opened", position, so=not hidden and told["kind"] == "opened")
            self.parent(n, fields)
        if not hidden and told["kind"] == "erased":
            erased = fields.get("erased") if readable else None
            self.erasures.append({"at": told["at"], "erased": erased, "log": n, "position": position})
            if isinstance(erased, dict):
                log.content += runs_of(erased.get("content"))
                log.request += runs_of(erased.get("request"))
        if not hidden and not withheld:
            self.content(n, log, told, fields)

    def parent(self, n: int, fields: Mapping[str, Any]) -> None:
        """Hold what a log was forked from against the next log."""
        expected = None
        if n + 1 < len(self.logs):
            expected = {
                name: self.logs[n + 1].said[of]
                for name, of in (("conversation", "conversation"), ("digest", "head"), ("length", "length"))
            }
        told = "parent" in fields
        self.say(
            "parent", 0, so=told == (expected is not None) and (not told or dumps(fields["parent"]) == dumps(expected))
        )

    def content(self, n: int, log: Log, told: dict[str, Any], fields: Mapping[str, Any]) -> None:
        """Hold what is told against what the header commits to (4, check 5)."""
        position, kind = told["position"], told["kind"]
        has = bool(told.keys() & {"body", "about", "salt", "blobs"})
        salt = bytes.fromhex(told.get("salt", ""))
        if has:
            log.full.append(position)
        if not fields.keys() & {"body", "about"}:
            self.say("outside", position, so=not told.keys() & {"body", "about", "salt"})
        elif not has:
            log.empty.append(position)
        else:
            for name in ("body", "about"):
                if name not in fields:
                    self.say("outside", position, so=name not in told)
                elif name not in told or not salt:
                    self.say("missing", position)
                else:
                    self.say(name, position, so=part(salt, sha256(told[name].encode()).digest()) == fields[name])
        response = fields.get("request") if n == 0 and kind == "outcome" else None
        raw = f"responses/{response:010}.raw" if is_int(response) else ""
        if has:
            self.say("blob", position, so=self.blobs(told, fields, raw if "raw" in fields else None))
        if kind == "request":
            self.request(n, log, told, fields)
        self.say("outside", position, so=kind == "request" or "request_salt" not in told)
        if raw and (salt or "raw" in fields):
            self.asked.add(raw)
        if raw in self.members and salt:
            data = self.members[raw]
            made = (part(salt, sha256(data).digest()), dumps(len(data)))
            self.say("response", position, so=made == (fields.get("response"), dumps(fields.get("response_length"))))

    def blobs(self, told: dict[str, Any], fields: Mapping[str, Any], raw: str | None) -> bool:
        """Say whether the blobs of a line are those that its header commits to."""
        spliced = fields.get("splices")
        named = [fields["raw"]] if "raw" in fields else []
        named += [e[1] for e in (spliced if isinstance(spliced, list) else ()) if isinstance(e, list) and len(e) > 1]
        blobs = told.get("blobs", [])
        if len(blobs) != len(named):
            return False
        right = True
        for index, (blob, commitment) in enumerate(zip(blobs, named, strict=True)):
            name = raw if raw is not None and index == 0 else f"blobs/{blob['digest']}"
            self.asked.add(name)
            data, digest = self.members.get(name), bytes.fromhex(blob["digest"])
            right = right and part(bytes.fromhex(blob["salt"]), digest, blob["media_type"]) == commitment
            right = right and data is not None and (len(data), sha256(data).digest()) == (blob["size"], digest)
        return right

    def request(self, n: int, log: Log, told: dict[str, Any], fields: Mapping[str, Any]) -> None:
        """Hold a request's body against its commitment."""
        position, salted = told["position"], "request_salt" in told
        if n:
            return self.say("request", position, so=not salted)
        name = f"requests/{position:010}.body"
        self.asked.add(name)
        data = self.members.get(name)
        if data is None or not salted:
            return self.say("request", position, so=data is None and not salted)
        log.salted.append(position)
        made = (part(bytes.fromhex(told["request_salt"]), sha256(data).digest()), dumps(len(data)))
        return self.say("request", position, so=made == (fields.get("request"), dumps(fields.get("length"))))

    def end(self, log: Log) -> None:
        """Do the checks at the end of a log (4, check 6)."""
        self.say("head", len(log.digests) - 1, so=log.digests[-1] == log.said["head"])
        for position in log.empty:
            self.say("missing", position, so=any(position in run for run in log.content))
        for positions, runs in ((log.full, log.content), (log.salted, log.request)):
            for position in positions:
                self.say("erased", position, so=not any(position in run for run in runs))

    def vouched(self, keys: Sequence[str], pin: bytes | None) -> None:
        """Look at who vouches for it (6)."""
        note, sound = None, False
        if PROOF in self.members:
            with suppress(*MALFORMED):
                note, sound = self.proved(self.members[PROOF])
            self.say("proof", so=sound)
        signed = note is not None and note.is_signed(keys)
        self.say("signature", so=signed or not keys)
        if pin is None:
            return None
        if pin.lstrip(b" \t\r\n").startswith(b"{"):
            length, digest = json.loads(pin)["heads"].get(self.logs[0].said["conversation"], (-1, ""))
            genesis = sha256(b"conversation_store/genesis/v1\0" + bytes.fromhex(self.logs[0].said["conversation"]))
            digests = [genesis.hexdigest(), *self.logs[0].digests]
            return self.say("pin", so=0 <= length < len(digests) and digests[length] == digest)
        older = Note.read(pin)
        self.say("signature", so=not keys or older.is_signed(keys))
        held = sound and (signed or not keys) and note is not None and self.goes_on(older, note)
        return self.say("pin", so=held)

    def proved(self, data: bytes) -> tuple[Note, bool]:
        """Read the proof, and say whether it leads to its checkpoint."""
        head, told = data.decode().split("\n\n", 1)
        first, extra, index, *path = head.split("\n")
        require(first == "c2sp.org/tlog-proof@v1", extra.startswith("extra "), index.startswith("index "))
        require(NUMBER.fullmatch(index[6:]), *(len(unbase64(each)) == 32 for each in path))
        leaf, note, log = unbase64(extra[6:]), Note.read(told.encode()), self.logs[0]
        of = canonical(leaf)
        require(isinstance(of, dict), of.keys() == {"conversation", "digest", "length", "v"})
        require(dumps(of["v"]) == "1", of["conversation"] == log.said["conversation"], is_int(of["length"], 1))
        require(of["length"] <= log.said["length"], of["digest"] == log.digests[of["length"] - 1])
        return note, is_included(leaf, int(index[6:]), [unbase64(each) for each in path], note)

    def goes_on(self, older: Note, note: Note) -> bool:
        """Say whether the checkpoint goes on from a pin."""
        if older.origin != note.origin:
            return False
        if older.size == note.size:
            return is_consistent(older, note, ())
        try:
            head, told = self.members[NEWER].decode().split("\n\n", 1)
            size, *path = head.split("\n")
            require(size == f"old {older.size}", *(len(unbase64(each)) == 32 for each in path))
            require(told.encode() == self.members[PROOF].split(b"\n\n", 1)[1])
            return is_consistent(older, note, [unbase64(each) for each in path])
        except MALFORMED:
            return False


def verdict(data: bytes, *, keys: Sequence[str] = (), pin: bytes | None = None) -> list[tuple[str, int]]:
    """Check a bundle: its findings as (code, position), -1 where it is none; empty where it is sound; no error."""
    bundle = Bundle(data)
    bundle.check(keys, pin)
    return bundle.found
