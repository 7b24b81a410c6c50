"""
Rules of the parameters of a request, one by one and together.

To add a rule: write a generator of an ``Asked``, cite its source, and name it in ``OF_THE_SETTINGS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from conversation_store.api.rules.asked import Asked
from conversation_store.api.rules.blocks import EXTRA, REQUIRED, marker_faults
from conversation_store.api.rules.findings import Finding, error, warning
from conversation_store.api.rules.messages import EFFORTS
from conversation_store.api.rules.schemas import schema_faults

_DICTIONARY: Final = "Input should be a valid dictionary"
_SOON: Final = timedelta(days=60)
_UNSTREAMED: Final = 21_333
_LEAST_BUDGET: Final = 1024
_LEAST_TASK_BUDGET: Final = 20_000
_LONGEST_USER: Final = 256
_MOST_FALLBACKS: Final = 3
_LEAST_TRIGGER: Final = 50_000
_THINKING: Final = {
    "adaptive": {"type", "display", "block_binding"},
    "enabled": {"type", "budget_tokens", "display", "block_binding"},
    "disabled": {"type"},
    "between_tools": {"type"},
}
_SAMPLING: Final = ("temperature", "top_p", "top_k")
_KNOWN: Final = frozenset(
    {
        "model",
        "max_tokens",
        "messages",
        "system",
        "cache_control",
        "container",
        "diagnostics",
        "inference_geo",
        "metadata",
        "output_config",
        "service_tier",
        "speed",
        "stop_sequences",
        "stream",
        "thinking",
        "tool_choice",
        "tools",
        *_SAMPLING,
    }
)
BETAS: Final[Mapping[str, tuple[str, ...]]] = {
    "context_management": ("context-management-2025-06-27", "compact-2026-01-12"),
    "compaction": ("compact-2026-09-04",),
    "mcp_servers": ("mcp-client-2025-11-20", "mcp-client-2026-09-15", "mcp-client-2025-04-04"),
    "fallbacks": ("server-side-fallback-2026-06-01", "server-side-fallback-2026-07-01"),
    "fallback_credit_token": ("fallback-credit-2026-06-01", "fallback-credit-2026-07-01"),
    "thread": ("message-threads-2026-08-12",),
    "billing_policy": ("user-profiles-billing-2026-10-01",),
    "output_format": ("structured-outputs-2025-11-13",),
}
"""Parameters that need a beta, and which ones open each."""


def part_of(asked: Asked, name: str) -> Mapping[str, Any]:
    """Give a parameter that is an object; an empty one where it is absent or something else."""
    value = asked.params.get(name)
    return value if isinstance(value, Mapping) else {}


def said(certain: bool, path: str, message: str) -> Finding:
    """Say it as an error where it is certain, else as a warning."""
    return error(path, message) if certain else warning(path, message)


# --- the model ---------------------------------------------------------------------------------------------------


def required(asked: Asked) -> Iterator[Finding]:
    """A request names its model and its max_tokens. Source: Messages API documentation, Create a message, 2026-11."""
    for name in ("model", "max_tokens"):
        if asked.params.get(name) is None and not (asked.counting and name == "max_tokens"):
            yield error(name, REQUIRED)


def listed(asked: Asked) -> Iterator[Finding]:
    """
    A model of which nothing is known is used all the same; say so.

    Source: Messages API documentation, Models overview, 2026-10: models are added without notice.
    """
    name = asked.params.get("model")
    if name is not None and asked.model is None:
        yield warning("model", f"{name} is not in the list of models: its limits are not checked")


def in_service(asked: Asked) -> Iterator[Finding]:
    """
    A model that was retired answers no more.

    Source: Messages API documentation, Model deprecations, 2026-10.
    """
    model = asked.model
    if model is not None and not model.usable(asked.on) and (model.released is None or asked.on >= model.released):
        yield error("model", f"{asked.params.get('model')} was retired{f' on {model.retires}' * bool(model.retires)}")


def deprecated(asked: Asked) -> Iterator[Finding]:
    """
    A model on its way out is named in time.

    Source: Messages API documentation, Model deprecations, 2026-10.
    """
    model = asked.model
    if model is None or not model.usable(asked.on):
        return
    if model.retires is not None and asked.on >= model.retires - _SOON:
        yield warning("model", f"{asked.params.get('model')} retires on {model.retires}")
    elif model.retires is None and model.status == "deprecated":
        yield warning("model", f"{asked.params.get('model')} is deprecated")


# --- length ------------------------------------------------------------------------------------------------------


def max_tokens_in_range(asked: Asked) -> Iterator[Finding]:
    """max_tokens is a number from 0 up to the model's most. Source: Models overview, 2026-10."""
    most = asked.params.get("max_tokens")
    if most is None:
        return
    if type(most) is not int:
        yield error("max_tokens", "Input should be a valid integer")
    elif most < 0:
        yield error("max_tokens", "Input should be greater than or equal to 0")
    elif asked.model is not None and most > asked.model.max_output and "output-300k-2026-03-24" not in asked.betas:
        bound = f"{asked.model.max_output}, which is the maximum allowed number of output tokens for"
        yield said(
            "max_output" not in asked.model.uncertain, "max_tokens", f"{most} > {bound} {asked.params.get('model')}"
        )


