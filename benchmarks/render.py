"""Speed of the book's own faces against the limit of 20 ms a picture at 64 px on one CPU core.

python benchmarks/render.py [--device cuda] [--batch 16] [--pictures 96]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch

from facepoison.device import batches, device_kind, pick_device, synchronise
from facepoison.pictures.synthetic import BATCH
from syntheticfaces import draw_nuisance, draw_people, render

LIMIT = 20.0  # ms a picture at 64 px on one CPU core


def milliseconds(size: int, n: int, batch: int, device: torch.device, rounds: int = 5) -> tuple[float, float]:
    """Median and fastest wall-clock time a picture over some rounds, drawing of parameters included."""
    times = []
    for turn in range(rounds + 1):
        start = time.perf_counter()
        people = draw_people("benchmark", turn * n, n, 1).to(device)
        nuisance = draw_nuisance("benchmark", turn * n, n, 1, 1).to(device)
        for some in batches(n, batch):
            render(people[some], nuisance[some], size)
        synchronise(device)
        times.append((time.perf_counter() - start) / n * 1000)
    return statistics.median(times[1:]), min(times[1:])  # the first round warms caches


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--pictures", type=int, default=96, help="pictures a round")
    given = parser.parse_args()
    device = pick_device(given.device)
    batch = given.batch or (BATCH if device.type == "cpu" else 512)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {device_kind(given.device)}, one thread, batches of {batch}")
    print("size   median ms   fastest ms")
    slow = False
    for size in (64, 112, 160):
        median, fastest = milliseconds(size, given.pictures, batch, device)
        print(f"{size:4d}   {median:9.2f}   {fastest:10.2f}")
        slow |= size == 64 and device.type == "cpu" and fastest > LIMIT
    if slow:
        print(f"slower than {LIMIT:g} ms a picture at 64 px", file=sys.stderr)
    return int(slow)


if __name__ == "__main__":
    raise SystemExit(main())
