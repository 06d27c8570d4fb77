"""The nodes of a cluster are examined where they are, and compared."""

import json
import platform

import pytest

from brainscale.training.diagnosis_text import format_diagnosis
from brainscale.training.doctor import diagnose_cluster

pytestmark = [pytest.mark.ray]


def test_the_nodes_of_a_cluster(ray_cluster: None) -> None:
    diagnosis = diagnose_cluster(speed=False)
    assert (diagnosis.nodes, diagnosis.busy_nodes, diagnosis.counts, diagnosis.exact) == (1, 0, (1,), True)
    assert len(diagnosis.kinds[0].exactness.hashes) >= 3
    assert diagnosis.object_store_gib > 0
    text = format_diagnosis(diagnosis)
    assert "yes: the number of workers changes no bit" in text
    assert platform.node() not in text + json.dumps(diagnosis.to_json())
