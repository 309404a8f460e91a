"""The figures as an SVG: ``python plot.py figures.json figures.svg``.

Runs in an environment of its own, with matplotlib and nothing of this project.
"""

import json
import statistics
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot  # after the choice of the backend

OURS, OTHERS = "#1f6feb", "#8c959f"
PANELS = (
    ("cpu_us_a_chunk", "worker CPU a chunk, µs", 1.0, False),
    ("memory_a_stream", "memory a stream in flight, KB", 1e-3, True),
    ("chunks_a_second", "chunks a second, flat out", 1.0, False),
)


def main(figures: Path, picture: Path) -> None:
    """Draw three panels: a bar for each contender, a thin line from its worst round to its best."""
    figures_of_run = json.loads(figures.read_text())
    titles: dict[str, str] = figures_of_run["titles"]
    mpl.rcParams.update({"font.size": 9, "svg.hashsalt": "figures", "axes.spines.right": False})
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(11, 3.2), sharey=True)
    for panel, (key, title, scale, log) in zip(axes, PANELS, strict=True):
        scenario = "flat" if key == "chunks_a_second" else "stream"
        rows = {name: values(figures_of_run["runs"], scenario, name, key, scale) for name in titles}
        shown = [name for name in titles if rows[name]]
        if not shown:
            continue
        medians = [statistics.median(rows[name]) for name in shown]
        low = [m - min(rows[name]) for m, name in zip(medians, shown, strict=True)]
        high = [max(rows[name]) - m for m, name in zip(medians, shown, strict=True)]
        panel.barh(
            [titles[name].replace("`", "") for name in shown],
            medians,
            xerr=[low, high],
            color=[OURS if name == "ours" else OTHERS for name in shown],
            ecolor="#24292f",
            error_kw={"linewidth": 0.8},
        )
        for row, median in enumerate(medians):
            panel.annotate(
                f"{median:,.0f}",
                (median + high[row], row),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
            )
        panel.set_title(title, fontsize=9)
        panel.margins(x=0.2)
        panel.spines.top.set_visible(False)
        if log:
            panel.set_xscale("log")
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(picture, metadata={"Date": None})


def values(runs: list[dict], scenario: str, contender: str, key: str, scale: float) -> list[float]:
    """Return the rounds of one figure."""
    return [
        run[key] * scale
        for run in runs
        if (run["scenario"], run["contender"]) == (scenario, contender) and run.get(key)
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
