"""How the tests ask the loopback API: bodies, blocks, requests, and what comes back."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conversation_store.testing import MessagesAPI

NEW = "claude-sonnet-5-5"
OLD = "claude-sonnet-4-5"
LATEST, FIRST = "2026-10-21", "2023-06-01"
MCP = "mcp-client-2026-09-15"
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 2, 3) + b"\x08\x02\0\0\0"
TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
SEARCH = {"type": "web_search_20260318", "name": "web_search"}
HI = {"role": "user", "content": "Hello, Claude"}


@dataclass
class Reply:
    """What a caller sees of one answer."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.raw)

    @property
    def error(self) -> str:
        """The words of an error."""
        return str(self.json["error"]["message"])

    @property
    def text(self) -> str:
        """The text of a message."""
        return "".join(block["text"] for block in self.json["content"])


def headers(api: MessagesAPI, version: str = LATEST, beta: str = "") -> dict[str, str]:
    """Return the headers of a proper request."""
    given = {"x-api-key": api.key, "anthropic-version": version, "content-type": "application/json"}
    return given | ({"anthropic-beta": beta} if beta else {})


def connect(api: MessagesAPI) -> contextlib.closing[http.client.HTTPConnection]:
    """Return a connection that closes itself."""
    host, port = api.url.removeprefix("http://").split(":")
    return contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=10))


def ask(
    api: MessagesAPI,
    body: Any,
    *,
    path: str = "/v1/messages",
    method: str = "POST",
    version: str = LATEST,
    beta: str = "",
    head: Mapping[str, str] | None = None,
) -> Reply:
    """Ask once, on a connection of its own."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with connect(api) as connection:
        connection.request(method, path, data, headers(api, version, beta) if head is None else dict(head))
        response = connection.getresponse()
        return Reply(response.status, dict(response.getheaders()), response.read())


def question(*messages: Any, **parameters: Any) -> dict[str, Any]:
    """Return a body: messages in turn, strings and lists as alternating user and assistant content."""
    roles = ("user", "assistant")
    turns = [
        each if isinstance(each, dict) else {"role": roles[number % 2], "content": each}
        for number, each in enumerate(messages or ("Hello, Claude",))
    ]
    return {"model": NEW, "max_tokens": 64, "messages": turns} | parameters


def text(words: str = "ok", **more: Any) -> dict[str, Any]:
    """Return a text block."""
    return {"type": "text", "text": words, **more}


def image(data: bytes | str = PNG, media_type: str = "image/png") -> dict[str, Any]:
    """Return an image block."""
    encoded = data if isinstance(data, str) else base64.b64encode(data).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": encoded}}


def document(*, citing: bool = False) -> dict[str, Any]:
    """Return a document block."""
    source = {"type": "text", "media_type": "text/plain", "data": "An ant is small."}
    return {"type": "document", "source": source, "citations": {"enabled": citing}}


def call(key: str = "toolu_1", **more: Any) -> dict[str, Any]:
    """Return a tool call."""
    return {"type": "tool_use", "id": key, "name": "weather", "input": {}, **more}


def result(key: str = "toolu_1", **more: Any) -> dict[str, Any]:
    """Return a tool result."""
    return {"type": "tool_result", "tool_use_id": key, "content": "18 degrees", **more}


def search(key: str = "srvtoolu_1") -> dict[str, Any]:
    """Return a server tool call."""
    return {"type": "server_tool_use", "id": key, "name": "web_search", "input": {"query": "ants"}}


def found(key: str = "srvtoolu_1") -> dict[str, Any]:
    """Return a server tool result."""
    return {"type": "web_search_tool_result", "tool_use_id": key, "content": []}


def spoken(role: str, content: Any = "Be brief.", **more: Any) -> dict[str, Any]:
    """Return a message."""
    return {"role": role, "content": content, **more}


def without(body: dict[str, Any], key: str) -> dict[str, Any]:
    """Return an object without one of its keys."""
    return {name: value for name, value in body.items() if name != key}


def events(raw: bytes) -> list[dict[str, Any]]:
    """Return the events of a stream, each checked against its name."""
    found = []
    for each in raw.decode().split("\n\n")[:-1]:
        name, data = each.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def received(api: MessagesAPI, body: Any, timeout: float = 1) -> tuple[bytes, bool]:
    """Return every byte a caller is sent after the headers, and whether the connection was reset."""
    host, port = api.url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    given = headers(api) | {"connection": "close", "content-length": str(len(data))}
    lines = [f"{name}: {value}" for name, value in given.items()]
    head = "\r\n".join(["POST /v1/messages HTTP/1.1", *lines, "", ""])
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        connection.sendall(head.encode() + data)
        everything, reset = b"", False
        try:
            while piece := connection.recv(65536):
                everything += piece
        except ConnectionResetError:
            reset = True
        except TimeoutError:
            everything += b"<stalled>"
    return everything.partition(b"\r\n\r\n")[2], reset