def warm_up(asked: Asked) -> Iterator[Finding]:
    """
    max_tokens 0 only writes the cache: it goes with no stream, budget, format or forced tool.

    Source: Messages API documentation, Prompt caching, 2026-10.
    """
    if asked.params.get("max_tokens") != 0 or type(asked.params["max_tokens"]) is not int:
        return
    combined = {
        "stream": asked.stream or asked.params.get("stream"),
        "thinking.type.enabled": part_of(asked, "thinking").get("type") == "enabled",
        "output_config.format": part_of(asked, "output_config").get("format"),
        "tool_choice": part_of(asked, "tool_choice").get("type") in ("any", "tool"),
    }
    for name in filter(combined.get, combined):
        yield error("max_tokens", f"0 cannot be combined with {name}")


def streamed(asked: Asked) -> Iterator[Finding]:
    """
    A long answer that is not streamed is likely to be lost on the way.

    Source: Messages API documentation, Streaming; the official SDK refuses it, 2026-11.
    """
    most = asked.params.get("max_tokens")
    if asked.sending and not asked.stream and type(most) is int and most > _UNSTREAMED:
        yield warning("max_tokens", f"{most} tokens may take over 10 minutes: use stream() above {_UNSTREAMED}")


# --- thinking and effort -----------------------------------------------------------------------------------------


def thinking_shape(asked: Asked) -> Iterator[Finding]:
    """How to think is one of four types with keys of its own. Source: Messages API documentation, Thinking, 2026-10."""
    if "thinking" not in asked.params:
        return
    thinking = asked.params["thinking"]
    kind = thinking.get("type") if isinstance(thinking, Mapping) else None
    if not isinstance(thinking, Mapping):
        yield error("thinking", _DICTIONARY)
    elif not isinstance(kind, str) or kind not in _THINKING:
        yield error("thinking", f"Input tag '{kind}' does not match any of the expected tags: {', '.join(_THINKING)}")
    else:
        for key in thinking.keys() - _THINKING[kind]:
            yield error(f"thinking.{kind}.{key}", EXTRA)
        if thinking.get("display") not in (None, "summarized", "omitted", "updates"):
            yield error(f"thinking.{kind}.display", "Input should be 'summarized' or 'omitted'")


def thinking_supported(asked: Asked) -> Iterator[Finding]:
    """Each model takes some types of thinking. Source: Messages API documentation, Adaptive thinking, 2026-10."""
    kind, model = part_of(asked, "thinking").get("type"), asked.model
    if not isinstance(kind, str) or kind not in _THINKING or model is None or model.thinking.allows(kind):
        return
    message = f'"thinking.type.{kind}" is not supported for this model'
    if kind == "adaptive":
        message = "adaptive thinking is not supported on this model"
    takes = ", ".join(each.type for each in model.thinking.accepts)
    yield said("thinking" not in model.uncertain, f"thinking.{kind}", f"{message}; it takes {takes or 'none'}")


