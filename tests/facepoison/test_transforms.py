import pytest
import torch
from tiny import tiny_pictures
from torchvision.transforms.v2.functional import gaussian_blur

from facepoison.attacks.similarity import change
from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.pictures import to_float, to_uint8, transforms
from facepoison.pictures.transforms import TRANSFORMATIONS, transform, transform_at_random


@pytest.mark.parametrize("name", list(TRANSFORMATIONS))
@pytest.mark.parametrize("size", [24, 25])
def test_what_befalls_pictures_changes_levels_and_nothing_else(name, size):
    pixels = tiny_pictures(10, size)
    before = pixels.clone()
    after = transform(pixels, name)
    assert (after.shape, after.dtype) == (pixels.shape, torch.uint8)
    assert torch.equal(pixels, before)
    changed = (after != pixels).flatten(1).any(dim=1)
    assert bool((changed == (name != "untransformed")).all())
    assert (change(pixels, after).psnr > 15).all()


@pytest.mark.parametrize("name", [name for name in TRANSFORMATIONS if name != "noise"])
def test_what_befalls_a_picture_does_not_hang_on_its_company(name):
    pixels = tiny_pictures(10)
    apart = torch.cat([transform(pixels[[place]], name) for place in range(10)])
    assert (transform(pixels, name).int() - apart.int()).abs().max() <= 1


def test_jpeg_loses_more_at_lower_quality():
    pixels = tiny_pictures(6)
    lost = [float(change(pixels, transforms.jpeg(pixels, quality)).psnr.mean()) for quality in (98, 95, 85, 75, 60)]
    assert lost == sorted(lost, reverse=True)
    assert len(set(lost)) == len(lost)


def test_saved_twice_is_saved_and_then_saved_again():
    pixels = tiny_pictures(4)
    both = transform(transform(pixels, "JPEG 85"), "JPEG 75")
    assert torch.equal(transform(pixels, "JPEG 85, then 75"), both)
    assert not torch.equal(transform(pixels, "JPEG 75"), both)
    resized = transform(transform(pixels, "resized"), "JPEG 85")
    assert torch.equal(transform(pixels, "resized, JPEG 85"), resized)


def test_smaller_and_back_leaves_coarse_things_and_takes_fine_ones():
    coarse = tiny_pictures(4, 6).repeat_interleave(6, 2).repeat_interleave(6, 3)
    smooth = to_uint8(gaussian_blur(to_float(coarse), [13, 13], [3.0, 3.0]))
    stripes = torch.tensor([60, 190], dtype=torch.uint8).repeat(18).expand(1, 3, 36, 36)
    assert (change(smooth, transforms.shrunk(smooth, 0.5)).psnr > 35).all()
    assert to_float(transforms.shrunk(stripes, 0.4)).std() < 0.3 * to_float(stripes).std()


def test_noise_has_the_asked_deviation_and_repeats_by_seed():
    grey = torch.full((20, 3, 64, 64), 128, dtype=torch.uint8)
    for deviation in (0.01, 0.02, 0.04):
        noise = transforms.noisy(grey, deviation, 1).double() - 128
        expected = ((255 * deviation) ** 2 + 1 / 12) ** 0.5  # what rounding adds
        assert noise.std().item() == pytest.approx(expected, rel=0.02)
        assert noise.mean().item() == pytest.approx(0, abs=0.1)
    assert torch.equal(transforms.noisy(grey, 0.02, 1), transforms.noisy(grey, 0.02, 1))
    assert not torch.equal(transforms.noisy(grey, 0.02, 1), transforms.noisy(grey, 0.02, 2))
    assert torch.equal(transforms.noisy(grey, 0.0, 1), grey)
    assert torch.equal(transforms.noisy(grey, 0.02, 0), transform(grey, "noise"))


def test_sharpening_goes_beyond_an_edge_and_leaves_flat_parts():
    picture = torch.full((1, 3, 24, 24), 100, dtype=torch.uint8)
    picture[..., 12:] = 150
    sharp = transforms.sharpened(picture, 0.8)
    assert (sharp[..., 11] < 100).all()
    assert (sharp[..., 12] > 150).all()
    assert torch.equal(sharp[..., :8], picture[..., :8])
    assert torch.equal(transforms.sharpened(picture, 0.0), picture)


