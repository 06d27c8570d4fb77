"""Copy arrays to the device that trains; on a GPU from pinned memory and on a stream of its own."""

import numpy as np
import torch
from torch import Tensor


class Uploader:
    """Copies arrays to a device. On a GPU, the copy runs beside the computation, which waits for it there alone.

    Args:
        device: where to copy to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, array: np.ndarray) -> Tensor:
        """Return an array as a tensor on the device."""
        tensor = torch.from_numpy(array)
        if self._stream is None:
            return tensor.to(self._device)
        with torch.cuda.stream(self._stream):  # torch reuses the pinned memory only after the copy
            copy = tensor.pin_memory().to(self._device, non_blocking=True)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        copy.record_stream(computing)  # its memory is not given to the other stream before this one has used it
        return copy
