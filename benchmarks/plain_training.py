"""What the benchmarks of heads on maps share: the whole `headstart fit`, and the plain training script that it is compared with."""

from __future__ import annotations

import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from headstart.engine import available_cores


def fit(path: Path, options: list[str]) -> None:
    """Print the last line of `headstart fit`, with its seconds, and those of processors."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, "-m", "headstart", "fit", str(path), "--out", f"{folder}/run", *options]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = f"{time.perf_counter() - began:.0f} s, {cpu.ru_utime + cpu.ru_stime:.0f} s of CPU"
        print(f"{path.name}: {done.stdout.splitlines()[-1]}; {spent}")


def one_cycle(
    network: Any, rows: np.ndarray, loss_of: Callable[[list[int], int], Any], *, seconds: float, batch: int, lr: float, clip: float
) -> str:
    """Train with AdamW and one cycle for so many seconds of all cores, by the time of this process; says how much that was.

    `loss_of` takes rows of the data and the number of the epoch.
    """
    import torch

    optimizer, rng = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.01), np.random.default_rng(0)
    network.train()
    began, step, epoch, share = time.process_time(), 0, 0, 0.0
    while share < 1:
        order = rng.permutation(rows)
        for start in range(0, len(order) - len(order) % batch, batch):
            share = (time.process_time() - began) / (seconds * available_cores())
            if share >= 1:
                break
            rate = min(share / 0.2, 0.5 * (1 + math.cos(math.pi * max(0.0, (share - 0.2) / 0.8))))
            for group in optimizer.param_groups:
                group["lr"] = lr * max(rate, 0.01)
            loss = loss_of(order[start : start + batch].tolist(), epoch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
            optimizer.step()
            step += 1
        epoch += 1
    network.eval()
    return f"{seconds:.0f} s ({step} steps, {step * batch / len(rows):.1f} epochs)"
