"""
What an importer hands over: transcripts from elsewhere, piece by piece, and what of them was not taken.

An importer never raises for what it reads. What is damaged, or has no place in the Messages API, is told as a piece of
its own, with the place in the source and the reason; everything else goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from attrs import Factory, define, frozen

from conversation_store.errors import CodecError, ContentError
from conversation_store.record import canonical
from conversation_store.record.codec import ROLES

_LONGEST_BESIDE: Final = 4096
"""Bytes of JSON that one thing told beside a message may have; longer is content, and not kept there."""


@frozen
class Told:
    """
    A message of a transcript.

    Attributes:
        place: Where it stands in the source: ``line 7``, ``[3].chat_messages[2]``, ``row 12 of agent_messages``.
        role: Whose it is.
        wire: Its bytes, role and content alone.
        beside: What else was told of it: its id, its time (``at``, as the source writes it), its model.
        grows: Whether the source writes it block by block, so that later it may go on.
        restarts: Whether what came before it is no longer sent (the source summed it up in this message).
    """

    place: str
    role: str
    wire: bytes
    beside: Mapping[str, Any]
    grows: bool = False
    restarts: bool = False


@frozen
class Refused:
    """
    Something that was not taken.

    Attributes:
        place: Where it stands in the source, as in ``Told``.
        reason: Why.
        conversation: The source's id of the conversation it belongs to, where that is known.
    """

    place: str
    reason: str
    conversation: str | None = None

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@frozen
class LeftOut:
    """Something that is no message in the source's own terms: its kind, and how many of it."""

    kind: str
    count: int = 1


Piece: TypeAlias = Told | Refused | LeftOut


@frozen
class Transcript:
    """
    One conversation of a source. Its pieces are read while they are asked for, and before the next transcript.

    Attributes:
        id: The source's own id; None where it has none.
        pieces: Its messages in order, and what was not taken of it.
        title: What it is called there.
        settings: Parameters of the Messages API that the source holds as such.
    """

    id: str | None
    pieces: Iterable[Piece]
    title: str | None = None
    settings: Mapping[str, Any] = Factory(dict)


Reading: TypeAlias = Iterator[Transcript | Refused | LeftOut]
"""What an importer gives."""


