"""What several tests start from."""

import pytest
import torch
from tiny import tiny_extractor, tiny_pictures

from facepoison.device import generator
from facepoison.pictures import Pictures
from facepoison.pictures.splits import split
from facepoison.protocol import Data


@pytest.fixture(scope="module")
def surrogates():
    return [tiny_extractor(0), tiny_extractor(1)]


@pytest.fixture(scope="module")
def clean():
    return tiny_pictures(4)


@pytest.fixture
def crowd():
    """Six people with six pictures each, all alike but for noise."""
    pixels = torch.cat([tiny_pictures(1, seed=who).expand(6, -1, -1, -1) for who in range(6)])
    noise = torch.randint(-9, 10, pixels.shape, generator=generator(1, "crowd"))
    pixels = (pixels.short() + noise).clamp(0, 255).to(torch.uint8)
    pictures = Pictures(pixels, torch.arange(6).repeat_interleave(6), tuple("abcdef"))
    gallery, probes = split(pictures, 1)
    return Data(pictures, gallery, probes, (4, 1), {}, pictures)
