"""`python -m tests.bench.timeline TRACE PNG`: plot a trace of `i2vd bench timeline --trace`.

One line for the device, one for what is written and embedded meanwhile; each clip has its colour.
"""

import sys
from pathlib import Path

import matplotlib as mpl

from daemon.cli.bench_timeline import ON_DEVICE, stretches

mpl.use("Agg")

from matplotlib import pyplot as plt


def draw(trace: Path, picture: Path) -> None:
    timeline = stretches(trace)
    start = timeline[0].begin
    jobs = list(dict.fromkeys(each.job for each in timeline))
    colours = plt.get_cmap("tab10")
    figure, axes = plt.subplots(figsize=(9, 1.8), layout="constrained")
    for each in timeline:
        row = 1 if each.stage in ON_DEVICE else 0
        begin, length = each.begin - start, each.end - each.begin
        shade = {"denoise": 1.0, "encode_video": 1.0}.get(each.stage, 0.55)
        colour = colours(jobs.index(each.job) % 10)
        axes.barh(row, length, left=begin, color=colour, alpha=shade, height=0.7)
        if each.stage == "denoise":
            axes.text(begin + length / 2, row, f"clip {each.job}", ha="center", va="center")
    axes.set_yticks([0, 1], ["beside", "device"])
    axes.set_xlabel("seconds (pale: prompt and picture, decoding)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
