"""A request as the rules see it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from functools import cached_property
from typing import Any

from attrs import frozen

from conversation_store.api.models import Model, Models
from conversation_store.api.rules.order import Outline


@frozen(kw_only=True, eq=False, repr=False)
class Asked:
    """
    A request as the rules see it.

    Attributes:
        params: Every top-level parameter but ``messages``.
        version: The API version it is sent under; ``betas`` the betas asked for.
        on: The day it is sent, UTC: models come and go.
        outline: Its messages, prefill included.
        prefill: Whether the last message is a prefill rather than a turn.
        sending: Whether it goes out as it is; a request that is only built may still get a user's message.
        looking: Whether it is judged as what the next send would meet: open calls would stop it.
        stream: Whether the answer is streamed.
        counting: Whether its tokens are only counted.
        size: Bytes of its body.
        models: What is known of models.
        allow_unlisted_model: Take a prefill to a model of which nothing is known.
    """

    params: Mapping[str, Any]
    version: str
    betas: frozenset[str] = frozenset()
    on: date
    outline: Outline
    prefill: bool = False
    sending: bool = True
    looking: bool = False
    stream: bool = False
    counting: bool = False
    size: int = 0
    models: Models
    allow_unlisted_model: bool = False

    @cached_property
    def model(self) -> Model | None:
        """What is known of the model asked."""
        name = self.params.get("model")
        return self.models.get(name) if isinstance(name, str) else None

    @property
    def new_version(self) -> bool:
        """Whether the API version is 2026-10-21 or newer."""
        return self.version >= "2026-10-21"

    def has(self, betas: Iterable[str]) -> bool:
        """Say whether one of some betas is asked for."""
        return not self.betas.isdisjoint(betas)
