"""Runs the GPU tests, and on request the benchmarks, of the folder that `nox -s gpu_kit` packed.

Needs a GPU, Python with NumPy, pytest and hypothesis, and no network:

    python run.py                          the tests
    python run.py --benchmarks             then the tables, as JSON in results/
    python run.py --sanitizer racecheck    the tests under a tool of NVIDIA's compute-sanitizer
    python run.py --tests "not float32"    those that pytest selects by this expression
"""

from __future__ import annotations

import argparse
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

KIT = Path(__file__).parent
PACKAGES = ("core", "kernels", "llm")
SANITIZER_RAN_OUT = "process didn't terminate successfully"
SANITIZED_AT_ONCE, SANITIZED_TOGETHER = 7, 6
"""Processes on each GPU under compute-sanitizer, which needs gigabytes for one; tests of each."""
BENCHMARKS = ("gpu", "gpu_decode", "gpu_upload", "batching", "traffic")


def environment() -> Path:
    """An environment with the kit's wheels beside what this interpreter has; its interpreter."""
    folder = KIT / "environment"
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, system_site_packages=True, with_pip=False)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    paths = {"base": str(folder), "platbase": str(folder)}
    target = Path(sysconfig.get_path("purelib", "venv", paths))
    for wheel in sorted((KIT / "dist").glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
    # An interpreter of an environment doesn't hand that environment's packages down.
    own = [path for path in site.getsitepackages() if Path(path).is_dir()]
    (target / "zz_parent.pth").write_text("\n".join(own) + "\n", encoding="utf-8")
    return python


def pytest(python: Path, *arguments: str) -> list[str]:
    """The command that runs GPU tests; it belongs into the folder of the tests."""
    command = [python, "-I", "-u", "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    command += ["-c", KIT / "pyproject.toml", "--rootdir", KIT / "tests", *arguments]
    return [str(part) for part in command]


def test(python: Path, package: str, selected: str) -> int:
    """Run a package's GPU tests; its exit code, 0 also where there is none."""
    print(f"== {package}", flush=True)
    command = pytest(python, package, "-k", selected)
    code = subprocess.run(command, cwd=KIT / "tests", check=False).returncode
    return 0 if code == 5 else code


def small_tests(python: Path, packages: list[str], selected: str) -> list[str]:
    """The names of the packages' GPU tests but the large ones."""
    marks = "gpu and not large"
    command = pytest(python, "-m", marks, "-k", selected, "--collect-only", *packages)
    listing = subprocess.run(
        command, cwd=KIT / "tests", check=False, capture_output=True, text=True
    ).stdout
    tests = [line for line in listing.splitlines() if "::" in line]
    if not tests:
        sys.exit(f"found no GPU tests of {', '.join(packages)}:\n{listing}")
    return tests


def gpus() -> list[str]:
    """The GPUs that there are, by what CUDA_VISIBLE_DEVICES calls them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen:
        return chosen.split(",")
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def sanitize(python: Path, tool: str, tests: list[str]) -> int:
    """Run tests under a tool of compute-sanitizer, on all GPUs.

    Every few tests have a process of their own: the tool's memory grows with what it has seen.
    Those that run out of it, side by side, run again one after the other.
    Returns how many processes failed or found a fault.
    """
    results = KIT / "results" / tool
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    devices = gpus()

    def run(start: int) -> tuple[int, bool]:
        own = results / f"{start}.tests"
        own.write_text(
            "\n".join(tests[start : start + SANITIZED_TOGETHER]) + "\n", encoding="utf-8"
        )
        command = ["compute-sanitizer", "--tool", tool]
        # To tell where a launch comes from it would hold Python's frames, and all that is in them.
        command += ["--show-backtrace", "device", "--error-exitcode", "9"]
        command += pytest(python, "--durations=3", f"@{own}")
        device = devices[start // SANITIZED_TOGETHER % len(devices)]
        with (results / f"{start}.txt").open("w", encoding="utf-8") as output:
            code = subprocess.run(
                command,
                cwd=KIT / "tests",
                env=os.environ | {"CUDA_VISIBLE_DEVICES": device},
                check=False,
                stdout=output,
                stderr=subprocess.STDOUT,
            ).returncode
        text = (results / f"{start}.txt").read_text(encoding="utf-8", errors="replace")
        verdict = [line for line in text.splitlines() if " passed" in line or "SUMMARY" in line]
        print(f"{tool} from {start} of {len(tests)}: exit code {code}", *verdict, flush=True)
        return code, SANITIZER_RAN_OUT in text

    starts = range(0, len(tests), SANITIZED_TOGETHER)
    with ThreadPoolExecutor(SANITIZED_AT_ONCE * len(devices)) as pool:
        outcomes = dict(zip(starts, pool.map(run, starts), strict=True))
    for start, (_, ran_out) in outcomes.items():
        if ran_out:
            outcomes[start] = run(start)
    failed = sum(code != 0 for code, _ in outcomes.values())
    print(f"{tool}: {len(tests)} tests in {len(outcomes)} processes, {failed} of them with faults")
    return failed


def benchmark(python: Path, name: str, *options: str) -> int:
    """Run one of the benchmarks; its exit code."""
    print(f"== {name}", flush=True)
    results = KIT / "results"
    results.mkdir(exist_ok=True)
    command = [str(python), str(KIT / f"benchmarks/{name}.py"), *options]
    command += ["--output", str(results / f"{name}.json")]
    return subprocess.run(command, cwd=KIT / "benchmarks", check=False).returncode


def main() -> None:
    """Run the kit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--benchmarks", action="store_true", help="run them after the tests")
    parser.add_argument("--sanitizer", metavar="TOOL", help="memcheck, racecheck, … of all tests")
    parser.add_argument("--packages", nargs="+", choices=PACKAGES, default=list(PACKAGES))
    parser.add_argument("--tests", metavar="EXPRESSION", default="", help="pytest's -k")
    options = parser.parse_args()
    python = environment()
    if options.sanitizer:
        tests = small_tests(python, options.packages, options.tests)
        sys.exit(sanitize(python, options.sanitizer, tests))
    codes = [test(python, package, options.tests) for package in options.packages]
    if options.benchmarks:
        codes += [benchmark(python, name) for name in BENCHMARKS]
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
