"""Anybody's ONNX extractor behind a preprocessing contract, with gradients where the graph can be converted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import external_data_helper, numpy_helper
from onnx2torch import convert
from torch import Tensor, nn

import fingerprint
from facepoison.device import pick_device
from facepoison.errors import InputError
from facepoison.extractors import Extractor, Preprocessing

_EXPORT = "export it again with an open first dimension"


class _Asked(torch.autograd.Function):
    """A black box in the graph of gradients: it answers forwards and refuses backwards."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, pictures: Tensor, box: BlackBox) -> Tensor:
        ctx.path = box.path  # type: ignore[attr-defined]
        array = pictures.detach().cpu().numpy().astype(np.float32, copy=False)
        parts = np.split(array, len(array)) if box.single else [array]
        answer = np.concatenate([box.session.run(None, {box.input: part})[0] for part in parts])
        return torch.from_numpy(answer).to(pictures.device)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        path: Path = ctx.path  # type: ignore[attr-defined]
        raise InputError(f"{path}: no gradients, as its graph does not convert: do not use it as a surrogate")


class BlackBox(nn.Module):
    """An ONNX graph that onnxruntime runs; asking it for gradients raises InputError."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        graph_input = self.session.get_inputs()[0]
        self.input = graph_input.name
        self.single = graph_input.shape[0] == 1  # exported for one picture at a time

    def forward(self, pictures: Tensor) -> Tensor:
        """Embeddings (B, D) of normalised pictures (B, 3, H, W)."""
        answer: Tensor = _Asked.apply(pictures, self)
        return answer


def external_files(path: Path) -> list[Path]:
    """The files beside an ONNX graph that hold weights of its, in the order of their names; mostly there are none.

    Raises:
        InputError: the file is no ONNX model, or names a file outside its own folder, or one that is not there.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise InputError(f"{path}: is no whole ONNX model ({error}): fetch it again") from error
    tensors = external_data_helper._get_all_tensors(model)  # initialisers, constants, and those of inner graphs
    named = {
        entry.value
        for tensor in tensors
        if external_data_helper.uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    found = []
    for name in sorted(named):
        file = (path.parent / name).resolve()
        if not file.is_relative_to(path.parent.resolve()):
            raise InputError(f"{path}: keeps weights in '{name}', outside its folder: get one that holds its weights")
        if not file.is_file():
            raise InputError(f"{path}: keeps weights in '{name}', which is not there: put that file beside it")
        found.append(file)
    return found


def of_onnx(path: Path) -> str:
    """SHA-256 of an ONNX model as 64 hex digits: of the file, or, where weights lie in files beside it, of all of them.

    Raises:
        InputError: as of ``external_files``.
    """
    beside = external_files(path)
    own = fingerprint.of_file(path)
    return fingerprint.of_text(own, *(fingerprint.of_file(file) for file in beside)) if beside else own


def _check_input(path: Path, model: onnx.ModelProto, contract: Preprocessing) -> int:
    """How many pictures at a time a graph takes, 0 for any; InputError unless they are of the contract's size."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1 or not model.graph.output:
        raise InputError(f"{path}: has {len(inputs)} inputs: an extractor takes one, pictures (N, 3, H, W)")
    dims = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim]  # 0 where it is left open
    wanted = (3, contract.size, contract.size)
    if len(dims) != 4 or any(dim not in (0, want) for dim, want in zip(dims[1:], wanted, strict=True)):
        raise InputError(f"{path}: takes pictures of shape {dims}, its contract says (N, {str(wanted)[1:]}: correct it")
    return int(dims[0])


def _open_batch(model: onnx.ModelProto) -> None:
    """Let every Reshape that repeats the first dimension of its input copy it instead: 0 is ONNX's word for that.

    An export for a fixed number of pictures writes that number down wherever the network flattens or regroups features.
    At the size of the export the two mean the same, whatever is reshaped; with more pictures only the second is right.
    """
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            shapes[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    graph = onnx.shape_inference.infer_shapes(model).graph
    first = {
        value.name: value.type.tensor_type.shape.dim[0].dim_value
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.shape.dim
    }
    for number, node in enumerate(model.graph.node):
        if node.op_type != "Reshape" or len(node.input) != 2 or node.input[1] not in shapes:
            continue
        wanted = shapes[node.input[1]].copy()
        if len(wanted) and wanted[0] > 0 and wanted[0] == first.get(node.input[0]):
            wanted[0] = 0
            name = f"{node.input[1]} of Reshape {number}, for any batch"  # a shape may be another Reshape's too
            model.graph.initializer.append(numpy_helper.from_array(wanted, name))
            node.input[1] = name


@torch.no_grad()
def _check_batch(path: Path, network: nn.Module, size: int) -> None:
    """Raise InputError unless pictures get the same embeddings together as one by one."""
    pictures = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([network(picture[None]) for picture in pictures])
    try:
        together = network(pictures)
    except RuntimeError as error:  # shapes that do not fit
        raise InputError(f"{path}: takes no more pictures at a time than it was exported with: {_EXPORT}") from error
    if together.shape != alone.shape or not torch.allclose(together, alone, rtol=1e-3, atol=1e-3 * float(alone.std())):
        raise InputError(f"{path}: mixes pictures that it is given together: {_EXPORT}")


def load_onnx(
    path: Path, contract: Preprocessing, *, name: str = "", device: str = "auto", black_box: bool = False
) -> Extractor:
    """An extractor from an ONNX file.

    Args:
        path: The file.
        contract: What the graph expects of its input.
        name: Its name in results; the file's stem unless given.
        device: Where to compute; a black box computes on the CPU wherever its pictures are.
        black_box: Run it in onnxruntime even where it could be converted.

    Returns:
        The extractor, for any number of pictures, even where the file was exported for one, with gradients where
        onnx2torch converts the graph; else it runs in onnxruntime and raises InputError when asked for gradients.

    Raises:
        InputError: the file is missing, is no ONNX model, takes another input than the contract says, or cannot be
            made to take several pictures at a time.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file: give the path of an ONNX model")
    sha256 = of_onnx(path)
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path}: is no whole ONNX model ({reason}): fetch it again") from error
    fixed = _check_input(path, model, contract)
    if fixed:
        _open_batch(model)
    network: nn.Module
    try:
        network = BlackBox(path) if black_box else convert(model)
    except NotImplementedError:  # what onnx2torch says of a graph that it cannot convert
        network = BlackBox(path)
    if fixed == 1:
        _check_batch(path, network, contract.size)
    network = network.to(memory_format=torch.channels_last)  # up to twice as fast on a CPU
    extractor = Extractor(network, contract, name=name or path.stem, sha256=sha256)
    return extractor.to(pick_device(device))


def differentiable(extractor: Extractor) -> bool:
    """Whether gradients flow through an extractor."""
    return not isinstance(extractor.network, BlackBox)
