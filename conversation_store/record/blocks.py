"""
Content blocks: typed views of the JSON objects a message's content is made of.

A view is made when somebody looks; the bytes it was made from stay what is stored and sent. Three things
are kept apart that JSON keeps apart: a key that is absent (``ABSENT``), null (None) and empty. Keys newer
than this library are in ``extra``, kinds newer than it are ``Unknown``; neither is ever dropped.

One class per kind, in the order of the API's documentation. Nested values (``source``, ``citations``,
``input``, a server tool's ``content``) stay plain JSON.

Source: Messages API documentation, content blocks, 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self, TypeAlias

from attrs import field, fields, frozen

from conversation_store.errors import AttachmentError
from conversation_store.record import media, splices
from conversation_store.record.canonical import JSON


class Absent(Enum):
    """The type of ``ABSENT``, for annotations."""

    ABSENT = "absent"

    def __repr__(self) -> str:
        return "ABSENT"

    def __bool__(self) -> bool:
        return False


ABSENT: Final = Absent.ABSENT
"""No such key, which is not the same as null."""

Maybe: TypeAlias = JSON | Literal[Absent.ABSENT]
Object: TypeAlias = Mapping[str, Any]


@frozen(kw_only=True, eq=False, repr=False)
class Block:
    """
    What every block has.

    Attributes:
        type: The kind, as the API names it.
        extra: Keys this library does not know, as received.
    """

    type: ClassVar[str]
    extra: Object = field(factory=dict, repr=False)

    # Written once for all kinds: to generate them for each would be a tenth of what importing this package costs.

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return all(getattr(self, each.name) == getattr(other, each.name) for each in fields(type(self)) if each.eq)

    __hash__ = None  # type: ignore[assignment]  # some hold dicts

    def __repr__(self) -> str:
        shown = (
            f"{each.name}={(each.repr if callable(each.repr) else repr)(getattr(self, each.name))}"
            for each in fields(type(self))
            if each.repr
        )
        return f"{type(self).__qualname__.rpartition('>.')[2]}({', '.join(shown)})"


@frozen(eq=False, repr=False)
class Text(Block):
    """Words. ``citations`` may be absent, null or a list, and stays what it was."""

    type: ClassVar[str] = "text"
    text: str
    citations: Maybe = field(default=ABSENT, kw_only=True, repr=False)
    cache_control: Maybe = field(default=ABSENT, kw_only=True, repr=False)


def _source(data: bytes, media_type: str) -> Object:
    return {"type": "base64", "media_type": media_type, "data": splices.encode(data).decode()}


def _read(path: str | Path, limit: int) -> bytes:
    # The one place in this room that touches a disk: it reads the file its caller names, whole.
    try:
        size = Path(path).stat().st_size
        if size > limit:
            raise AttachmentError(str(path), f"{size} bytes; the API takes at most {limit}")
        return Path(path).read_bytes()
    except OSError as error:
        raise AttachmentError(str(path), error.strerror or type(error).__name__) from None
    except (TypeError, ValueError) as error:
        raise AttachmentError(repr(path), f"is no path: {error}") from None


def _address(url: object) -> Object:
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise AttachmentError("url", "give an address that begins with https://")
    return {"type": "url", "url": url}


def _uploaded(file_id: object) -> Object:
    if not isinstance(file_id, str) or not file_id.strip():
        raise AttachmentError("file_id", "give the id of an uploaded file")
    return {"type": "file", "file_id": file_id}


def _given(data: object, path: str) -> bytes:
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise AttachmentError(path, f"give bytes, not a {type(data).__name__}")
    return bytes(data)


def _bytes_of(source: Object) -> bytes | None:
    data = source.get("data")
    if source.get("type") != "base64" or not isinstance(data, str):
        return None
    return splices.decode(data.encode())


@frozen(eq=False, repr=False)
class Image(Block):
    """
    A picture: ``Image.open(path)``, ``.from_bytes(data)``, ``.from_url(url)`` or ``.from_file_id(id)``.

    The media type is read from the bytes, never from a name. jpeg, png, gif and webp are taken, up to
    10 MB as base64 and 8000 x 8000 pixels.
    """

    type: ClassVar[str] = "image"
    source: Object = field(repr=lambda source: str(source.get("type")))
    transformations: Maybe = field(default=ABSENT, kw_only=True, repr=False)
    cache_control: Maybe = field(default=ABSENT, kw_only=True, repr=False)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """
        Read a picture from a file.

        Raises:
            AttachmentError: No such file, not a picture the API takes, broken, or over a limit.
        """
        return cls.from_bytes(_read(path, media.REQUEST_BYTES), path=str(path))

    @classmethod
    def from_bytes(cls, data: bytes, *, path: str = "image") -> Self:
        """
        Take a picture's bytes; *path* is what an error calls it.

        Raises:
            AttachmentError: Not a picture the API takes, broken, or over a limit.
        """
        data = _given(data, path)
        measured = media.measure(data, path=path)
        if not measured.type.startswith("image/"):
            raise AttachmentError(path, f"{measured.type} is no image: use Document")
        media.check(measured, len(data), path=path)
        return cls(_source(data, measured.type))

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Name a picture for the API to fetch; nothing is fetched here, so what it shows may change."""
        return cls(_address(url))

    @classmethod
    def from_file_id(cls, file_id: str) -> Self:
        """Name a picture uploaded with the Files API; it can be replayed only while the file exists."""
        return cls(_uploaded(file_id))

    @property
    def data(self) -> bytes | None:
        """The picture's bytes; None where the source is a URL or a file id."""
        return _bytes_of(self.source)


