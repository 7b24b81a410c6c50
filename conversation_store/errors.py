"""
Every error of the library, and nothing else.

ConversationStoreError
├── ContentError               a caller's value cannot be recorded; also ValueError; .path
│   └── AttachmentError        a file is not what it claims to be, or is too large
├── CodecError                 bytes that are no JSON, or JSON that is no message; also ValueError
├── ConfigurationError         a client or a store was set up in a way that cannot work
│   └── UnlistedModelError     nothing is known of a model, and the store takes only those it knows; .model
├── RuleViolationError         the API would refuse the request; .findings, all of them
├── UnfitReplyError            an answer is not what its caller needs (no whole JSON); also ValueError
├── ToolOutcomeError           whether a tool with effects has run is not known; .call
├── StoreError
│   ├── NotFoundError          no such conversation; also LookupError
│   ├── ConflictError          somebody else appended first; .expected .actual
│   ├── BusyError              an exchange is pending; .until
│   ├── HeldError              a legal hold forbids erasing; .position
│   ├── LeaseLostError         the exchange was taken over; the late answer is kept as a note
│   ├── IdempotencyError       the same idempotency key came with other content
│   ├── UnknownOutcomeError    whether an earlier request was answered is not known; .state
│   ├── NotSavedError          there is an answer and it could not be saved; .pending keeps it
│   ├── TransferError          lines to import were not taken; .faults, .taken
│   ├── LineError              one of them; .line
│   ├── SealError              the log of seals cannot be gone on with, or proves nothing
│   │   └── RollbackError      the database is older than what was signed; .remembered .found
│   ├── EncryptionError        content cannot be encrypted or read; .conversation .place
│   │   ├── KeyMissingError    there is no key for it: none was given, it was destroyed, or it is another ring's
│   │   └── CiphertextError    it is not what was encrypted at its place
│   ├── SchemaMismatchError    the database has another schema than this release; .command
│   └── DatabaseError          the database refused; .reason
└── APIError                   .request_id .retry_after .error_code .attempts
    ├── NotSentError           the request never reached the API
    ├── NoAnswerError          the request was sent; whether it ran is not known
    ├── InterruptedAnswerError an answer began and broke off; .partial
    └── StatusError            the API answered with an error; .status .kind
        ├── BadRequestError (400)        ├── RequestTooLargeError (413)
        ├── AuthenticationError (401)    ├── UnprocessableError (422)
        ├── BillingError (402)           ├── RateLimitError (429)
        ├── ForbiddenError (403)         ├── ServerError (500 and other 5xx)
        ├── UnknownResourceError (404)   ├── GatewayTimeoutError (504)
        ├── RequestTimeoutError (408)    └── OverloadedError (529)
        └── RequestConflictError (409)

Catch a branch, read the attributes. No message of these classes holds an API key or the text of a turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from attrs import define, field, fields

if TYPE_CHECKING:
    from conversation_store.api.rules import Finding
    from conversation_store.record.exchange import Attempt


@define(repr=False)
class ConversationStoreError(Exception):
    """The base of every error this library raises on purpose."""

    def __repr__(self) -> str:
        # Written once for all of them, which costs an import less than one generated for each.
        shown = (f"{each.name}={getattr(self, each.name)!r}" for each in fields(type(self)) if each.repr)
        return f"{type(self).__qualname__.rpartition('>.')[2]}({', '.join(shown)})"


@define(repr=False)
class ContentError(ConversationStoreError, ValueError):
    """
    A value given by the caller cannot be recorded.

    Attributes:
        path: Where, in the API's notation: ``messages.3.content.1.text``.
        message: What is wrong and what would be right.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class AttachmentError(ContentError):
    """A file, image or document is not what it claims to be, is broken, or exceeds a limit of the API."""


@define(repr=False)
class CodecError(ConversationStoreError, ValueError):
    """
    Bytes that are not JSON, or JSON that is not what was expected.

    Attributes:
        message: What is wrong.
        offset: The byte at which it was noticed, or None.
    """

    message: str
    offset: int | None = None

    def __str__(self) -> str:
        return self.message if self.offset is None else f"{self.message} (byte {self.offset})"


@define(repr=False)
class ConfigurationError(ConversationStoreError):
    """A client, a store or a setting was given values that cannot work together."""

    message: str

    def __str__(self) -> str:
        return self.message


@define(repr=False)
class UnlistedModelError(ConfigurationError):
    """
    Nothing is known of a model, and the store was opened with ``on_unlisted="error"``. Nothing was written.

    Attributes:
        model: The name that was asked for.
    """

    message: str = field(init=False, default="")
    model: str

    def __str__(self) -> str:
        return (
            f"{self.model} is not in the list of models; add it with Store(…, models=load().with_model(…)), "
            'or take it with on_unlisted="warn"'
        )


@define(repr=False)
class RuleViolationError(ConversationStoreError):
    """
    The API would refuse the request. Nothing was written, nothing was sent.

    Attributes:
        findings: Every violated rule, in the order of the request.
    """

    findings: Sequence[Finding]

    def __str__(self) -> str:
        lines = [f"{finding.path}: {finding.message}" for finding in self.findings]
        return "; ".join(lines) if len(lines) < 2 else "\n".join(["the request would be refused:", *lines])  # noqa: PLR2004


