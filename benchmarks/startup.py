"""How long does a command take from nothing, and what does it import?

    python benchmarks/startup.py RUN IMAGE

Prints the median of several cold processes of `headstart --help` and `headstart predict RUN IMAGE`, and whether PyTorch was imported.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

GOALS = {"--help": 0.3, "predict": 1.5}


def seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("image")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    headstart = [sys.executable, "-m", "headstart"]
    commands = {"--help": [*headstart, "--help"], "predict": [*headstart, "predict", options.run, options.image]}
    for name, command in commands.items():
        subprocess.run(command, check=True, capture_output=True)
        times = [seconds(command) for _ in range(options.rounds)]
        print(
            f"headstart {name:<8} median {statistics.median(times):.2f} s, {min(times):.2f} to {max(times):.2f}   (goal: {GOALS[name]} s)"
        )
    code = (
        "import sys; from headstart.cli import main\n"
        f"sys.argv = ['headstart', 'predict', {options.run!r}, {options.image!r}]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'sklearn', 'scipy', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    print(f"of torch, sklearn, scipy and onnx, predict imported: {done.stdout.splitlines()[-1]}")


if __name__ == "__main__":
    main()
