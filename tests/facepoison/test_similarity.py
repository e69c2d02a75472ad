import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from facepoison.attacks.similarity import band, blurred, change, dssim, gaussian, psnr, ssim
from facepoison.device import generator
from facepoison.errors import InputError


def pictures(n, size, seed=0, dtype=torch.float32):
    return torch.rand(n, 3, size, size, generator=generator(seed, "similarity"), dtype=dtype)


def plain_ssim(a, b):
    """Structural similarity of two (C, H, W) float64 arrays in [0, 1], window by window, in numpy."""
    taps = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps)
    window /= window.sum()
    values = []
    for channel in range(a.shape[0]):
        for top in range(a.shape[1] - 10):
            for left in range(a.shape[2] - 10):
                x = a[channel, top : top + 11, left : left + 11]
                y = b[channel, top : top + 11, left : left + 11]
                mx, my = (window * x).sum(), (window * y).sum()
                vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
                cov = (window * (x - mx) * (y - my)).sum()
                c1, c2 = 0.01**2, 0.03**2
                values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize("noise", [0.004, 0.05, 0.4])
def test_dssim_is_the_definition(noise):
    a = pictures(2, 20)
    a[1] = a[1] * 0.1 + torch.linspace(0, 0.9, 20)  # smooth, where the constants matter
    b = (a + noise * (pictures(2, 20, 1) - 0.5)).clamp(0, 1)
    expected = [(1 - plain_ssim(x.double().numpy(), y.double().numpy())) / 2 for x, y in zip(a, b, strict=True)]
    assert dssim(a, b).tolist() == pytest.approx(expected, abs=1e-5)


def filtered_ssim(a, b):
    """The same of (C, H, W) arrays by another library's Gaussian, which covers the whole picture and is then cut."""

    def mean(x):
        return gaussian_filter(x, (0, 1.5, 1.5), radius=(0, 5, 5))[:, 5:-5, 5:-5]

    mx, my = mean(a), mean(b)
    vx, vy, cov = mean(a * a) - mx * mx, mean(b * b) - my * my, mean(a * b) - mx * my
    return float(((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx * mx + my * my + 1e-4) * (vx + vy + 9e-4))).mean())


@pytest.mark.parametrize(("height", "width"), [(64, 64), (112, 80)])
@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_dssim_agrees_with_another_implementation_at_full_size(height, width, noise):
    coarse = torch.rand(2, 3, 8, 8, generator=generator(2, "similarity"))
    a = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    b = (a + noise * torch.randn(a.shape, generator=generator(3, "similarity"))).clamp(0, 1)
    expected = [(1 - filtered_ssim(x.double().numpy(), y.double().numpy())) / 2 for x, y in zip(a, b, strict=True)]
    assert min(expected) > 0.001
    assert dssim(a, b).tolist() == pytest.approx(expected, abs=1e-4)


def test_dssim_of_the_same_is_zero_and_of_the_inverse_is_large():
    a = pictures(3, 32)
    assert dssim(a, a).abs().max() < 1e-6
    assert (dssim(a, 1 - a) > 0.5).all()


def test_ssim_counts_valid_positions_only():
    """A change in the outermost row meets the window's smallest taps only: with padding it would count for more."""
    a = torch.full((1, 3, 32, 32), 0.5)
    edge, middle = a.clone(), a.clone()
    edge[..., 0, :] += 0.1
    middle[..., 16, :] += 0.1
    assert dssim(a, edge) < dssim(a, middle) / 100


def test_dssim_gradient_is_right():
    a = pictures(1, 12, dtype=torch.float64)
    b = (a + 0.1 * pictures(1, 12, 1, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dssim(x, a), b)


def autograd_dssim(a, b):
    """The definition by convolutions in plain operations, (N,), for autograd to follow."""
    taps = gaussian(11, 1.5).to(a)
    kernel = torch.outer(taps, taps).expand(3, 1, 11, 11)

    def mean(x):
        return torch.nn.functional.conv2d(x, kernel, groups=3)

    mx, my = mean(a), mean(b)
    vx, vy, cov = mean(a * a) - mx * mx, mean(b * b) - my * my, mean(a * b) - mx * my
    above, below = (2 * mx * my + 1e-4) * (2 * cov + 9e-4), (mx * mx + my * my + 1e-4) * (vx + vy + 9e-4)
    return (1 - (above / below).mean(dim=(1, 2, 3))) / 2


@pytest.mark.parametrize("weights", [(1.0, -2.0, 0.5), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0)])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_dssim_gradient_is_that_of_autograd(weights, dtype, rtol):
    """Whatever each picture counts for, and where it counts for nothing."""
    b = pictures(3, 20, dtype=torch.float64)
    a = (b + 0.1 * pictures(3, 20, 1, dtype=torch.float64)).requires_grad_()
    (expected,) = torch.autograd.grad(autograd_dssim(a, b), a, torch.tensor(weights, dtype=torch.float64))
    here = a.detach().to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    (got,) = torch.autograd.grad(dssim(here, b.to(dtype)), here, torch.tensor(weights, dtype=dtype))
    torch.testing.assert_close(got.double(), expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


def test_each_picture_is_measured_alone():
    a, b = pictures(5, 24), pictures(5, 24, 1)
    together = ssim(a, b)
    assert torch.equal(together, torch.cat([ssim(a[i : i + 1], b[i : i + 1]) for i in range(5)]))
    assert together.shape == (5,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [0, 6])
def test_both_ways_of_blurring_are_the_convolution(dtype, margin):
    a = pictures(2, 21, dtype=dtype)[..., :17]
    taps = gaussian(7, 3.0).to(dtype)
    kernel = torch.outer(taps, taps).expand(3, 1, 7, 7)
    expected = torch.nn.functional.conv2d(a, kernel, padding=margin, groups=3)
    torch.testing.assert_close(blurred(a, 7, 3.0, margin), expected)
    torch.testing.assert_close(blurred(a[0, 0], 7, 3.0, margin), expected[0, 0])
    assert band(21, 7, 3.0, torch.float32, torch.device("cpu")).sum(dim=1).tolist() == pytest.approx([1.0] * 15)


def test_psnr_of_a_known_change():
    a = torch.zeros(2, 3, 16, 16)
    assert psnr(a, a + torch.tensor([0.1, 1.0]).view(2, 1, 1, 1)).tolist() == pytest.approx([20.0, 0.0], abs=1e-4)
    assert math.isinf(psnr(a, a)[0])


def test_change_is_in_levels():
    clean = torch.full((2, 3, 16, 16), 100, dtype=torch.uint8)
    poisoned = clean.clone()
    poisoned[0, 0, 0, 0] = 130
    poisoned[1] += 5
    measured = change(clean, poisoned)
    assert measured.largest.tolist() == pytest.approx([30, 5], abs=1e-4)
    assert measured.mean.tolist() == pytest.approx([30 / 768, 5], abs=1e-4)
    assert measured.psnr[1].item() == pytest.approx(20 * math.log10(255 / 5), abs=1e-3)
    with pytest.raises(InputError, match="round them first"):
        change(clean, poisoned.float())


@pytest.mark.parametrize("shape", [(1, 3, 10, 10), (1, 3, 12, 10)])
def test_too_small_a_picture_is_refused(shape):
    with pytest.raises(InputError, match="less than the 11 px window"):
        ssim(torch.rand(shape), torch.rand(shape))


def test_unlike_shapes_are_refused():
    with pytest.raises(InputError, match="shapes"):
        ssim(torch.rand(1, 3, 16, 16), torch.rand(2, 3, 16, 16))
