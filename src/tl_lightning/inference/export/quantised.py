"""Quantisation of ONNX files to int8 with ONNX Runtime."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

__all__ = ["quantise"]

#: Operators that are computed in int8; those of normalisation and softmax are not among them.
_OPERATORS = (
    "Conv", "Gemm", "MatMul", "Add", "Clip", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool",
    "Concat", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Pad",
)  # fmt: skip


class _Batches:
    """Calibration samples in the form that ONNX Runtime reads."""

    def __init__(self, batches: Sequence[NDArray[Any]]) -> None:
        self.batches: Iterator[NDArray[Any]] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch; None after the last one."""
        batch = next(self.batches, None)
        return None if batch is None else {"inputs": batch}


def quantise(file: Path, calibration: Sequence[NDArray[Any]], out: Path) -> str:
    """Quantise an ONNX file, and return how.

    Weights are int8 with one scale per channel. With calibration batches, activations have fixed
    scales as well (static quantisation); without, their scale is computed for every input
    (dynamic), which suits texts and vectors. The classifier stays in float32.

    Args:
        file: The file in float32.
        calibration: Batches of inputs, or none.
        out: The file to write.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    kept = _classifier(file)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder, _quiet():
        folded = Path(folder) / "folded.onnx"
        quant_pre_process(str(file), str(folded), skip_symbolic_shape=True)
        if not calibration:
            quantize_dynamic(
                folded, out, per_channel=True, weight_type=QuantType.QInt8,
                nodes_to_exclude=_names(folded, kept),
            )  # fmt: skip
            return "dynamic, weights per channel, classifier in float32"
        quantize_static(
            folded,
            out,
            _Batches(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_OPERATORS),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_names(folded, kept),
        )
    count = sum(len(batch) for batch in calibration)
    return f"static (QDQ) from {count} samples, weights per channel, classifier in float32"


def _classifier(file: Path) -> str:
    """Return the name of the weights of the last linear layer."""
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    weights = {tensor.name for tensor in model.graph.initializer}
    last = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul")][-1]
    return next((name for name in last.input if name in weights), "")


def _names(file: Path, weights: str) -> list[str]:
    """Return the names of the nodes that use these weights, or shift the logits."""
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    kept = {name for name in (weights, "shift") if name}
    return [node.name for node in model.graph.node if kept & set(node.input)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the messages of ONNX Runtime, which it logs with the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
