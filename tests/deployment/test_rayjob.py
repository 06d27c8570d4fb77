"""configs/cluster/rayjob.yaml: what Kubernetes and KubeRay would say to it, and what Ray's autoscaler makes of it."""

import re
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.support.commands import require_options
from tests.support.kuberay import changed, validate

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "cluster"
JOB, ACCOUNT, POLICY = yaml.safe_load_all((FOLDER / "rayjob.yaml").read_text(encoding="utf-8"))
CLUSTER = JOB["spec"]["rayClusterSpec"]
GROUPS = {group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}
TEMPLATES = [g["template"] for g in [CLUSTER["headGroupSpec"], *GROUPS.values()]] + [
    JOB["spec"]["submitterPodTemplate"]
]
PODS = [template["spec"] for template in TEMPLATES]
GPU = "spec.rayClusterSpec.workerGroupSpecs.1"
FIRST_CONTAINER = f"{GPU}.template.spec.containers.0"


@pytest.mark.parametrize("manifest", [JOB, ACCOUNT, POLICY], ids=lambda m: m["kind"])
def test_kubernetes_takes_it(manifest: dict[str, Any]) -> None:
    validate(manifest)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("apiVersion", "ray.io/v1beta1"),
        ("metadata.name", "Brainscale_1"),
        ("spec.entryPoint", "brainscale --version"),
        ("spec.backoffLimit", "2"),
        ("spec.shutdownAfterJobFinishes", False),
        ("spec.submissionMode", "K8SJobMode"),
        ("spec.rayClusterSpec.rayVersion", "2.51.0"),
        ("spec.rayClusterSpec.rayVersion", 2.6),
        ("spec.rayClusterSpec.authOptions.mode", "tokens"),
        ("spec.rayClusterSpec.authOptions.token", "secret"),
        ("spec.rayClusterSpec.autoscalerOptions.version", "v3"),
        ("spec.rayClusterSpec.autoscalerOptions.idleTimeoutSeconds", -1),
        ("spec.rayClusterSpec.autoscalerOptions.resources.limits.memory", "1GiB"),
        ("spec.rayClusterSpec.autoscalerOptions.securityContext.priviledged", True),
        ("spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.restartPolicy", "Always"),
        (f"{GPU}.minReplica", 0),
        (f"{GPU}.minReplicas", 5),
        (f"{GPU}.template.spec.nodeSelectors", {}),
        (f"{GPU}.template.spec.tolerations.0.operator", 1),
        (f"{FIRST_CONTAINER}.imagePullPolice", "Always"),
        (f"{FIRST_CONTAINER}.resources.limits.cpu", "eight"),
        ("spec.submitterPodTemplate.spec.containers", None),
    ],
)
def test_a_mistake_is_caught(place: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        validate(changed(JOB, place, value))


def test_a_mistake_beside_the_job_is_caught() -> None:
    with pytest.raises(ValidationError):
        validate(changed(POLICY, "spec.ingres", []))


def test_ray_is_that_of_the_lock_everywhere() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    (version,) = re.findall(r"^ray==(\S+)", lock, re.MULTILINE)
    assert CLUSTER["rayVersion"] == version
    bases = re.findall(r"^FROM (\S+)", (FOLDER / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(bases) == {f"rayproject/ray:{version}-py311-cpu"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (ours,) = [Requirement(line) for line in project["dependencies"] if line.startswith("ray[")]
    major, minor, *_ = map(int, version.split("."))
    assert ours.specifier == SpecifierSet(f">={major}.{minor},<{major}.{minor + 1}")


def test_the_image_has_what_runs_with_hashes_and_nothing_that_develops() -> None:
    _, image = (FOLDER / "Dockerfile").read_text(encoding="utf-8").split("\n\n")  # what makes the wheel, and the image
    assert "pip install --no-cache-dir --require-hashes -r /tmp/requirements.lock" in image
    assert "requirements-dev.lock" not in image


def test_one_image_and_no_privileges() -> None:
    containers = [container for pod in PODS for container in pod["containers"]]
    assert len({container["image"] for container in containers}) == 1
    assert not re.search(r":latest|:nightly", containers[0]["image"])
    for container in containers:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    for pod in PODS:
        assert pod["securityContext"]["runAsNonRoot"]
        assert not {"hostNetwork", "hostPID", "hostIPC", "volumes"} & pod.keys()


def test_a_token_and_a_closed_network() -> None:
    assert CLUSTER["authOptions"] == {"mode": "token"}
    labels = POLICY["spec"]["podSelector"]["matchLabels"]
    for template in TEMPLATES:
        assert labels.items() <= template["metadata"]["labels"].items()
    assert POLICY["spec"]["policyTypes"] == ["Ingress"]
    (rule,) = POLICY["spec"]["ingress"]
    assert all("podSelector" in peer for peer in rule["from"])
    assert "headService" not in CLUSTER["headGroupSpec"]
    assert CLUSTER["headGroupSpec"].get("serviceType", "ClusterIP") == "ClusterIP"


def test_the_entrypoint_is_a_command_of_ours_that_writes_to_the_bucket() -> None:
    entrypoint = JOB["spec"]["entrypoint"]
    given = require_options(entrypoint)
    assert given["out"].startswith("s3://")
    assert ACCOUNT["metadata"]["name"] == PODS[0]["serviceAccountName"]


# What Ray's own autoscaler makes of the groups.


def autoscaling(job: dict[str, Any]) -> Any:
    """Ray's reading of the cluster, as its autoscaler gets it from Kubernetes."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    cluster = {"metadata": {"name": "brainscale-x", "namespace": "default"}, "spec": job["spec"]["rayClusterSpec"]}
    return AutoscalingConfig(_derive_autoscaling_config_from_ray_cr(cluster), skip_content_hash=True)


def launched(demand: dict[str, float], monitor: Any = None) -> dict[str, int]:
    """Group → pods that the autoscaler would ask for, from nothing."""
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    config = autoscaling(JOB)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(demand)]),
        cloud_resource_availabilities=monitor.get_resource_availabilities() if monitor else {},
        recoverable_resource_availabilities=monitor.get_recoverable_resource_availabilities() if monitor else {},
    )
    reply = ResourceDemandScheduler(event_logger=None).schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch}


def pending_for_too_long(group: str) -> Any:
    """Ray's memory of groups that could not be had, after a pod of one stayed pending."""
    from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
    from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

    monitor = CloudResourceMonitor()
    monitor.notify([InstanceUpdateEvent(instance_type=group, new_instance_status=Instance.ALLOCATION_TIMEOUT)])
    return monitor


def test_every_group_scales_from_zero_and_the_head_does_no_work() -> None:
    config = autoscaling(JOB)
    assert CLUSTER["enableInTreeAutoscaling"]
    assert all(group["replicas"] == group["minReplicas"] == 0 for group in GROUPS.values())
    types = config.get_node_type_configs()
    assert types[config.get_head_node_type()].resources["CPU"] == 0
    assert types["gpu"].resources["GPU"] == types["gpu-spot"].resources["GPU"] == 1


def test_work_without_a_gpu_takes_no_gpu_node() -> None:
    assert launched({"CPU": 1}) == {"cpu": 1}


def test_spot_is_taken_first() -> None:
    assert launched({"CPU": 1, "GPU": 1}) == {"gpu-spot": 1}


def test_without_spot_a_gpu_comes_on_demand() -> None:
    assert launched({"CPU": 1, "GPU": 1}, pending_for_too_long("gpu-spot")) == {"gpu": 1}


def test_the_same_cluster_then_stays_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the manifest says; worker groups have a priority, which would bring spot back, only after KubeRay 1.6."""
    monitor = pending_for_too_long("gpu-spot")
    later = time.time() + 1200
    monkeypatch.setattr("time.time", lambda: later)
    assert launched({"CPU": 1, "GPU": 1}, monitor) == {"gpu": 1}
