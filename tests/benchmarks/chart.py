"""A small chart of how costs grow with the length of a conversation, drawn from the lines of the table."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(".benchmarks/growth.svg")
_LENGTH: Final = re.compile(r"(?P<cost>.*), N = (?P<turns>[0-9,]+)")


def draw(lines: Iterable[tuple[str, str, float, float, str]], file: Path = FILE) -> Path | None:
    """
    Draw what lines of (cost, where, our seconds, the floor's, its name) tell of several lengths.

    Returns:
        The file; None where matplotlib is not installed, or nothing was measured at several lengths.
    """
    series: dict[str, dict[int, tuple[float, str]]] = {}
    for cost, where, ours, floor, named in lines:
        found = _LENGTH.fullmatch(cost)
        if found is None or ("CPU only" not in where and "imports" not in where and where != "memory"):
            continue
        turns = int(found["turns"].replace(",", ""))
        series.setdefault(found["cost"], {})[turns] = (ours, "-o")
        series.setdefault(f"{found['cost']}: {named}", {})[turns] = (floor, ":")
    grown = {name: points for name, points in series.items() if len(points) > 1}
    if not grown or importlib.util.find_spec("matplotlib") is None:
        return None
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    colours: dict[str, Any] = {}
    for name, points in sorted(grown.items()):
        cost, lengths = name.split(":")[0], sorted(points)
        style = points[lengths[0]][1]
        (line,) = axes.plot(
            lengths, [points[n][0] * 1e3 for n in lengths], style, label=name, color=colours.get(cost), linewidth=1.5
        )
        colours.setdefault(cost, line.get_color())
    axes.set(xscale="log", yscale="log", xlabel="turns in the conversation", ylabel="milliseconds, median")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6)
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file)
    pyplot.close(figure)
    return file
