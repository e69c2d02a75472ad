"""Where LOWKEY_MSE's weight comes from: python benchmarks/calibrate_lowkey.py [--size 112] [--perceptual mse dssim].

Finds the weight at which poisons of synthetic people from the validation population, who appear in no result, have a
PSNR of 30 dB, and prints what else they then have, beside the one original output that the book knows of.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from facepoison.attacks.lowkey import LOWKEY_MSE, PERCEPTUAL, LowKey, lowkey
from facepoison.attacks.similarity import change
from facepoison.errors import InputError
from facepoison.extractors import Extractor
from facepoison.extractors.catalog import load_extractor
from facepoison.pictures.synthetic import make_pictures
from facepoison.protocol import registered

NEAR = 0.05  # decibels, which is near enough


def weight_for(pixels: Tensor, surrogates: Sequence[Extractor], preset: LowKey, *, seed: int, target: float) -> LowKey:
    """The preset with the weight at which poisons have a given PSNR.

    Takes four times or a quarter of the weight until the target lies between two, then bisects on its logarithm.

    Args:
        pixels: uint8 (N, 3, H, W): pictures of people who appear in no experiment.
        surrogates: As for ``lowkey``.
        preset: Where to start; its weight must be above 0.
        seed: As for ``lowkey``.
        target: Mean PSNR over the pictures, in decibels.

    Raises:
        InputError: 24 tries did not bring the PSNR there.
    """

    def miss(weight: float) -> float:
        poisoned = lowkey(pixels, surrogates, replace(preset, weight=weight), seed=seed)
        return float(change(pixels, poisoned).psnr.mean()) - target

    weight, low, high = preset.weight, 0.0, float("inf")
    for _ in range(24):
        missed = miss(weight)
        if abs(missed) <= NEAR:
            return replace(preset, weight=weight)
        low, high = (weight, high) if missed < 0 else (low, weight)
        weight = 4 * low if high == float("inf") else high / 4 if low == 0 else (low * high) ** 0.5
    raise InputError(f"weight_for: no weight near {preset.weight:g} gives {target:g} dB; start from another weight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=1, help="of each")
    parser.add_argument("--target", type=float, default=30.0, help="mean PSNR in decibels")
    parser.add_argument("--perceptual", nargs="+", default=[LOWKEY_MSE.perceptual], choices=sorted(PERCEPTUAL))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    protocol = registered().protocol
    surrogates = [load_extractor(name) for name in protocol["extractors"]["procedural"]["surrogates"]]
    population = protocol["populations"]["validation"]
    pixels = make_pictures(population, options.people, options.pictures, options.size, options.seed).pixels

    def show(preset: LowKey) -> None:
        size = change(pixels, lowkey(pixels, surrogates, preset, seed=options.seed))
        print(
            f"{preset.perceptual} weight {preset.weight:.4g}: PSNR {size.psnr.mean():.2f} dB "
            f"({size.psnr.min():.1f} to {size.psnr.max():.1f}), SSIM {1 - 2 * size.dssim.mean():.3f}, "
            f"mean change {size.mean.mean():.2f} and largest {size.largest.max():.0f} levels",
            flush=True,
        )

    print(f"{len(pixels)} pictures at {options.size} px; surrogates {', '.join(s.name for s in surrogates)}")
    print("original output (one picture): PSNR 30.0 dB, SSIM 0.86, mean change 5.6 and largest 33 levels")
    show(LOWKEY_MSE)
    for name in options.perceptual:
        preset = replace(LOWKEY_MSE, perceptual=name)
        show(weight_for(pixels, surrogates, preset, seed=options.seed, target=options.target))


if __name__ == "__main__":
    main()
