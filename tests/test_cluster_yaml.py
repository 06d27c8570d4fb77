"""cluster.yaml: valid for the locked Ray, scaled from zero, closed to the world."""

import copy
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(TEXT)


def commands(cluster: dict[str, Any]) -> list[str]:
    return [c for key, value in cluster.items() if key.endswith("_commands") for c in value]


@pytest.fixture
def prepared(cluster: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of the file: ours over Ray's defaults."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever Ray's own modules warn of as they are imported
        from ray.autoscaler._private.util import prepare_config, validate_config
    config = prepare_config(copy.deepcopy(cluster))
    validate_config(config)
    return config


def test_nothing_dangerous_or_unpinned_is_left_of_rays_defaults(prepared: dict[str, Any]) -> None:
    final = yaml.safe_dump(prepared)
    for text in (TEXT, final):
        assert "0.0.0.0" not in text  # noqa: S104 (that is the point)
        assert "nightly" not in text
        assert "ray-wheels" not in text  # where the nightly wheel of the defaults comes from
    assert "--dashboard-host=127.0.0.1" in final


def test_workers_scale_from_zero(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    head = types.pop(cluster["head_node_type"])
    assert "GPU" not in head["resources"]
    assert any(t["resources"].get("GPU") for t in types.values())
    assert any(not t["resources"].get("GPU") for t in types.values())
    for name, node_type in types.items():
        assert node_type["min_workers"] == 0, name
        assert 0 < node_type["max_workers"] <= cluster["max_workers"], name


def test_every_node_installs_the_lock_and_the_lock_has_this_ray(cluster: dict[str, Any]) -> None:
    import ray

    mounts = cluster["file_mounts"]
    assert list(mounts.values()) == ["./requirements.lock"]  # nothing private travels
    assert any("install" in c and "-r ~/requirements.lock" in c for c in cluster["setup_commands"])
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert re.findall(r"^ray==(\S+)", lock, re.MULTILINE) == [ray.__version__]
    for command in commands(cluster):
        for package in re.findall(r"install .*?(?:--user |--quiet )([a-z]\S*)", command):
            assert "==" in package, f"not pinned: {command}"


def test_every_node_asks_for_the_token_and_has_it(cluster: dict[str, Any]) -> None:
    starts = [c for c in commands(cluster) if "ray start" in c]
    assert len(starts) == 2  # the head's and the workers'
    assert all("RAY_AUTH_MODE=token " in c for c in starts)
    assert any("umask 077" in c and "auth_token" in c for c in cluster["head_setup_commands"])
    assert cluster["cluster_synced_files"] == ["/home/ubuntu/.ray/auth_token"]
