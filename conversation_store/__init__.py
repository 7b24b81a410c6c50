"""
Conversations of the Messages API, kept in SQL byte for byte: durable, resumable, verifiable.

Names are loaded when they are first used, so that importing the package costs next to nothing and the parts
that need no database run without one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from conversation_store.api.client import Client
    from conversation_store.api.models import Models
    from conversation_store.api.request import Request
    from conversation_store.api.rules import Finding
    from conversation_store.audit.checkpoints import Checkpoint
    from conversation_store.audit.erase import Erasure
    from conversation_store.audit.evidence import Evidence
    from conversation_store.audit.faults import Fault
    from conversation_store.audit.holds import Hold
    from conversation_store.audit.responses import Response
    from conversation_store.audit.retention import Retention
    from conversation_store.audit.sealing import Seal, Seals
    from conversation_store.audit.timeline import TimelineEntry
    from conversation_store.audit.verification import Findings
    from conversation_store.conversation import Conversation
    from conversation_store.errors import ConversationStoreError
    from conversation_store.formats.transcripts import Refused
    from conversation_store.imports import Imported
    from conversation_store.pending import Pending
    from conversation_store.record.blocks import (
        ABSENT,
        Block,
        Document,
        Image,
        Text,
        Thinking,
        ToolResult,
        ToolUse,
        Unknown,
    )
    from conversation_store.record.cost import Cost, Totals
    from conversation_store.record.exchange import Attempt, Exchange, State, Usage
    from conversation_store.record.reply import Reply
    from conversation_store.record.turns import Origin, Turn
    from conversation_store.record.window import Window
    from conversation_store.storage.keyring import FileKeyRing, KeyRing, MappingKeyRing
    from conversation_store.storage.rotation import Rotated
    from conversation_store.storage.tables import include_name
    from conversation_store.store import Hit, Hits, Listed, Store
    from conversation_store.transfer import Export, Taken

__version__ = "0.1.0"

__all__ = [
    "ABSENT",
    "Attempt",
    "Block",
    "Checkpoint",
    "Client",
    "Conversation",
    "ConversationStoreError",
    "Cost",
    "Document",
    "Erasure",
    "Evidence",
    "Exchange",
    "Export",
    "Fault",
    "FileKeyRing",
    "Finding",
    "Findings",
    "Hit",
    "Hits",
    "Hold",
    "Image",
    "Imported",
    "KeyRing",
    "Listed",
    "MappingKeyRing",
    "Models",
    "Origin",
    "Pending",
    "Refused",
    "Reply",
    "Request",
    "Response",
    "Retention",
    "Rotated",
    "Seal",
    "Seals",
    "State",
    "Store",
    "Taken",
    "Text",
    "Thinking",
    "TimelineEntry",
    "ToolResult",
    "ToolUse",
    "Totals",
    "Turn",
    "Unknown",
    "Usage",
    "Window",
    "include_name",
]

_HOMES: Final = {
    "api.client": ("Client",),
    "api.models": ("Models",),
    "api.request": ("Request",),
    "api.rules": ("Finding",),
    "audit.checkpoints": ("Checkpoint",),
    "audit.erase": ("Erasure",),
    "audit.evidence": ("Evidence",),
    "audit.faults": ("Fault",),
    "audit.holds": ("Hold",),
    "audit.responses": ("Response",),
    "audit.retention": ("Retention",),
    "audit.sealing": ("Seal", "Seals"),
    "audit.timeline": ("TimelineEntry",),
    "audit.verification": ("Findings",),
    "conversation": ("Conversation",),
    "errors": ("ConversationStoreError",),
    "formats.transcripts": ("Refused",),
    "imports": ("Imported",),
    "pending": ("Pending",),
    "record.blocks": (
        "ABSENT",
        "Block",
        "Document",
        "Image",
        "Text",
        "Thinking",
        "ToolResult",
        "ToolUse",
        "Unknown",
    ),
    "record.cost": ("Cost", "Totals"),
    "record.exchange": ("Attempt", "Exchange", "State", "Usage"),
    "record.reply": ("Reply",),
    "record.turns": ("Origin", "Turn"),
    "record.window": ("Window",),
    "storage.keyring": ("FileKeyRing", "KeyRing", "MappingKeyRing"),
    "storage.rotation": ("Rotated",),
    "storage.tables": ("include_name",),
    "store": ("Hit", "Hits", "Listed", "Store"),
    "transfer": ("Export", "Taken"),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name from its module, once."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