@frozen(eq=False, repr=False)
class Document(Block):
    """
    A PDF or a text: ``Document.open(path)``, ``.from_bytes``, ``.from_text``, ``.from_url``, ``.from_file_id``.

    A PDF may have 600 pages, must not be encrypted, and counts towards the 32 MB of a request.
    """

    type: ClassVar[str] = "document"
    source: Object = field(repr=lambda source: str(source.get("type")))
    title: Maybe = field(default=ABSENT, kw_only=True)
    context: Maybe = field(default=ABSENT, kw_only=True, repr=False)
    citations: Maybe = field(default=ABSENT, kw_only=True, repr=False)
    cache_control: Maybe = field(default=ABSENT, kw_only=True, repr=False)

    @classmethod
    def open(cls, path: str | Path, *, title: str | None = None) -> Self:
        """
        Read a PDF from a file.

        Raises:
            AttachmentError: No such file, no PDF, broken, encrypted, or over a limit.
        """
        return cls.from_bytes(_read(path, media.REQUEST_BYTES), title=title, path=str(path))

    @classmethod
    def from_bytes(cls, data: bytes, *, title: str | None = None, path: str = "document") -> Self:
        """
        Take a PDF's bytes; *path* is what an error calls it.

        Raises:
            AttachmentError: No PDF, broken, encrypted, or over a limit.
        """
        data = _given(data, path)
        measured = media.measure(data, path=path)
        if measured.type != "application/pdf":
            raise AttachmentError(path, f"{measured.type} is no PDF: use Image")
        media.check(measured, len(data), path=path)
        return cls(_source(data, measured.type), title=ABSENT if title is None else title)

    @classmethod
    def from_text(cls, text: str, *, title: str | None = None) -> Self:
        """Take a plain text as a document."""
        source = {"type": "text", "media_type": "text/plain", "data": text}
        return cls(source, title=ABSENT if title is None else title)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Name a PDF for the API to fetch; nothing is fetched here, so what it says may change."""
        return cls(_address(url))

    @classmethod
    def from_file_id(cls, file_id: str) -> Self:
        """Name a file uploaded with the Files API; it can be replayed only while the file exists."""
        return cls(_uploaded(file_id))

    @property
    def data(self) -> bytes | None:
        """The PDF's bytes; None where the source is anything but base64."""
        return _bytes_of(self.source)


@frozen(eq=False, repr=False)
class SearchResult(Block):
    """A passage of the caller's own search, to be cited."""

    type: ClassVar[str] = "search_result"
    source: str
    title: str
    content: Sequence[Any]
    citations: Maybe = field(default=ABSENT, kw_only=True, repr=False)
    cache_control: Maybe = field(default=ABSENT, kw_only=True, repr=False)


