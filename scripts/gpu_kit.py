"""Runs the GPU tests, and on request the benchmarks, of the folder that `nox -s gpu_kit` packed.

Needs a GPU, Python with NumPy and pytest, and no network:

    python run.py                          the tests
    python run.py --benchmarks             then the tables, as JSON in results/
    python run.py --sanitizer racecheck    the tests under a tool of NVIDIA's compute-sanitizer
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
from pathlib import Path

KIT = Path(__file__).parent
PACKAGES = ("core", "kernels", "llm")
SANITIZED_AT_ONCE = 14
"""Processes that share the tests under compute-sanitizer, which takes minutes of them."""
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


def test(python: Path, package: str) -> int:
    """Run a package's GPU tests; its exit code, 0 also where there is none."""
    print(f"== {package}", flush=True)
    command = pytest(python, package)
    code = subprocess.run(command, cwd=KIT / "tests", check=False).returncode
    return 0 if code == 5 else code


def sanitize(python: Path, tool: str, packages: list[str]) -> int:
    """Run the packages' GPU tests under compute-sanitizer; how many processes found a fault."""
    command = pytest(python, "--collect-only", *packages)
    listing = subprocess.run(
        command, cwd=KIT / "tests", check=False, capture_output=True, text=True
    ).stdout
    tests = [line for line in listing.splitlines() if "::" in line]
    if not tests:
        sys.exit(f"found no GPU tests of {', '.join(packages)}:\n{listing}")
    results = KIT / "results" / tool
    results.mkdir(parents=True, exist_ok=True)
    processes = []
    for number in range(min(SANITIZED_AT_ONCE, len(tests))):
        own = results / f"{number}.tests"
        own.write_text("\n".join(tests[number::SANITIZED_AT_ONCE]) + "\n", encoding="utf-8")
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
        command += pytest(python, f"@{own}")
        with (results / f"{number}.txt").open("w", encoding="utf-8") as output:
            processes.append(
                subprocess.Popen(
                    command, cwd=KIT / "tests", stdout=output, stderr=subprocess.STDOUT
                )
            )
    codes = [process.wait() for process in processes]
    for number, code in enumerate(codes):
        text = (results / f"{number}.txt").read_text(encoding="utf-8", errors="replace")
        verdict = [line for line in text.splitlines() if " passed" in line or "SUMMARY" in line]
        print(f"{tool} {number}: exit code {code}", *verdict, sep="\n    ", flush=True)
    return sum(code != 0 for code in codes)


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
    options = parser.parse_args()
    python = environment()
    if options.sanitizer:
        sys.exit(sanitize(python, options.sanitizer, options.packages))
    codes = [test(python, package) for package in options.packages]
    if options.benchmarks:
        codes += [benchmark(python, name) for name in BENCHMARKS]
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
