"""Fingerprints of tensors: numbers for their bits, by which two runs are compared."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

CHUNK = 2**22
"""Number of elements to multiply at a time, so that large tensors need little extra memory."""
_ROUND = 0x9E3779B97F4A7C15 - 2**64  # 2⁶⁴ divided by the golden ratio, an odd number


class Fingerprints:
    """Numbers for the bits of some tensors, which keep their memory: the same on every device.

    A fingerprint is a sum of integers with overflow and without rounding, so the order of the terms has no effect. A
    difference in a single bit always changes it; any other difference is missed with a probability of 1 in 2⁶⁴. The
    tensors are read in the order of their memory, a chunk of many tensors at a time: a sum over part of a chunk is the
    difference of two running sums.

    Args:
        tensors: float32, of any shape, without gaps in their memory.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        device = tensors[0].device
        self._chunks: list[list[Tensor]] = [[]]
        ends: list[list[int]] = [[]]
        owners, factors = [], []
        for number, tensor in enumerate(tensors):
            flat = tensor.detach().as_strided((tensor.numel(),), (1,), tensor.storage_offset()).view(torch.int32)
            factor = 1
            while len(flat):
                room = CHUNK - (ends[-1][-1] if ends[-1] else 0)
                if not room:
                    self._chunks.append([])
                    ends.append([])
                    continue
                piece, flat = flat[:room], flat[room:]
                self._chunks[-1].append(piece)
                ends[-1].append((ends[-1][-1] if ends[-1] else 0) + len(piece))
                owners.append(number)
                factors.append(factor)
                factor = (factor * _ROUND + 2**63) % 2**64 - 2**63
        generator = torch.Generator().manual_seed(0)
        length = max(end[-1] for end in ends if end)
        odd = torch.randint(-(2**62), 2**62, (length,), generator=generator) * 2 + 1
        self._multipliers = odd.to(device)
        self._ends = [torch.tensor([end - 1 for end in each], device=device) for each in ends]
        self._owners, self._factors = torch.tensor(owners, device=device), torch.tensor(factors, device=device)
        self._zeros = torch.zeros(len(tensors), dtype=torch.int64, device=device)

    def compute(self) -> Tensor:
        """Return the fingerprints as the tensors are now, int64 [number of tensors], on their device."""
        sums = []
        for pieces, ends in zip(self._chunks, self._ends, strict=True):
            bits = torch.cat(pieces)
            running = (bits * self._multipliers[: len(bits)]).cumsum(0)[ends]
            sums.append(running.diff(prepend=self._zeros[:1]))
        return self._zeros.index_add(0, self._owners, torch.cat(sums) * self._factors)


def select_float_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a state that training changes: weights and running statistics, but no counters."""
    return {name: t for name, t in state.items() if t.is_floating_point()}