@frozen(eq=False, repr=False)
class Thinking(Block):
    """The model's reasoning. ``thinking`` may be empty; the signature binds it and must not be touched."""

    type: ClassVar[str] = "thinking"
    thinking: str
    signature: Maybe = field(default=ABSENT, repr=False)


@frozen(eq=False, repr=False)
class RedactedThinking(Block):
    """Reasoning that only the API can read."""

    type: ClassVar[str] = "redacted_thinking"
    data: str = field(repr=False)


@frozen(eq=False, repr=False)
class ToolUse(Block):
    """The model calls a tool of the caller's; answer it with a ``ToolResult`` of the same id."""

    type: ClassVar[str] = "tool_use"
    id: str
    name: str
    input: Any
    caller: Maybe = field(default=ABSENT, kw_only=True, repr=False)
    toolset_name: Maybe = field(default=ABSENT, kw_only=True)
    cache_control: Maybe = field(default=ABSENT, kw_only=True, repr=False)


@frozen(eq=False, repr=False)
class ToolResult(Block):
    """What a tool of the caller's returned: a string, or blocks."""

    type: ClassVar[str] = "tool_result"
    tool_use_id: str
    content: Maybe = ABSENT
    is_error: Maybe = field(default=ABSENT, kw_only=True)
    toolset_name: Maybe = field(default=ABSENT, kw_only=True)
    cache_control: Maybe = field(default=ABSENT, kw_only=True, repr=False)


@frozen(eq=False, repr=False)
class ToolReference(Block):
    """Names a tool inside a tool's result."""

    type: ClassVar[str] = "tool_reference"
    tool_name: str
    cache_control: Maybe = field(default=ABSENT, kw_only=True, repr=False)


@frozen(eq=False, repr=False)
class BrowserState(Block):
    """The tabs of a browser, inside a browser tool's result."""

    type: ClassVar[str] = "browser_state"
    tabs: Sequence[Any]
    state_changes: Maybe = field(default=ABSENT, kw_only=True)
    cache_control: Maybe = field(default=ABSENT, kw_only=True, repr=False)


@frozen(eq=False, repr=False)
class ServerToolUse(Block):
    """The model calls a tool that the API runs; never answered by the caller."""

    type: ClassVar[str] = "server_tool_use"
    id: str
    name: str
    input: Maybe = ABSENT
    caller: Maybe = field(default=ABSENT, kw_only=True, repr=False)
    cache_control: Maybe = field(default=ABSENT, kw_only=True, repr=False)


@frozen(eq=False, repr=False)
class ServerToolResult(Block):
    """What every result of a tool run by the API has; one class per tool below."""

    tool_use_id: str
    content: Any
    cache_control: Maybe = field(default=ABSENT, kw_only=True, repr=False)


@frozen(eq=False, repr=False)
class WebSearchToolResult(ServerToolResult):
    """Results of a web search; their encrypted content must come back untouched."""

    type: ClassVar[str] = "web_search_tool_result"
    caller: Maybe = field(default=ABSENT, kw_only=True, repr=False)


@frozen(eq=False, repr=False)
class WebFetchToolResult(ServerToolResult):
    """A page the API fetched."""

    type: ClassVar[str] = "web_fetch_tool_result"
    caller: Maybe = field(default=ABSENT, kw_only=True, repr=False)


@frozen(eq=False, repr=False)
class CodeExecutionToolResult(ServerToolResult):
    """What code printed and returned."""

    type: ClassVar[str] = "code_execution_tool_result"


@frozen(eq=False, repr=False)
class BashCodeExecutionToolResult(ServerToolResult):
    """What a shell command printed and returned."""

    type: ClassVar[str] = "bash_code_execution_tool_result"


@frozen(eq=False, repr=False)
class TextEditorCodeExecutionToolResult(ServerToolResult):
    """What a text editor's command showed or changed."""

    type: ClassVar[str] = "text_editor_code_execution_tool_result"


