"""Seeds for every random draw, all derived from one, and the settings that make torch deterministic.

brainscale never draws from a global random generator. Each draw has a seed of its own, derived from what the draw is
for. A new draw therefore changes no other draw, and it does not matter which process draws.
"""

import hashlib
import os


def derive(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose.

    Args:
        seed: seed of the run.
        purpose: what the draw is for, such as `("augment", epoch, sample_id)`.
    """
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def make_deterministic(threads: int, *, tf32: bool = False) -> None:
    """Make torch in this process repeat its results to the bit: a fixed number of threads, deterministic algorithms.

    Args:
        threads: CPU threads for each operation; another number may round sums differently.
        tf32: whether CUDA may round the inputs of matrix products to 10 bits.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # CUDA reads it when it starts
    import torch  # imported here: callers that only derive seeds start without torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # brainscale never reads memory before it writes it, so filling new tensors would only cost time
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
