"""
What may be sent again, and when: pure functions over the outcome of an attempt.

What may be sent again is the table in ``verdict``; change it there or nowhere.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Final

from attrs import frozen

NOT_SENT: Final = "not sent"
NO_ANSWER: Final = "no answer"
INTERRUPTED: Final = "interrupted"


@frozen(kw_only=True)
class Clock:
    """
    What the client asks of the world besides a socket; a test gives its own.

    Attributes:
        now: Microseconds since the epoch, UTC.
        monotonic: Seconds, for deadlines.
        sleep: Wait so many seconds.
        random: A number from 0 to 1, 1 excluded.
    """

    now: Callable[[], int] = lambda: time.time_ns() // 1000
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random


class Verdict(Enum):
    """What the outcome of an attempt says about another one."""

    AGAIN = "it did not run and may be sent again silently"
    UNKNOWN = "it may have run and been billed: sent again only if the caller said so"
    FINAL = "sending it again would change nothing, or must not happen"


_NOT_RUN: Final = frozenset({408, 409, 429, 503, 529})
_SPENT: Final = frozenset({"contract_spend_limit_reached", "enforced_spend_limit_reached"})


def verdict(
    *,
    status: int | None = None,
    fault: str | None = None,
    should_retry: str | None = None,
    error_code: str | None = None,
    told_to_wait: bool = False,
) -> Verdict:
    """
    Judge an attempt that brought no whole answer.

    Args:
        status: The HTTP status, None where none came.
        fault: As in ``Attempt``.
        should_retry: The header ``x-should-retry``.
        error_code: ``error.details.error_code``.
        told_to_wait: Whether there was a ``retry-after`` or ``retry-after-ms``.

    Source: Messages API documentation, "Errors" and "Rate limits", and the retry rules of the official Python
    SDK; stricter where a second request could be billed twice.
    """
    if fault is not None:
        return Verdict.AGAIN if fault == NOT_SENT else Verdict.UNKNOWN
    spent = status == 429 and (not told_to_wait or error_code in _SPENT)  # noqa: PLR2004
    if status is None or status < 400 or should_retry == "false" or spent:  # noqa: PLR2004
        return Verdict.FINAL
    if status in _NOT_RUN or should_retry == "true":
        return Verdict.AGAIN
    return Verdict.UNKNOWN if status >= 500 else Verdict.FINAL  # noqa: PLR2004


def retry_after(headers: Mapping[str, str], now: int) -> float | None:
    """
    Read how many seconds the API asked to wait; None where it did not, or asked for nothing positive.

    Args:
        headers: By lower-case name. ``retry-after-ms`` goes before ``retry-after`` (seconds or an HTTP date).
        now: Microseconds since the epoch.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(ValueError, KeyError):
            seconds = float(headers[name]) * unit
            if math.isfinite(seconds) and seconds > 0:
                return seconds
    with suppress(ValueError, TypeError, KeyError, OverflowError):
        seconds = parsedate_to_datetime(headers["retry-after"]).timestamp() - now / 1_000_000
        return seconds if seconds > 0 else None
    return None


def backoff(failed: int, chance: float) -> float:
    """
    Choose how many seconds to wait when the API did not say.

    Args:
        failed: How many attempts failed before this last one, from 0.
        chance: From 0 to 1; spreads clients that failed together.
    """
    return min(0.5 * 2.0 ** min(failed, 8), 8.0) * (1 - 0.25 * chance)
