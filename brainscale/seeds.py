"""Named seeds, all derived from one, and the switches that make torch deterministic.

Nothing in brainscale draws from a global generator: each draw names what it is for, so that adding one
moves no other, and a draw does not depend on which process makes it.
"""

import hashlib
import os


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one named purpose.

    Args:
        seed: the run's seed.
        purpose: what the draw is for, such as `("augment", epoch, sample_id)`.
    """
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def deterministic(threads: int, *, tf32: bool = False) -> None:
    """Make this process's torch bit-repeatable: fixed threads, deterministic algorithms only.

    Args:
        threads: CPU threads for each operation; another count may round sums differently.
        tf32: whether CUDA may round the inputs of products to 10 bits.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when CUDA starts
    import torch  # here: those who only derive seeds start without torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # nothing of ours reads what was not written, so there is no need to fill it first
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
