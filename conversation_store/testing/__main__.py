"""Serve the loopback API from the command line: ``python -m conversation_store.testing``."""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
from collections.abc import Sequence

from conversation_store.testing.offline import echo
from conversation_store.testing.server import KEY, MessagesAPI


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the base URL and the key, and serve until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m conversation_store.testing", description="Serve a Messages API on loopback."
    )
    parser.add_argument("--port", type=int, default=0, help="the port; a free one unless given")
    parser.add_argument("--key", default=KEY, help="the only API key it accepts (default: %(default)s)")
    parser.add_argument("--echo", action="store_true", help="answer with what the last user turn said")
    options = parser.parse_args(arguments)
    otherwise = echo if options.echo else None
    api = MessagesAPI(port=options.port, key=options.key, otherwise=otherwise)
    with contextlib.suppress(KeyboardInterrupt), api:
        sys.stdout.write(f"ANTHROPIC_BASE_URL={api.url}\nANTHROPIC_API_KEY={api.key}\n")
        sys.stdout.flush()
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
