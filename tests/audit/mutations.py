"""
Changed bundles: bytes flipped in any member, members and lines removed, renamed, doubled and swapped, headers broken.

A change is *bare*, or *mended*: then whoever made it also computed ``sums.sha256``, the CRC-32 and every header anew,
as somebody would who wants it to pass. A change whose name begins with ``less`` only reveals less, which anybody may;
every other one leaves a bundle that is not sound.
"""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from hashlib import sha256
from typing import Any, Final

from conversation_store.audit import bundle
from conversation_store.audit.archive import Writer

Members = dict[str, bytes]

_TAIL: Final = 98
_OTHERS: Final[tuple[object, ...]] = (None, True, -1, 1.5, "", [], {}, "x", 1 << 70, "\ud800")


def mutations(data: bytes, seed: int, other: bytes | None = None) -> Iterator[tuple[str, bytes]]:
    """
    Change a bundle in many ways.

    Args:
        data: The bundle.
        seed: Decides where.
        other: Another bundle, to swap members with.

    Yields:
        What was done, and the changed bundle; it differs from the one given.
    """
    chance = random.Random(seed)
    members = read(data)
    found = [*_bytes(data, chance), *_archives(data, members, chance), *_members(members, chance)]
    found += [*_lines(members, chance), *_manifests(members, chance)]
    if other is not None:
        found += _swapped(members, read(other), chance)
    yield from ((name, changed) for name, changed in found if changed != data)