def budget(asked: Asked) -> Iterator[Finding]:
    """
    A thinking budget is 1024 tokens or more, and less than max_tokens.

    Source: Messages API documentation, Extended thinking, 2026-10.
    """
    thinking, most = part_of(asked, "thinking"), asked.params.get("max_tokens")
    if thinking.get("type") != "enabled":
        return
    tokens, path = thinking.get("budget_tokens"), "thinking.enabled.budget_tokens"
    if "budget_tokens" not in thinking:
        yield error(path, REQUIRED)
    elif type(tokens) is not int:
        yield error(path, "Input should be a valid integer")
    elif tokens < _LEAST_BUDGET:
        yield error(path, f"Input should be greater than or equal to {_LEAST_BUDGET}")
    elif type(most) is int and 0 < most <= tokens and "interleaved-thinking-2025-05-14" not in asked.betas:
        yield error("max_tokens", "`max_tokens` must be greater than `thinking.budget_tokens`")


def block_binding(asked: Asked) -> Iterator[Finding]:
    """
    What becomes of thinking out of place is said with a beta.

    Source: Messages API documentation, Preserved thinking, 2026-10.
    """
    thinking = part_of(asked, "thinking")
    if thinking.get("block_binding") is None or thinking.get("type") not in ("adaptive", "enabled"):
        return
    path = f"thinking.{thinking['type']}.block_binding"
    if "thinking-binding-controls-2026-08-01" not in asked.betas:
        yield error(path, f"{EXTRA} (beta thinking-binding-controls-2026-08-01)")
    behavior = thinking["block_binding"]
    if not isinstance(behavior, Mapping) or behavior.get("prefix_mismatch_behavior") not in (
        None,
        "error",
        "drop_block",
    ):
        yield error(f"{path}.prefix_mismatch_behavior", "Input should be 'error' or 'drop_block'")


def effort_known(asked: Asked) -> Iterator[Finding]:
    """Effort is one of five levels. Source: Messages API documentation, Effort, 2026-10."""
    effort = part_of(asked, "output_config").get("effort")
    if effort is not None and effort not in EFFORTS:
        yield error("output_config.effort", f"Input should be {', '.join(map(repr, EFFORTS))}")


def effort_supported(asked: Asked) -> Iterator[Finding]:
    """
    Each model takes some levels of effort, fewer with thinking off.

    Source: Messages API documentation, Effort, 2026-10.
    """
    effort, model = part_of(asked, "output_config").get("effort"), asked.model
    if effort not in EFFORTS or model is None:
        return
    kind = part_of(asked, "thinking").get("type")
    if effort not in model.effort.levels:
        takes = ", ".join(model.effort.levels) or "none"
        message = f"output_config.effort '{effort}' is not supported for this model; it takes {takes}"
        yield said("effort" not in model.uncertain, "output_config.effort", message)
    elif isinstance(kind, str) and model.thinking.allows(kind) and not model.thinking.allows(kind, effort):
        message = f"output_config.effort '{effort}' is not supported when thinking is {kind} on this model"
        yield said("thinking" not in model.uncertain, "output_config.effort", message)


# --- sampling ----------------------------------------------------------------------------------------------------


def sampling(asked: Asked) -> Iterator[Finding]:
    """Sampling parameters are gone from version 2026-10-21 on. Source: Migrating to API version 2026-10-21."""
    if asked.new_version:
        for name in _SAMPLING:
            if name in asked.params:
                yield error(name, EXTRA)


def sampling_supported(asked: Asked) -> Iterator[Finding]:
    """
    Before, they were for older models, and within bounds.

    Source: Messages API documentation, Messages; Migrating to API version 2026-10-21.
    """
    if asked.new_version:
        return
    for name in _SAMPLING:
        value = asked.params.get(name)
        if value is None:
            continue
        most = 1 if name != "top_k" else None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            yield error(name, "Input should be a valid number")
        elif value < 0:
            yield error(name, "Input should be greater than or equal to 0")
        elif most is not None and value > most:
            yield error(name, f"Input should be less than or equal to {most}")
        elif asked.model is not None and asked.version not in asked.model.sampling and value != most:
            yield error(name, f"`{name}` is not supported for this model")


def sampling_thinking(asked: Asked) -> Iterator[Finding]:
    """With thinking, sampling is left alone. Source: Messages API documentation, Extended thinking, 2025."""
    if asked.new_version or part_of(asked, "thinking").get("type") not in ("enabled", "adaptive"):
        return
    if asked.params.get("temperature") not in (None, 1):
        yield error("temperature", "`temperature` may only be set to 1 when thinking is enabled")
    if asked.params.get("top_k") is not None:
        yield error("top_k", "`top_k` must be unset when thinking is enabled")
    top_p = asked.params.get("top_p")
    if isinstance(top_p, (int, float)) and top_p < 0.95:  # noqa: PLR2004 - the documented bound
        yield error("top_p", "`top_p` must be greater than or equal to 0.95 or unset when thinking is enabled")


