"""
Recorded exchanges with the real Messages API, where they are at hand.

They belong to others and lie beside the repository, not in it: in ``../shared/corpus``, or where the
environment says. A test that reads them is marked `requires_corpus`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import pytest

PLACE: Final = "CONVERSATION_STORE_CORPUS"
"""Names the folder, if it is not beside the repository."""

FOLDER: Final = Path(os.environ.get(PLACE) or Path(__file__).parents[2] / "shared" / "corpus")
REASON: Final = f"the recorded exchanges are neither in ../shared/corpus nor where {PLACE} says"

requires_corpus: Final = pytest.mark.skipif(not FOLDER.is_dir(), reason=REASON)


def lines(name: str) -> list[dict[str, Any]]:
    """
    Parse one file of the corpus, a dict a line, in the order of the file.

    Args:
        name: With or without its ending: ``streaming`` or ``streaming.jsonl``.

    Without the corpus, the calling test is skipped; called while a module is imported, the whole module.
    """
    if not FOLDER.is_dir():
        pytest.skip(REASON, allow_module_level=True)
    with (FOLDER / name).with_suffix(".jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
