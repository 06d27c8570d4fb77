import logging
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")


def test_ray_accepts_it() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    logging.getLogger("ray").setLevel(logging.ERROR)
    validate_config(prepare_config(yaml.safe_load(TEXT)))


def test_ray_would_refuse_a_wrong_one() -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    wrong = yaml.safe_load(TEXT) | {"idle_timeout": 3}
    with pytest.raises(ValidationError):
        validate_config(prepare_config(wrong))


def test_it_is_frugal_pinned_and_closed() -> None:
    cluster = yaml.safe_load(TEXT)
    workers = [t for name, t in cluster["available_node_types"].items() if name != cluster["head_node_type"]]
    assert all(worker["min_workers"] == 0 for worker in workers)
    commands = " ".join(cluster["setup_commands"] + cluster["head_start_ray_commands"])
    assert "requirements.lock" in commands
    assert re.search(r"^ray==\d", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert "0.0.0.0" not in TEXT  # noqa: S104 (it must not be there)
    assert "--dashboard-host=127.0.0.1" in commands
    starts = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in c for c in starts if "ray start" in c)
    assert not [c for c in cluster["setup_commands"] if "nightly" in c]
