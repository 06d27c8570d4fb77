"""Without a GPU, all of these tests are skipped, and say so."""

import pytest
import torch


@pytest.fixture(autouse=True)
def gpu() -> torch.device:
    """The first GPU."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU here: nothing of this was tried")
    return torch.device("cuda", 0)
