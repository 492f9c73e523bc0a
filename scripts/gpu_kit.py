"""Runs the GPU tests, and on request the benchmarks, of the folder that `nox -s gpu_kit` packed.

Needs a GPU, Python with NumPy and pytest, and no network:

    python run.py                 the tests
    python run.py --benchmarks    then the tables, as JSON in results/
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


def test(python: Path, package: str) -> int:
    """Run a package's GPU tests; its exit code, 0 also where there is none."""
    print(f"== {package}", flush=True)
    command = [python, "-I", "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    command += ["-c", KIT / "pyproject.toml", "--rootdir", KIT, KIT / f"tests/{package}"]
    code = subprocess.run(
        [str(part) for part in command], cwd=KIT / "tests", check=False
    ).returncode
    return 0 if code == 5 else code


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
    options = parser.parse_args()
    python = environment()
    codes = [test(python, package) for package in PACKAGES]
    if options.benchmarks:
        codes += [benchmark(python, name) for name in BENCHMARKS]
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