def read(data: bytes) -> Members:
    """Read the members of a bundle with another library than ours."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(members: Mapping[str, bytes], *, sums: bool = True, order: list[str] | None = None) -> bytes:
    """Write members as a bundle has them, with the sums computed anew unless they are to stay."""
    kept = {name: members[name] for name in (order or sorted(members))}
    if sums and bundle.SUMS in kept:
        told = "".join(f"{sha256(each).hexdigest()}  {name}\n" for name, each in kept.items() if name != bundle.SUMS)
        kept[bundle.SUMS] = told.encode()
    file = io.BytesIO()
    writer = Writer(file)
    for name, each in kept.items():
        writer.add(name, [each])
    writer.close()
    return file.getvalue()


def _flipped(data: bytes, at: int, chance: random.Random) -> bytes:
    return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


# --- the file ---------------------------------------------------------------------------------------------------------


def _bytes(data: bytes, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    directory = len(data) - _TAIL - chance.randrange(min(1000, len(data) - _TAIL))
    for at in (*(chance.randrange(len(data)) for _ in range(10)), directory, len(data) - 1 - chance.randrange(_TAIL)):
        yield f"bare: a bit of byte {at}", _flipped(data, at, chance)
    at = chance.randrange(len(data))
    yield f"bare: byte {at} left out", data[:at] + data[at + 1 :]
    yield f"bare: a byte more at {at}", data[:at] + b"\0" + data[at:]
    yield f"bare: cut off after {at}", data[:at]
    yield "bare: nothing", b""
    yield "bare: something before", b"PK" + data
    yield "bare: something after", data + b"\0"
    yield "bare: random bytes", chance.randbytes(len(data))
    start = chance.randrange(len(data))
    yield "bare: a part that is random", data[:start] + chance.randbytes(20) + data[start + 20 :]


def _archives(data: bytes, members: Members, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    names = list(members)
    for name, how in (("deflated", zipfile.ZIP_DEFLATED), ("stored", zipfile.ZIP_STORED)):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", how) as archive:
            for each in names:
                archive.writestr(each, members[each])
        yield f"mended: {name} by another program", file.getvalue()
    again = io.BytesIO(data)
    with zipfile.ZipFile(again, "a") as archive:
        archive.comment = b"a comment"
    yield "bare: a comment", again.getvalue()
    first, second = chance.sample(names, 2)
    order = [{first: second, second: first}.get(each, each) for each in names]
    yield f"mended: {first} and {second} in the other order", packed(members, order=order)
    yield f"mended: {first} twice", _twice(members, first)


def _twice(members: Members, name: str) -> bytes:
    file = io.BytesIO()
    writer = Writer(file)
    for each, data in members.items():
        for _ in range(1 + (each == name)):
            writer.add(each, [data])
    writer.close()
    return file.getvalue()


# --- members ----------------------------------------------------------------------------------------------------------


def _members(members: Members, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    for name, data in members.items():
        without = {each: members[each] for each in members if each != name}
        for sums in (True, False):
            said = "mended" if sums else "bare"
            if name != bundle.CONSISTENCY:
                yield f"{said}: without {name}", packed(without, sums=sums)
            if data and (name != bundle.SUMS or not sums) and (name != bundle.CONSISTENCY or not sums):
                at = chance.randrange(len(data))
                changed = {**members, name: _flipped(data, at, chance)}
                yield f"{said}: a bit of byte {at} of {name}", packed(changed, sums=sums)
                yield f"{said}: {name} cut off", packed({**members, name: data[: len(data) // 2]}, sums=sums)
        if name in {bundle.SUMS, bundle.CONSISTENCY}:
            continue
        yield f"mended: {name} and a byte more", packed({**members, name: data + b"\n"})
        for new in ("../" + name, "/" + name, name.upper(), f"blobs/{sha256(b'x').hexdigest()}", name + "\\..", "a/b"):
            if new not in members:
                yield f"mended: {name} named {new}", packed({**without, new: data})
    for name in (bundle.blob_name(sha256(b"x").digest()), bundle.request_name(0), bundle.response_name(0)):
        if name not in members:
            yield f"mended: {name} more", packed({**members, name: b"x"})
    yield "bare: sums of nothing", packed({**members, bundle.SUMS: b""}, sums=False)
    same = [name for name in members if name.startswith(("blobs/", "requests/", "responses/"))]
    if len(same) > 1:
        first, second = chance.sample(same, 2)
        if members[first] != members[second]:
            swapped = {**members, first: members[second], second: members[first]}
            yield f"mended: {first} and {second} swapped", packed(swapped)


def _swapped(members: Members, others: Members, chance: random.Random) -> list[tuple[str, bytes]]:
    """Put members of another bundle in the place of ours."""
    names = [name for name in members if name in others and members[name] != others[name]]
    return [
        (f"mended: {name} of another bundle", packed({**members, name: others[name]}))
        for name in names
        if name not in {bundle.SUMS, bundle.CONSISTENCY}
    ]


# --- lines ------------------------------------------------------------------------------------------------------------


def _lines(members: Members, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    lines = members[bundle.ENTRIES].splitlines(keepends=True)

    def changed(new: list[bytes]) -> bytes:
        return packed({**members, bundle.ENTRIES: b"".join(new)})

    n = chance.randrange(len(lines))
    yield f"mended: line {n} left out", changed(lines[:n] + lines[n + 1 :])
    yield f"mended: line {n} twice", changed([*lines[: n + 1], *lines[n:]])
    yield "mended: the last line left out", changed(lines[:-1])
    yield "mended: no line feed at the end", changed([*lines[:-1], lines[-1][:-1]])
    if len(lines) > 1:
        a, b = sorted(chance.sample(range(len(lines)), 2))
        yield (
            f"mended: lines {a} and {b} swapped",
            changed([*lines[:a], lines[b], *lines[a + 1 : b], lines[a], *lines[b + 1 :]]),
        )
    for n, line in enumerate(lines):
        for name, new in _told(json.loads(line), chance):
            yield f"{name} in line {n}", changed([*lines[:n], *new, *lines[n + 1 :]])


def _told(told: dict[str, Any], chance: random.Random) -> Iterator[tuple[str, list[bytes]]]:
    """Change one line, in a few of the ways that there are."""
    every = [*_values(told), *_forms(told)]
    for name, new in chance.sample(every, min(4, len(every))):
        yield name, [new]


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _values(told: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    def line(**changes: object) -> bytes:
        return _canonical({**told, **changes}) + b"\n"

    for name, value in told.items():
        without = {each: told[each] for each in told if each != name}
        yield f"mended: no {name}", _canonical(without) + b"\n"
        for other in _OTHERS:
            yield f"mended: {name} as {other!a}", line(**{name: other})
        match value:
            case str() if len(value) == 64 and name != "body":
                yield f"mended: another {name}", line(**{name: ("0" if value[0] != "0" else "1") + value[1:]})
                yield f"mended: {name} in capitals", line(**{name: value.upper() + " "})
            case str():
                yield f"mended: {name} longer", line(**{name: value + " "})
                yield f"mended: {name} changed", line(**{name: value.replace("a", "b", 1) + "."})
            case int() if name != "withheld":
                yield f"mended: {name} and one", line(**{name: value + 1})
            case list():
                yield f"mended: {name} doubled", line(**{name: value * 2})
                for key in value[0]:
                    yield (
                        f"mended: {name} without {key}",
                        line(**{name: [{k: v for k, v in value[0].items() if k != key}, *value[1:]]}),
                    )
                yield f"mended: {name} of another size", line(**{name: [{**value[0], "size": -1}, *value[1:]]})
            case _:
                pass
    yield "mended: a member more", line(more=1)
    for name in ("body", "about", "salt", "request_salt", "entry", "blobs"):
        if name not in told:
            yield f"mended: {name} more", line(**{name: "00" * 32})


def _forms(told: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    data = _canonical(told)
    yield "mended: a space more", data.replace(b":", b": ", 1) + b"\n"
    yield (
        "mended: another order",
        json.dumps(dict(sorted(told.items(), reverse=True)), separators=(",", ":")).encode() + b"\n",
    )
    yield "mended: a name twice", b'{"digest":"",' + data[1:] + b"\n"
    yield "mended: no object", b"[" + data + b"]\n"
    yield "mended: no JSON", data[:-1] + b"\n"
    yield "mended: an empty line", b"\n"
    yield "mended: a carriage return", data + b"\r\n"
    yield "mended: too deep", b'{"at":' + b"[" * 5000 + b"]" * 5000 + b"}\n"
    yield "mended: too long a number", b'{"at":' + b"9" * 5000 + data[data.index(b",") :] + b"\n"
    yield "mended: no UTF-8", b"\xff" + data + b"\n"
    if "header" in told and "withheld" not in told:
        kept = {name: told[name] for name in ("at", "digest", "header", "kind", "log", "position")}
        yield "less: withheld", _canonical({**kept, "withheld": True}) + b"\n"


# --- the manifest -----------------------------------------------------------------------------------------------------


def _manifests(members: Members, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Change the manifest; README.txt goes along with it."""

    def changed(how: Callable[[Any], object]) -> bytes:
        said = json.loads(members[bundle.MANIFEST])
        how(said)
        data = _canonical(said)
        try:
            readme = bundle.Manifest.read(data).readme
        except ValueError:
            readme = members[bundle.README]
        return packed({**members, bundle.MANIFEST: data, bundle.README: readme})

    n = chance.randrange(len(json.loads(members[bundle.MANIFEST])["logs"]))
    yield "mended: another format", changed(lambda said: said.update(format=2))
    yield "mended: format true", changed(lambda said: said.update(format=True))
    yield "mended: a member more in the manifest", changed(lambda said: said.update(more=1))
    yield "mended: no why at all", changed(lambda said: said.update(why=None))
    yield "mended: no logs", changed(lambda said: said.update(logs=[]))
    yield "mended: a log twice", changed(lambda said: said["logs"].append(said["logs"][-1]))
    yield "mended: a log left out", changed(lambda said: said["logs"].pop())
    yield "mended: logs as a text", changed(lambda said: said.update(logs="logs"))
    for name, value in (
        ("length", 0),
        ("length", True),
        ("length", 1 << 63),
        ("head", "00" * 32),
        ("conversation", "00" * 16),
        ("conversation", "00"),
        ("reveal", [[5, 4]]),
        ("reveal", [[-1, 0]]),
        ("reveal", [[0, 1 << 70]]),
        ("reveal", "reveal"),
        ("reveal", [["0", "1"]]),
        ("reveal", [[0, 0], [1, 1]]),
    ):
        yield (
            f"mended: {name} of log {n} as {value}",
            changed(partial(_with, n, name, value)),
        )
    yield f"mended: log {n} longer", changed(lambda said: said["logs"][n].update(length=said["logs"][n]["length"] + 1))
    yield f"mended: log {n} shorter", changed(lambda said: said["logs"][n].update(length=said["logs"][n]["length"] - 1))


def _with(n: int, name: str, value: object, said: Any) -> None:
    said["logs"][n][name] = value
