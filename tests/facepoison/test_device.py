import subprocess
import sys
from pathlib import Path

import pytest
import torch

from facepoison import device
from facepoison.errors import InputError


def test_generators_repeat_and_do_not_share_streams():
    draws = [torch.rand(4, generator=device.generator(1, *labels)) for labels in (("a",), ("a",), ("b",), ("a", 0))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[3])
    assert not torch.equal(draws[0], torch.rand(4, generator=device.generator(2, "a")))


def test_batches_cover_everything_once():
    assert [i for some in device.batches(10, 4) for i in range(10)[some]] == list(range(10))
    assert list(device.batches(0, 4)) == []


def test_unknown_device_is_refused():
    with pytest.raises(InputError, match="warp"):
        device.pick_device("warp")
    assert device.pick_device("cpu").type == "cpu"


def test_nothing_strays_from_the_device_of_its_input():
    script = Path(__file__).with_name("pretend_gpu.py")
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert said.stdout.split() == ["cuda"] * 3, said.stderr


@pytest.mark.parametrize(
    ("has", "used", "answer"),
    [
        ({}, "AVX512", False),
        ({"avx512_bf16": True}, "AVX512_BF16", True),
        ({"amx_bf16": True}, "AVX512", True),
        ({"avx512_bf16": True}, "AVX2", False),  # torch was told to do without
        ({"bf16": True}, "DEFAULT", True),
    ],
)
def test_bfloat16_is_had_by_cpus_with_instructions_for_it(has, used, answer, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: used)
    assert device.has_bfloat16.__wrapped__("cpu") is answer
