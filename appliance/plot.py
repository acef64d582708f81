"""A picture of what `appliance bench` found: one small chart a figure, with the median and every single run."""

import statistics
from pathlib import Path

from appliance.errors import UsageError

COLOURS = ("#2f6db3", "#d9822b", "#4c9f70", "#8a5fb0")


def label(figure: str) -> str:
    """A figure's name for people, with its unit where it has one of its own."""
    for ending, unit in (("_mib_s", ", MiB/s"), ("_per_s", ", a second"), ("_us", ", µs")):
        figure = figure.replace(ending, unit)
    return figure.replace("_", " ")


def check(file: Path) -> None:
    """Raises UsageError before anything is measured, when `file` could not be drawn."""
    if file.suffix not in (".svg", ".png"):
        raise UsageError(f"--plot {file}: the name must end in .svg or .png", cure=f"--plot {file.stem}.svg")
    if not file.parent.is_dir():
        raise UsageError(f"--plot {file}: there is no directory {file.parent}", cure=f"mkdir -p {file.parent}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("--plot needs matplotlib, which is not here", cure="pip install 'casemate[plot]'") from None


def draw(found: dict, figures: tuple[str, ...], file: Path) -> None:
    """Draw `found` (bench's JSON object) into `file`: a row of charts for each host, one chart for each figure."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    from matplotlib import pyplot

    hosts = found["hosts"]
    shown = [f for f in figures if any(f in r for h in hosts for s in h["results"].values() for r in s["runs"])]
    sides = list(hosts[0]["results"])
    figure, rows = pyplot.subplots(
        len(hosts),
        len(shown),
        squeeze=False,
        layout="constrained",
        figsize=(max(6, 2 * len(shown)), 3.6 * len(hosts) + 0.6),
    )
    for host, axes in zip(hosts, rows, strict=True):
        for name, axis in zip(shown, axes, strict=True):
            for position, side in enumerate(sides):
                values = [run.get(name, 0) for run in host["results"][side]["runs"]] or [0]
                median, colour = statistics.median(values), COLOURS[position % len(COLOURS)]
                axis.bar(position, median, color=colour, width=0.7, label=side)
                axis.scatter([position] * len(values), values, color="black", s=9, alpha=0.6, zorder=3)
                axis.annotate(f"{median:.3g}", (position, max(values)), xytext=(0, 3), textcoords="offset points",
                              ha="center", fontsize=8)  # fmt: skip
            axis.set_title(label(name), fontsize=9)
            axis.set_xticks([])
            axis.margins(y=0.15)
            axis.tick_params(labelsize=8)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel(f"{host['name']}: {found['unit']}", fontsize=9)
    handles, labels = rows[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, frameon=False)
    figure.suptitle(
        f"appliance bench {found['bench']}: median (bar) of {found['runs']} and each run (dot)", fontsize=11
    )
    figure.savefig(file, dpi=150)
    pyplot.close(figure)
