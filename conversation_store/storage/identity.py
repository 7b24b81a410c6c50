"""
What this machine makes up: ids, times, salts, and the name of the process that holds a lease.
"""

from __future__ import annotations

import os
import socket
import time
from functools import lru_cache
from pathlib import Path
from typing import Final
from uuid import UUID

SALT_BYTES: Final = 32


def now() -> int:
    """Read this machine's clock: microseconds since the epoch, UTC."""
    return time.time_ns() // 1000


def new_id() -> UUID:
    """Make a UUIDv7 (RFC 9562): ordered by time, unique without asking anybody."""
    milliseconds = time.time_ns() // 1_000_000
    number = (milliseconds << 80) | int.from_bytes(os.urandom(10), "big")
    number = (number & ~(0xF << 76)) | (0x7 << 76)
    number = (number & ~(0x3 << 62)) | (0x2 << 62)
    return UUID(int=number)


def new_salt() -> bytes:
    """Make 32 random bytes."""
    return os.urandom(SALT_BYTES)


def new_token() -> bytes:
    """Make the 16 random bytes that say whose a pending exchange is."""
    return os.urandom(16)


def owner() -> str:
    """
    Name this process so that another one on the same host can tell whether it still lives.

    Host, boot id, process id and the process's start time since boot, in clock ticks.
    """
    return _named(os.getpid())


def provably_dead(name: str) -> bool:
    """Say whether *name* is a process of this very host and boot that no longer exists."""
    boot, _, process = name.partition("/")
    pid, _, started = process.partition("/")
    if boot != _boot() or not pid.isdigit() or not started:
        return False
    return _started(int(pid)) != started


@lru_cache(maxsize=1)
def _named(pid: int) -> str:
    # A process keeps its name; after a fork the number is another one.
    return f"{_boot()}/{pid}/{_started(pid)}"


@lru_cache(maxsize=1)
def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # Two containers share a boot id but not each other's process numbers.
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return f"{socket.gethostname()} "  # never provable: _started() knows nothing there
    return f"{socket.gethostname()} {boot} {space}"[:120]


def _started(pid: int) -> str:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    after_name = status.rpartition(")")[2].split()
    state, started = after_name[0], after_name[19]
    return "" if state in {"Z", "X"} else started
