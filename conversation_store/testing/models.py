"""
The models the loopback API knows, and what each of them accepts.

Data of the Messages API documentation (models overview, thinking, effort, prefill), read in November 2026.
Add models of your own with ``MessagesAPI(models=[Model("claude-next")])``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

LEVELS: Final = ("low", "medium", "high", "xhigh", "max")
"""Effort, weakest first."""
_TO_MAX: Final = ("low", "medium", "high", "max")


@dataclass(frozen=True)
class Model:
    """
    What one model accepts. The defaults are those of the newest generation.

    Attributes:
        id: The id requests name.
        alias: A second id for the same model; None where there is none.
        context: Input tokens it takes at most.
        max_tokens: Output tokens it gives at most.
        prefill: Whether the last message may be a partial assistant turn.
        system_messages: Whether messages of role ``system`` are accepted.
        thinking: The values of ``thinking.type`` it accepts.
        thinks: Whether it thinks when ``thinking`` is not given.
        quiet_effort: Whether switching thinking off is limited to effort ``high`` and lower.
        effort: The values of ``output_config.effort`` it accepts.
        sampling: Whether ``temperature``, ``top_p`` and ``top_k`` are accepted (API version 2023-06-01 only).
        forced_tools: Whether ``tool_choice`` may be ``any`` or ``tool``.
        inference_geo: Whether ``inference_geo`` is accepted.
        computer_tools: Whether the single ``computer_*`` tools are accepted.
        binding: Whether thinking that comes back must fit what precedes it: ``always``, for ``newer`` accounts and
            on demand, or ``never``.
        display: What becomes of thinking where ``thinking.display`` is not given.
        usual_effort: The effort where none is given.
        cache_minimum: The shortest prefix that is cached, in tokens.
    """

    id: str
    alias: str | None = None
    context: int = 1_000_000
    max_tokens: int = 128_000
    prefill: bool = False
    system_messages: bool = True
    thinking: tuple[str, ...] = ("adaptive",)
    thinks: bool = True
    quiet_effort: bool = False
    effort: tuple[str, ...] = LEVELS
    sampling: bool = False
    forced_tools: bool = True
    inference_geo: bool = True
    computer_tools: bool = True
    binding: Literal["always", "newer", "never"] = "newer"
    display: Literal["omitted", "summarized"] = "omitted"
    usual_effort: str = "high"
    cache_minimum: int = 512

    def described(self) -> dict[str, Any]:
        """Return the model as ``GET /v1/models`` lists it."""
        line = next((line for line in ("haiku", "sonnet", "opus", "fable", "mythos") if line in self.id), None)
        efforts = {level: {"supported": level in self.effort} for level in LEVELS}
        types = ("adaptive", "enabled", "disabled", "between_tools")
        thinking = {kind: {"supported": kind in self.thinking} for kind in types}
        return {
            "type": "model",
            "id": self.id,
            "display_name": self.id.replace("-", " ").title(),
            "created_at": "2026-01-01T00:00:00Z",
            "line": line,
            "lifecycle": "active",
            "deprecated_at": None,
            "retires_at": None,
            "max_input_tokens": self.context,
            "max_tokens": self.max_tokens,
            "capabilities": {
                "image_input": {"supported": True},
                "pdf_input": {"supported": True},
                "effort": {"supported": bool(self.effort), **efforts},
                "thinking": {"supported": True, "types": thinking},
            },
        }


_PREFILL: Final = Model(
    "",
    context=200_000,
    max_tokens=64_000,
    prefill=True,
    system_messages=False,
    thinking=("enabled", "disabled"),
    thinks=False,
    effort=(),
    sampling=True,
    inference_geo=False,
    binding="never",
    display="summarized",
    cache_minimum=4096,
)
_MIDDLE: Final = Model(
    "",
    system_messages=False,
    thinking=("adaptive", "disabled"),
    thinks=False,
    binding="never",
    cache_minimum=1024,
)
_LATEST: Final = Model("", forced_tools=False)

MODELS: Final[tuple[Model, ...]] = (
    replace(_LATEST, id="claude-fable-5-2", computer_tools=False, binding="always"),
    replace(_LATEST, id="claude-mythos-5-2", binding="always"),
    replace(_LATEST, id="claude-fable-5-1"),
    replace(_LATEST, id="claude-mythos-5-1", binding="never"),
    Model("claude-fable-5", binding="never"),
    Model("claude-mythos-5", binding="never"),
    Model(
        "claude-mythos-preview",
        system_messages=False,
        thinking=("adaptive", "enabled"),
        effort=_TO_MAX,
        forced_tools=False,
        binding="never",
        cache_minimum=2048,
    ),
    replace(_LATEST, id="claude-opus-5-5", computer_tools=False, usual_effort="medium"),
    Model("claude-opus-5", thinking=("adaptive", "disabled"), quiet_effort=True, binding="never"),
    replace(_MIDDLE, id="claude-opus-4-8", system_messages=True),
    replace(_MIDDLE, id="claude-opus-4-7", cache_minimum=2048),
    replace(
        _MIDDLE,
        id="claude-opus-4-6",
        thinking=("adaptive", "enabled", "disabled"),
        effort=_TO_MAX,
        sampling=True,
        display="summarized",
        cache_minimum=4096,
    ),
    replace(_PREFILL, id="claude-opus-4-5-20251101", alias="claude-opus-4-5", effort=LEVELS[:3]),
    replace(
        _LATEST,
        id="claude-sonnet-5-5",
        thinking=("adaptive", "between_tools"),
        quiet_effort=True,
        computer_tools=False,
    ),
    replace(_MIDDLE, id="claude-sonnet-5", thinks=True),
    replace(
        _MIDDLE,
        id="claude-sonnet-4-6",
        thinking=("adaptive", "enabled", "disabled"),
        effort=_TO_MAX,
        sampling=True,
        display="summarized",
    ),
    replace(_PREFILL, id="claude-sonnet-4-5-20250929", alias="claude-sonnet-4-5", cache_minimum=1024),
    Model(
        "claude-haiku-5-5",
        thinking=("adaptive", "disabled"),
        quiet_effort=True,
        computer_tools=False,
        usual_effort="medium",
    ),
    replace(_PREFILL, id="claude-haiku-4-5-20251001", alias="claude-haiku-4-5"),
)
"""The models in service; retired ones are answered with 404, as the API does."""


def catalogue(more: Iterable[Model | str] = ()) -> Mapping[str, Model]:
    """
    Return every model by id and by alias.

    Args:
        more: Models to add or to replace; a string stands for a model of the newest kind with that id.
    """
    found: dict[str, Model] = {}
    for model in (*MODELS, *(Model(each) if isinstance(each, str) else each for each in more)):
        found[model.id] = model
        if model.alias is not None:
            found[model.alias] = model
    return found
