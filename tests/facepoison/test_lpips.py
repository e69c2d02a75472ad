import io
import pickle
import subprocess
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_extractor

from facepoison.attacks import lpips
from facepoison.attacks.lowkey import LOWKEY, lowkey
from facepoison.attacks.similarity import change
from facepoison.errors import InputError

KERNELS = ((64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3))


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def weights():
    """Random ones of the published shapes, about as large as those that keep a picture's contrast alive."""
    found = {}
    for place, (out, into, size) in enumerate(KERNELS):
        spread = (2 / (into * size * size)) ** 0.5
        found[f"conv{place}.weight"] = spread * torch.randn(out, into, size, size, generator=stream(place))
        found[f"conv{place}.bias"] = 0.1 * torch.randn(out, generator=stream(10 + place))
        found[f"linear{place}"] = torch.rand(out, 1, 1, generator=stream(20 + place))
    return found


@pytest.fixture
def published(weights, monkeypatch, tmp_path):
    """A cache of downloads, and random weights in the place of the published ones, which are not in it yet."""
    monkeypatch.setenv("FACEPOISON_CACHE", str(tmp_path))
    monkeypatch.setattr(lpips, "CONTENT", lpips.content(weights))
    lpips.lpips_weights.cache_clear()
    yield tmp_path / lpips._FILE
    lpips.lpips_weights.cache_clear()


def pickled(weights):
    """Weights as the package has them: numpy arrays with the channels last, in dictionaries."""
    tree = {"AlexNet_0": {}}
    for place in range(5):
        kernel = weights[f"conv{place}.weight"].permute(2, 3, 1, 0).contiguous().numpy()
        tree["AlexNet_0"][f"Conv_{place}"] = {"kernel": kernel, "bias": weights[f"conv{place}.bias"].numpy()}
        linear = weights[f"linear{place}"].reshape(1, 1, -1, 1).numpy()
        tree[f"NetLinLayer_{place}"] = {"Conv_0": {"kernel": linear}}
    return pickle.dumps(tree)


def archive(folder, weights):
    """A source archive with the weights where the package has them."""
    path = folder / "archive.tar.gz"
    with tarfile.open(path, "w:gz") as files:
        content = pickled(weights)
        member = tarfile.TarInfo(lpips.MEMBER)
        member.size = len(content)
        files.addfile(member, io.BytesIO(content))
    return path


def windows(x, size, stride):
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]


def reference(picture, other, weights):
    """LPIPS from its definition, of two (3, H, W) arrays in [-1, 1], in numpy and double precision."""
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    total, both = 0.0, [(x - shift[:, None, None]) / scale[:, None, None] for x in (picture, other)]
    for place, (stride, padding, pool) in enumerate([(4, 2, 0), (1, 2, 1), (1, 1, 1), (1, 1, 0), (1, 1, 0)]):
        kernel, bias = (weights[f"conv{place}.{name}"].double().numpy() for name in ("weight", "bias"))
        for side, x in enumerate(both):
            pooled = windows(x, 3, 2).max(axis=(3, 4)) if pool else x
            padded = np.pad(pooled, ((0, 0), (padding, padding), (padding, padding)))
            seen = np.einsum("chwij,ocij->ohw", windows(padded, kernel.shape[-1], stride), kernel)
            both[side] = np.maximum(seen + bias[:, None, None], 0)
        one, two = (x / (np.sqrt((x**2).sum(axis=0)) + 1e-10) for x in both)
        total += (weights[f"linear{place}"].double().numpy() * (one - two) ** 2).sum(axis=0).mean()
    return total


def test_it_is_what_its_definition_says(weights):
    pictures, others = torch.rand(2, 3, 48, 40, generator=stream(1)), torch.rand(2, 3, 48, 40, generator=stream(2))
    found = lpips.distance_to(others, weights)(pictures)
    for got, one, two in zip(found, pictures, others, strict=True):
        expected = reference(*(2 * x.double().numpy() - 1 for x in (one, two)), weights)
        assert float(got) == pytest.approx(expected, rel=1e-4)


