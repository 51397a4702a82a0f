"""Model files in three formats: written from the network, and read again to be compared."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_lightning.errors import ConfigError
from tl_lightning.inference.export.network import OUTPUTS, ExportedNetwork
from tl_lightning.inference.export.parity import Runner

__all__ = ["KEY", "describe_file", "read_file", "write_file"]

#: Name of the metadata entry in every file.
KEY = "tl_lightning"
_LOGGERS = ("torch.onnx", "torch.export", "torch", "onnxscript", "onnx_ir")


def write_file(network: ExportedNetwork, file: Path, format: str, example: Tensor) -> None:
    """Write the network to a file.

    Args:
        network: The network, in its precision.
        file: The file to write.
        format: One of :data:`.settings.FORMATS`.
        example: Inputs that it is traced with; all sizes that may differ are dynamic.

    Raises:
        ConfigError: If the network cannot be traced.
    """
    if format == "safetensors":
        _write_safetensors(network, file)
        return
    try:
        with _quiet():
            writer = _write_onnx if format == "onnx" else _write_torch_export
            writer(network, file, example)
    except Exception as error:  # the tracers raise many types
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise ConfigError(
            f"the network cannot be exported as format={format} "
            f"({type(error).__name__}: {reason[:200]}); set another format, or another backbone"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warnings, messages and progress of the tracers, which concern this package."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    output = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(output), contextlib.redirect_stderr(output),
        ):  # fmt: skip
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _dynamic(example: Tensor, network: ExportedNetwork) -> dict[int, Any]:
    """Return the dimensions that may differ: the batch, and image sizes or the length of texts."""
    any_size = torch.export.Dim.DYNAMIC
    found: dict[int, Any] = {0: any_size}
    if example.dtype == torch.int64:
        found[1] = any_size
    elif hasattr(network.prepare, "shorter"):
        found |= {2: any_size, 3: any_size}
    return found


def _write_onnx(network: ExportedNetwork, file: Path, example: Tensor) -> None:
    import onnx

    program: Any = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        verbose=False,
        input_names=["inputs"],
        output_names=list(OUTPUTS),
        dynamic_shapes=(_dynamic(example, network),),
    )
    model = program.model_proto
    _without_traces(model)
    names = ("batch", "length")
    dims = model.graph.input[0].type.tensor_type.shape.dim
    known = {dim.dim_param: name for dim, name in zip(dims, names, strict=False) if dim.dim_param}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in known:
                dim.dim_param = known[dim.dim_param]
    onnx.checker.check_model(model)
    onnx.save(model, str(file))


def _without_traces(model: Any) -> None:
    """Remove the exporter's notes, which contain source lines and paths of this machine."""
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        for part in (graph, *graph.node, *graph.value_info):
            del part.metadata_props[:]
            part.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.metadata_props[:]


def _write_torch_export(network: ExportedNetwork, file: Path, example: Tensor) -> None:
    program = torch.export.export(
        network, (example,), dynamic_shapes=(_dynamic(example, network),), strict=False
    )
    for node in program.graph.nodes:  # source lines and paths of this machine
        node.meta.pop("stack_trace", None)
    torch.export.save(program, file)


def _write_safetensors(network: ExportedNetwork, file: Path) -> None:
    from safetensors.torch import save_file

    # Copies, as the format does not store that two tensors share memory.
    state = {name: value.clone().contiguous() for name, value in network.state_dict().items()}
    save_file(state, file)


def describe_file(file: Path, format: str, text: str) -> None:
    """Add a description to the metadata of a model file.

    Args:
        file: The file, written by :func:`write_file`.
        format: Its format.
        text: JSON.
    """
    if format == "onnx":
        import onnx

        model = onnx.load(str(file))
        del model.metadata_props[:]
        plain = json.loads(text)
        entries = {KEY: text, "classes": json.dumps(plain["classes"], ensure_ascii=False)}
        for key, value in entries.items():
            model.metadata_props.add(key=key, value=value)
        model.producer_name, model.producer_version = KEY, plain["tl_lightning"]
        onnx.save(model, str(file))
    elif format == "safetensors":
        from safetensors.torch import load_file, save_file

        save_file(load_file(file), file, metadata={KEY: text})
    else:
        program = torch.export.load(file)
        torch.export.save(program, file, extra_files={f"{KEY}.json": text})


def read_file(file: Path, format: str, network: ExportedNetwork) -> Runner:
    """Return a function that runs a written file.

    Args:
        file: The file.
        format: Its format.
        network: The network that was written; only its structure is used, for safetensors.
    """
    if format == "onnx":
        from tl_lightning.inference.export.exported import session

        opened = session(file, threads=torch.get_num_threads())

        def run_onnx(inputs: Any) -> Mapping[str, Any]:
            return dict(zip(OUTPUTS, opened.run(list(OUTPUTS), {"inputs": inputs}), strict=True))

        return run_onnx
    if format == "torch_export":
        return _runner(torch.export.load(file).module())
    from safetensors.torch import load_file

    empty = copy.deepcopy(network)
    for value in empty.state_dict().values():
        value.zero_()
    empty.load_state_dict(load_file(file))
    return _runner(empty)


def _runner(network: Any) -> Runner:
    @torch.inference_mode()
    def run(inputs: Any) -> Mapping[str, Any]:
        found = network(torch.from_numpy(np.ascontiguousarray(inputs)))
        return {name: value.numpy() for name, value in found.items()}

    return run
