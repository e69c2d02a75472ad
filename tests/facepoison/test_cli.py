"""The command line: what it prints, and how it ends on bad input."""

from dataclasses import replace

import pytest
from torch import nn
from typer.testing import CliRunner

from facepoison.cli import app
from facepoison.extractors import catalog, training


def run(*arguments):
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, [*map(str, arguments)])


def test_extractors_lists_the_catalogue_and_checks_own_files():
    result = run("extractors")
    assert result.exit_code == 0, result.output
    for name in catalog.catalogue():
        assert name in result.output
    own = [entry for entry in catalog.catalogue().values() if entry.kind == "own"]
    assert result.output.count("good") == sum((catalog.WEIGHTS / entry.file).is_file() for entry in own) >= 4
    assert result.output.count("give --folder") == 4


def test_extractors_names_what_is_missing_and_fails(tmp_path):
    result = run("extractors", "--folder", tmp_path)
    assert result.exit_code == 2
    assert "4 of the files listed above cannot be used" in result.stderr
    assert "mobileface_v2_2018.onnx" in result.stdout


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
        training.RECIPES["vggface2_2018"],
        architecture="linear",
        identities=4,
        per_person=4,
        held_out=2,
        batch=8,
        epochs=1,
    )
    monkeypatch.setitem(training.RECIPES, "vggface2_2018", recipe)
    monkeypatch.setitem(training.ARCHITECTURES, "linear", lambda: nn.Sequential(nn.Flatten(), nn.Linear(12288, 128)))
    before = catalog.FILE.read_bytes()
    result = run("train", "vggface2_2018", "--device", "cpu", "--weights", tmp_path / "w", "--scratch", tmp_path / "s")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == [
        "vggface2_2018.json",
        "vggface2_2018.safetensors",
    ]
    assert "step 2 of 2" in result.output
    assert catalog.FILE.read_bytes() == before
