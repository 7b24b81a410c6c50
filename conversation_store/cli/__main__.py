"""The command line without its script: ``python -m conversation_store.cli``."""

import sys

from conversation_store.cli.main import run

sys.exit(run())