@define(repr=False)
class UnfitReplyError(ConversationStoreError, ValueError):
    """An answer is not what ``reply.json()`` needs."""

    stop_reason: str | None
    message: str

    def __str__(self) -> str:
        return self.message


@define(repr=False)
class ToolOutcomeError(ConversationStoreError):
    """
    A tool with effects was begun and its result is not recorded: it may have run.

    Attributes:
        call: The id of the call.
        name: The tool.
    """

    call: str
    name: str

    def __str__(self) -> str:
        return (
            f"the tool {self.name} was begun for {self.call} and may have run: answer it with tool_result(), "
            "or run_tools(…, rerun=True)"
        )


class StoreError(ConversationStoreError):
    """The base of what can go wrong with the kept conversations."""


@define(repr=False)
class NotFoundError(StoreError, LookupError):
    """No conversation with this key or id in this scope."""

    what: str

    def __str__(self) -> str:
        return f"no conversation {self.what} in this store"


@define(repr=False)
class ConflictError(StoreError):
    """
    Somebody else appended first. Nothing of this append was written.

    ``conversation.refresh()`` reads what is new; then decide whether to append again.
    """

    conversation: UUID
    expected: int
    actual: int

    def __str__(self) -> str:
        return (
            f"conversation {self.conversation} is at length {self.actual}, not {self.expected}: "
            "another writer appended; call refresh() and append again"
        )


@define(repr=False)
class BusyError(StoreError):
    """
    An exchange is pending in this conversation, and only it may append turns now.

    Attributes:
        until: When its lease ends, microseconds since the epoch by the database's clock; afterwards
            ``recover()`` may take it over.
    """

    conversation: UUID
    until: int

    def __str__(self) -> str:
        return (
            f"an exchange is pending in conversation {self.conversation}: "
            "wait for it (wait=seconds), or call recover() once its lease is over"
        )


@define(repr=False)
class HeldError(StoreError):
    """
    A legal hold stands on a conversation, or on a fork whose requests an erasure would reach. Nothing was erased.

    Attributes:
        position: The entry that records the hold.
        by: Who asked for it.
        reason: Why.
    """

    conversation: UUID
    position: int
    by: str
    reason: str

    def __str__(self) -> str:
        return (
            f"conversation {self.conversation} is held (entry {self.position}, by {self.by}): {self.reason}; "
            "nothing of it is erased before release()"
        )


@define(repr=False)
class LeaseLostError(StoreError):
    """The exchange was taken over while this process still worked on it; its answer became a note."""

    conversation: UUID
    exchange: int

    def __str__(self) -> str:
        return f"exchange {self.exchange} of conversation {self.conversation} was taken over by another worker"


@define(repr=False)
class IdempotencyError(StoreError):
    """The same idempotency key was used before, with other content."""

    conversation: UUID
    exchange: int

    def __str__(self) -> str:
        return (
            f"this idempotency key belongs to exchange {self.exchange} of conversation {self.conversation}, "
            "which was begun with other content, or whose content was erased"
        )


@define(repr=False)
class UnknownOutcomeError(StoreError):
    """
    An earlier request with this key may have been answered and billed; nobody knows.

    Call ``recover()`` to decide; or send it again with its idempotency key and ``on_unknown="resend"``.
    """

    conversation: UUID
    exchange: int
    state: str

    def __str__(self) -> str:
        return (
            f"exchange {self.exchange} of conversation {self.conversation} is {self.state}: it may have been "
            'answered and billed; call recover() (or send again with its idempotency key and on_unknown="resend")'
        )


@define(repr=False)
class NotSavedError(StoreError):
    """
    There is an answer, and it could not be saved. It is not lost.

    Attributes:
        pending: Holds the answer; call ``pending.finish()`` again once the database can be reached.
        reason: What the database said.
    """

    pending: Any = field(repr=False)
    reason: str

    def __str__(self) -> str:
        return f"the answer arrived but could not be saved ({self.reason}); call error.pending.finish() again"


@define(repr=False)
class TransferError(StoreError):
    """
    Something to be imported was not taken. Of the conversations it concerns nothing was written.

    Attributes:
        faults: What is wrong, in the order of the lines.
        taken: What was imported all the same: the other conversations.
    """

    faults: Sequence[LineError]
    taken: Any = field(default=None, repr=False)

    def __str__(self) -> str:
        lines = [str(fault) for fault in self.faults]
        return lines[0] if len(lines) == 1 else "\n".join([f"{len(lines)} faults; not all was taken:", *lines])


@define(repr=False)
class LineError(StoreError):
    """
    A line that was not taken, and why.

    Attributes:
        line: Its number, from 1.
        message: What is wrong with it.
        conversation: Whose line it is, where that is known.
    """

    line: int
    message: str
    conversation: UUID | None = None

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


@define(repr=False)
class SealError(StoreError):
    """The log of seals is damaged, or does not hold what a proof is asked for. Nothing was signed."""

    message: str

    def __str__(self) -> str:
        return self.message


