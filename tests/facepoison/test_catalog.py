"""The catalogue, its checks of files, and ONNX extractors behind a contract."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

import fingerprint
from facepoison.errors import InputError
from facepoison.extractors import Extractor, Preprocessing, catalog, embed, normalise
from facepoison.extractors.architectures import ARCHITECTURES
from facepoison.extractors.catalog import catalogue, check_file, find_entry, load_extractor, record, selftest
from facepoison.extractors.onnx_files import differentiable, load_onnx

REAL = Path(os.environ.get("FACEPOISON_REAL", fingerprint.LIB.parents[1] / "shared" / "real")) / "models"
OWN = [entry.name for entry in catalogue().values() if entry.kind == "own" and entry.trained]
OTHER = [each.name for each in catalogue().values() if each.kind == "other" and (REAL / each.file).is_file()]
CONTRACT = Preprocessing(size=8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0))
MATRIX = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)

TABLE = """
[small]
year = 2018
paper = "A paper"
architecture = "narrow SE-ResNet"
kind = "own"
format = "safetensors"
file = "small.safetensors"
bytes = 0
sha256 = "none"
licence = "MIT"
source = "python -m facepoison train small"
embedding = 128
differentiable = true
size = 64
colour = "RGB"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
alignment = "rendered"
"""


def save_tiny_onnx(path, dynamic=False):
    """Mean colour times a matrix; ``dynamic`` adds a limit that is computed in the graph, which onnx2torch refuses."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["product" if dynamic else "y"]),
    ]
    if dynamic:
        nodes.append(helper.make_node("ReduceMax", ["product"], ["top"], keepdims=0))
        nodes.append(helper.make_node("Clip", ["product", "", "top"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(MATRIX, "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


@pytest.fixture(params=["converted", "black box", "not convertible"])
def tiny(request, tmp_path):
    """The same extractor by three ways, and whether gradients flow through it."""
    save_tiny_onnx(tmp_path / "tiny.onnx", dynamic=request.param == "not convertible")
    extractor = load_onnx(tmp_path / "tiny.onnx", CONTRACT, black_box=request.param == "black box", device="cpu")
    return extractor, request.param == "converted"


def save_single_onnx(path, target=(1, -1), turned=False, centred=False):
    """The same, exported for one picture; ``turned`` moves the batch from its place, ``centred`` computes across it."""
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["pooled"])]
    if turned:
        nodes.append(helper.make_node("Transpose", ["pooled"], ["seen"], perm=[1, 0, 2, 3]))
    elif centred:
        nodes.append(helper.make_node("ReduceMax", ["pooled"], ["top"], axes=[0]))
        nodes.append(helper.make_node("Mul", ["pooled", "top"], ["seen"]))
    else:
        nodes.append(helper.make_node("Relu", ["pooled"], ["seen"]))
    nodes.append(helper.make_node("Reshape", ["seen", "target"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "matrix"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "single",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(MATRIX, "matrix"), numpy_helper.from_array(np.array(target), "target")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def expected(pictures, contract=CONTRACT):
    normalised = (pictures - torch.tensor(contract.mean).view(3, 1, 1)) / torch.tensor(contract.std).view(3, 1, 1)
    return normalised.mean((2, 3)) @ torch.from_numpy(MATRIX)


class TestOnnx:
    def test_gives_the_embeddings_of_its_graph(self, tiny):
        extractor, _ = tiny
        pictures = torch.rand(4, 3, 8, 8)
        torch.testing.assert_close(extractor(pictures), expected(pictures), rtol=1e-5, atol=1e-6)
        assert extractor.name == "tiny"
        assert len(extractor.sha256) == 64

    def test_gradients_flow_or_are_refused_in_one_line(self, tiny):
        extractor, flows = tiny
        assert differentiable(extractor) == flows
        pictures = torch.rand(2, 3, 8, 8).requires_grad_()
        total = extractor(pictures).sum()
        if flows:
            (grad,) = torch.autograd.grad(total, pictures)
            wanted = torch.from_numpy(MATRIX).sum(1) / torch.tensor(CONTRACT.std) / 64
            torch.testing.assert_close(grad, wanted.view(1, 3, 1, 1).expand_as(grad))
        else:
            with pytest.raises(InputError, match=r"no gradients.*do not use it as a surrogate"):
                total.backward()

    def test_embeds_uint8_pictures_without_gradients(self, tiny):
        extractor, _ = tiny
        embeddings = embed(extractor, torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8))
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))

    @pytest.mark.parametrize("target", [(1, -1), (1, 3), (-1, 3)])
    @pytest.mark.parametrize("black_box", [False, True])
    def test_a_graph_exported_for_one_picture_takes_many(self, tmp_path, target, black_box):
        save_single_onnx(tmp_path / "single.onnx", target)
        extractor = load_onnx(tmp_path / "single.onnx", replace(CONTRACT, mean=(0.0,) * 3), black_box=black_box)
        pictures = torch.rand(4, 3, 8, 8)
        wanted = expected(pictures, extractor.contract)
        torch.testing.assert_close(extractor(pictures), wanted, rtol=1e-5, atol=1e-6)
        assert differentiable(extractor) != black_box

    @pytest.mark.parametrize(("how", "said"), [("turned", "takes no more pictures"), ("centred", "mixes pictures")])
    def test_a_graph_that_needs_its_pictures_one_by_one_is_refused(self, tmp_path, how, said):
        save_single_onnx(tmp_path / "single.onnx", **{how: True})
        with pytest.raises(InputError, match=rf"single\.onnx: {said}.*open first dimension"):
            load_onnx(tmp_path / "single.onnx", CONTRACT)
        box = load_onnx(tmp_path / "single.onnx", CONTRACT, black_box=True)
        pictures = torch.rand(3, 3, 8, 8)
        torch.testing.assert_close(box(pictures), torch.cat([box(picture[None]) for picture in pictures]))

    def test_another_size_than_the_contract_says(self, tmp_path):
        save_tiny_onnx(tmp_path / "tiny.onnx")
        with pytest.raises(
            InputError, match=r"takes pictures of shape \[0, 3, 8, 8\], its contract says \(N, 3, 16, 16"
        ):
            load_onnx(tmp_path / "tiny.onnx", replace(CONTRACT, size=16))

    @pytest.mark.parametrize("data", [b"", b"nonsense" * 20, b"<!DOCTYPE html><html></html>"])
    def test_a_file_that_is_no_model(self, tmp_path, data):
        path = tmp_path / "bad.onnx"
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"bad\.onnx: is no whole ONNX model"):
            load_onnx(path, CONTRACT)

    def test_a_truncated_model(self, tmp_path):
        path = tmp_path / "cut.onnx"
        save_tiny_onnx(path)
        path.write_bytes(path.read_bytes()[:-60])
        with pytest.raises(InputError, match=r"cut\.onnx: is no whole ONNX model"):
            load_onnx(path, CONTRACT)

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(InputError, match=r"none\.onnx: there is no such file"):
            load_onnx(tmp_path / "none.onnx", CONTRACT)


class TestSelftest:
    @pytest.fixture
    def case(self, tmp_path):
        save_tiny_onnx(tmp_path / "tiny.onnx")
        pictures = torch.rand(4, 3, 8, 8)
        pictures[:, 0] *= 0.5  # colours that differ, or a wrong order could not be noticed
        pictures[0, :, 0, 0], pictures[0, :, 0, 1] = 0.0, 1.0
        mean, std = (torch.tensor(some).view(3, 1, 1) for some in (CONTRACT.mean, CONTRACT.std))
        np.savez(tmp_path / "test.npz", x=((pictures - mean) / std).numpy(), y=expected(pictures).numpy())
        return tmp_path / "tiny.onnx", tmp_path / "test.npz"

    def test_the_right_contract_agrees(self, case):
        assert selftest(load_onnx(case[0], CONTRACT), case[1]) < 1e-5

    def test_a_wrong_range_is_noticed(self, case):
        wrong = replace(CONTRACT, mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)
        with pytest.raises(InputError, match="not 0 to 1: correct the contract's mean and std"):
            selftest(load_onnx(case[0], wrong), case[1])

    def test_a_wrong_size_is_noticed(self, case):
        extractor = load_onnx(case[0], CONTRACT)
        extractor.contract = replace(CONTRACT, size=16)
        with pytest.raises(InputError, match="x is 8 wide, the contract says 16"):
            selftest(extractor, case[1])

    def test_a_wrong_colour_order_is_noticed(self, case):
        wrong = replace(CONTRACT, colour="BGR", mean=CONTRACT.mean[::-1], std=CONTRACT.std[::-1])
        assert selftest(load_onnx(case[0], wrong), case[1]) > 0.01

    def test_a_wrong_colour_order_changes_embeddings(self, case):
        pictures = torch.rand(4, 3, 8, 8) * torch.tensor([1.0, 0.6, 0.2]).view(3, 1, 1)
        right, wrong = (load_onnx(case[0], replace(CONTRACT, colour=order)) for order in ("RGB", "BGR"))
        torch.testing.assert_close(wrong(pictures.flip(1)), right(pictures))
        assert (wrong(pictures) - right(pictures)).norm() > 0.1 * right(pictures).norm()


@pytest.fixture
def small(tmp_path):
    """A catalogue of one own extractor with its file, in a folder of its own."""
    torch.manual_seed(0)
    network = ARCHITECTURES["narrow SE-ResNet"]().eval()
    state = {key: value.half() for key, value in network.state_dict().items() if value.is_floating_point()}
    save_file(state, tmp_path / "small.safetensors")
    file = tmp_path / "catalog.toml"
    file.write_text(TABLE + TABLE.replace("small", "other"))
    record("small", tmp_path / "small.safetensors", file)
    return file, network


class TestOwnFiles:
    def test_load_gives_what_was_saved(self, small):
        file, network = small
        extractor = load_extractor("small", "cpu", file.parent, file)
        pictures = torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            wanted = network.half().float()(pictures * 2 - 1)
        torch.testing.assert_close(extractor(pictures), wanted, rtol=1e-3, atol=1e-3)
        assert extractor.sha256 == fingerprint.of_file(file.parent / "small.safetensors")
        assert not any(weight.requires_grad for weight in extractor.parameters())

    def test_record_changes_only_its_own_entry(self, small):
        file, _ = small
        entries = catalogue(file)
        assert entries["small"].bytes == (file.parent / "small.safetensors").stat().st_size
        assert entries["other"].sha256 == "none"
        text = file.read_text().replace(entries["small"].sha256, "none").replace(str(entries["small"].bytes), "0")
        assert text == TABLE + TABLE.replace("small", "other")

    def test_missing(self, small):
        file, _ = small
        (file.parent / "small.safetensors").unlink()
        with pytest.raises(InputError, match=r"the weights of small are not there: .*train small"):
            load_extractor("small", folder=file.parent, file=file)

    def test_not_trained(self, small):
        file, _ = small
        assert not find_entry("other", file).trained
        with pytest.raises(InputError, match="other has not been trained: run 'python -m facepoison train other'"):
            load_extractor("other", folder=file.parent, file=file)

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda data: data[:-1], "is cut short, [0-9]+ of [0-9]+ bytes"),
            (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "is not the file that the catalogue names"),
            (lambda data: b"\n<!DOCTYPE html><title>404</title>" + data, "is a web page, not weights"),
            (lambda data: b"<html>", "is a web page, not weights"),
            (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of git-lfs"),
        ],
    )
    def test_damaged(self, small, damage, message):
        file, _ = small
        path = file.parent / "small.safetensors"
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(InputError, match=message) as caught:
            load_extractor("small", folder=file.parent, file=file)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


