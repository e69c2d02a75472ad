"""What detectors cost beside an embedding: python benchmarks/detectors.py [--device cuda] [--batch 64] [--rounds 15].

Milliseconds a picture of both networks and of the statistics behind the baselines, in turns with an embedding by the
undefended trainer's extractor; what counts is the ratio within a round. Weights do not change the time: where the
book's detectors are not there, random ones are timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from facepoison import baselines, detect
from facepoison.detect import Detector
from facepoison.device import device_kind, pick_device, synchronise, versions
from facepoison.errors import InputError
from facepoison.extractors import embed
from facepoison.extractors.catalog import load_extractor
from facepoison.pictures.synthetic import make_pictures

UNDEFENDED = "arcface_2019"


def milliseconds(step: Callable[[], object], n: int, device: torch.device) -> float:
    """Wall-clock time a picture of a step over ``n`` pictures."""
    synchronise(device)
    start = time.perf_counter()
    step()
    synchronise(device)
    return (time.perf_counter() - start) / n * 1000


def load(name: str, residual: bool, device: torch.device) -> Detector:
    """The book's detector, or one with random weights."""
    try:
        detector = detect.load_detector(name)
    except InputError:
        print(f"{name}: no file, random weights")
        detector = Detector(residual).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return detector.to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=64, help=f"pictures at a time, {detect.ASKED} at most")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    device, batch = pick_device(options.device), min(options.batch, detect.ASKED)
    pixels = make_pictures("benchmark", batch, 1, options.size, seed=1).pixels
    extractor = load_extractor(UNDEFENDED, device=options.device)
    plain, residual = load("network", False, device), load("residual", True, device)
    steps: dict[str, Callable[[], object]] = {
        f"embedding by {UNDEFENDED}": lambda: embed(extractor, pixels, batch),
        "network on pictures": lambda: detect.scores(plain, pixels),
        "network on residuals": lambda: detect.scores(residual, pixels),
        "36 statistics (on the CPU)": lambda: baselines.statistics(pixels),
    }
    for step in steps.values():
        step()
    rounds = [[milliseconds(step, batch, device) for step in steps.values()] for _ in range(options.rounds)]
    libraries = ", ".join(f"{name} {number}" for name, number in versions().items() if name in ("python", "torch"))
    where = f"{device_kind(options.device)}, threads: {options.threads}"
    print(f"{libraries}; {where}; batches of {batch} at {options.size} px, median of {options.rounds} rounds")
    print(f"{'step':26} {'ms a picture':>12} {'ratio':>6}")
    for place, name in enumerate(steps):
        ratio = statistics.median(times[place] / times[0] for times in rounds)
        print(f"{name:26} {statistics.median(times[place] for times in rounds):12.3f} {ratio:6.2f}")


if __name__ == "__main__":
    main()
