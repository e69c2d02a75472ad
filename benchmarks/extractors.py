"""Speed of the own extractors against the limit that poisons set, and of their PReLU against torch's.

python benchmarks/extractors.py [--device cuda] [--batch 28] [--identities 60]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from facepoison.device import device_kind, pick_device, synchronise
from facepoison.extractors.architectures import PReLU
from facepoison.extractors.catalog import catalogue, load_extractor
from facepoison.extractors.train import rank_1
from facepoison.pictures.synthetic import make_pictures

LIMIT = 2.0  # ms for a forward pass and a gradient of one picture at 64 px: poisons take hundreds of both
UNDEFENDED = "arcface_2019"  # never a surrogate, so it may cost more


def milliseconds(step: Callable[[], object], n: int, device: torch.device, rounds: int = 9) -> float:
    """Median wall-clock time a picture of a step over ``n`` pictures."""
    times = []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        step()
        synchronise(device)
        times.append((time.perf_counter() - start) / n * 1000)
    return statistics.median(times[2:])


def gradient_of(network: nn.Module, pictures: torch.Tensor) -> Callable[[], object]:
    """A step that takes the gradient of a network's output with respect to pictures."""
    pictures = pictures.clone().requires_grad_()
    return lambda: torch.autograd.grad(network(pictures).square().sum(), pictures)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=28, help="pictures at a time: two users' galleries")
    parser.add_argument("--identities", type=int, default=60, help="unseen identities, 20 pictures each, for rank-1")
    given = parser.parse_args()
    device = pick_device(given.device)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {device_kind(given.device)}, one thread, batches of {given.batch}")
    print(f"{'extractor':20} {'M weights':>9} {'M mult-adds':>11} {'embed ms':>8} {'gradient ms':>11} {'rank-1':>7}")
    unseen = make_pictures("evaluation", given.identities, 20, 64, 0).pixels.view(given.identities, 20, 3, 64, 64)
    pictures = torch.rand(given.batch, 3, 64, 64, device=device)
    slow = []
    for entry in catalogue().values():
        if entry.kind != "own" or not entry.trained:
            continue
        extractor = load_extractor(entry.name, given.device)
        weights = sum(weight.numel() for weight in extractor.parameters()) / 1e6
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            extractor(pictures[:1])
        with torch.no_grad():
            embedding = milliseconds(lambda net=extractor: net(pictures), given.batch, device)
        gradient = milliseconds(gradient_of(extractor, pictures), given.batch, device)
        accuracy = rank_1(extractor, unseen)
        cost = counter.get_total_flops() / 2e6
        print(f"{entry.name:20} {weights:9.2f} {cost:11.1f} {embedding:8.2f} {gradient:11.2f} {accuracy:7.1%}")
        if entry.name != UNDEFENDED and gradient > LIMIT:
            slow.append(entry.name)
    features = torch.randn(given.batch, 64, 32, 32, device=device).to(memory_format=torch.channels_last)
    ours = milliseconds(gradient_of(PReLU(64).to(device), features), given.batch, device)
    torchs = milliseconds(gradient_of(nn.PReLU(64).to(device), features), given.batch, device)
    print(f"PReLU, forward and gradient of 64 x 32 x 32: {ours:.3f} ms, torch's {torchs:.3f} ms")
    if slow and device.type == "cpu":
        print(f"slower than {LIMIT:g} ms a gradient: {', '.join(slow)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