@frozen(eq=False, repr=False)
class ToolSearchToolResult(ServerToolResult):
    """The tools a search among tools found."""

    type: ClassVar[str] = "tool_search_tool_result"


@frozen(eq=False, repr=False)
class AdvisorToolResult(ServerToolResult):
    """What the advising model said."""

    type: ClassVar[str] = "advisor_tool_result"


@frozen(eq=False, repr=False)
class ContainerUpload(Block):
    """A file put into, or made in, a code-execution container."""

    type: ClassVar[str] = "container_upload"
    file_id: str
    cache_control: Maybe = field(default=ABSENT, kw_only=True, repr=False)


@frozen(eq=False, repr=False)
class McpToolUse(Block):
    """The model calls a tool of an MCP server."""

    type: ClassVar[str] = "mcp_tool_use"
    id: str
    name: str
    server_name: str
    input: Any
    cache_control: Maybe = field(default=ABSENT, kw_only=True, repr=False)


@frozen(eq=False, repr=False)
class McpToolResult(Block):
    """What an MCP server's tool returned."""

    type: ClassVar[str] = "mcp_tool_result"
    tool_use_id: str
    content: Maybe = ABSENT
    is_error: Maybe = field(default=ABSENT, kw_only=True)
    cache_control: Maybe = field(default=ABSENT, kw_only=True, repr=False)


@frozen(eq=False, repr=False)
class McpToolListing(Block):
    """The tools an MCP server offered, kept so that it need not be asked again."""

    type: ClassVar[str] = "mcp_tool_listing"
    mcp_server_name: str
    tools: Sequence[Any]


@frozen(eq=False, repr=False)
class Compaction(Block):
    """What the API wrote in place of earlier turns; echoed exactly as received."""

    type: ClassVar[str] = "compaction"
    content: Maybe
    encrypted_content: Maybe = field(default=ABSENT, kw_only=True, repr=False)
    signature: Maybe = field(default=ABSENT, kw_only=True, repr=False)
    tool_changes: Maybe = field(default=ABSENT, kw_only=True)
    cache_control: Maybe = field(default=ABSENT, kw_only=True, repr=False)


@frozen(eq=False, repr=False)
class Fallback(Block):
    """Where another model took over inside an answer; never moved, never dropped."""

    type: ClassVar[str] = "fallback"
    from_: Any = field(metadata={"name": "from"})
    to: Any
    trigger: Maybe = ABSENT


@frozen(eq=False, repr=False)
class ToolAddition(Block):
    """Adds a tool in the middle of a conversation; only in a system message."""

    type: ClassVar[str] = "tool_addition"
    tool: Any
    cache_control: Maybe = field(default=ABSENT, kw_only=True, repr=False)


@frozen(eq=False, repr=False)
class ToolRemoval(Block):
    """Removes a tool in the middle of a conversation; only in a system message."""

    type: ClassVar[str] = "tool_removal"
    tool: Any
    cache_control: Maybe = field(default=ABSENT, kw_only=True, repr=False)


@frozen(eq=False, repr=False)
class Unknown(Block):
    """
    A block newer than this library, kept whole: ``kind`` is its ``type``, ``extra`` everything else.

    Also the way to send a block this library does not know; a plain dict of an unknown type is refused,
    because it is more often a mistake.
    """

    type: ClassVar[str] = ""
    kind: str


KNOWN: Final[Mapping[str, type[Block]]] = {
    kind.type: kind
    for kind in (
        Text,
        Image,
        Document,
        SearchResult,
        Thinking,
        RedactedThinking,
        ToolUse,
        ToolResult,
        ToolReference,
        BrowserState,
        ServerToolUse,
        WebSearchToolResult,
        WebFetchToolResult,
        CodeExecutionToolResult,
        BashCodeExecutionToolResult,
        TextEditorCodeExecutionToolResult,
        ToolSearchToolResult,
        AdvisorToolResult,
        ContainerUpload,
        McpToolUse,
        McpToolResult,
        McpToolListing,
        Compaction,
        Fallback,
        ToolAddition,
        ToolRemoval,
    )
}
"""Every kind this library has a view for, by its ``type``."""