# --- where and how fast ------------------------------------------------------------------------------------------


def inference_geo(asked: Asked) -> Iterator[Finding]:
    """Where it runs may be chosen from Claude 4.6 on. Source: Messages API documentation, Data residency, 2026-10."""
    geo, model = asked.params.get("inference_geo"), asked.model
    if geo is None:
        return
    if geo not in ("global", "us"):
        yield warning("inference_geo", "Input should be 'global' or 'us'")
    if model is not None and not model.inference_geo:
        certain = "inference_geo" not in model.uncertain
        yield said(certain, "inference_geo", "inference_geo is not supported for this model")


def speed(asked: Asked) -> Iterator[Finding]:
    """Fast mode is for some models, most with a beta. Source: Messages API documentation, Fast mode, 2026-10."""
    wanted = asked.params.get("speed")
    if wanted is None:
        return
    if wanted not in ("standard", "fast"):
        yield error("speed", "Input should be 'standard' or 'fast'")
    elif asked.model is not None and asked.model.id != "claude-opus-5-5" and "fast-mode-2026-02-01" not in asked.betas:
        yield warning("speed", "needs the beta fast-mode-2026-02-01")
    if wanted == "fast" and asked.model is not None and asked.model.speed_fast in ("refused", "no"):
        yield warning("speed", "this model has no fast mode")


def service_tier(asked: Asked) -> Iterator[Finding]:
    """The tier is auto or standard_only. Source: Messages API documentation, Service tiers, 2026-11."""
    if asked.params.get("service_tier", "auto") not in ("auto", "standard_only"):
        yield error("service_tier", "Input should be 'auto' or 'standard_only'")


# --- the other parameters ----------------------------------------------------------------------------------------


def stop_sequences(asked: Asked) -> Iterator[Finding]:
    """Each stop sequence has something to stop at. Source: Messages API, error text."""
    wanted = asked.params.get("stop_sequences")
    if wanted is None:
        return
    if not isinstance(wanted, list) or not all(isinstance(each, str) for each in wanted):
        yield error("stop_sequences", "Input should be a valid list of strings")
    elif not all(each.strip() for each in wanted):
        yield error("stop_sequences", "each stop sequence must contain non-whitespace")


def metadata(asked: Asked) -> Iterator[Finding]:
    """
    Metadata holds the user's id alone, of at most 256 characters.

    Source: Messages API documentation, Messages, 2026-02; newer pages do not state the length.
    """
    value = asked.params.get("metadata")
    if value is None:
        return
    if not isinstance(value, Mapping):
        yield error("metadata", _DICTIONARY)
        return
    for key in value:
        if key != "user_id":
            yield error(f"metadata.{key}", EXTRA)
    user = value.get("user_id")
    if user is not None and not isinstance(user, str):
        yield error("metadata.user_id", "Input should be a valid string")
    elif user is not None and len(user) > _LONGEST_USER:
        yield warning("metadata.user_id", f"String should have at most {_LONGEST_USER} characters")


def system_prompt(asked: Asked) -> Iterator[Finding]:
    """The system prompt is a string or text blocks, none blank. Source: Messages API, errors for empty text."""
    system = asked.params.get("system")
    if system is None:
        return
    if isinstance(system, str):
        if system and not system.strip():
            yield error("system", "text content blocks must contain non-whitespace text")
        elif not system:
            yield warning("system", "text content blocks must be non-empty: leave system out")
        return
    if not isinstance(system, list):
        yield error("system", "Input should be a string or a list of text blocks")
        return
    for n, block in enumerate(system):
        text = block.get("text") if isinstance(block, Mapping) else None
        if not isinstance(block, Mapping) or block.get("type") != "text":
            yield error(f"system.{n}", "Input should be a text block")
        elif not isinstance(text, str):
            yield error(f"system.{n}.text.text", "Input should be a valid string")
        elif not text.strip():
            yield error(f"system.{n}", "text content blocks must contain non-whitespace text")
        elif block.get("cache_control") is not None:
            for rest, message in marker_faults(block["cache_control"]):
                yield error(f"system.{n}.text.cache_control{rest}", message)


