"""The command line: what it prints, and how it ends on bad input."""

import json
from dataclasses import replace
from importlib import metadata

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from facepoison.cli import app
from facepoison.errors import InputError
from facepoison.extractors import catalog, recipes, train
from facepoison.extractors.catalog import count_macs
from facepoison.extractors.listing import read_rank
from facepoison.pictures.synthetic import make_pictures


def run(*arguments):
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, [*map(str, arguments)])


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    """Nothing was downloaded."""
    monkeypatch.setenv("FACEPOISON_CACHE", str(tmp_path / "cache"))


FIELDS = "name kind year paper licence format status parameters macs size rank1 low high n differentiable selftest"


def test_extractors_lists_the_catalogue_and_checks_own_files(no_cache):
    result = run("extractors")
    assert result.exit_code == 0, result.output
    entries = catalog.catalogue().values()
    for entry in entries:
        assert entry.name in result.output
    assert result.output.count("ready") == sum(entry.kind == "own" and entry.trained for entry in entries) >= 4
    assert result.output.count("not trained") == sum(entry.kind == "own" and not entry.trained for entry in entries)
    assert result.output.count("give --folder") == 5
    assert result.output.count("not fetched") == 1
    assert result.output.count("unverified") == 4


def test_extractors_as_json(no_cache):
    result = run("extractors", "--json")
    assert result.exit_code == 0, result.output
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert list(rows) == list(catalog.catalogue())
    for row in rows.values():
        assert list(row) == FIELDS.split()
    first = rows["arcface_2019"]
    assert (first["kind"], first["year"], first["licence"], first["status"]) == ("own", 2019, "MIT", "ready")
    assert first["parameters"] == 1156440
    assert first["macs"] == pytest.approx(73.9e6, rel=0.01)
    assert first["size"] == (catalog.WEIGHTS / "arcface_2019.safetensors").stat().st_size
    assert first["rank1"] > 0.99
    far = rows["mobileface_v2_2018"]
    assert (far["status"], far["parameters"], far["macs"], far["rank1"]) == ("give --folder", None, None, None)
    unseen = rows["magface_iresnet100_2021"]
    assert (unseen["status"], unseen["size"], unseen["differentiable"]) == ("unverified", None, True)
    assert unseen["parameters"] == pytest.approx(65.15e6, rel=0.001)
    assert unseen["macs"] == pytest.approx(12.1e9, rel=0.01)


def test_extractors_names_what_is_missing_and_fails(tmp_path, no_cache):
    result = run("extractors", "--folder", tmp_path, "--json")
    assert result.exit_code == 2
    assert result.stderr == "error: 5 of the files listed above cannot be used: see there\n"
    status = {row["name"]: row["status"] for row in json.loads(result.stdout)}
    assert status["mobileface_v2_2018"].startswith(f"{tmp_path / 'mobileface_v2_2018.onnx'}: the weights of")


def test_macs_are_those_of_paper_and_pencil():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, groups=1), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Flatten())
    network.append(nn.Linear(8 * 16, 5))
    wanted = 16 * 8 * 27 + 16 * 8 * 9 + 8 * 16 * 5
    assert count_macs(network, 8) == count_macs(network.to("meta"), 8) == wanted


def test_ranks_come_from_the_card(tmp_path):
    entry = catalog.find_entry("arcface_2019")
    assert read_rank(entry, tmp_path) == (None,) * 4
    card = {"recipe": {}, "sha256": "", "test": {"rank_1": {"value": 0.9, "low": 0.88, "high": 0.93, "n": 200}}}
    path = tmp_path / "arcface_2019.json"
    path.write_text(json.dumps(card))
    assert read_rank(entry, tmp_path) == (0.9, 0.88, 0.93, 200)
    path.write_text("{")
    with pytest.raises(InputError, match=r"arcface_2019\.json: is no card of a training"):
        read_rank(entry, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "resnet"], "error: recipe 'resnet' is unknown: use one of arcface_2019"),
        (["train", "arcface_2019", "--device", "toaster"], "error: device 'toaster' is unknown"),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(arguments, message, tmp_path):
    result = run(*arguments, "--scratch", tmp_path, "--weights", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_train_writes_where_it_is_told_and_leaves_the_catalogue_alone(tmp_path, monkeypatch):
    recipe = replace(
        recipes.RECIPES["vggface2_2018"],
        architecture="linear",
        identities=4,
        per_person=4,
        held_out=2,
        batch=8,
        epochs=1,
    )
    monkeypatch.setitem(recipes.RECIPES, "vggface2_2018", recipe)
    monkeypatch.setitem(train.ARCHITECTURES, "linear", lambda: nn.Sequential(nn.Flatten(), nn.Linear(12288, 128)))
    before = catalog.FILE.read_bytes()
    result = run("train", "vggface2_2018", "--device", "cpu", "--weights", tmp_path / "w", "--scratch", tmp_path / "s")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == [
        "vggface2_2018.json",
        "vggface2_2018.safetensors",
    ]
    assert "step 2 of 2" in result.output
    assert catalog.FILE.read_bytes() == before


def test_version_is_that_of_the_package():
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"facepoison {metadata.version('poisoned-once')}\n")


def test_faces_are_written_as_a_folder_that_is_read_back(tmp_path):
    folder = tmp_path / "new" / "faces"
    result = run("faces", "--out", folder, "--people", 2, "--pictures", 3, "--size", 32, "--seed", 5)
    assert result.exit_code == 0, result.output
    made = make_pictures("exported", 2, 3, 32, 5)
    assert sorted(path.name for path in folder.iterdir()) == [name.replace("/", "-") for name in made.names]
    for number, name in enumerate(made.names):
        own = sorted((folder / name.replace("/", "-")).iterdir())
        assert [path.name for path in own] == ["000.png", "001.png", "002.png"]
        back = torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in own])
        assert torch.equal(back, made.of(number).pixels)
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    again = run("faces", "--out", folder, "--people", 2)
    assert again.exit_code == 2
    assert "is not empty" in again.output
    assert before == {path: path.read_bytes() for path in folder.rglob("*.png")}
    assert [path.name for path in folder.parent.iterdir()] == ["faces"]  # nothing half-written lies beside it


def test_faces_go_into_no_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    result = run("faces", "--out", tmp_path / "file" / "faces", "--people", 1, "--pictures", 1, "--size", 32)
    assert result.exit_code == 2
    assert "cannot be written" in result.output
