"""
The log of ``llm``: the SQLite file ``logs.db``.

Since 0.32 a thread points at the last of a chain of messages, whose parts refer to fragments and attachments; the
tables ``conversations`` and ``responses`` of older releases are read for those that have no thread. Attachments are
taken where the log has their bytes or a URL; a path names a file of somebody else's machine, and is not followed.

Source: llm 0.36 (``migrations.py``, ``logs.py``), 2026-11.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import define

from conversation_store.errors import CodecError
from conversation_store.formats.rows import Tables, has, json_in, text_in
from conversation_store.formats.transcripts import Assembly, Piece, Reading, Refused, Transcript, beside, of_data
from conversation_store.record import splices

FORM: Final = "llm"

_ROLES: Final = {"user": "user", "assistant": "assistant", "tool": "user", "system": "system"}
_THREADS: Final = {
    "threads": ("id", "tip_message_hash"),
    "messages": ("hash", "parent_hash", "role"),
    "parts": ("message_hash", "position", "type"),
}
_RESPONSES: Final = ("id", "prompt", "response", "conversation_id")


def fits_tables(tables: Tables) -> bool:
    """Say whether tables are of this form."""
    return _has_threads(tables) or has(tables, "responses", *_RESPONSES)


def _has_threads(tables: Tables) -> bool:
    return all(has(tables, table, *columns) for table, columns in _THREADS.items())


def read(tables: Tables) -> Reading:
    """Read the threads, and then the older conversations that have none."""
    log = _Log(tables)
    threads: set[str] = set()
    if _has_threads(tables):
        for row in tables.rows("threads", order=("datetime_utc", "id")):
            yield from log.thread(row, threads)
    if has(tables, "responses", *_RESPONSES):
        yield from log.conversations(threads)


@define
class _Log:
    tables: Tables

    # --- threads -------------------------------------------------------------------------------------------------

    def thread(self, row: Mapping[str, Any], known: set[str]) -> Reading:
        """Read one thread."""
        try:
            name, title = text_in(row, "id"), text_in(row, "name")
        except CodecError as error:
            yield Refused(f"row {row['id']!r} of threads", str(error))
            return
        if name is not None:
            known.add(name)
            yield Transcript(name, self._chain(row, name), title)

    def _chain(self, row: Mapping[str, Any], thread: str) -> Iterator[Piece]:
        chain: list[Mapping[str, Any]] = []
        seen: set[Any] = set()
        at = row["tip_message_hash"]
        while at is not None and at not in seen:
            seen.add(at)
            found = next(self.tables.rows("messages", where={"hash": _as_text(at)}), None)
            if found is None:
                yield Refused(f"message {_shown(at)}", "it is missing, and all before it", thread)
                break
            chain.append(found)
            at = found["parent_hash"]
        turns = {turn.get("tip_message_hash"): turn for turn in self._rows("turns", thread_id=thread)}
        for message in reversed(chain):
            yield from self._message(message, turns.get(message["hash"], {}), thread)

    def _message(self, row: Mapping[str, Any], turn: Mapping[str, Any], thread: str) -> Iterator[Piece]:
        place = f"message {_shown(row['hash'])}"
        try:
            role = _ROLES.get(text_in(row, "role") or "")
            told = {"hash": text_in(row, "hash"), **_beside(turn)}
        except CodecError as error:
            yield Refused(place, str(error), thread)
            return
        if role is None:
            yield Refused(place, f"the role is one of {', '.join(_ROLES)}", thread)
            return
        made = Assembly(place, thread)
        for n, part in enumerate(self._rows("parts", order=("position",), message_hash=_as_text(row["hash"]))):
            try:
                self._add_part(made, part, f".parts[{n}]")
            except CodecError as error:
                made.refuse(f".parts[{n}]", str(error))
        yield from made.pieces(role, told)

    def _add_part(self, made: Assembly, part: Mapping[str, Any], where: str) -> None:
        payload = json_in(part, "payload")[1] if part.get("payload") is not None else {}
        told = payload if isinstance(payload, Mapping) else {}
        words = text_in(part, "text")
        match text_in(part, "type"):
            case "text":
                made.words(self._with_fragments(made, told, where) if words is None else words, where)
            case "reasoning":
                self._add_reasoning(made, words, told, where)
            case "tool_call" if told.get("server_executed") is not True:
                made.call(told.get("tool_call_id"), told.get("name"), told.get("arguments"), where)
            case "tool_result" if told.get("server_executed") is not True:
                self._add_result(made, told, where)
            case "attachment":
                attachment = told.get("attachment")
                self._attach(made, attachment.get("id") if isinstance(attachment, Mapping) else None, where)
            case kind:
                made.refuse(where, f"a part of type {str(kind)[:40]} has no place in the Messages API")

    def _with_fragments(self, made: Assembly, told: Mapping[str, Any], where: str) -> str | None:
        """Put text together of its own pieces and of fragments."""
        pieces = told.get("text_ref")
        if not isinstance(pieces, list):
            return None
        words = []
        for piece in pieces:
            literal = piece.get("literal") if isinstance(piece, Mapping) else None
            if isinstance(literal, str):
                words.append(literal)
                continue
            fragment = piece.get("fragment") if isinstance(piece, Mapping) else None
            row = self._one("fragments", fragment)
            text = text_in(row, "content") if row else None
            if text is None:
                made.refuse(where, f"the fragment {str(fragment)[:40]} is missing")
                continue
            words.append(text)
        return "".join(words)

    def _add_reasoning(self, made: Assembly, words: str | None, told: Mapping[str, Any], where: str) -> None:
        metadata = told.get("provider_metadata")
        ours = metadata.get("anthropic") if isinstance(metadata, Mapping) else None
        signature = ours.get("signature") if isinstance(ours, Mapping) else None
        if isinstance(signature, str) and signature:
            made.add({"type": "thinking", "thinking": words or "", "signature": signature})
        else:
            made.refuse(where, "thinking without a signature of this API, which it takes from nobody else")

    def _add_result(self, made: Assembly, told: Mapping[str, Any], where: str) -> None:
        inside = Assembly(f"{made.place}{where}", made.conversation)
        inside.json(told.get("output"), ".output")
        attachments = told.get("attachments")
        for n, each in enumerate(attachments if isinstance(attachments, list) else ()):
            self._attach(inside, each.get("id") if isinstance(each, Mapping) else None, f".attachments[{n}]")
        made.refused += inside.refused
        made.result(told.get("tool_call_id"), inside.blocks, where, failed=bool(told.get("exception")))

    def _attach(self, made: Assembly, name: object, where: str) -> None:
        row = self._one("attachments", name)
        if row is None:
            made.refuse(where, "the attachment is missing")
            return
        content, url, kind = row.get("content"), text_in(row, "url"), text_in(row, "type")
        block: Mapping[str, Any] | None = None
        if isinstance(content, bytes) and content:
            block = of_data(kind, splices.encode(content).decode())
        elif url is not None:
            what = "document" if kind == "application/pdf" else "image"
            block = {"type": what, "source": {"type": "url", "url": url}}
        if block is None:
            made.refuse(where, "the log has no bytes or URL of it, or it is neither a picture nor a PDF")
        else:
            made.add(block)

    # --- the older tables ------------------------------------------------------------------------------------------

    def conversations(self, threads: set[str]) -> Reading:
        """Read the conversations that have no thread, each response of which is two turns."""
        titles: dict[str | None, str | None] = {}
        for row in self._rows("conversations", order=("id",)):
            try:
                name = text_in(row, "id")
                titles[name] = text_in(row, "name")
            except CodecError as error:
                yield Refused(f"row {_shown(row['id'])} of conversations", str(error))
        for name, title in titles.items():
            if name is not None and name not in threads:
                yield Transcript(name, self._responses(name), title)

    def _responses(self, conversation: str) -> Iterator[Piece]:
        system: str | None = None
        for row in self.tables.rows("responses", where={"conversation_id": conversation}, order=("datetime_utc", "id")):
            place = f"response {_shown(row['id'])}"
            try:
                told = {"id": text_in(row, "id"), **_beside(row)}
                now = self._joined(row, "system", "system_fragments")
                if now and now != system:
                    system, made = now, Assembly(f"{place}.system", conversation)
                    made.words(now)
                    yield from made.pieces("system", told)
                asked = self._asked(row, Assembly(f"{place}.prompt", conversation))
                answered = self._answered(row, Assembly(f"{place}.response", conversation))
            except CodecError as error:
                yield Refused(place, str(error), conversation)
                continue
            yield from asked.pieces("user", told)
            yield from answered.pieces("assistant", told)

    def _joined(self, row: Mapping[str, Any], column: str, fragments: str) -> str:
        pieces = [self._one("fragments", each["fragment_id"]) for each in self._of_response(fragments, row)]
        words = [text_in(piece, "content") for piece in pieces if piece is not None]
        return "\n".join(each for each in [*words, text_in(row, column)] if each)

    def _asked(self, row: Mapping[str, Any], made: Assembly) -> Assembly:
        for n, each in enumerate(self._of_response("tool_results", row)):
            told = {name: text_in(each, name) for name in ("output", "tool_call_id", "exception")}
            self._add_result(made, told, f".tool_results[{n}]")
        made.words(self._joined(row, "prompt", "prompt_fragments"))
        for n, each in enumerate(self._of_response("prompt_attachments", row)):
            self._attach(made, text_in(each, "attachment_id"), f".attachments[{n}]")
        return made

    def _answered(self, row: Mapping[str, Any], made: Assembly) -> Assembly:
        if text_in(row, "reasoning"):
            made.refuse(".reasoning", "thinking without a signature of this API, which it takes from nobody else")
        made.words(text_in(row, "response"))
        for n, each in enumerate(self._of_response("tool_calls", row)):
            told = {name: text_in(each, name) for name in ("tool_call_id", "name", "arguments")}
            made.call(told["tool_call_id"], told["name"], told["arguments"] or {}, f".tool_calls[{n}]")
        return made

    def _of_response(self, table: str, row: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        return list(self._rows(table, order=("order", "id"), response_id=_as_text(row["id"])))

    # --- tables ------------------------------------------------------------------------------------------------------

    def _rows(self, table: str, order: Sequence[str] = (), **where: object) -> Iterator[Mapping[str, Any]]:
        """Read rows of a table; none where the table or a column to find them by is missing."""
        if has(self.tables, table, *where):
            yield from self.tables.rows(table, where=where, order=order)

    def _one(self, table: str, name: object) -> Mapping[str, Any] | None:
        if not isinstance(name, (str, int)):
            return None
        return next(self._rows(table, id=name), None)


def _beside(row: Mapping[str, Any]) -> dict[str, Any]:
    usage = {name: row[name] for name in ("input_tokens", "output_tokens") if row.get(name) is not None}
    return beside(
        turn=text_in(row, "id"),
        at=text_in(row, "datetime_utc"),
        model=text_in(row, "resolved_model") or text_in(row, "model"),
        usage=usage or None,
    )


def _as_text(value: object) -> object:
    """Give what a column held so that it is found again: as text, which comes as bytes."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _shown(value: object) -> str:
    return value.decode("utf-8", "backslashreplace")[:80] if isinstance(value, bytes) else str(value)[:80]
