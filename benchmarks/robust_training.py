"""What bfloat16 saves in robust training: python benchmarks/robust_training.py [--device cuda] [--steps 40].

The same training in float32 and in bfloat16, in turns; what counts is the ratio within a round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import torch

from facepoison.adapt import ROBUST
from facepoison.device import device_kind, pick_device, synchronise
from facepoison.extractors.catalog import load_extractor
from facepoison.fine_tuning import fine_tune
from facepoison.pictures.synthetic import make_pictures
from facepoison.protocol import registered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    device = pick_device(options.device)
    torch.set_num_threads(1)
    protocol = registered().protocol
    extractor = load_extractor(protocol["adapting"]["trainer"], options.device)
    pictures = make_pictures(protocol["populations"]["validation"], 20, 4, extractor.contract.size, 1)

    def seconds(bfloat16: bool, steps: int) -> float:
        preset = replace(ROBUST, draws=steps * ROBUST.batch, bfloat16=bfloat16)
        synchronise(device)
        start = time.perf_counter()
        fine_tune(extractor, pictures.pixels, pictures.identities, preset, seed=0)
        synchronise(device)
        return time.perf_counter() - start

    for bfloat16 in (False, True):
        seconds(bfloat16, 2)
    rounds = []
    for _ in range(options.rounds):
        rounds.append([seconds(each, options.steps) - seconds(each, 1) for each in (False, True)])
    full, half = (1e3 * statistics.median(column) / (options.steps - 1) for column in zip(*rounds, strict=True))
    ratio = statistics.median(half / full for full, half in rounds)
    print(
        f"{extractor.name}, {device_kind(options.device)}: a step of {ROBUST.batch} pictures {full:.0f} ms in float32"
    )
    print(f"{half:.0f} ms in bfloat16: ratio {ratio:.2f} (median of {options.rounds} rounds)")


if __name__ == "__main__":
    main()
