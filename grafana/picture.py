"""Picture of the dashboard, drawn from a Prometheus without a Grafana.

    python grafana/picture.py http://127.0.0.1:9090 --minutes 15 board.png

Runs the queries of every panel of dashboard.json as Grafana does, and draws each panel at its place
with matplotlib.
"""

import argparse
import json
import math
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

BOARD = json.loads(Path(__file__).with_name("dashboard.json").read_text())
COLUMNS = 24
POINTS = 240
BACKGROUND, PAPER, WORDS, GRID = "#111217", "#181b1f", "#ccccdc", "#2c3235"
COLOURS = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c", "blue": "#5794f2"}
LINES = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0")
SCALES = {
    "bytes": [(2**40, " TiB"), (2**30, " GiB"), (2**20, " MiB"), (2**10, " KiB"), (1, " B")],
    "s": [(86400, " d"), (3600, " h"), (60, " min"), (1, " s"), (1e-3, " ms")],
    "percentunit": [(0.01, " %")],
    "celsius": [(1, " °C")],
    "watt": [(1, " W")],
}


class Series(NamedTuple):
    """One line of a graph: its name, times in seconds since 1970, and values."""

    name: str
    times: list[float]
    values: list[float]


def filled(expr: str, window: str) -> str:
    """Return a panel's query with a value for each of the dashboard's variables."""
    values = {"$__rate_interval": window, "$job": ".*", "$instance": ".*"}
    for variable, value in values.items():
        expr = expr.replace(variable, value)
    return expr


class Prometheus:
    """Client of one Prometheus, for the last `minutes`; rates use `window`."""

    def __init__(self, url: str, minutes: float, window: str) -> None:
        self._http = httpx2.Client(base_url=url, timeout=30, trust_env=False)
        self._window = window
        self.end = time.time()
        self.start = self.end - 60 * minutes

    def lines(self, target: dict[str, Any]) -> list[Series]:
        """Run one query of a panel over the time range. Raises httpx2.HTTPStatusError."""
        step = max(1.0, (self.end - self.start) / POINTS)
        answer = self._http.get(
            "/api/v1/query_range",
            params={
                "query": filled(target["expr"], self._window),
                "start": self.start,
                "end": self.end,
                "step": step,
            },
        ).raise_for_status()
        series = [
            Series(
                _legend(target["legendFormat"], each["metric"]),
                [float(at) for at, _ in each["values"]],
                [float(value) for _, value in each["values"]],
            )
            for each in answer.json()["data"]["result"]
        ]
        return [line for line in series if any(map(math.isfinite, line.values))]


def _legend(pattern: str, labels: dict[str, str]) -> str:
    if pattern == "__auto":
        return ", ".join(v for k, v in labels.items() if k not in ("__name__", "job", "instance"))
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), pattern).strip()


def format_value(value: float, unit: str) -> str:
    """Format a value in its unit, short, as Grafana does."""
    scale = SCALES.get(unit, [(1, "")])
    factor, sign = next((each for each in scale if abs(value) >= each[0]), scale[-1])
    return f"{value / factor:.3g}{sign}"


def draw_board(prometheus: Prometheus) -> Figure:
    """Draw the whole dashboard, each panel at its place in the grid."""
    mpl.rcParams.update({"font.size": 7, "text.color": WORDS, "axes.labelcolor": WORDS})
    rows = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in BOARD["panels"])
    figure = pyplot.figure(figsize=(14, rows * 0.24), facecolor=BACKGROUND)
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        left, bottom = place["x"] / COLUMNS, 1 - (place["y"] + place["h"]) / rows
        width, height = place["w"] / COLUMNS, place["h"] / rows
        if panel["type"] == "row":
            figure.text(left + 0.004, bottom + height / 3, panel["title"], weight="bold", size=9)
            continue
        margin = 0.004 if panel["type"] == "stat" else 0.032
        axes = figure.add_axes(
            (left + margin, bottom + 0.9 / rows, width - margin - 0.006, height - 2.1 / rows),
            facecolor=PAPER,
        )
        axes.set_title(panel["title"], loc="left", size=7.5, weight="bold")
        series = [line for target in panel["targets"] for line in prometheus.lines(target)]
        draw = _draw_number if panel["type"] == "stat" else _draw_graph
        draw(axes, panel, series)
        if panel["type"] != "stat":
            axes.set_xlim(prometheus.start, prometheus.end)
    return figure


def _draw_number(axes: Axes, panel: dict[str, Any], series: list[Series]) -> None:
    look = panel["fieldConfig"]["defaults"]
    axes.set_xticks([])
    axes.set_yticks([])
    if not series:
        axes.text(0.5, 0.5, look["noValue"], ha="center", va="center", size=9)
        return
    value = series[0].values[-1]
    steps = look["thresholds"]["steps"]
    colour = [s["color"] for s in steps if s["value"] is None or value >= s["value"]][-1]
    axes.set_facecolor(COLOURS[colour])
    texts = {k: v["text"] for m in look.get("mappings", []) for k, v in m["options"].items()}
    text = texts.get(f"{value:.0f}", format_value(value, look["unit"]))
    if panel["options"].get("textMode") == "value_and_name":
        text = f"{series[0].name}: {text}"
    axes.text(0.5, 0.5, text, ha="center", va="center", size=13, weight="bold", color="white")


def _draw_graph(axes: Axes, panel: dict[str, Any], series: list[Series]) -> None:
    look = panel["fieldConfig"]["defaults"]
    axes.grid(color=GRID, linewidth=0.5)
    axes.tick_params(colors=WORDS, labelsize=6, length=0)
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: format_value(value, look["unit"]))
    )
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda at, _: time.strftime("%H:%M", time.localtime(at)))
    )
    if not series:
        axes.text(0.5, 0.5, look["noValue"], ha="center", va="center", transform=axes.transAxes)
        return
    for number, line in enumerate(series):
        colour = LINES[number % len(LINES)]
        axes.plot(line.times, line.values, color=colour, linewidth=1, label=line.name)
        if panel["fieldConfig"]["defaults"]["custom"].get("stacking"):
            axes.fill_between(line.times, line.values, color=colour, alpha=0.3, linewidth=0)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", fontsize=5.5, frameon=False, labelcolor=WORDS, ncols=3)


def main() -> None:
    """Draw the dashboard of a Prometheus into a PNG file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prometheus", help="URL")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    parser.add_argument("--minutes", type=float, default=60.0, help="how far back")
    parser.add_argument(
        "--window", default="5m", help="range of the rates; at least four scrape intervals"
    )
    args = parser.parse_args()
    mpl.use("agg")
    figure = draw_board(Prometheus(args.prometheus, args.minutes, args.window))
    figure.savefig(args.picture, dpi=110, facecolor=BACKGROUND)


if __name__ == "__main__":
    main()