def automatic_marker_shape(asked: Asked) -> Iterator[Finding]:
    """The automatic cache marker looks like any other. Source: Messages API documentation, Prompt caching, 2026-10."""
    if asked.params.get("cache_control") is not None:
        for rest, message in marker_faults(asked.params["cache_control"]):
            yield error(f"cache_control{rest}", message)


def container(asked: Asked) -> Iterator[Finding]:
    """A container is an id, or an id and skills. Source: Messages API documentation, Code execution, 2026-11."""
    value = asked.params.get("container")
    if value is None or isinstance(value, str):
        return
    if not isinstance(value, Mapping):
        yield error("container", "Input should be a string or an object")
        return
    for key in value.keys() - {"id", "skills"}:
        yield error(f"container.{key}", EXTRA)


def diagnostics(asked: Asked) -> Iterator[Finding]:
    """Diagnostics name the message before. Source: Messages API documentation, Cache diagnostics, 2026-10."""
    value = asked.params.get("diagnostics")
    if value is None:
        return
    if not isinstance(value, Mapping):
        yield error("diagnostics", _DICTIONARY)
    elif "previous_message_id" not in value:
        yield error("diagnostics.previous_message_id", REQUIRED)


def parameters_known(asked: Asked) -> Iterator[Finding]:
    """
    A parameter that is not known is refused, unless the API has grown.

    Source: Messages API documentation, Errors and Versions, 2026-08.
    """
    for name in asked.params:
        if name not in _KNOWN and name not in BETAS:
            yield warning(name, f"is no parameter this release knows: {EXTRA}")


def betas_named(asked: Asked) -> Iterator[Finding]:
    """
    A beta parameter needs its beta; so do blocks that only betas make.

    Source: Messages API documentation, Beta headers, 2026-11; that each is refused without it is inferred.
    """
    for name, betas in BETAS.items():
        if asked.params.get(name) is not None and not asked.has(betas):
            yield warning(name, f"needs the beta {betas[-1] if name != 'mcp_servers' else betas[1]}")
    output = part_of(asked, "output_config")
    if output.get("task_budget") is not None and not asked.has(("task-budgets-2026-03-13",)):
        yield warning("output_config.task_budget", "needs the beta task-budgets-2026-03-13")
    updates = ("thinking-display-updates-2026-08-18",)
    if part_of(asked, "thinking").get("display") == "updates" and not asked.has(updates):
        yield warning("thinking.display", f"'updates' needs the beta {updates[0]}")


def output_config(asked: Asked) -> Iterator[Finding]:
    """What is known of the output is its effort, format and budget. Source: Structured outputs, 2026-11."""
    value = asked.params.get("output_config")
    if value is None:
        return
    if not isinstance(value, Mapping):
        yield error("output_config", _DICTIONARY)
        return
    for key in value.keys() - {"effort", "format", "task_budget"}:
        yield error(f"output_config.{key}", EXTRA)
    task = value.get("task_budget")
    total = task.get("total") if isinstance(task, Mapping) else None
    if type(total) is int and total < _LEAST_TASK_BUDGET:
        path = "output_config.task_budget.tokens.total"
        yield warning(path, f"Input should be greater than or equal to {_LEAST_TASK_BUDGET}")


def format_schema(asked: Asked) -> Iterator[Finding]:
    """
    A format is a JSON schema, within the subset that can be enforced.

    Source: Messages API documentation, Structured outputs, 2026-08.
    """
    wanted = part_of(asked, "output_config").get("format")
    if wanted is None:
        return
    path = "output_config.format"
    if not isinstance(wanted, Mapping) or wanted.get("type") != "json_schema":
        yield error(path, "Input tag does not match any of the expected tags: 'json_schema'")
    elif "schema" not in wanted:
        yield error(f"{path}.json_schema.schema", REQUIRED)
    else:
        for rest, message, certain in schema_faults(wanted["schema"]):
            yield said(certain, f"{path}.json_schema.schema{rest}", message)
    if asked.model is not None and not asked.model.structured_outputs:
        yield warning(path, "structured outputs are not supported for this model")


