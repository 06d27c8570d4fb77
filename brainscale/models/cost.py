"""What a network asks of a processor."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from brainscale.models.registry import build


def flops(name: str, classes: int, size: int) -> int:
    """Floating-point operations of one image through a network, a multiplication and an addition each one.

    Args:
        name: of the network.
        classes: outputs.
        size: side of the image, pixels.
    """
    with torch.device("meta"):  # shapes suffice
        image = torch.empty(1, 3, size, size)
    network = build(name, classes).eval().to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    return int(counter.get_total_flops())
