"""What a cluster can never give, said before anything starts; no Ray is asked here."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from brainscale.cluster import capacity
from brainscale.config import files, sections
from brainscale.dataset.indexer import write_index
from brainscale.errors import ClusterError, UsageError

REMEDY = "ask for fewer or smaller workers, or add nodes"
FOUR = {"CPU": 4.0, "memory": 1e9}


def pretend(
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[dict[str, float]],
    would_hold: bool | None = None,
) -> None:
    """Nodes that are there, and what an autoscaler answers, None without one."""
    kinds = {kind for node in nodes for kind in node}
    total = {kind: sum(node.get(kind, 0) for node in nodes) for kind in kinds}
    monkeypatch.setattr("ray.cluster_resources", lambda: total)
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])
    monkeypatch.setattr(capacity.autoscaler, "would_hold", lambda bundles: would_hold)
    monkeypatch.setattr(capacity.autoscaler, "is_available", lambda: would_hold is not None)


@pytest.mark.parametrize(
    ("workers", "each", "said"),
    [
        (2, {"CPU": 4.0}, None),
        (4, {"CPU": 2.0}, None),
        (9, {"CPU": 1.0}, f"9 workers need 9 CPUs, but the cluster has 8: {REMEDY}"),
        (1, {"CPU": 8.0}, f"a worker needs 8 CPUs on one node, but a node has 4 CPUs: {REMEDY}"),
        (2, {"CPU": 3.0}, None),
        (1, {"CPU": 1.0, "GPU": 1.0}, f"1 worker needs 1 GPU, but the cluster has 0: {REMEDY}"),
    ],
)
def test_two_nodes_of_four(
    workers: int, each: dict[str, float], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, [FOUR, FOUR])
    if said is None:
        assert capacity.require_capacity(workers, each) is None
        return
    with pytest.raises(ClusterError, match=f"^{re.escape(said)}$"):
        capacity.require_capacity(workers, each)


def test_enough_in_all_and_too_little_on_each_node(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [FOUR, FOUR, FOUR])
    said = "4 workers need 3 CPUs each on one node, but the nodes have room for 3"
    with pytest.raises(ClusterError, match=said):
        capacity.require_capacity(4, {"CPU": 3.0})


@pytest.mark.parametrize(
    ("would_hold", "free", "said"),
    [
        (True, 4.0, None),
        (False, 1.0, None),  # others hold what there is
        (
            False,
            4.0,
            "2 workers need 4 CPUs each on one node, and reading needs 1 CPU, but a node has 4 CPUs and the autoscaler "
            f"cannot add nodes for them: {REMEDY}",
        ),
        (None, 4.0, f"2 workers need 9 CPUs (1 of them for reading), but the cluster has 4: {REMEDY}"),
    ],
)
def test_an_autoscaler_is_asked(
    would_hold: bool | None, free: float, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, [FOUR], would_hold)
    monkeypatch.setattr("ray.available_resources", lambda: {"CPU": free})
    if said is None:
        waiting = capacity.require_capacity(2, {"CPU": 4.0}, reading_cpus=1)
        hope = "its autoscaler can add nodes" if would_hold else "other work must end first"
        assert waiting == f"waiting for 9 CPUs: the cluster has 4 CPUs now; {hope}"
        return
    with pytest.raises(ClusterError, match=f"^{re.escape(said)}$"):
        capacity.require_capacity(2, {"CPU": 4.0}, reading_cpus=1)


def test_enough_in_all_and_an_autoscaler(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [FOUR, FOUR], would_hold=True)
    said = "waiting for 8 CPUs: the cluster has 8 CPUs now, but not enough on one node; its autoscaler can add nodes"
    assert capacity.require_capacity(1, {"CPU": 8.0}) == said


@pytest.mark.parametrize(("nodes", "grows"), [(1, None), (1, True), (2, None)])
def test_a_path_where_nodes_are_or_will_be_several(
    nodes: int, grows: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, [FOUR] * nodes, grows)
    capacity.require_shared(["s3://bucket/a", "/b"], shared=True)
    capacity.require_shared(["s3://bucket/a"], shared=False)
    if nodes == 1 and not grows:
        capacity.require_shared(["/b"], shared=False)
        return
    several = "may add nodes" if grows else "has 2 nodes"
    with pytest.raises(UsageError, match=f"^/b is a local path, but this cluster {several} with disks of their own"):
        capacity.require_shared(["s3://bucket/a", "/b"], shared=False)


def test_gpus_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    pretend(monkeypatch, [FOUR])
    monkeypatch.setattr(capacity.autoscaler, "would_hold", lambda bundles: bool(asked.append(bundles)) or True)
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(gcs_address="nowhere:1"))
    assert capacity.can_have_gpus(2)
    assert capacity.can_have_gpus(2)
    assert asked == [[{"GPU": 1.0}, {"GPU": 1.0}]]


SAID = (
    "is a local path, but this cluster has 2 nodes with disks of their own: give an address such as s3://bucket/folder"
)


def test_a_path_means_another_disk_on_each_node(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = ["s3://bucket/scans", None, "gs://bucket/out", "@/here/list.txt"]
    pretend(monkeypatch, [FOUR])
    capacity.require_shared(["/here"], shared=False)
    pretend(monkeypatch, [FOUR, FOUR])
    capacity.require_shared(bucket, shared=False)
    capacity.require_shared(["/here"], shared=True)
    with pytest.raises(UsageError, match=f"^/here {SAID}, or add --shared"):
        capacity.require_shared([*bucket, "/here", "/there"], shared=False)


def test_what_a_list_names_is_looked_at_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list").write_text("/here/a.png\n")
    pretend(monkeypatch, [FOUR, FOUR])
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("brainscale.dataset.outputs.ManifestOutput.check_owner", lambda *_, **__: None)  # no such store
    with pytest.raises(UsageError, match=f"^/here/a.png {SAID}"):
        write_index([f"@{tmp_path}/list"], "s3://bucket/m.parquet", sections.Config())


def test_room_is_no_part_of_what_a_run_is() -> None:
    room = ["resources.cpus_per_worker=4", "resources.gpus_per_worker=0.5", "resources.object_store_gib=2"]
    assert files.load_config(None, room).fingerprint == sections.Config().fingerprint