def test_a_beauty_filter_smooths_skin_and_keeps_edges():
    """A Gaussian blur that leaves as little noise blunts the edge."""
    clean = torch.full((1, 3, 48, 48), 90, dtype=torch.uint8)
    clean[..., 24:] = 190
    picture = transforms.noisy(clean, 0.03, 1)

    def left(some):  # noise in flat parts
        flat = to_float(some)[..., 4:20]
        return float(flat.std())

    def edge(some):
        columns = to_float(some).mean(dim=(0, 1, 2))
        return float(columns[24] - columns[23])

    beauty = transforms.beautified(picture, 1.0)
    assert left(beauty) < 0.6 * left(picture)
    tone = lambda some: to_uint8(some**0.9)  # noqa: E731  the light that the filter adds as well
    sigmas = torch.linspace(0.3, 3, 28).tolist()
    blurs = [tone(gaussian_blur(to_float(picture), [15, 15], [sigma] * 2)) for sigma in sigmas]
    alike = next(some for some in blurs if left(some) <= left(beauty))
    assert edge(beauty) > 2 * edge(alike)
    assert edge(beauty) > 0.95 * edge(tone(to_float(clean)))


def test_a_beauty_filter_adds_light_by_its_amount():
    grey = torch.full((1, 3, 16, 16), 100, dtype=torch.uint8)
    light = [int(transforms.beautified(grey, amount)[0, 0, 8, 8]) for amount in (0.0, 0.3, 0.7, 1.0)]
    assert light[0] == 100
    assert light == sorted(set(light))
    flat = transforms.beautified(grey, 0.7)
    assert int(flat.min()) == int(flat.max())  # borders too


def test_a_screenshot_is_more_than_two_resizings():
    pixels = tiny_pictures(6)
    plain, shot = transforms.shrunk(pixels, 1.6), transforms.screenshot(pixels, 1.6, 1.0)
    assert (change(pixels, shot).psnr < change(pixels, plain).psnr - 1).all()
    darker = transforms.screenshot(pixels, 1.6, 1.2)
    assert (to_float(darker).mean(dim=(1, 2, 3)) < to_float(shot).mean(dim=(1, 2, 3))).all()


def test_an_unknown_transformation_is_refused_with_the_list():
    with pytest.raises(
        InputError, match=r"transformation 'JPG' is unknown: use one of untransformed, JPEG 95, .*, screenshot"
    ):
        transform(tiny_pictures(1), "JPG")


@pytest.mark.parametrize(("size", "n"), [(24, 80), (25, 40), (112, 24)])
def test_any_share_of_pictures_is_transformed_at_random_in_place(size, n):
    pixels = tiny_pictures(n, size)
    before = pixels.clone()
    assert torch.equal(transform_at_random(pixels, 0.0, generator(1)), pixels)
    every = transform_at_random(pixels, 1.0, generator(1))
    assert torch.equal(pixels, before)
    assert (every.shape, every.dtype) == (pixels.shape, torch.uint8)
    assert (every != pixels).flatten(1).any(dim=1).double().mean() > 0.9
    nearest = torch.cdist(to_float(every).flatten(1), to_float(pixels).flatten(1)).argmin(dim=1)
    assert torch.equal(nearest, torch.arange(n))


def test_half_of_the_pictures_are_transformed_where_half_is_asked():
    pixels = tiny_pictures(200)
    some = transform_at_random(pixels, 0.5, generator(2))
    assert 0.38 < float((some != pixels).flatten(1).any(dim=1).double().mean()) < 0.62


def test_a_stream_decides_what_happens_to_whom():
    pixels = tiny_pictures(40)
    assert torch.equal(transform_at_random(pixels, 0.8, generator(3)), transform_at_random(pixels, 0.8, generator(3)))
    assert not torch.equal(
        transform_at_random(pixels, 0.8, generator(3)), transform_at_random(pixels, 0.8, generator(4))
    )
    stream = generator(3)
    first, second = (transform_at_random(pixels, 0.8, stream) for _ in range(2))
    assert not torch.equal(first, second)


def test_every_kind_of_transformation_is_met_at_random(monkeypatch):
    met = set()
    for name in ("jpeg", "shrunk", "noisy", "sharpened", "beautified", "screenshot"):
        real = getattr(transforms, name)
        monkeypatch.setattr(transforms, name, lambda *given, name=name, real=real: met.add(name) or real(*given))
    transform_at_random(tiny_pictures(120), 1.0, generator(5))
    assert met == {"jpeg", "shrunk", "noisy", "sharpened", "beautified", "screenshot"}
