"""Times variants of kernels by turns, so that what the card does meanwhile is the same for all.

Here, with the CUDA compilers that kernel_build.py takes, for a kit that `nox -s gpu_kit` packed:

    python scripts/gpu_variants.py build NAME layers_1k_persistent … [--kernels DIRECTORY]

compiles sources of this checkout, or of another tree's packages/pygpukit-kernels, into
gpu_kit/variants/NAME. A native module that is put there, too, replaces that of the kit.

On the machine with the GPU, in the kit:

    python variants.py time NAME … --models Qwen3-0.6B Llama-3.2-1B

prints the tokens per second of `LLM.generate`, with a number that is the same for the same ids, and
those of sampling behind the last context. Of a NAME without a folder it times the kit as it is.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
GENERATED = 200
WORKER = """
import json, sys, zlib
sys.path[:0] = sys.argv[1:3]
import gpu_workers
run, result = gpu_workers.Generation(sys.argv[3]), {}
for length in json.loads(sys.argv[4]):
    ids = run._llm.generate(
        gpu_workers.prompt(length), max_new_tokens=int(sys.argv[5]), ignore_eos=True, temperature=0
    )
    rate = run.decode(length, 3)
    result[f"behind {length}"] = round(rate, 1), zlib.crc32(str(ids).encode())
result["sampled"] = round(run.decode(length, 3, **gpu_workers.SAMPLED), 1)
print(json.dumps(result))
"""


def build(name: str, sources: list[str], kernels: Path, target: str) -> None:
    """Compile sources for one architecture into a variant's folder; print what spills."""
    sys.path.insert(0, str(kernels))
    import kernel_build

    folder = HERE.parent / "gpu_kit/variants" / name
    folder.mkdir(parents=True, exist_ok=True)
    nvrtc, ptxas = kernel_build.Nvrtc(), kernel_build.Ptxas()
    for stem in sources:
        source = kernels / "cuda" / f"{stem}.cu"
        targets = kernel_build.targets_of(source).items()
        virtual = next(virtual for virtual, reals in targets if target in reals)
        image = ptxas.assemble(stem, nvrtc.compile(source, virtual), target)
        (folder / image.file).write_bytes(image.content)
        print(f"{image.file}: {len(image.content)} bytes")
        for kernel in image.resources:
            if kernel.spilled_bytes:
                print(f"  {kernel.kernel} spills {kernel.spilled_bytes} bytes")


def install(name: str, packages: Path, folder: Path) -> Path:
    """A copy of the installed packages with what the variant replaces; its folder."""
    target = folder / name
    shutil.copytree(packages / "pygpukit", target / "pygpukit")
    for metadata in packages.glob("*.dist-info"):
        shutil.copytree(metadata, target / metadata.name)
    variant = HERE / "variants" / name
    for pattern, place in (("*.cubin", "kernels/_cuda"), ("*.so", "core")):
        for file in variant.glob(pattern):
            shutil.copy(file, target / "pygpukit" / place)
    return target


def time(names: list[str], models: list[str], contexts: list[int], turns: int) -> None:
    """Time variants by turns, forwards and backwards; print each turn's results."""
    sys.path[:0] = [str(HERE), str(HERE / "benchmarks")]
    import random_model
    import run

    run.environment()
    packages = next((HERE / "environment").glob("lib/python*/site-packages"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        installed = {name: install(name, packages, folder) for name in names}
        for model in models:
            random_model.write(folder / "model", model)
            for turn in range(turns):
                for name in names if turn % 2 == 0 else reversed(names):
                    command = [sys.executable, "-c", WORKER, installed[name], HERE / "benchmarks"]
                    command += [folder / "model", json.dumps(contexts), GENERATED]
                    done = subprocess.run(
                        [str(part) for part in command], capture_output=True, text=True, check=False
                    )
                    last = (done.stderr if done.returncode else done.stdout).splitlines()[-1:]
                    print(model, name, *last, flush=True)
            shutil.rmtree(folder / "model")


def main() -> None:
    """Build or time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build")
    building.add_argument("name")
    building.add_argument("sources", nargs="+")
    building.add_argument("--kernels", type=Path, default=HERE.parent / "packages/pygpukit-kernels")
    building.add_argument("--target", default="sm_90a")
    timing = commands.add_parser("time")
    timing.add_argument("names", nargs="+")
    timing.add_argument("--models", nargs="+", required=True)
    timing.add_argument("--contexts", nargs="+", type=int, default=[256])
    timing.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    if options.command == "build":
        build(options.name, options.sources, options.kernels.resolve(), options.target)
    else:
        time(options.names, options.models, options.contexts, options.turns)


if __name__ == "__main__":
    main()
