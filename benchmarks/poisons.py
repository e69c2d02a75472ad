"""Seconds a picture for each attack, by batch size: python benchmarks/poisons.py [--extractors FOLDER] [--device cuda].

Times the steps themselves: runs an attack with few and with more steps and scales the difference up to the preset, so
that start-up and the first pass, which costs more than the others, do not count. Every number is the fastest of
``--repeats`` tries.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from facepoison.device import synchronise
from facepoison.extractors.catalog import load_extractor
from facepoison.pictures.procedural import make_pictures
from facepoison.poisons.fawkes import FAWKES_V1_HIGH, fawkes_v1
from facepoison.poisons.lowkey import LOWKEY, lowkey
from facepoison.protocol import read_protocol

FEW, MORE = 2, 8


def seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        run()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extractors", type=Path, help="folder of other people's extractors; default: the book's own")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", type=int, nargs="+", help="pixels; default: 64 for own extractors, 112 for others")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    names = read_protocol()["extractors"]["other" if options.extractors else "procedural"]["surrogates"]
    surrogates = [load_extractor(name, device=options.device, folder=options.extractors) for name in names]
    device = surrogates[0].mean.device
    print(f"{', '.join(names)} on {device}, {options.threads} threads; seconds a picture, one line a batch size")
    for size in options.size or ([112] if options.extractors else [64]):
        pixels = make_pictures("benchmark", max(options.batches), 1, size, seed=1).pixels.to(device)
        for batch in options.batches:
            some = pixels[:batch]
            line = [f"{size} px, batch {batch:3d}"]
            for attack, preset in ((fawkes_v1, FAWKES_V1_HIGH), (lowkey, LOWKEY)):
                run = partial(attack, some, surrogates, seed=1, batch=batch)
                few, more = (
                    seconds(partial(run, replace(preset, steps=steps)), device, options.repeats)
                    for steps in (FEW, MORE)
                )
                line.append(f"{preset.name} {(more - few) / (MORE - FEW) * preset.steps / batch:.3f}")
            print("; ".join(line), flush=True)


if __name__ == "__main__":
    main()
