"""
What goes wrong, in one line with the next step, and the exit code scripts can branch on.

The table ``_TOLD`` is read from the top: put a subclass before its base.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from conversation_store.errors import (
    APIError,
    AuthenticationError,
    BadRequestError,
    BillingError,
    BusyError,
    CodecError,
    ConfigurationError,
    ConflictError,
    ContentError,
    ConversationStoreError,
    ForbiddenError,
    HeldError,
    InterruptedAnswerError,
    KeyMissingError,
    NoAnswerError,
    NotFoundError,
    NotSavedError,
    NotSentError,
    OverloadedError,
    RateLimitError,
    RequestTooLargeError,
    RuleViolationError,
    SchemaMismatchError,
    ServerError,
    StatusError,
    StoreError,
    UnknownOutcomeError,
    UnknownResourceError,
    UnprocessableError,
)


class Code(IntEnum):
    """Exit codes; documented in ``--help``."""

    DONE = 0
    FINDING = 1
    USAGE = 2
    NOT_FOUND = 3
    DATABASE = 4
    API = 5
    INTERRUPTED = 130
    NO_READER = 141


class MissingFileError(NotFoundError):
    """A SQLite file that should be read is not there; reading must not make one."""

    def __str__(self) -> str:
        return f"there is no file {self.what}"


class MissingExchangeError(NotFoundError):
    """A conversation has no exchange at the position asked for."""

    def __str__(self) -> str:
        return f"there is no exchange {self.what}"


class MissingModelError(NotFoundError):
    """Nothing is known of a model."""

    def __str__(self) -> str:
        return f"{self.what} is not in the list of models"


_AGAIN: Final = "/retry sends it again"
_SET_ASIDE: Final = "messages without an answer are set aside; say it differently, or /retry"

# Error class, exit code, next step ("" where the error's own words have one).
_TOLD: Final[tuple[tuple[type[ConversationStoreError], Code, str], ...]] = (
    (MissingFileError, Code.NOT_FOUND, "give another --database, or make it with chat or demo"),
    (MissingExchangeError, Code.NOT_FOUND, "conversation-store show numbers the exchanges"),
    (MissingModelError, Code.NOT_FOUND, "conversation-store models names them; --refresh asks the API"),
    (NotFoundError, Code.NOT_FOUND, "conversation-store list shows what is there (mind --database and --scope)"),
    (AuthenticationError, Code.API, "check ANTHROPIC_API_KEY, then /retry; or use --offline"),
    (BillingError, Code.API, f"look at the account's billing; {_AGAIN}"),
    (ForbiddenError, Code.API, "this key may not do that; use another key or model"),
    (UnknownResourceError, Code.API, "choose another model: --model"),
    (RateLimitError, Code.API, f"wait a little; {_AGAIN}"),
    (OverloadedError, Code.API, f"wait a little; {_AGAIN}"),
    (ServerError, Code.API, f"it may have been run and billed; {_AGAIN}"),
    (BadRequestError, Code.API, _SET_ASIDE),
    (RequestTooLargeError, Code.API, _SET_ASIDE),
    (UnprocessableError, Code.API, _SET_ASIDE),
    (StatusError, Code.API, _AGAIN),
    (NotSentError, Code.API, f"nothing was sent; {_AGAIN} once there is a connection, or use --offline"),
    (NoAnswerError, Code.API, f"it may have been run and billed; {_AGAIN}"),
    (InterruptedAnswerError, Code.API, f"what came is kept; {_AGAIN}, /continue goes on from it"),
    (UnknownOutcomeError, Code.API, ""),
    (APIError, Code.API, _AGAIN),
    (ContentError, Code.USAGE, ""),
    (ConfigurationError, Code.USAGE, ""),
    (RuleViolationError, Code.USAGE, "nothing was sent; mend it and try again"),
    (SchemaMismatchError, Code.DATABASE, ""),
    (KeyMissingError, Code.DATABASE, "give the key ring it was encrypted with: --keys FOLDER"),
    (BusyError, Code.DATABASE, "wait until the other one has its answer, and say it again"),
    (HeldError, Code.DATABASE, ""),
    (ConflictError, Code.DATABASE, ""),
    (NotSavedError, Code.DATABASE, "/retry saves it"),
    (StoreError, Code.DATABASE, ""),
    (CodecError, Code.DATABASE, "the record is damaged; conversation-store verify says where"),
    (ConversationStoreError, Code.USAGE, ""),
)

_OWN_WORDS: Final[dict[type[ConversationStoreError], str]] = {
    ConflictError: "another writer was faster; say it again",
    BusyError: "another one is waiting for an answer in this conversation",
    NotSavedError: "the answer is here and could not be saved",
    UnknownOutcomeError: "the last request has no outcome: it may have been answered and billed; "
    "choose with --on-unknown resend, keep-partial or give-up",
}


def code_of(error: ConversationStoreError) -> Code:
    """Say which exit code an error is."""
    return next(code for kind, code, _ in _TOLD if isinstance(error, kind))


def told(error: ConversationStoreError) -> str:
    """Say an error and the next step; still to be made safe for the terminal, as everything printed is."""
    words = _OWN_WORDS.get(type(error)) or str(error)
    if isinstance(error, NotSavedError):
        words = f"{words} ({error.reason})"
    if isinstance(error, RuleViolationError):
        words = "; ".join(f"{finding.path}: {finding.message}" for finding in error.findings)
    if isinstance(error, RateLimitError) and error.retry_after is not None:
        return f"{words}; wait {error.retry_after:g} s; {_AGAIN}"
    step = next(step for kind, _, step in _TOLD if isinstance(error, kind))
    return f"{words}; {step}" if step else words
