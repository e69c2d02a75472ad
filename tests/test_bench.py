"""The benchmarks compare like with like; how long anything takes is no test."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from facepoison.extractors.catalog import load_extractor
from facepoison.pictures.synthetic import make_pictures

FILE = Path(__file__).resolve().parent.parent / "benchmarks" / "bench.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bench"]


@pytest.fixture(scope="module")
def timed(bench):
    pixels = make_pictures("benchmark", 1, 2, 64, seed=1, device="cpu").pixels
    names = ("vggface2_2018", "mobilefacenet_2018", "cosface_2018")
    surrogates = [load_extractor(name, "cpu") for name in names]
    return {attack.name: attack for attack in bench.attacks(pixels, surrogates)}


def passes(attack, work):
    """Name and pictures of every pass through a network, forwards; and how often gradients came back to pictures."""
    forwards, backwards = [], []

    def seen(network, given, out):
        forwards.append(
            (network.name, tuple(given[0].shape), given[0].is_contiguous(memory_format=torch.channels_last))
        )
        if out.requires_grad:
            out.register_hook(lambda gradient: backwards.append(network.name))

    hooks = [surrogate.register_forward_hook(seen) for surrogate in attack.surrogates]
    try:
        work()
    finally:
        for hook in hooks:
            hook.remove()
    return forwards, backwards


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", ["lowkey", "fawkes"])
def test_bare_passes_are_those_of_the_steps(bench, timed, name, together):
    attack = timed[name]
    few, few_back = passes(attack, lambda: attack.run(bench.FEW))
    more, more_back = passes(attack, lambda: attack.run(bench.MORE))
    n = bench.MORE - bench.FEW
    bare, bare_back = passes(attack, lambda: bench.bare(attack.views, attack.surrogates, n, together=together))
    assert sorted(bare) == sorted(more[len(few) :])
    assert sorted(bare_back) == sorted(more_back[len(few_back) :])
    assert len(bare) == len(bare_back) == n * len(attack.surrogates)


def test_the_given_surrogates_stay_as_they_are(timed):
    for attack in timed.values():
        for given, ready in zip(attack.given, attack.surrogates, strict=True):
            assert given is not ready
            assert given.key_parts() == ready.key_parts()
            assert any(isinstance(layer, torch.nn.BatchNorm2d) for layer in given.modules())
            torch.testing.assert_close(ready(attack.views), given(attack.views), rtol=1e-3, atol=1e-3)


def test_the_views_are_those_of_the_first_step(bench, timed):
    attack, seen = timed["lowkey"], []
    hook = attack.surrogates[0].register_forward_hook(lambda network, given, out: seen.append(given[0].detach()))
    attack.run(1)
    hook.remove()
    assert torch.allclose(attack.views, seen[-1].clamp(0, 1), atol=1e-6)


def test_every_second_round_goes_backwards(bench):
    order = []
    works = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    rounds = bench.in_turns(works, torch.device("cpu"), 4, float("inf"))
    assert len(rounds) == 4
    assert order == ["b", "a", "a", "b"] * 3
    assert len(bench.in_turns(works, torch.device("cpu"), 9, 0.0)) == bench.LEAST


def test_summary(bench):
    assert bench.summary([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0, "n": 5}
    assert bench.summary([1.23456])["median"] == 1.235


def test_history_and_comparison(bench, tmp_path):
    def run(commit, median):
        row = {"row": "lowkey_step", "what": "LowKey step", "unit": "ms", "threads": 1, "size": 64, "batch": 8}
        gone = row | {"row": "lowkey_rival", "missing": "not measured"}
        rows = [row | {"median": median, "q1": median, "q3": median, "n": 3}, gone]
        return {"device": "cpu", "cpu": "a", "commit": commit, "date": "2026-01-01T00:00:00", "rows": rows}

    path = tmp_path / "history.json"
    for commit, median in (("aaa", 2.0), ("bbb", 1.0)):
        bench.keep_run(path, run(commit, median))
    runs = bench.read_history(path)
    assert [each["commit"] for each in runs] == ["aaa", "bbb"]
    assert len(path.read_text().splitlines()) == 4
    assert bench.last_like(runs, run("ccc", 1.0))["commit"] == "bbb"
    said = bench.comparison(bench.find_run(runs, "aa"), bench.find_run(runs, "bb"))
    assert said.splitlines()[-1].endswith("0.500")
    assert "other machines" not in said
    with pytest.raises(SystemExit, match="no run"):
        bench.find_run(runs, "zzz")
    with pytest.raises(SystemExit, match="no run"):
        bench.last_like(runs, run("ccc", 1.0) | {"cpu": "b"})


def test_the_table_says_what_was_not_measured(bench):
    row = {
        "row": "x",
        "what": "PGD",
        "unit": "ratio",
        "threads": 1,
        "size": 64,
        "batch": 8,
        "missing": "not measured: no",
    }
    assert bench.table([row]).endswith("not measured: no")