@define(repr=False)
class RollbackError(SealError):
    """
    The database is not what was signed before: an old backup, or other seals. Nothing was signed.

    Attributes:
        remembered: What the signer remembers: origin, size and root.
        found: What the database has now, in the same words.
    """

    message: str = field(init=False, default="")
    remembered: str
    found: str

    def __str__(self) -> str:
        return (
            f"the log of seals was {self.remembered} when it was signed last, and is {self.found} now: a restored "
            "backup, or a forgery; where the backup is wanted, go on with: conversation-store seal --new-epoch"
        )


@define(repr=False)
class EncryptionError(StoreError):
    """
    Content cannot be encrypted or read.

    Attributes:
        conversation: Whose it is.
        place: Which column of which row it is in.
        message: What is wrong and what would help.
    """

    conversation: UUID
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place} of conversation {self.conversation}: {self.message}"


@define(repr=False)
class KeyMissingError(EncryptionError):
    """There is no key: the store was opened without keys, the key was destroyed, or it is in another ring."""


@define(repr=False)
class CiphertextError(EncryptionError):
    """What is kept is not what was encrypted at its place: it was changed, moved or cut."""


@define(repr=False)
class SchemaMismatchError(StoreError):
    """
    The database's tables are not those of this release. Nothing was changed.

    Attributes:
        current: The revision found, None where there is none.
        head: The revision this release needs.
        command: What to run.
    """

    current: str | None
    head: str
    command: str

    def __str__(self) -> str:
        found = "no conversation_store tables" if self.current is None else f"schema revision {self.current}"
        return f"the database has {found}, this release needs {self.head}: {self.command}"


@define(repr=False)
class DatabaseError(StoreError):
    """
    The database refused or could not be reached. The transaction was not applied.

    Attributes:
        reason: One of ``not a store``, ``cannot open``, ``read-only``, ``full``, ``locked``, ``lost a race``,
            ``unreachable``, ``erased`` (an attachment, by somebody else, while it was to be used anew), ``refused``.
        message: What the database said and what to do next; never a value of a row.
    """

    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


@define(repr=False)
class APIError(ConversationStoreError):
    """
    The request failed.

    Attributes:
        message: What happened.
        request_id: The API's own id of the request, where one came back.
        retry_after: Seconds the API asked to wait.
        error_code: ``error.details.error_code``: stable, to branch on.
        attempts: Every attempt that was made, oldest first.
    """

    message: str
    request_id: str | None = None
    retry_after: float | None = None
    error_code: str | None = None
    attempts: Sequence[Attempt] = ()

    def __str__(self) -> str:
        return self.message if self.request_id is None else f"{self.message} (request {self.request_id})"


class NotSentError(APIError):
    """The request never reached the API: no connection could be made. It can be sent again freely."""


class NoAnswerError(APIError):
    """The request was sent and no answer came. It may have been run and billed."""


@define(repr=False)
class InterruptedAnswerError(APIError):
    """
    An answer began and broke off.

    Attributes:
        partial: Every byte of the response's body that arrived.
    """

    partial: bytes = field(default=b"", repr=False)


@define(repr=False)
class StatusError(APIError):
    """
    The API answered with an error status.

    Attributes:
        status: The HTTP status.
        kind: ``error.type`` of the body (``invalid_request_error`` …), None where the body had none.
        body: The response's body as received.
    """

    status: int = 0
    kind: str | None = None
    body: bytes = field(default=b"", repr=False)

    OF: ClassVar[Mapping[int, type[StatusError]]]


class BadRequestError(StatusError):
    """400 ``invalid_request_error``."""


class AuthenticationError(StatusError):
    """401 ``authentication_error``."""


class BillingError(StatusError):
    """402 ``billing_error``."""


class ForbiddenError(StatusError):
    """403 ``permission_error``."""


class UnknownResourceError(StatusError):
    """404 ``not_found_error``: an unknown or retired model, a file that has expired."""


class RequestTimeoutError(StatusError):
    """408."""


class RequestConflictError(StatusError):
    """409 ``conflict_error``."""


class RequestTooLargeError(StatusError):
    """413 ``request_too_large``."""


class UnprocessableError(StatusError):
    """422."""


class RateLimitError(StatusError):
    """429 ``rate_limit_error``; without ``retry-after`` usually a spend cap, see ``error_code``."""


class ServerError(StatusError):
    """500 ``api_error`` and every other 5xx: it may have been run and billed."""


class GatewayTimeoutError(ServerError):
    """504 ``timeout_error``."""


class OverloadedError(ServerError):
    """529 ``overloaded_error``: it was not run."""


StatusError.OF = {
    400: BadRequestError,
    401: AuthenticationError,
    402: BillingError,
    403: ForbiddenError,
    404: UnknownResourceError,
    408: RequestTimeoutError,
    409: RequestConflictError,
    413: RequestTooLargeError,
    422: UnprocessableError,
    429: RateLimitError,
    504: GatewayTimeoutError,
    529: OverloadedError,
}
