"""Networks to ONNX, for engines without torch."""

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import onnxscript
import torch
from torch import Tensor

from brainscale.models.classifier import Classifier
from brainscale.models.registry import build
from brainscale.storage.local import replacing


@functools.lru_cache(maxsize=2)
def onnx_program(name: str, classes: int, size: int) -> torch.onnx.ONNXProgram:
    """A network with its normalisation and softmax as an ONNX graph, whatever its weights; takes seconds.

    Input `planes`, uint8 [batch, size, size]; output `probabilities`, float32 [batch, classes].

    Args:
        name: of the network.
        classes: outputs.
        size: side of a plane, pixels.
    """
    scorer = Classifier(build(name, classes), winograd=True).eval()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet_loggers():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecated parts
        program = torch.onnx.export(
            scorer,
            (torch.zeros(2, size, size, dtype=torch.uint8),),
            input_names=["planes"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            optimize=False,  # it would fold weights into the graph
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"{name} gave no ONNX graph")
    return program


def export_onnx(name: str, classes: int, size: int, weights: Mapping[str, Tensor], path: Path) -> None:
    """Write a network with given weights as one ONNX file.

    Args:
        name: of the network.
        classes: outputs.
        size: side of a plane, pixels.
        weights: the network's state.
        path: appears whole or not at all.
    """
    program = onnx_program(name, classes, size)
    given = {f"network.{key}": value for key, value in weights.items() if value.is_floating_point()}  # no counters
    missing = sorted(given.keys() - program.model.graph.initializers.keys())
    if missing:
        raise RuntimeError(f"the ONNX graph of {name} has no {missing[0]}")
    program.apply_weights(given)
    with replacing(path) as aside, _quiet_loggers():
        onnx.save(onnxscript.optimizer.optimize(program.model_proto), aside)


@contextlib.contextmanager
def _quiet_loggers() -> Iterator[None]:
    """No notes of the exporter's inner steps; its errors are exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
