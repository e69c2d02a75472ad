"""Other people's formats: the keys that they publish, strict loading, and nothing but weights in a file."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import fingerprint
from facepoison.errors import InputError
from facepoison.extractors import catalog, formats
from facepoison.extractors.formats import IRESNETS, facenet, fill, flat_iresnet, nested_iresnet, read_state

TABLE = """
[theirs]
year = 2021
paper = "A paper"
architecture = "{architecture}"
kind = "other"
format = "{format}"
file = "theirs.pt"
bytes = {bytes}
sha256 = "{sha256}"
licence = "MIT"
source = "somewhere"
prefix = "{prefix}"
drop = [{drop}]
embedding = 512
differentiable = true
size = {size}
colour = "{colour}"
mean = [0.1, 0.2, 0.3]
std = [0.5, 0.6, 0.7]
alignment = "arcface"
"""


def load(folder, *, architecture, format="iresnet", prefix="", drop="", size=112, colour="BGR"):
    """What lies in a folder as theirs.pt, through an entry of a catalogue beside it."""
    path = folder / "theirs.pt"
    fields = {"bytes": path.stat().st_size, "sha256": fingerprint.of_file(path)}
    fields |= {"architecture": architecture, "format": format, "prefix": prefix, "drop": drop, "size": size}
    (folder / "catalog.toml").write_text(TABLE.format(colour=colour, **fields))
    catalog._read.cache_clear()
    return catalog.load_extractor("theirs", "cpu", folder, folder / "catalog.toml")


def shuffled(network):
    """A network whose statistics are not those of its beginning, or a wrong order of them could not be noticed."""
    for key, value in network.state_dict().items():
        if "running" in key or (value.ndim == 1 and value.is_floating_point()):
            value.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture
def narrow(monkeypatch):
    """iResNets of a few channels: their files are small."""
    monkeypatch.setattr(formats, "WIDTHS", (4, 4, 8, 8))


@torch.no_grad()
def test_facenet_loads_without_its_classifier(tmp_path):
    network = shuffled(facenet())
    state = {key: value.half() for key, value in network.state_dict().items()}
    torch.save(state | {"logits.weight": torch.ones(3, 512), "logits.bias": torch.ones(3)}, tmp_path / "theirs.pt")
    extractor = load(tmp_path, architecture="InceptionResnetV1", format="facenet", size=160, colour="RGB")
    pictures = torch.rand(2, 3, 160, 160)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    wanted = network.half().float()((pictures - mean) / std)
    torch.testing.assert_close(extractor(pictures), wanted, rtol=1e-3, atol=1e-4)
    assert wanted.shape == (2, 512)


@pytest.mark.parametrize(
    ("architecture", "prefix", "drop", "head"),
    [
        ("iResNet18 of InsightFace", "", "", {}),
        ("iResNet18 of MagFace", "features.module.", '"fc."', {"fc.weight": torch.ones(2)}),
        ("iResNet18 of AdaFace", "model.", '"head."', {"head.kernel": torch.ones(2), "head.t": torch.ones(1)}),
    ],
)
def test_an_iresnet_loads_from_a_wrapped_checkpoint(tmp_path, narrow, architecture, prefix, drop, head):
    network = shuffled(IRESNETS[architecture]())
    state = {prefix + key: value for key, value in network.state_dict().items()} | head
    torch.save({"state_dict": state, "epoch": 25} if prefix else state, tmp_path / "theirs.pt")
    extractor = load(tmp_path, architecture=architecture, prefix=prefix, drop=drop)
    pictures = torch.rand(2, 3, 112, 112, requires_grad=True)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    wanted = network((pictures.flip(1) - mean) / std)
    torch.testing.assert_close(extractor(pictures), wanted, rtol=1e-4, atol=1e-5)
    assert wanted.shape == (2, 512)
    (grad,) = torch.autograd.grad(extractor(pictures).sum(), pictures)
    assert grad.abs().sum() > 0


@pytest.mark.parametrize(("name", "keys"), [("InsightFace", 925), ("MagFace", 925), ("AdaFace", 917)])
def test_iresnets_are_as_large_as_published(name, keys):
    with torch.device("meta"):
        network = IRESNETS[f"iResNet100 of {name}"]()
    assert sum(weight.numel() for weight in network.parameters()) == pytest.approx(65.15e6, abs=0.02e6)
    assert len(network.state_dict()) == keys


def test_keys_are_those_of_the_published_files():
    with torch.device("meta"):
        flat, nested = flat_iresnet(18).state_dict(), nested_iresnet(18).state_dict()
    for key, shape in {
        "conv1.weight": (64, 3, 3, 3),
        "prelu.weight": (64,),
        "layer1.0.downsample.0.weight": (64, 64, 1, 1),
        "layer1.1.bn3.running_var": (64,),
        "layer4.0.conv2.weight": (512, 512, 3, 3),
        "bn2.bias": (512,),
        "fc.weight": (512, 25088),
        "features.running_mean": (512,),
    }.items():
        assert flat[key].shape == shape
    for key, shape in {
        "input_layer.0.weight": (64, 3, 3, 3),
        "input_layer.2.weight": (64,),
        "body.0.res_layer.3.weight": (64,),
        "body.2.shortcut_layer.0.weight": (128, 64, 1, 1),
        "output_layer.3.weight": (512, 25088),
        "output_layer.4.running_var": (512,),
    }.items():
        assert nested[key].shape == shape
    assert "body.0.shortcut_layer.0.weight" not in nested
    assert "output_layer.4.weight" not in nested


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("bn2.bias"), r"the key 'bn2\.bias' is missing: correct the entry's architecture"),
        (lambda state: state.update(extra=torch.ones(1)), "the key 'extra' is not expected"),
        (lambda state: state.update({"fc.bias": torch.ones(3)}), r"'fc\.bias' is of shape \(3,\), not \(512,\)"),
        (lambda state: state.update({"fc.bias": 3}), r"'fc\.bias' is a int, not a tensor"),
        (lambda state: state.clear(), "holds no state dict"),
    ],
)
def test_loading_is_strict(tmp_path, narrow, change, message):
    state = flat_iresnet(18).state_dict()
    change(state)
    torch.save(dict(state), tmp_path / "theirs.pt")
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path, architecture="iResNet18 of InsightFace")
    assert str(tmp_path / "theirs.pt") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_counters_of_batch_normalisation_may_be_missing(tmp_path, narrow):
    network = flat_iresnet(18)
    state = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    fill(flat_iresnet(18), state, tmp_path)


def test_a_key_without_the_prefix_is_named(tmp_path, narrow):
    torch.save(flat_iresnet(18).state_dict(), tmp_path / "theirs.pt")
    with pytest.raises(InputError, match=r"'conv1\.weight' does not begin with 'model\.'"):
        load(tmp_path, architecture="iResNet18 of InsightFace", prefix="model.")


def test_an_unknown_architecture_is_answered_with_those_there_are(tmp_path, narrow):
    torch.save({"weight": torch.ones(1)}, tmp_path / "theirs.pt")
    with pytest.raises(InputError, match="'iResNet19' is unknown: use one of iResNet18 of InsightFace"):
        load(tmp_path, architecture="iResNet19")
    with pytest.raises(InputError, match="'iResNet19' is unknown: use a model of timm"):
        load(tmp_path, architecture="iResNet19", format="timm")


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class TestPickles:
    def test_code_is_refused_and_not_run(self, tmp_path):
        torch.save({"weight": torch.ones(1), "more": Trap(tmp_path / "sprung")}, tmp_path / "theirs.pt")
        self.refused(tmp_path / "theirs.pt")
        assert not (tmp_path / "sprung").exists()

    def test_a_bare_pickle(self, tmp_path):
        (tmp_path / "theirs.pt").write_bytes(pickle.dumps(Trap(tmp_path / "sprung"), protocol=2))
        self.refused(tmp_path / "theirs.pt")
        assert not (tmp_path / "sprung").exists()

    def test_a_whole_model(self, tmp_path):
        torch.save(nn.Linear(2, 2), tmp_path / "theirs.pt")
        self.refused(tmp_path / "theirs.pt")

    @pytest.mark.parametrize("data", [b"", b"nonsense" * 20, b"PK\x03\x04 cut short"])
    def test_a_damaged_file(self, tmp_path, data):
        (tmp_path / "theirs.pt").write_bytes(data)
        self.refused(tmp_path / "theirs.pt")

    def test_something_else_than_a_state(self, tmp_path):
        torch.save(torch.ones(3), tmp_path / "theirs.pt")
        with pytest.raises(InputError, match="holds no state dict"):
            read_state(tmp_path / "theirs.pt")

    @staticmethod
    def refused(path):
        with pytest.raises(InputError, match=r"torch\.load refuses it with weights_only=True") as caught:
            read_state(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
