"""GPUs that a run cannot use are named, with what would use them."""

import pytest

from brainscale.config.files import load_config
from brainscale.training.workers import describe_idle_gpus


@pytest.mark.parametrize(
    ("gpus", "workers", "settings", "text"),
    [
        (4, 4, [], None),
        (2, 2, [], None),
        (
            64,
            4,
            [],
            "60 of 64 GPUs stay idle, because a batch of 64 has 4 micro-batch(es) of 16: --set train.batch_size=1024 "
            "would use 64 (another result)",
        ),
        (
            6,
            4,
            [],
            "2 of 6 GPUs stay idle, because the number of workers is a power of two",
        ),
        (3, 2, [], "1 of 3 GPUs stay idle, because the number of workers is a power of two"),
        (4, 2, [], "2 of 4 GPUs stay idle, because there are too few CPUs for more workers"),
        (
            4,
            4,
            ["resources.gpus_per_worker=0.5"],
            "2 of 4 GPUs stay idle, because a batch of 64 has 4 micro-batch(es) ",
        ),
        (4, 2, ["resources.gpus_per_worker=2"], None),
    ],
)
def test_idle_gpus_are_named(gpus: int, workers: int, settings: list[str], text: str | None) -> None:
    idle = describe_idle_gpus(gpus, workers, load_config(None, settings))
    assert (idle or "").startswith(text or "")
    assert (idle is None) == (text is None)