def test_equal_pictures_are_at_no_distance_and_have_a_gradient(weights):
    picture = torch.rand(1, 3, 32, 32, generator=stream(3)).requires_grad_()
    found = lpips.distance_to(picture.detach(), weights)(picture)
    (gradient,) = torch.autograd.grad(found.sum(), picture)
    assert float(found.detach()) == 0
    assert bool(gradient.isfinite().all())


def test_pictures_that_pooling_leaves_nothing_of_are_refused_and_no_others(weights):
    assert lpips.distance_to(torch.rand(1, 3, lpips._LEAST, 40), weights)(torch.rand(1, 3, lpips._LEAST, 40)) > 0
    for height, width in ((lpips._LEAST - 1, 40), (40, lpips._LEAST - 1)):
        with pytest.raises(InputError, match=rf"{height} x {width} px.*at least 31 px a side.*LOWKEY_MSE"):
            lpips.distance_to(torch.rand(1, 3, height, width), weights)


def test_the_packages_pickle_gives_our_weights_and_nothing_else_is_admitted(weights):
    read = lpips.unpickled(pickled(weights))
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name]) for name in weights)

    class Harm:
        def __reduce__(self):
            return print, ("harm",)

    with pytest.raises(InputError, match=r"builtins\.print"):
        lpips.unpickled(pickle.dumps({"AlexNet_0": Harm()}))


def test_weights_are_fetched_once_and_held_against_their_hash(weights, published, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(lpips, "_download", lambda folder: asked.append(folder) or archive(folder, weights))
    with pytest.raises(InputError, match="facepoison fetch lpips"):
        lpips.lpips_weights(torch.device("cpu"))
    assert lpips.fetch_lpips() == lpips.fetch_lpips() == published
    assert len(asked) == 1
    assert lpips.content(lpips.lpips_weights(torch.device("cpu"))) == lpips.CONTENT
    monkeypatch.setattr(lpips, "CONTENT", "another")
    lpips.lpips_weights.cache_clear()
    with pytest.raises(InputError, match="other weights"):
        lpips.lpips_weights(torch.device("cpu"))
    before = published.read_bytes()
    with pytest.raises(InputError, match="are not those of LPIPS"):
        lpips.fetch_lpips()
    assert published.read_bytes() == before


def test_pip_gets_the_archive_by_its_hash_or_says_why_not(published, monkeypatch):
    commands = []

    def refuse(command, **how):
        commands.append((command, open(command[-1]).read()))  # noqa: SIM115
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no such package\n")

    monkeypatch.setattr(lpips.subprocess, "run", refuse)
    with pytest.raises(InputError, match="no such package"):
        lpips.fetch_lpips()
    ((command, wanted),) = commands
    assert "--require-hashes" in command
    assert wanted == f"{lpips.PACKAGE}=={lpips.VERSION} --hash=sha256:{lpips.ARCHIVE}\n"
    assert not published.exists()


def test_lowkey_is_held_back_by_it_and_says_what_to_do_without(weights, published, monkeypatch):
    pixels = torch.randint(0, 256, (2, 3, 32, 32), generator=stream(4), dtype=torch.uint8)
    preset, surrogates = replace(LOWKEY, steps=10), [tiny_extractor(1, 32)]
    with pytest.raises(InputError, match="facepoison fetch lpips"):
        lowkey(pixels, surrogates, preset, seed=1)
    monkeypatch.setattr(lpips, "_download", lambda folder: archive(folder, weights))
    lpips.fetch_lpips()
    loud = [
        change(pixels, lowkey(pixels, surrogates, replace(preset, weight=weight), seed=1)).psnr.mean()
        for weight in (0.0, 1000.0)
    ]
    assert loud[0] + 1 < loud[1]
