#!/usr/bin/env python3
"""Draws the plots of docs/BENCHMARKS.md from docs/benchmarks/figures.json.

  scripts/plot_benchmarks.py          writes docs/benchmarks/{main-path,queue,models}.svg

The figures are copied into the JSON by hand from the runs that the page names; nothing is measured here.
Needs matplotlib (scripts/requirements-plots.txt). The same data gives the same bytes.
"""

import json
import pathlib

import matplotlib

matplotlib.use("svg")
# Text stays text, and ids do not change from run to run.
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "nobat", "font.size": 10})
import matplotlib.pyplot as plt

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
BLUE, RED, GREY = "#2563eb", "#dc2626", "#94a3b8"


def save(figure, name):
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)


def bar_line(axes, value, label, vertical=False):
    (axes.axvline if vertical else axes.axhline)(value, color=RED, linewidth=1.2, label=label)


def main_path(stores):
    """Requests per second relative to mosec: a dot per run's median, a line over all pairs."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
    figure.suptitle("requests/s at 64 clients, as a multiple of mosec in the same run")
    for axes, store in zip(panels, stores):
        for at, run in enumerate(store["runs"]):
            axes.vlines(at, run["low"], run["high"], color=GREY, linewidth=5, label="all pairs" if at == 0 else None)
            axes.scatter([at] * len(run["medians"]), run["medians"], s=30, color=BLUE, zorder=3, label="median of a run" if at == 0 else None)
        bar_line(axes, store["bar"], f"bar: {store['bar']:.0f} x")
        axes.set_xticks(range(len(store["runs"])), [run["label"] for run in store["runs"]], fontsize=7.5)
        axes.set_xlim(-0.5, len(store["runs"]) - 0.5)
        axes.set_ylim(0, 4.2)
        axes.set_title(store["store"], fontsize=10)
        axes.legend(loc="lower right", fontsize=8, ncols=3)
    save(figure, "main-path")


def queue(rows):
    """Jobs per second on a logarithmic axis, with the bar of each as a red tick."""
    figure, axes = plt.subplots(figsize=(11, 3.6), layout="constrained")
    for at, row in enumerate(reversed(rows)):
        low, high = row["per_s"]
        text = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        axes.barh(at, low, color=BLUE, height=0.6)
        axes.barh(at, high - low, left=low, color=BLUE, alpha=0.4, height=0.6)
        if "bar" in row:
            axes.vlines(row["bar"], at - 0.4, at + 0.4, color=RED, linewidth=2)
        axes.text(high * 1.04, at, text, va="center", fontsize=8)
    axes.vlines([], 0, 0, color=RED, linewidth=2, label="bar")
    axes.set_yticks(range(len(rows)), [row["what"] for row in reversed(rows)])
    axes.set_xscale("log")
    axes.set_xlim(10_000, 2_500_000)
    axes.set_xlabel("jobs/s")
    axes.legend(loc="lower right")
    save(figure, "queue")


def models(rows):
    """Share of what ONNX Runtime alone reaches: a dot for the median, a line over the rounds."""
    figure, axes = plt.subplots(figsize=(11, 2.4), layout="constrained")
    for at, row in enumerate(reversed(rows)):
        axes.hlines(at, row["low"], row["high"], color=GREY, linewidth=5, label="all rounds" if at == 0 else None)
        if "median" in row:
            axes.scatter(row["median"], at, s=30, color=BLUE, zorder=3, label="median" if at == 0 else None)
        axes.text(103, at, f"{row['low']:g} to {row['high']:g} %", va="center", fontsize=8)
    bar_line(axes, 95, "bar: 95 %", vertical=True)
    axes.set_yticks(range(len(rows)), [row["what"] for row in reversed(rows)], fontsize=8)
    axes.set_xlim(75, 107)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("served, in % of ONNX Runtime alone on the same cores in the same round")
    axes.legend(loc="lower left", fontsize=8)
    save(figure, "models")


def main():
    figures = json.loads((FOLDER / "figures.json").read_text())
    main_path(figures["main_path"])
    queue(figures["queue"])
    models(figures["models"])


if __name__ == "__main__":
    main()
