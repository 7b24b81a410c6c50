"""Requests for the rule book: one that is right, and for each rule one that is wrong and one that is not."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final

from attrs import frozen

from conversation_store.api import rules
from conversation_store.api.models import load
from conversation_store.api.request import Messages, part_of
from conversation_store.api.rules import Asked, Finding
from conversation_store.api.rules.order import Outline
from conversation_store.api.rules.reading import tried
from conversation_store.record import canonical
from tests import pictures

NEW, FIRST = "2026-10-21", "2023-06-01"
SONNET, OLD = "claude-sonnet-5-5", "claude-opus-4-5"
TODAY: Final = date(2026, 11, 22)
LIMIT: Final = 32 * 1024 * 1024

Block = dict[str, Any]


@frozen
class Ask:
    """A request's body, and what surrounds it."""

    body: Mapping[str, Any]
    version: str = NEW
    betas: tuple[str, ...] = ()
    on: date = TODAY


@frozen
class Case:
    """
    A rule, and two requests.

    Attributes:
        rule: The rule's name.
        wrong: What it finds fault with, at ``path``.
        right: What it has nothing to say to; nor has any other rule an error.
        severity: How severe it is.
        elsewhere: The place that the loopback API names instead, of the two that do not go together.
    """

    rule: str
    wrong: Ask
    path: str
    right: Ask
    severity: str = "error"
    elsewhere: str = ""


def user(*content: Any) -> Block:
    """Say something as the user."""
    return {"role": "user", "content": content[0] if len(content) == 1 and isinstance(content[0], str) else [*content]}


def assistant(*content: Any) -> Block:
    """Say something as the assistant."""
    return {**user(*content), "role": "assistant"}


def system(*content: Any, **more: Any) -> Block:
    """Say something as the system."""
    return {**user(*content), "role": "system", **more}


HI: Final = user("Hello, Claude")


def ask(*messages: Block, version: str = NEW, betas: Sequence[str] = (), on: date = TODAY, **params: Any) -> Ask:
    """Ask something; None takes a parameter away."""
    given = {"model": SONNET, "max_tokens": 100, **params, "messages": list(messages or [HI])}
    return Ask({name: value for name, value in given.items() if value is not ...}, version, tuple(betas), on)


def text(words: Any = "Hi", **more: Any) -> Block:
    """Write a block of text."""
    return {"type": "text", "text": words, **more}


def call(key: str = "toolu_1", **more: Any) -> Block:
    """Call a tool."""
    return {"type": "tool_use", "id": key, "name": "weather", "input": {}, **more}


def result(name: str = "toolu_1", content: Any = "23 degrees", **more: Any) -> Block:
    """Answer a call."""
    return {"type": "tool_result", "tool_use_id": name, "content": content, **more}


def search(name: str = "srvtoolu_1", **more: Any) -> Block:
    """Call the API's own search."""
    return {"type": "server_tool_use", "id": name, "name": "web_search", "input": {"query": "ants"}, **more}


def found(name: str = "srvtoolu_1") -> Block:
    """Give the search's result."""
    return {"type": "web_search_tool_result", "tool_use_id": name, "content": []}


def picture(width: int = 2, height: int = 3, **more: Any) -> Block:
    """Show a picture of that size."""
    data = base64.b64encode(pictures.png(width, height)).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    return {"type": "image", "source": {**source, **more}}


