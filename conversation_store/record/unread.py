"""
What stands in the place of a value that could not be decrypted.
"""

from __future__ import annotations

from attrs import frozen


@frozen
class Unread:
    """Stands for a value that could not be decrypted, and says why."""

    reason: str
