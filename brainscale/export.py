"""Networks to ONNX, for engines without torch."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from brainscale.files import replacing
from brainscale.models.scorer import Scorer


def export_onnx(network: nn.Module, size: int, path: Path) -> None:
    """Write a network with its normalisation and softmax as one ONNX file.

    Input `planes`, uint8 [batch, size, size]; output `probabilities`, float32 [batch, classes].

    Args:
        network: on the CPU; its mode is left as it is.
        size: side of a plane, pixels.
        path: appears whole or not at all.
    """
    mode = network.training
    scorer = Scorer(network).eval()
    planes = torch.zeros(2, size, size, dtype=torch.uint8)
    try:
        with (
            replacing(path) as aside,
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            _quiet_loggers(),
        ):
            warnings.simplefilter("ignore")  # the exporter warns of its own deprecated parts
            torch.onnx.export(
                scorer,
                (planes,),
                aside,
                input_names=["planes"],
                output_names=["probabilities"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        network.train(mode)


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
