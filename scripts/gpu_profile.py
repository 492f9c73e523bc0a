r"""Says where a kernel's warps wait: samples of Nsight Compute, by runs of instructions.

    ncu --section SourceCounters --section WarpStateStats --warp-sampling-interval 0 \
        --clock-control none --cache-control none --kernel-name regex:layers_ \
        --launch-skip 4 --launch-count 1 --export profile python …
    ncu --import profile.ncu-rep --page source --csv > profile.csv
    python gpu_profile.py profile.csv

A line for each run of instructions that were executed equally often: the first one's number, how
many they are, how often, samples for a thousand executions, the commonest reasons among those, and
the instructions that wait for something. Executions are counted in a pass of their own, which is
slower: in loops that ask for what others send they are too many.

With the microseconds that a launch takes without the profiler (--microseconds), of how many warps
at what clock, samples become cycles of an execution.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

REASON = re.compile(r"stall_(\w+)$")
WAITING = re.compile(r"SYNCS|STRONG|BAR|HMMA|LDSM|MUFU|SHFL|LDG|LDS|STG|LDC|CALL|EXIT")


@dataclass
class Run:
    """Instructions one after the other that were executed equally often."""

    first: int
    executions: int
    count: int = 0
    samples: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    waiting: list[str] = field(default_factory=list)


def launches(path: Path) -> Iterator[list[dict[str, str]]]:
    """The instructions of each launch of an exported source page."""
    with path.open(newline="", encoding="utf-8") as file:
        heads: list[str] = []
        rows: list[dict[str, str]] = []
        for row in csv.reader(file):
            if row and row[0] == "Kernel Name":
                if rows:
                    yield rows
                rows = []
            elif row and row[0] == "Address":
                heads = row
            elif row:
                rows.append(dict(zip(heads, row, strict=False)))
        if rows:
            yield rows


def runs(instructions: list[dict[str, str]]) -> Iterator[Run]:
    """Those that were executed."""
    run = Run(0, 0)
    for number, instruction in enumerate(instructions):
        executions = int(instruction["Instructions Executed"])
        if executions != run.executions:
            if run.executions:
                yield run
            run = Run(number, executions)
        run.count += 1
        run.samples += int(instruction["# Samples"])
        for name, value in instruction.items():
            reason = REASON.match(name)
            if reason and value.isdigit():
                run.reasons[reason[1]] += int(value)
        source = " ".join(instruction["Source"].split())
        if WAITING.search(source):
            run.waiting.append(source)
    if run.executions:
        yield run


def main() -> None:
    """Print the runs of the first launch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path)
    parser.add_argument("--microseconds", type=float, help="that the launch takes")
    parser.add_argument("--warps", type=int, default=132 * 16, help="that are there all the time")
    parser.add_argument("--gigahertz", type=float, default=1.98)
    options = parser.parse_args()
    instructions = next(launches(options.csv))
    samples = sum(int(instruction["# Samples"]) for instruction in instructions)
    scale, unit = 1000.0, "samples of 1,000 executions"
    if options.microseconds:
        scale = options.microseconds * options.gigahertz * 1000 * options.warps / samples
        unit = "cycles of an execution"
    print(f"{len(instructions)} instructions, {samples} samples; first, count, executions, {unit}")
    for run in runs(instructions):
        each = scale / run.executions
        reasons = " ".join(f"{name} {n * each:.0f}" for name, n in run.reasons.most_common(4) if n)
        waiting = "; ".join(text[:24] for text in run.waiting[:4])
        head = f"{run.first:6} {run.count:4} {run.executions:8} {run.samples * each:8.0f}"
        print(f"{head}  {reasons:56} {waiting}")


if __name__ == "__main__":
    main()