def pdf(pages: int) -> Block:
    """Give a PDF of so many pages."""
    data = base64.b64encode(pictures.pdf(pages)).decode()
    return {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": data}}


def document(**more: Any) -> Block:
    """Give a document to read."""
    return {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Ants."}, **more}


def page(*content: Any, **more: Any) -> Block:
    """Give a result of somebody's own search."""
    return {"type": "search_result", "source": "ants.txt", "title": "Ants", "content": [*(content or [text()])], **more}


def tool(name: str = "weather", **more: Any) -> Block:
    """Describe a tool."""
    return {"name": name, "input_schema": {"type": "object", "properties": {}}, **more}


def called(*results: Block, calls: Sequence[Block] = (), **params: Any) -> Ask:
    """Ask with a call in the history, and these results."""
    return ask(HI, assistant(*(calls or [call()])), user(*(results or [result()])), tools=[tool()], **params)


def seen(asked: Ask) -> Asked:
    """See a request as the rules do."""
    body = {name: value for name, value in asked.body.items() if name != "messages"}
    parts = [part_of(b"{}", canonical.dumps(message)) for message in asked.body["messages"]]
    outline, size = tried(Outline(), Messages(), parts)
    return Asked(
        params=body,
        version=asked.version,
        betas=frozenset(asked.betas),
        on=asked.on,
        outline=outline,
        stream=bool(body.get("stream")),
        size=size + len(canonical.dumps(body)),
        models=load(),
    )


def judge(asked: Ask) -> list[Finding]:
    """Hold a request to the rule book."""
    return rules.check_request(seen(asked))


MARK: Final = {"type": "ephemeral"}
HOUR: Final = {"type": "ephemeral", "ttl": "1h"}
CITE: Final = {"citations": {"enabled": True}}
WEB: Final = {"type": "web_search_20260318", "name": "web_search"}
CODE: Final = {"type": "code_execution_20260120", "name": "code_execution"}
CITATION: Final = {
    "type": "char_location",
    "cited_text": "Ants.",
    "document_index": 0,
    "document_title": None,
    "start_char_index": 0,
    "end_char_index": 5,
}
FORMAT: Final = {"type": "json_schema", "schema": {"type": "object", "properties": {}, "additionalProperties": False}}
TAB: Final = {"tab_id": "1", "title": "Ants", "url": "https://ants.example"}
CLEAR: Final = "mid-conversation-system-clear-at-2026-08-21"
MIDWAY: Final = "mid-conversation-output-config-2026-07-01"
EFFORT: Final = {"role": "system", "output_config": {"effort": "low"}}
MCP: Final = "mcp-client-2026-09-15"
COMPACT: Final = "compact-2026-09-04"
SUMMARY: Final = {"type": "compaction", "content": "They spoke of ants."}
SERVER: Final = {"type": "url", "name": "ants", "url": "https://ants.example"}
TOOLSET: Final = {"type": "mcp_toolset", "mcp_server_name": "ants"}
RUN: Final = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "code_execution", "input": {"code": "1"}}
BY_CODE: Final[Mapping[str, Any]] = {"caller": {"type": "code_execution_20260120", "tool_id": "srvtoolu_1"}}
THINK: Final = {"type": "enabled", "budget_tokens": 1024}


def coded(*results: Block, **params: Any) -> Ask:
    """Ask while running code waits for the result of a call."""
    tools = [tool(allowed_callers=["code_execution_20260120"]), CODE]
    return ask(HI, assistant(RUN, call(**BY_CODE)), user(*results), tools=tools, **params)


CASES: Final = (
    # --- blocks
    Case("block_type", ask(user({"type": "smell"})), "messages.0.content.0", ask(user(text())), "warning"),
    Case("block_type", ask(user({"text": "Hi"})), "messages.0.content.0.type", ask(user(text()))),
    Case("block_keys", ask(user(text(mood="x"))), "messages.0.content.0.text.mood", ask(user(text(citations=None)))),
    Case("block_keys", ask(user({"type": "image"})), "messages.0.content.0.image.source", ask(user(picture()))),
    Case(
        "block_keys",
        called(result(content=[text(mood="x")])),
        "messages.2.content.0.tool_result.content.0.text.mood",
        called(),
    ),
    Case(
        "marker_shape",
        ask(user(text(cache_control={"type": "ephemeral", "ttl": "2h"}))),
        "messages.0.content.0.text.cache_control.ephemeral.ttl",
        ask(user(text(cache_control=HOUR))),
    ),
    Case("text_is_string", ask(user(text(7))), "messages.0.content.0.text", ask(user(text("7")))),
    Case("text_not_blank", ask(user("  ")), "messages.0.content", ask(user(" x "))),
    Case("text_not_blank", ask(user(text(""))), "messages.0.content.0.text", ask(user(text("x")))),
    Case(
        "text_not_blank",
        called(result(content=[text(" ")])),
        "messages.2.content.0.tool_result.content.0.text",
        called(result(content=[])),
    ),
    Case(
        "text_not_blank",
        ask(user(page(text(" ")))),
        "messages.0.content.0.search_result.content.0.text",
        ask(user(page())),
    ),
    Case(
        "text_not_blank",
        ask(user(document(source={"type": "content", "content": [text("\n")]}))),
        "messages.0.content.0.document.source.content.content.0.text",
        ask(user(document(source={"type": "content", "content": [text("x")]}))),
    ),
    Case(
        "citations_shape",
        ask(user(text(citations=[{"type": "char_location", "cited_text": "Ants."}])), version=FIRST),
        "messages.0.content.0.text.citations.0.char_location.document_index",
        ask(user(text(citations=[CITATION])), version=FIRST),
    ),
    Case(
        "citing_shape",
        ask(user(document(citations={"enabled": 1}))),
        "messages.0.content.0.document.citations.enabled",
        ask(user(document(citations=None))),
    ),
    Case(
        "browser_tabs",
        called(
            result(content=[{"type": "browser_state", "tabs": [TAB]}], toolset_name="browser"),
            calls=[call(toolset_name="browser")],
        ),
        "messages.2.content.0.tool_result.content.0.browser_state.tabs",
        called(
            result(content=[{"type": "browser_state", "tabs": [{**TAB, "active": True}]}], toolset_name="browser"),
            calls=[call(toolset_name="browser")],
        ),
        "warning",
    ),
    Case(
        "source_shape",
        ask(user(picture(media_type="image/bmp"))),
        "messages.0.content.0.image.source.base64.media_type",
        ask(user({"type": "image", "source": {"type": "url", "url": "https://ants.example/a.png"}})),
    ),
    Case(
        "source_shape",
        ask(user({"type": "image", "source": {"type": "text"}})),
        "messages.0.content.0.image.source",
        ask(user(document())),
    ),
    Case(
        "image_bytes",
        ask(user(picture(data="A" * (10 * 1024 * 1024 + 4)))),
        "messages.0.content.0.image.source.base64",
        ask(user(picture())),
    ),
    Case(
        "image_side",
        ask(user(picture(8001, 1))),
        "messages.0.content.0.image.source.base64.data",
        ask(user(picture(8000, 1))),
    ),
    Case(
        "search_result_content",
        ask(user(page(picture()))),
        "messages.0.content.0.search_result.content.0",
        ask(user(page(text()))),
    ),
    Case(
        "tool_ids",
        called(result("a b"), calls=[call("a b")]),
        "messages.1.content.0.tool_use.id",
        called(result("a_B-1"), calls=[call("a_B-1")]),
    ),
    Case(
        "server_tool_ids",
        ask(HI, assistant(search("toolu_1"), found("toolu_1")), HI, tools=[WEB]),
        "messages.1.content.0.server_tool_use.id",
        ask(HI, assistant(search(), found()), HI, tools=[WEB]),
    ),
    Case(
        "tool_call_shape",
        called(calls=[call(name="n" * 201)]),
        "messages.1.content.0.tool_use.name",
        called(calls=[call(name="n" * 200)]),
    ),
    Case("tool_call_shape", called(calls=[call(input=[])]), "messages.1.content.0.tool_use.input", called()),
    Case(
        "caller_given",
        called(calls=[call(caller=None)]),
        "messages.1.content.0.tool_use.caller",
        called(calls=[call(caller={"type": "direct"})]),
        "warning",
    ),
    Case(
        "result_shape",
        called(result(is_error=None)),
        "messages.2.content.0.tool_result.is_error",
        called(result(is_error=True)),
    ),
    Case(
        "result_shape",
        called(result(content=[call()])),
        "messages.2.content.0.tool_result.content.0",
        called(result(content=[picture(), document()])),
    ),
    Case(
        "search_results_alone",
        called(result(content=[page(), text()])),
        "messages.2.content.0.tool_result.content",
        called(result(content=[page(), page()])),
    ),
    Case(
        "compaction_content",
        ask(assistant({**SUMMARY, "content": ""}), HI, betas=[COMPACT]),
        "messages.0.content.0.compaction.content",
        ask(assistant(SUMMARY), HI, betas=[COMPACT]),
    ),
    # --- messages
    Case("role", ask({"role": "tool", "content": "Hi"}), "messages.0.role", ask()),
    Case("message_keys", ask({**HI, "name": "Ada"}), "messages.0.name", ask()),
    Case("content_not_empty", ask(user()), "messages.0.content", ask()),
    Case("content_not_empty", ask(HI, assistant(""), HI), "messages.1.content", ask(HI, assistant("Hi"), HI)),
    Case("block_in_place", ask(user(call())), "messages.0.content.0", called()),
    Case("block_in_place", ask(HI, assistant(result()), HI), "messages.1.content.0", called()),
    Case("block_in_place", ask(HI, system(picture())), "messages.1.content.0", ask(HI, system(text()))),
    Case(
        "compaction_first",
        ask(user(text(), SUMMARY), betas=[COMPACT]),
        "messages.0.content.1",
        ask(user(SUMMARY, text()), betas=[COMPACT]),
    ),
    Case(
        "system_extras",
        ask(HI, system("Be brief.", clear_at="soon"), betas=[CLEAR]),
        "messages.1.clear_at",
        ask(HI, system("Be brief.", clear_at="never"), betas=[CLEAR]),
    ),
    # --- their order
    Case("first_is_user", ask(assistant("Hi"), HI), "messages.0.role", ask(HI)),
    Case("calls_answered", ask(HI, assistant(call()), HI, tools=[tool()]), "messages.1", called()),
    Case("calls_answered", ask(HI, assistant(call()), tools=[tool()]), "messages.1", called()),
    Case(
        "calls_answered",
        ask(HI, assistant(call(), call("toolu_2")), user(result()), assistant("Hm"), HI, tools=[tool()]),
        "messages.1",
        called(result(), result("toolu_2"), calls=[call(), call("toolu_2")]),
    ),
    Case("results_asked_for", called(result(), result("toolu_9")), "messages.2.content.1", called()),
    Case("results_asked_for", ask(user(result())), "messages.0.content.0", called()),
    Case("results_once", called(result(), result()), "messages.2.content.1", called()),
    Case("results_first", called(text(), result()), "messages.1", called(result(), text())),
    Case(
        "toolset_echoed",
        called(calls=[call(toolset_name="computer")]),
        "messages.2.content.0.tool_result.toolset_name",
        called(result(toolset_name="computer"), calls=[call(toolset_name="computer")]),
    ),
    Case(
        "toolset_echoed",
        called(result(content=[document()], toolset_name="browser"), calls=[call(toolset_name="browser")]),
        "messages.2.content.0.tool_result.content",
        called(result(content=[text()], toolset_name="browser"), calls=[call(toolset_name="browser")]),
    ),
    Case(
        "programmatic_results",
        coded(result(content=[picture()]), container="container_1"),
        "messages.2.content.0.tool_result.content",
        coded(result(content=[text()]), container="container_1"),
    ),
    Case(
        "server_calls_resolved",
        ask(HI, assistant(search()), HI, tools=[WEB]),
        "messages.1.content.0",
        ask(HI, assistant(search(), found()), HI, tools=[WEB]),
    ),
    Case(
        "ids_unique",
        ask(HI, assistant(call()), user(result()), assistant(call()), user(result()), tools=[tool()]),
        "messages.3.content.0",
        called(),
    ),
    Case(
        "server_results_asked_for",
        ask(HI, assistant(found(), text()), HI, tools=[WEB]),
        "messages.1.content.0",
        ask(HI, assistant(search()), assistant(found(), text()), HI, tools=[WEB]),
    ),
    Case("system_placed", ask(HI, assistant("Hi"), system("Be brief.")), "messages.2", ask(HI, system("Be brief."))),
    Case(
        "system_followed",
        ask(HI, system("Be brief."), HI),
        "messages.1",
        ask(HI, system("Be brief."), assistant("Yes"), HI),
    ),
    # --- settings
    Case("required", ask(max_tokens=...), "max_tokens", ask()),
    Case("required", ask(model=...), "model", ask()),
    Case("listed", ask(model="claude-next"), "model", ask(), "warning"),
    Case("in_service", ask(model="claude-opus-4-1"), "model", ask()),
    Case("deprecated", ask(model="claude-sonnet-4-5"), "model", ask(model=OLD), "warning"),
    Case("max_tokens_in_range", ask(max_tokens=128_001), "max_tokens", ask(max_tokens=128_000, stream=True)),
    Case("max_tokens_in_range", ask(max_tokens=-1), "max_tokens", ask(max_tokens=0)),
    Case("max_tokens_in_range", ask(max_tokens="9"), "max_tokens", ask(max_tokens=9)),
    Case("warm_up", ask(max_tokens=0, stream=True), "max_tokens", ask(max_tokens=0)),
    Case("streamed", ask(max_tokens=21_334), "max_tokens", ask(max_tokens=21_333), "warning"),
    Case("thinking_shape", ask(thinking={"type": "hard"}), "thinking", ask(thinking={"type": "adaptive"})),
    Case(
        "thinking_shape",
        ask(thinking={"type": "adaptive", "budget_tokens": 1024}),
        "thinking.adaptive.budget_tokens",
        ask(thinking={"type": "adaptive", "display": "omitted"}),
    ),
    Case(
        "thinking_supported",
        ask(thinking=THINK, max_tokens=2000),
        "thinking.enabled",
        ask(thinking=THINK, max_tokens=2000, model=OLD),
    ),
    Case("thinking_supported", ask(model=OLD, thinking={"type": "adaptive"}), "thinking.adaptive", ask(model=OLD)),
    Case(
        "thinking_supported",
        ask(model="claude-fable-5-2", thinking={"type": "disabled"}),
        "thinking.disabled",
        ask(model="claude-fable-5-2"),
        "warning",
    ),
    Case("budget", ask(model=OLD, thinking=THINK, max_tokens=1024), "max_tokens", ask(model=OLD)),
    Case(
        "budget",
        ask(model=OLD, thinking={"type": "enabled", "budget_tokens": 1023}, max_tokens=9999),
        "thinking.enabled.budget_tokens",
        ask(model=OLD, thinking=THINK, max_tokens=1025),
    ),
    Case(
        "block_binding",
        ask(thinking={"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "error"}}),
        "thinking.adaptive.block_binding",
        ask(
            thinking={"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "error"}},
            betas=["thinking-binding-controls-2026-08-01"],
        ),
    ),
    Case("effort_known", ask(output_config={"effort": "some"}), "output_config.effort", ask()),
    Case(
        "effort_supported",
        ask(model=OLD, output_config={"effort": "max"}),
        "output_config.effort",
        ask(model=OLD, output_config={"effort": "high"}),
    ),
    Case(
        "effort_supported",
        ask(output_config={"effort": "max"}, thinking={"type": "between_tools"}),
        "output_config.effort",
        ask(output_config={"effort": "high"}, thinking={"type": "between_tools"}),
    ),
    Case("sampling", ask(model=OLD, temperature=1), "temperature", ask(model=OLD, temperature=1, version=FIRST)),
    Case("sampling_supported", ask(temperature=0.5, version=FIRST), "temperature", ask(temperature=1, version=FIRST)),
    Case(
        "sampling_supported",
        ask(model=OLD, temperature=1.5, version=FIRST),
        "temperature",
        ask(model=OLD, temperature=0.5, version=FIRST),
    ),
    Case(
        "sampling_thinking",
        ask(model=OLD, temperature=0.5, thinking=THINK, max_tokens=2000, version=FIRST),
        "temperature",
        ask(model=OLD, top_p=0.95, thinking=THINK, max_tokens=2000, version=FIRST),
    ),
    Case("inference_geo", ask(model=OLD, inference_geo="us"), "inference_geo", ask(inference_geo="us")),
    Case("speed", ask(model="claude-opus-5-5", speed="slow"), "speed", ask(model="claude-opus-5-5", speed="fast")),
    Case("speed", ask(speed="fast"), "speed", ask(), "warning"),
    Case("service_tier", ask(service_tier="gold"), "service_tier", ask(service_tier="standard_only")),
    Case("stop_sequences", ask(stop_sequences=["x", " "]), "stop_sequences", ask(stop_sequences=["x"])),
    Case("metadata", ask(metadata={"email": "x"}), "metadata.email", ask(metadata={"user_id": "u1"})),
    Case("metadata", ask(metadata={"user_id": "u" * 257}), "metadata.user_id", ask(), "warning"),
    Case("system_prompt", ask(system="\n"), "system", ask(system="Be brief.")),
    Case("system_prompt", ask(system=[text(" ")]), "system.0", ask(system=[text()])),
    Case("automatic_marker_shape", ask(cache_control={"type": "long"}), "cache_control", ask(cache_control=HOUR)),
    Case("container", ask(container={"name": "x"}), "container.name", ask(container="container_1")),
    Case("diagnostics", ask(diagnostics={}), "diagnostics.previous_message_id", ask(diagnostics=None)),
    Case("parameters_known", ask(mood="x"), "mood", ask(), "warning"),
    Case("betas_named", ask(compaction={"type": "summarize"}), "compaction", ask(), "warning"),
    Case("output_config", ask(output_config={"mood": 1}), "output_config.mood", ask(output_config={"effort": None})),
    Case(
        "format_schema",
        ask(output_config={"format": {"type": "json_schema"}}),
        "output_config.format.json_schema.schema",
        ask(output_config={"format": FORMAT}),
    ),
    Case(
        "format_schema",
        ask(output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}}),
        "output_config.format.json_schema.schema",
        ask(output_config={"format": FORMAT}),
    ),
    Case(
        "mcp_servers",
        ask(mcp_servers=[{**SERVER, "url": "http://ants.example"}], tools=[TOOLSET], betas=[MCP]),
        "mcp_servers.0.url",
        ask(mcp_servers=[SERVER], tools=[TOOLSET], betas=[MCP]),
    ),
    Case("fallbacks", ask(fallbacks=[{"model": OLD}] * 4), "fallbacks", ask(), "warning"),
    Case(
        "compaction_alone",
        ask(compaction={"type": "summarize"}, stop_sequences=["x"], betas=[COMPACT]),
        "compaction",
        ask(HI, assistant("Hi"), compaction={"type": "summarize"}, betas=[COMPACT]),
    ),
    Case(
        "context_edits",
        ask(context_management={"edits": [{"type": "x"}, {"type": "clear_thinking_20251015"}]}),
        "context_management.edits.1",
        ask(),
        "warning",
    ),
    # --- tools
    Case("tools_listed", ask(tools={"weather": 1}), "tools", ask(tools=[tool()])),
    Case("custom_tool_keys", ask(tools=[{"name": "weather"}]), "tools.0.custom.input_schema", ask(tools=[tool()])),
    Case("custom_tool_keys", ask(tools=[tool(mood=1)]), "tools.0.custom.mood", ask(tools=[tool(strict=False)])),
    Case(
        "tool_schema",
        ask(tools=[tool(input_schema={"type": "array"})]),
        "tools.0.custom.input_schema.type",
        ask(tools=[tool()]),
    ),
    Case("tool_name", ask(tools=[tool("a b")]), "tools.0.custom.name", ask(tools=[tool("a_b")])),
    Case("tool_name", ask(tools=[tool("a" * 129)]), "tools.0.custom.name", ask(tools=[tool("a" * 128)])),
    Case(
        "tool_name_documented",
        ask(tools=[tool("a" * 65)]),
        "tools.0.custom.name",
        ask(tools=[tool("a" * 64)]),
        "warning",
    ),
    Case(
        "builtin_name",
        ask(tools=[{**WEB, "name": "search"}]),
        "tools.0.web_search_20260318.name",
        ask(tools=[WEB]),
    ),
    Case(
        "toolset_keys",
        ask(tools=[{"type": "computer_toolset_20260801", "name": "computer"}]),
        "tools.0.computer_toolset_20260801.name",
        ask(tools=[{"type": "computer_toolset_20260801"}]),
    ),
    Case("tool_names_unique", ask(tools=[tool(), tool()]), "tools", ask(tools=[tool("a"), tool("b")])),
    Case(
        "tool_markers",
        ask(tools=[tool(cache_control={"type": "long"})]),
        "tools.0.custom.cache_control",
        ask(tools=[tool(cache_control=MARK)]),
    ),
    Case(
        "domains",
        ask(tools=[{**WEB, "allowed_domains": ["a.example"], "blocked_domains": ["b.example"]}]),
        "tools.0",
        ask(tools=[{**WEB, "allowed_domains": ["a.example"]}]),
    ),
    Case("strict_tools", ask(tools=[tool(strict=True)]), "tools.0.custom.input_schema", ask(), "warning"),
    Case(
        "computer_tools",
        ask(
            betas=["computer-use-2025-11-24"],
            tools=[{"type": "computer_20251124", "name": "computer", "display_width_px": 9, "display_height_px": 9}],
        ),
        "tools.0",
        ask(
            model="claude-opus-5",
            betas=["computer-use-2025-11-24"],
            tools=[{"type": "computer_20251124", "name": "computer", "display_width_px": 9, "display_height_px": 9}],
        ),
    ),
    Case("deferred", ask(tools=[tool(defer_loading=True)]), "tools", ask(tools=[tool()]), "warning"),
    Case(
        "toolset_server",
        ask(mcp_servers=[SERVER], tools=[{"type": "mcp_toolset"}], betas=[MCP]),
        "tools.0.mcp_toolset.mcp_server_name",
        ask(mcp_servers=[SERVER], tools=[TOOLSET], betas=[MCP]),
    ),
    Case("tool_betas", ask(tools=[TOOLSET], mcp_servers=[SERVER]), "tools.0", ask(), "warning"),
    Case("tool_choice_shape", ask(tools=[tool()], tool_choice={"type": "all"}), "tool_choice", ask(tools=[tool()])),
    Case(
        "tool_choice_shape",
        ask(tools=[tool()], tool_choice={"type": "none", "name": "x"}),
        "tool_choice.none.name",
        ask(tools=[tool()], tool_choice={"type": "none"}),
    ),
    Case("tool_choice_tools", ask(tool_choice={"type": "auto"}), "tool_choice", ask(tools=[tool()])),
    Case(
        "tool_choice_tools",
        ask(model=OLD, tools=[tool()], tool_choice={"type": "tool", "name": "x"}),
        "tool_choice",
        ask(model=OLD, tools=[tool()], tool_choice={"type": "tool", "name": "weather"}),
    ),
    Case(
        "tool_choice_forced",
        ask(tools=[tool()], tool_choice={"type": "any"}),
        "tool_choice",
        ask(model=OLD, tools=[tool()], tool_choice={"type": "any"}),
    ),
    Case(
        "references_defined",
        called(result(content=[{"type": "tool_reference", "tool_name": "tides"}])),
        "messages.2.content.0.tool_result.content.0",
        called(result(content=[{"type": "tool_reference", "tool_name": "weather"}])),
        "warning",
    ),
    # --- the whole
    Case("some_message", Ask({**ask().body, "messages": []}), "messages", ask()),
    Case("body_size", ask(user("x" * LIMIT)), "messages", ask(user("x" * 1000))),
    Case(
        "prompt_length",
        ask(user("x" * 6_500_000), model=OLD),
        "messages",
        ask(user("x" * 600_000), model=OLD),
    ),
    Case("prompt_length", ask(user("x" * 1_700_000), model=OLD), "messages", ask(model=OLD), "warning"),
    Case(
        "image_count",
        ask(user(*[picture()] * 101), model=OLD),
        "messages",
        ask(user(*[picture()] * 100), model=OLD),
    ),
    Case(
        "many_images",
        ask(user(picture(2001, 1), *[picture()] * 20)),
        "messages.0.content.0.image.source.base64.data",
        ask(user(picture(2001, 1), *[picture()] * 19)),
    ),
    Case(
        "pdf_pages",
        ask(user(pdf(101)), model=OLD),
        "messages.0.content.0.document.source.base64",
        ask(user(pdf(100)), model=OLD),
        "warning",
    ),
    Case(
        "markers_counted",
        ask(user(*[text(cache_control=MARK)] * 5)),
        "messages.0.content.4",
        ask(user(*[text(cache_control=MARK)] * 4)),
    ),
    Case(
        "markers_counted",
        ask(user(*[text(cache_control=MARK)] * 4, text()), cache_control=MARK),
        "messages.0.content.3",
        ask(user(*[text(cache_control=MARK)] * 3), cache_control=MARK),
    ),
    Case(
        "markers_ordered",
        ask(user(text(cache_control=HOUR)), system=[text(cache_control=MARK)]),
        "messages.0.content.0",
        ask(user(text(cache_control=MARK)), system=[text(cache_control=HOUR)]),
    ),
    Case(
        "automatic_agrees",
        ask(user(text(cache_control=MARK)), cache_control=HOUR),
        "cache_control",
        ask(user(text(cache_control=HOUR)), cache_control=HOUR),
    ),
    Case(
        "assistant_documents",
        ask(HI, assistant(document()), HI),
        "messages.1.content.0",
        ask(HI, assistant(document()), HI, version=FIRST),
    ),
    Case(
        "user_citations",
        ask(user(text(citations=[CITATION]))),
        "messages.0.content.0.text.citations",
        ask(user(text(citations=[CITATION])), version=FIRST),
    ),
    Case(
        "system_role",
        ask(HI, system("Be brief."), model="claude-sonnet-5"),
        "messages.1",
        ask(HI, system("Be brief."), model="claude-opus-5"),
    ),
    Case(
        "system_effort",
        ask(HI, EFFORT, model="claude-sonnet-5", betas=[MIDWAY]),
        "messages.1.output_config",
        ask(HI, EFFORT, betas=[MIDWAY]),
        "warning",
    ),
    Case(
        "clear_at_beta",
        ask(HI, system("Be brief.", clear_at="never")),
        "messages.1.clear_at",
        ask(HI, system("Be brief.", clear_at="never"), betas=[CLEAR]),
    ),
    Case("message_betas", ask(user(SUMMARY, text())), "messages.0.content.0", ask(), "warning"),
    Case(
        "citations_together",
        ask(user(document(**CITE), document())),
        "messages",
        ask(user(document(**CITE), document(**CITE))),
    ),
    Case(
        "citations_or_format",
        ask(user(document(**CITE)), output_config={"format": FORMAT}),
        "output_config.format",
        ask(user(document()), output_config={"format": FORMAT}),
    ),
    Case("prefill_model", ask(HI, assistant("Hi")), "messages.1", ask(HI, assistant("Hi"), model=OLD)),
    Case(
        "prefill_ends_in_words",
        ask(HI, assistant("Hi "), model=OLD),
        "messages.1.content",
        ask(HI, assistant("Hi"), model=OLD),
    ),
    Case(
        "prefill_alone",
        ask(HI, assistant("Hi"), model=OLD, output_config={"format": FORMAT}),
        "messages.1",
        ask(HI, model=OLD, output_config={"format": FORMAT}),
        elsewhere="output_config.format",
    ),
    Case(
        "server_tools_given",
        ask(HI, assistant(search())),
        "messages.1.content.0",
        ask(HI, assistant(search()), tools=[WEB]),
    ),
    Case("container_named", coded(result()), "container", coded(result(), container="container_1")),
)
"""For every rule at least one wrong request and one right one."""