def mcp_servers(asked: Asked) -> Iterator[Finding]:
    """
    MCP servers are named, reached by https, and each is used by one toolset.

    Source: Messages API documentation, MCP connector, 2026-11.
    """
    servers = asked.params.get("mcp_servers")
    if servers is None:
        return
    if not isinstance(servers, list):
        yield error("mcp_servers", "Input should be a valid list")
        return
    tools = asked.params.get("tools")
    entries = tools if isinstance(tools, list) else []
    used = [each.get("mcp_server_name") for each in entries if isinstance(each, Mapping)]
    for n, server in enumerate(servers):
        if not isinstance(server, Mapping):
            yield error(f"mcp_servers.{n}", _DICTIONARY)
            continue
        for key in ("type", "name", "url"):
            if key not in server:
                yield error(f"mcp_servers.{n}.{key}", REQUIRED)
        url = server.get("url", "https://")
        if not isinstance(url, str) or not url.startswith("https://"):
            yield error(f"mcp_servers.{n}.url", "give an https:// address")
        if used.count(server.get("name")) != 1 and "mcp-client-2025-04-04" not in asked.betas:
            message = f"the server {server.get('name')!r} is used by one mcp_toolset among the tools, not by"
            yield warning(f"mcp_servers.{n}.name", f"{message} {used.count(server.get('name'))}")


def fallbacks(asked: Asked) -> Iterator[Finding]:
    """There are three fallbacks at most, and no credit beside them. Source: Refusals and fallback, 2026-10."""
    wanted = asked.params.get("fallbacks")
    if wanted is None:
        return
    if isinstance(wanted, list) and len(wanted) > _MOST_FALLBACKS:
        yield warning("fallbacks", f"List should have at most {_MOST_FALLBACKS} items")
    if asked.params.get("fallback_credit_token") is not None:
        yield warning("fallback_credit_token", "cannot be combined with fallbacks")


def compaction_alone(asked: Asked) -> Iterator[Finding]:
    """
    Compacting on demand goes with no editing, stop sequences, format or forced tool.

    Source: Messages API documentation, Compaction, 2026-10.
    """
    if asked.params.get("compaction") is None:
        return
    combined = {
        "context_management": asked.params.get("context_management"),
        "stop_sequences": asked.params.get("stop_sequences"),
        "output_config.format": part_of(asked, "output_config").get("format"),
        "tool_choice": part_of(asked, "tool_choice").get("type") in ("any", "tool"),
    }
    for name in filter(combined.get, combined):
        yield error("compaction", f"cannot be combined with {name}")
    if asked.model is not None and not asked.model.compaction:
        yield warning("compaction", "is not supported for this model")


def context_edits(asked: Asked) -> Iterator[Finding]:
    """
    Edits of the context: thinking is cleared first; compaction begins at 50,000 tokens or later.

    Source: Messages API documentation, Context editing and Compaction, 2026-10.
    """
    edits = part_of(asked, "context_management").get("edits")
    found = [each for each in edits if isinstance(each, Mapping)] if isinstance(edits, list) else []
    for n, edit in enumerate(found):
        path = f"context_management.edits.{n}"
        trigger = edit.get("trigger")
        value = trigger.get("value") if isinstance(trigger, Mapping) else None
        if edit.get("type") == "clear_thinking_20251015" and n:
            yield warning(path, "clear_thinking comes first")
        if edit.get("type") == "compact_20260112" and type(value) is int and value < _LEAST_TRIGGER:
            yield warning(f"{path}.trigger.value", f"Input should be greater than or equal to {_LEAST_TRIGGER}")


OF_THE_SETTINGS: Final[Sequence[Callable[[Asked], Iterator[Finding]]]] = (
    required,
    listed,
    in_service,
    deprecated,
    max_tokens_in_range,
    warm_up,
    streamed,
    thinking_shape,
    thinking_supported,
    budget,
    block_binding,
    effort_known,
    effort_supported,
    sampling,
    sampling_supported,
    sampling_thinking,
    inference_geo,
    speed,
    service_tier,
    stop_sequences,
    metadata,
    system_prompt,
    automatic_marker_shape,
    container,
    diagnostics,
    parameters_known,
    betas_named,
    output_config,
    format_schema,
    mcp_servers,
    fallbacks,
    compaction_alone,
    context_edits,
)
