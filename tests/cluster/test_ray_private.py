"""What is private in Ray is reached in one module, and does there what it is for."""

import ast
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray.train
import ray.train.torch
from requests import ReadTimeout

from brainscale.cluster import ray_private

ROOT = Path(__file__).parents[2]
PUBLIC = {
    "ray", "ray.data", "ray.exceptions", "ray.job_submission", "ray.train", "ray.train.torch", "ray.util",
    "ray.util.placement_group", "ray.util.scheduling_strategies",
}  # fmt: skip


def ray_modules(path: Path) -> Iterator[str]:
    """Modules of Ray that a file imports, and attributes of Ray that it reads although their names are private."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from [node.module, *(f"{node.module}.{alias.name}" for alias in node.names if alias.name[0] == "_")]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and ast.unparse(node).startswith("ray."):
            yield ast.unparse(node)


def private(path: Path) -> set[str]:
    return {name for name in ray_modules(path) if name.split(".")[0] == "ray"} - PUBLIC


def test_one_module_reaches_what_is_private() -> None:
    files = [*(ROOT / "brainscale").rglob("*.py"), *(ROOT / "jobs").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    found = {path.relative_to(ROOT).as_posix(): private(path) for path in files}
    assert {path for path, names in found.items() if names} == {"brainscale/cluster/ray_private.py"}


def test_ray_trains_public_classes_are_its_second_version() -> None:
    """The first has other failures, and no callback of ours."""
    from ray.train.v2.api import callback, config, exceptions
    from ray.train.v2.torch import torch_trainer

    assert ray.train.UserCallback is callback.UserCallback
    assert ray.train.RunConfig is config.RunConfig
    assert ray.train.ScalingConfig is config.ScalingConfig
    assert ray.train.FailureConfig is config.FailureConfig
    assert ray.train.TrainingFailedError is exceptions.TrainingFailedError
    assert ray.train.torch.TorchTrainer is torch_trainer.TorchTrainer


def test_it_says_that_it_was_tried_with_this_ray() -> None:
    assert re.search(r"Tried with Ray ([\d.]+\d)", str(ray_private.__doc__)).group(1) == ray.__version__  # type: ignore[union-attr]


def test_a_silent_jobs_server_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(ReadTimeout):  # listens, and never answers
        ray_private.job_client(f"http://127.0.0.1:{server.getsockname()[1]}", request_seconds=0.2)
