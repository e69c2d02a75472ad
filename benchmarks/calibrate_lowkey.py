"""Where LOWKEY_MSE's weight comes from: python benchmarks/calibrate_lowkey.py [--size 112] [--perceptual mse dssim].

Finds the weight at which poisons of synthetic people from the validation population, who appear in no result, have a
PSNR of 30 dB, and prints what else they then have, beside the one original output that the book knows of.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from facepoison.attacks.lowkey import LOWKEY_MSE, PERCEPTUAL, LowKey, lowkey, weight_for
from facepoison.attacks.similarity import change
from facepoison.extractors.catalog import load_extractor
from facepoison.pictures.synthetic import make_pictures
from facepoison.protocol import read_protocol


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=1, help="of each")
    parser.add_argument("--target", type=float, default=30.0, help="mean PSNR in decibels")
    parser.add_argument("--perceptual", nargs="+", default=[LOWKEY_MSE.perceptual], choices=sorted(PERCEPTUAL))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    protocol = read_protocol()
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