def beside(**values: object) -> dict[str, Any]:
    """Keep what JSON can say, and what is not longer than a few lines; None is left out."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, str):
            kept[name] = text(value)[:_LONGEST_BESIDE]
        elif value is not None:
            try:
                if len(canonical.dumps(value)) <= _LONGEST_BESIDE:
                    kept[name] = value
            except ContentError:
                continue
    return kept


def text(value: str) -> str:
    """Make text of a string: a lone surrogate is written as the escape it came as."""
    return value.encode("utf-8", "backslashreplace").decode()


def string(value: object) -> str | None:
    """Take a string that says something; None for everything else."""
    return text(value) if isinstance(value, str) and value else None


def said(data: bytes, place: str, told: Mapping[str, Any]) -> Told:
    """
    Take a message in the API's own shape; its content keeps its bytes.

    Args:
        data: The message as JSON; other members than role and content are left out.
        place: Where it stands.
        told: What is known beside it.

    Raises:
        CodecError: It is no message.
    """
    members = canonical.members(data)
    role = members["role"].value if "role" in members else None
    if role not in ROLES:
        raise CodecError(f"role is one of {', '.join(ROLES)}")
    if "content" not in members:
        raise CodecError("there is no content")
    content = members["content"]
    check_content(content.value)
    wire = canonical.compose({"role": canonical.dumps(role), "content": data[content.start : content.end]})
    return Told(place, str(role), wire, told)


def check_content(content: object) -> None:
    """
    Look whether something is a message's content.

    Raises:
        CodecError: It is not.
    """
    blocks = isinstance(content, list) and all(
        isinstance(block, Mapping) and isinstance(block.get("type"), str) for block in content
    )
    if not isinstance(content, str) and not blocks:
        raise CodecError("content is a string or a list of blocks with a type")


@define
class Assembly:
    """
    A message made of another API's parts: what has a place becomes a block, what has none is told.

    Attributes:
        place: Where the message stands.
        conversation: The source's id of its conversation.
        blocks: The blocks so far.
        refused: What was not taken.
    """

    place: str
    conversation: str | None = None
    blocks: list[dict[str, Any]] = Factory(list)
    refused: list[Refused] = Factory(list)

    def refuse(self, where: str, reason: str) -> None:
        """Tell that a part, named below the message's place, is not taken."""
        self.refused.append(Refused(f"{self.place}{where}", reason, self.conversation))

    def words(self, value: object, where: str = "") -> None:
        """Add text; nothing where it is empty, which the API does not take as a block."""
        if isinstance(value, str):
            if value:
                self.blocks.append({"type": "text", "text": value})
        elif value is not None:
            self.refuse(where, "text is a string")

    def json(self, value: object, where: str = "") -> None:
        """Add text: a string, or the JSON of anything else."""
        try:
            self.words(value if value is None or isinstance(value, str) else canonical.dumps(value).decode(), where)
        except ContentError as error:
            self.refuse(where, str(error))

    def add(self, block: Mapping[str, Any]) -> None:
        """Add a block."""
        self.blocks.append(dict(block))

    def picture(self, url: object, where: str) -> None:
        """Add a picture or a document by its URL; one that carries its data is taken apart."""
        block = of_url(url)
        if block is None:
            self.refuse(where, "it has no URL of the web, and no data in base64 of a kind that the API takes")
        else:
            self.blocks.append(block)

    def call(self, id_: object, name: object, arguments: object, where: str) -> None:
        """Add a call of a tool; its arguments are an object, or the JSON text of one."""
        if isinstance(arguments, str):
            try:
                arguments = canonical.loads(arguments.encode("utf-8", "surrogatepass")) if arguments.strip() else {}
            except CodecError as error:
                self.refuse(where, f"the call's arguments cannot be read: {error}")
                return
        if not isinstance(id_, str) or not isinstance(name, str) or not isinstance(arguments, Mapping):
            self.refuse(where, "a call has an id, a name, and an object of arguments")
            return
        self.blocks.append({"type": "tool_use", "id": id_, "name": name, "input": arguments})

    def result(self, id_: object, content: object, where: str = "", *, failed: bool = False) -> None:
        """Add a tool's result: a string or blocks."""
        if not isinstance(id_, str):
            self.refuse(where, "a result names the call it answers")
            return
        block: dict[str, Any] = {"type": "tool_result", "tool_use_id": id_, "content": content}
        self.blocks.append({**block, "is_error": True} if failed else block)

    def pieces(self, role: str, told: Mapping[str, Any]) -> Iterator[Piece]:
        """Give the message, and what was not taken of it; only text, and alone, is written as a string."""
        yield from self.refused
        if not self.blocks:
            if not self.refused:
                yield Refused(self.place, "there is nothing in it", self.conversation)
            return
        alone = len(self.blocks) == 1 and self.blocks[0].keys() == {"type", "text"}
        content = self.blocks[0]["text"] if alone else self.blocks
        try:
            wire = canonical.dumps({"role": role, "content": content})
        except ContentError as error:
            yield Refused(self.place, str(error), self.conversation)
        else:
            yield Told(self.place, role, wire, told)


_DOCUMENTS: Final = "application/pdf"


def of_url(url: object) -> dict[str, Any] | None:
    """Make a block of a picture's or document's URL; None where it is neither of the web nor data in base64."""
    if not isinstance(url, str):
        return None
    if url.startswith(("https://", "http://")):
        return {"type": "image", "source": {"type": "url", "url": url}}
    head, found, data = url.partition(",")
    if not found or not head.startswith("data:") or not head.endswith(";base64"):
        return None
    return of_data(head.removeprefix("data:").removesuffix(";base64").partition(";")[0], data)


def of_data(media_type: object, data: object, title: object = None) -> dict[str, Any] | None:
    """Make a block of base64 and its media type; None where the API has no block for it."""
    if not isinstance(media_type, str) or not isinstance(data, str) or not data:
        return None
    source = {"type": "base64", "media_type": media_type, "data": data}
    if media_type.startswith("image/"):
        return {"type": "image", "source": source}
    if media_type != _DOCUMENTS:
        return None
    return {"type": "document", "source": source, **({"title": title} if isinstance(title, str) and title else {})}
