"""Draw results/gpu_h200.json: `uv run --no-project --with matplotlib benchmarks/plot_gpu.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).parent
SOURCE = HERE / "results/gpu_h200.json"
TARGET = HERE.parent / "docs/performance.svg"
ENGINES = {
    "pygpukit": ("pygpukit", "#2a6f4e"),
    "transformers-compiled": ("transformers, torch.compile", "#d08a3c"),
    "transformers": ("transformers", "#9aa5b1"),
    "llama.cpp": ("llama.cpp", "#7b5ea7"),
}
WIDTH = 0.2


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def draw(axes: Axes, title: str, unit: str, rows: dict[str, dict[str, float]]) -> None:
    """Bars by engine in groups; `rows` is group -> engine -> value."""
    for place, (engine, (label, colour)) in enumerate(ENGINES.items()):
        for group, values in enumerate(rows.values()):
            if engine not in values:
                continue
            bars = axes.bar(
                group + (place - 1.5) * WIDTH, values[engine], WIDTH, color=colour, label=label
            )
            axes.bar_label(bars, fmt=_short, fontsize=7, padding=1)
    axes.set_xticks(range(len(rows)), rows)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_ylabel(unit, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def mark_limits(axes: Axes, limits: list[float]) -> None:
    """Lines where the memory's bandwidth ends what can be had."""
    for group, limit in enumerate(limits):
        axes.hlines(limit, group - 0.42, group + 0.42, color="#b03030", linewidth=1)
        axes.annotate(f"limit {limit:,.0f}", (group + 0.42, limit), fontsize=7, color="#b03030",
                      ha="right", va="bottom")  # fmt: skip


def main() -> None:
    result: dict[str, Any] = json.loads(SOURCE.read_text(encoding="utf-8"))
    models = result["models"]

    def rows(value: Any) -> dict[str, dict[str, float]]:
        return {
            name: {
                engine: found
                for engine, measured in model["engines"].items()
                if "error" not in measured and (found := value(measured)) is not None
            }
            for name, model in models.items()
        }

    matplotlib.rcParams["svg.hashsalt"] = "pygpukit"
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    (decoding, prompts), (first, loading) = figure.subplots(2, 2)
    draw(decoding, "Decoding, one stream", "tokens/s", rows(lambda m: m["decode"].get("256")))
    bandwidth = result["copy_bytes_per_second"]
    mark_limits(
        decoding, [bandwidth / model["weight_bytes_per_token"] for model in models.values()]
    )
    draw(prompts, "Prompt of 4,096 tokens", "tokens/s", rows(lambda m: m["prompt"].get("4096")))
    draw(first, "Process start to first token", "seconds",
         rows(lambda m: m.get("first_token_seconds")))  # fmt: skip
    draw(loading, "Loading the checkpoint", "seconds", rows(lambda m: m.get("load_seconds")))
    handles, labels = decoding.get_legend_handles_labels()
    legend = dict(zip(labels, handles, strict=True))
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=4, fontsize=8,
                  frameon=False)  # fmt: skip
    figure.suptitle(f"bfloat16, random weights of real shapes, {result['card']}", fontsize=10)
    figure.savefig(TARGET, metadata={"Date": None})


if __name__ == "__main__":
    main()
