"""Where computations run and how they are seeded and cut into batches."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version

import torch

from facepoison.errors import InputError

torch.set_flush_denormal(True)  # renderer and poisons produce tiny numbers that cost a CPU a hundredfold


def pick_device(name: str = "auto") -> torch.device:
    """The device to compute on: ``"auto"`` takes a GPU where torch sees one, else the CPU.

    Raises:
        InputError: the named device is unknown or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device '{name}' is unknown: use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device '{name}': torch sees no GPU here; use auto or cpu")
    return device


@cache
def has_bfloat16(kind: str) -> bool:
    """Whether a kind of device (``torch.device.type``) computes in bfloat16 itself.

    A CPU that has no instructions for it takes ten times as long as with float32, so that whoever may compute in
    bfloat16 asks first.
    """
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.cpu.get_capabilities()
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")  # unless torch was told to leave that alone
    return bool(has.get("bf16") or (wide and (has.get("avx512_bf16") or has.get("amx_bf16"))))


@cache
def device_kind(name: str = "auto") -> str:
    """What a device is, in words that stay the same from run to run: results are kept per kind."""
    device = pick_device(name)
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"cpu {platform.machine()}"


@cache
def versions() -> dict[str, str]:
    """Versions of the libraries whose arithmetic enters results."""
    names = ["torch", "torchvision", "numpy", "scipy", "pillow", "timm", "facenet-pytorch"]
    names += ["scikit-learn", "onnx2torch", "onnxruntime"]
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def generator(seed: int, *labels: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator of its own for a purpose: the same seed and labels always give the same stream.

    Streams with different labels are independent, so that drawing more for one purpose never shifts another.
    """
    digest = hashlib.sha256(repr((seed, *labels)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "little"))


def batches(n: int, size: int) -> Iterator[slice]:
    """Slices that cut ``n`` things into batches of at most ``size``."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def synchronise(device: torch.device | str) -> None:
    """Wait until a device has done its work, so that clocks read true."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
