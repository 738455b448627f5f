"""All candidates of a model as a bar chart: how much faster each is at each batch size, kept ones in color."""

from __future__ import annotations

from pathlib import Path

from onnxferry.export.optimize.optimize import Optimized
from onnxferry.runtime.files import written_whole


def save_chart(result: Optimized, path: Path) -> None:
    """A bar chart, PNG or SVG by the suffix of ``path``; candidates that were not timed are listed without a bar.

    Raises ModuleNotFoundError without matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.5 * len(result.verdicts) * max(1, len(result.batches) / 2)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    height = 0.8 / max(1, len(result.batches))
    for row, verdict in enumerate(result.verdicts):
        for place, batch in enumerate(result.batches):
            speed = verdict.speed.get(batch)
            if speed is None:
                continue
            y = row - 0.4 + height * (place + 0.5)
            colour = ("#2a7f62", "#7fc8a9")[place % 2] if verdict.kept else ("#8a8a8a", "#c4c4c4")[place % 2]
            axes.barh(y, speed.ratio, height=height * 0.9, xerr=speed.noise, color=colour)
            end = speed.ratio + speed.noise  # the words stand behind the error bar, not under it
            axes.text(end, y, f"  {speed.ratio:.2f} at batch {batch}", va="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(result.verdicts)), [v.name if v.speed else f"{v.name}, not timed" for v in result.verdicts])
    axes.set_ylim(len(result.verdicts) - 0.5, -0.5)  # from top to bottom, with room for a first or last row without bars
    axes.set_xlabel(f"times as fast as {result.model}; green: kept ({result.budget})")
    axes.margins(x=0.2)
    with written_whole(path) as part:
        figure.savefig(part, dpi=120, format=path.suffix.lower().removeprefix("."))