class TestCatalogue:
    def test_holds_own_extractors_first_and_complete(self):
        entries = catalogue()
        assert next(iter(entries)) == "arcface_2019"
        assert len(OWN) >= 3
        assert len({entries[name].architecture for name in OWN}) >= 3
        for entry in entries.values():
            assert entry.paper
            assert entry.licence
            assert entry.source
            assert 2014 <= entry.year <= 2026
            assert len(entry.sha256) == 64 or not entry.trained, entry.name

    @pytest.mark.parametrize("name", OWN)
    def test_own_extractors_load_and_are_small(self, name):
        entry = find_entry(name)
        extractor = load_extractor(name, "cpu")
        embeddings = embed(extractor, torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
        assert embeddings.shape == (2, entry.embedding)
        assert entry.bytes < 5e6

    def test_an_unknown_name_is_answered_with_those_there_are(self):
        with pytest.raises(InputError, match=r"'resnet' is unknown: use one of arcface_2019, vggface2_2018"):
            load_extractor("resnet")

    def test_other_extractors_need_a_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("FACEPOISON_CACHE", str(tmp_path))
        with pytest.raises(InputError, match=r"give the folder that holds mobileface_v2_2018\.onnx"):
            load_extractor("mobileface_v2_2018")

    def test_what_was_never_loaded_here_has_no_hash_and_is_refused(self, tmp_path):
        unverified = [entry for entry in catalogue().values() if entry.kind == "other" and not entry.hashed]
        assert len(unverified) >= 4
        for entry in unverified:
            assert (entry.bytes, entry.sha256) == (0, "")
            (tmp_path / entry.file).write_bytes(b"whatever")
            with pytest.raises(InputError, match=f"extractor '{entry.name}' is unverified"):
                load_extractor(entry.name, folder=tmp_path)

    @pytest.mark.parametrize(
        "change",
        [
            ("kind = ", "kid = "),
            ('"own"', '"mine"'),
            ("size = 64", ""),
            ("[small]", "[small"),
            ("year", "extra = 1\nyear"),
        ],
    )
    def test_a_faulty_entry_is_named_with_its_file(self, tmp_path, change):
        file = tmp_path / "catalog.toml"
        file.write_text(TABLE.replace(*change, 1))
        with pytest.raises(InputError, match=r"catalog\.toml: the catalogue cannot be read"):
            catalogue(file)


def refit(extractor, **changes):
    """The same network under a contract with something changed."""
    contract = replace(extractor.contract, **changes)
    return Extractor(extractor.network, contract, name=extractor.name, sha256=extractor.sha256)


if REAL.is_dir():  # other people's extractors are not part of the project: without them these tests do not exist

    @pytest.mark.parametrize("name", OTHER)
    def test_other_extractors_reproduce_their_selftests(name):
        extractor = load_extractor(name, "cpu", REAL)
        assert selftest(extractor, REAL / f"{name}.selftest.npz", find_entry(name).selftest_colour) < 1e-4
        assert differentiable(extractor) == find_entry(name).differentiable

    @pytest.mark.parametrize("name", OTHER)
    def test_their_wrong_contracts_are_noticed(name):
        extractor, test = load_extractor(name, "cpu", REAL), REAL / f"{name}.selftest.npz"
        right, order = extractor.contract, find_entry(name).selftest_colour
        other_order = "BGR" if right.colour == "RGB" else "RGB"
        backwards = refit(extractor, colour=other_order, mean=right.mean[::-1], std=right.std[::-1])
        assert selftest(backwards, test, order) > 0.01
        other = (0.5,) * 3 if right.mean[0] == 0 else (0.0,) * 3
        with pytest.raises(InputError, match="correct the contract's mean and std"):
            selftest(refit(extractor, mean=other, std=(0.5,) * 3 if any(other) else (1.0,) * 3), test)
        with pytest.raises(InputError, match="x is 112 wide, the contract says 160"):
            selftest(refit(extractor, size=160), test)

    @pytest.mark.parametrize("name", OTHER)
    def test_their_wrong_crop_is_noticed(name):
        extractor = load_extractor(name, "cpu", REAL)
        with np.load(REAL / f"{name}.selftest.npz") as arrays:
            pictures = torch.from_numpy(arrays["x"]) * extractor.std + extractor.mean
            if find_entry(name).selftest_colour == "BGR":
                pictures = pictures.flip(1)
            wanted = torch.from_numpy(arrays["y"])
        with torch.no_grad():
            got = extractor(pictures[..., 8:-8, 8:-8])
        assert (got - wanted).norm() > 0.05 * wanted.norm()

    def test_gradients_flow_through_edgeface():
        extractor = load_extractor("edgeface_xs_2023", "cpu", REAL)
        pictures = torch.rand(2, 3, 112, 112, requires_grad=True)
        wanted = torch.nn.functional.normalize(torch.randn(2, 512, generator=torch.Generator().manual_seed(0)))

        def score(some):
            return (normalise(extractor(some)) * wanted).sum()

        before = score(pictures)
        (grad,) = torch.autograd.grad(before, pictures)
        step = 1e-2 * grad / grad.norm()
        with torch.no_grad():  # along the gradient the score grows by as much as the gradient says
            rise = score(pictures + step) - score(pictures - step)
        assert float(rise) == pytest.approx(2e-2 * float(grad.norm()), rel=0.05)

    def test_faceplugin_takes_pictures_together_as_one_by_one_and_gives_gradients():
        extractor = load_extractor("faceplugin_2023", "cpu", REAL)
        pictures = torch.rand(4, 3, 112, 112, generator=torch.Generator().manual_seed(0)).requires_grad_()
        together = extractor(pictures)
        alone = torch.cat([extractor(picture[None]) for picture in pictures])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
        (grad,) = torch.autograd.grad(together[:2].sum(), pictures)
        assert bool((grad[:2].flatten(1).norm(dim=1) > 0).all())
        assert float(grad[2:].abs().max()) == 0

    def test_a_graph_that_does_not_convert_runs_as_a_black_box():
        entry = find_entry("edgeface_xs_2023")
        extractor = load_onnx(REAL / "edgeface_xs_2023.onnx", entry.contract, device="cpu")
        assert not differentiable(extractor)
        assert selftest(extractor, REAL / "edgeface_xs_2023.selftest.npz") < 1e-4

    def test_a_name_with_another_extractors_file_is_refused(tmp_path):
        (tmp_path / "mobileface_v3_2019.onnx").symlink_to(REAL / "mobileface_v2_2018.onnx")
        with pytest.raises(InputError, match="is not the file that the catalogue names"):
            check_file(tmp_path / "mobileface_v3_2019.onnx", catalog.find_entry("mobileface_v3_2019"))
