"""Shards are computed once, wherever that is, and give what a serial run gives."""

import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tiny import Keep, tiny_extractor, tiny_pictures

from facepoison import shards as module
from facepoison import store
from facepoison.attacks import people as cut
from facepoison.attacks.lowkey import LOWKEY_MSE
from facepoison.attacks.people import poison_people
from facepoison.errors import InputError
from facepoison.extractors import Preprocessing
from facepoison.extractors.onnx_files import load_onnx
from facepoison.pictures import Pictures
from facepoison.shards import Pool, Shard, cluster, compute, processes
from studies import common

SOAK = Path(__file__).parents[1] / "soak"


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("SOAK_LOG", str(tmp_path / "log"))


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A pool whose workers have a store of their own and take one shard after the other, and what it was sent."""
    sent = []

    class Other(ThreadPoolExecutor):
        def submit(self, function, *given):
            sent.append(given[1])
            future = Future()
            with monkeypatch.context() as patch:
                patch.setenv("FACEPOISON_STORE", str(tmp_path / "elsewhere"))
                try:
                    future.set_result(function(*given))
                except Exception as error:
                    future.set_exception(error)
            return future

    return Pool(Other(), lambda: 1), sent


def double(number, log):
    with Path(log).open("a") as file:
        file.write(f"{number}\n")
    if number < 0:
        raise InputError(f"number {number}: below nought")
    return {"twice": torch.tensor(2 * number)}


def numbers(tmp_path, *values):
    return [Shard("doubled", double, {"number": value, "log": str(tmp_path / "log")}) for value in values]


def done(tmp_path):
    return (tmp_path / "log").read_text().split()


def test_equal_shards_are_computed_once_and_results_come_in_order(tmp_path, elsewhere):
    pool, sent = elsewhere
    asked, told = numbers(tmp_path, 3, 1, 3, 2), []
    found = compute(asked, pool, told.append)
    assert [int(each.arrays["twice"]) for each in found] == [6, 2, 6, 4]
    assert sent == [asked[place].key for place in (0, 1, 3)]
    assert sorted(told) == [0, 1, 2, 3]
    assert done(tmp_path) == ["3", "1", "2"]


def test_what_is_cached_is_sent_to_nobody_and_what_a_worker_cached_is_not_computed_again(tmp_path, elsewhere):
    pool, sent = elsewhere
    compute(numbers(tmp_path, 1))
    compute(numbers(tmp_path, 1, 2), pool)
    assert len(sent) == 1
    found = compute(numbers(tmp_path, 1, 2))  # the worker's result came into the own store
    assert not any(each.computed_now for each in found)
    for path in (tmp_path / "store").rglob("*.safetensors"):
        path.unlink()
    assert [each.computed_now for each in compute(numbers(tmp_path, 1, 2), pool)] == [True, False]
    assert done(tmp_path) == ["1", "2", "1"]


def test_an_error_in_a_shard_reaches_the_caller_and_what_is_done_is_cached(tmp_path, elsewhere):
    for pool in (None, elsewhere[0]):
        with pytest.raises(InputError, match="number -1: below nought"):
            compute(numbers(tmp_path, 1, -1, 2), pool)
        assert store.find_cached("doubled", numbers(tmp_path, 1)[0].key)


def test_a_worker_with_other_code_or_libraries_is_refused(tmp_path, elsewhere):
    pool, _ = elsewhere
    (shard,) = numbers(tmp_path, 1)
    wanted = module.made_with()
    packed = module._packed(shard)
    with pytest.raises(InputError, match=r"worker on .*: its code differs from the study's"):
        module.run_shard(packed, "0" * 64, wanted, 1)
    with pytest.raises(InputError, match=r"has torch .*, not 1\.0; device cpu.*, not cuda"):
        module.run_shard(packed, shard.key, wanted | {"torch": "1.0", "device": "cuda"}, 1)
    with pytest.raises(InputError, match="its code differs"):
        module.run_shard(packed.replace(b"double", b"triple"), shard.key, wanted, 1)
    assert not (tmp_path / "log").exists()
    assert int(compute([shard], pool)[0].arrays["twice"]) == 2


def test_what_cannot_be_sent_says_so(elsewhere):
    with pytest.raises(InputError, match="local: cannot be sent to a worker"):
        compute([Shard("local", lambda: {}, {})], elsewhere[0])


def people(n, each):
    names = tuple(map(str, range(n)))
    return Pictures(tiny_pictures(n * each), torch.arange(n).repeat_interleave(each), names)


@dataclass(frozen=True)
class Dies(Keep):
    """An attack that ends its process."""

    def __call__(self, pixels, surrogates, *, seed, public=None):
        os._exit(1)


@pytest.mark.slow
def test_processes_poison_to_the_byte_as_one_does_and_a_dead_one_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(cut, "FULL", 4)
    attack, surrogates, everybody, told = replace(LOWKEY_MSE, steps=2), [tiny_extractor(1)], people(4, 4), []
    with processes(2) as pool:
        many = poison_people(attack, everybody, surrogates, seed=1, pool=pool, progress=lambda *done: told.append(done))
        with pytest.raises(InputError, match="whoever computed a shard is gone"):
            poison_people(Dies(), everybody, surrogates, seed=1, pool=pool)
    assert told == [(4, 16), (8, 16), (12, 16), (16, 16)]
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path / "serial"))
    assert torch.equal(poison_people(attack, everybody, surrogates, seed=1).pixels, many.pixels)
    kept = [sorted(path.name for path in (tmp_path / name).rglob("*.safetensors")) for name in ("store", "serial")]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 4


@pytest.mark.slow
def test_a_killed_worker_costs_its_shard(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    import dask

    monkeypatch.syspath_prepend(str(SOAK))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(cut, "FULL", 4)
    from shaken import begun, killer, logged, pids, same

    attack, surrogates, everybody = logged(12), [tiny_extractor(1)], people(16, 4)
    ready = {"dashboard_address": ":0", "preload": ["facepoison.attacks.people"]}
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "10 minutes"}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, **ready) as workers,
        cluster(workers.scheduler_address) as pool,
    ):
        stop = killer(lambda: pids(workers) if begun(tmp_path / "log") else [], 0.1, 1, lambda line: None)
        shaken = poison_people(attack, everybody, surrogates, seed=1, pool=pool)
        assert stop() == 1
    log = begun(tmp_path / "log")
    assert len(log) == 16
    assert log.total() - len(log) <= 1
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path / "serial"))
    assert same(poison_people(attack, everybody, surrogates, seed=1), shaken)


def test_a_scheduler_that_is_not_there_is_told_of(monkeypatch):
    monkeypatch.setattr(module, "ANSWERS_WITHIN", 0.2)
    with (
        pytest.raises(InputError, match=r"scheduler tcp://127\.0\.0\.1:9: does not answer"),
        cluster("tcp://127.0.0.1:9"),
    ):
        pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"Dask is not here: pip install"), cluster("tcp://127.0.0.1:9"):
        pass


def onnx_extractor(tmp_path):
    """An extractor converted from ONNX."""
    import onnx
    from onnx import helper

    def weight(name, *shape):
        return onnx.numpy_helper.from_array(torch.rand(shape, generator=torch.manual_seed(1)).numpy(), name)

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "s", "b", "m", "v"], ["n"]),
        helper.make_node("PRelu", ["n", "p"], ["r"]),
        helper.make_node("Add", ["r", "n"], ["t"]),
        helper.make_node("GlobalAveragePool", ["t"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "l"], ["y"]),
    ]
    weights = [weight("w", 8, 3, 3, 3), *(weight(name, 8) for name in "sbmv"), weight("p", 8, 1, 1), weight("l", 8, 4)]
    pictures = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 24, 24])
    embedding = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph(nodes, "extractor", [pictures], [embedding], weights)
    path = tmp_path / "extractor.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return load_onnx(path, Preprocessing(24), device="cpu")


def test_a_converted_surrogate_can_be_sent_and_stays_the_same(tmp_path, elsewhere):
    surrogates, attack, everybody = [onnx_extractor(tmp_path)], replace(LOWKEY_MSE, steps=2), people(1, 4)
    away = poison_people(attack, everybody, surrogates, seed=1, pool=elsewhere[0])
    (sent,) = elsewhere[1]
    assert [path.stem for path in (tmp_path / "elsewhere").rglob("*.safetensors")] == [sent]
    for path in (tmp_path / "store").rglob("*.safetensors"):
        path.unlink()
    assert torch.equal(poison_people(attack, everybody, surrogates, seed=1).pixels, away.pixels)
    assert not torch.equal(away.pixels, everybody.pixels)


def test_time_left_is_told_at_the_pace_of_what_was_computed():
    said, now = [], [0.0]
    run = common.Run("", said.append, Path())
    progress = common.counting(run, "LowKey", "pictures", lambda: now[0])
    for after, done in ((0.1, 4), (0.1, 8), (60, 10), (60, 12), (240, 20)):
        now[0] += after
        progress(done, 20)
    assert said == [
        "LowKey: 4 of 20 pictures",
        "LowKey: 8 of 20 pictures",
        "LowKey: 10 of 20 pictures, 5.0 min left",
        "LowKey: 12 of 20 pictures, 4.0 min left",
        "LowKey: 20 of 20 pictures",
    ]


def listed(run):
    """A study that says who computes."""
    run.say(f"pool: {run.pool and run.pool.workers()}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "1"], "pool: None"),
        (["--workers", "3"], "pool: 3"),
        (["--workers", "0"], "error: --workers 0: give 1 or more"),
        (["--workers", "2", "--scheduler", "tcp://here:1"], "error: --workers and --scheduler: give one of them"),
    ],
)
def test_the_command_line_says_who_computes(arguments, said, capsys, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(common.importlib, "import_module", lambda name: sys.modules[__name__])
    common.script("Studies.", [listed], arguments=["listed", *arguments])
    torch.set_num_threads(threads)
    told = capsys.readouterr()
    assert (told.out + told.err).startswith(said)
