"""Export networks to ONNX, for engines without torch."""

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
from brainscale.models.engines import EngineOutput
from brainscale.models.registry import NETWORKS, build_network
from brainscale.storage.local import replacing


@functools.lru_cache(maxsize=2)
def make_onnx_program(name: str, classes: int, size: int) -> torch.onnx.ONNXProgram:
    """Return a network with normalisation and softmax as an ONNX graph with random weights; takes seconds.

    The input `planes` is uint8 [batch, size, size]; the outputs are `probabilities`, float32
    [batch, classes], and `features`, float32 [batch, D].

    Args:
        name: name of the network.
        classes: number of classes.
        size: width and height of a plane in pixels.
    """
    classifier = Classifier(build_network(name, classes), NETWORKS[name].first_stage, winograd=True).eval()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet_loggers():
        warnings.simplefilter("ignore")  # the exporter warns about deprecated functions of its own
        program = torch.onnx.export(
            classifier,
            (torch.zeros(2, size, size, dtype=torch.uint8),),
            input_names=["planes"],
            output_names=list(EngineOutput._fields),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            optimize=False,  # it would fold the random weights into the graph
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"the export of {name} returned no ONNX graph")
    return program


def export_onnx(name: str, classes: int, size: int, weights: Mapping[str, Tensor], path: Path) -> None:
    """Write a network with its weights as one ONNX file.

    Args:
        name: name of the network.
        classes: number of classes.
        size: width and height of a plane in pixels.
        weights: state of the network.
        path: the file to write; it appears complete or not at all.
    """
    program = make_onnx_program(name, classes, size)
    # without the counters of batch norm, which the graph does not have
    initializers = {f"network.{key}": value for key, value in weights.items() if value.is_floating_point()}
    missing = sorted(initializers.keys() - program.model.graph.initializers.keys())
    if missing:
        raise RuntimeError(f"the ONNX graph of {name} has no {missing[0]}")
    program.apply_weights(initializers)
    with replacing(path) as temporary, _quiet_loggers():
        onnx.save(onnxscript.optimizer.optimize(program.model_proto), temporary)


@contextlib.contextmanager
def _quiet_loggers() -> Iterator[None]:
    """Silence the exporter's log during the with-block; its errors are exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
