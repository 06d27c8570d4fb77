"""cluster.yaml: Ray's own checks, and a rehearsal of `ray up` in which only AWS (moto) and the shell are not real."""

import gc
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


@dataclass(kw_only=True)
class Rehearsal:
    """What `ray up` came to: the configuration it made, its provider, and the commands it would have run."""

    config: dict[str, Any]
    provider: Any
    commands: list[str] = field(default_factory=list)

    def check_call(self, command: list[str], *args: Any, **options: Any) -> None:
        self.commands.append(" ".join(command))

    def check_output(self, command: list[str], *args: Any, **options: Any) -> bytes:
        self.commands.append(" ".join(command))
        return b""

    def start(self, node_type: str, **changes: Any) -> Any:
        """The instance that this node type becomes."""
        settings = self.config["available_node_types"][node_type]["node_config"] | changes
        (instance,) = self.provider.create_node(settings, {"ray-node-type": "worker"}, 1).values()
        return instance


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    from moto import mock_aws
    from moto.ec2.models.instance_types import InstanceTypeBackend
    from ray.autoscaler._private.aws.utils import client_cache, resource_cache

    home = tmp_path_factory.mktemp("home")
    (home / ".ssh").mkdir()
    managed_policies = {"iam": {"load_aws_managed_policies": True}}
    with pytest.MonkeyPatch.context() as patch, mock_aws(config=managed_policies):
        for name, value in {
            "HOME": str(home),
            "TMPDIR": str(home),
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
            "AWS_DEFAULT_REGION": "eu-central-1",
        }.items():
            patch.setenv(name, value)
        patch.chdir(ROOT)
        patch.syspath_prepend(ROOT / "configs" / "cluster")
        patch.setattr("ray.autoscaler._private.aws.config.time.sleep", lambda seconds: None)
        patch.setattr(InstanceTypeBackend, "instance_types", _kinds_of_machine())  # all 1,395 take ten seconds to list
        resource_cache.cache_clear()
        client_cache.cache_clear()
        with warnings.catch_warnings():  # Ray leaves a file to the collector, which would close it in a later test
            warnings.simplefilter("ignore", ResourceWarning)
            done = _ray_up()
            gc.collect()
        yield done
        resource_cache.cache_clear()
        client_cache.cache_clear()


def _kinds_of_machine() -> list[Any]:
    """What moto knows of the instance types that cluster.yaml names."""
    from moto.ec2.models.instance_types import InstanceType

    nodes = yaml.safe_load(TEXT)["available_node_types"].values()
    return [InstanceType(node["node_config"]["InstanceType"]) for node in nodes]


def _ray_up() -> Rehearsal:
    import boto3
    from ray.autoscaler._private import commands, providers

    boto3.client("iam").create_instance_profile(InstanceProfileName="brainscale-worker")
    config = commands._bootstrap_config(yaml.safe_load(TEXT), no_config_cache=True)
    provider = providers._get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
    done = Rehearsal(config=config, provider=provider)
    commands.get_or_create_head_node(
        config,
        "cluster.yaml",
        no_restart=False,
        restart_only=False,
        yes=True,
        override_cluster_name=None,
        _provider=provider,
        _runner=done,
    )
    return done


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
    assert "pip install --quiet --require-hashes -r ~/requirements.lock" in commands
    assert re.search(r"^ray==\d", LOCK, re.MULTILINE)
    assert re.search(r"^boto3==\d", LOCK, re.MULTILINE)  # with it the head starts and ends workers
    assert "0.0.0.0" not in TEXT  # noqa: S104 (it must not be there)
    assert "--dashboard-host=127.0.0.1" in commands
    starts = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in c for c in starts if "ray start" in c)
    assert not [c for c in cluster["setup_commands"] if "nightly" in c or "wheels" in c]


def test_ray_up_sets_up_the_head_with_a_token_and_a_closed_dashboard(rehearsal: Rehearsal) -> None:
    (start,) = [c for c in rehearsal.commands if "ray start" in c]
    assert "--dashboard-host=127.0.0.1" in start
    assert "RAY_AUTH_MODE=token" in start
    token = next(n for n, c in enumerate(rehearsal.commands) if "umask 077" in c and "auth_token" in c)
    assert token < rehearsal.commands.index(start)
    copied = [c for c in rehearsal.commands if c.startswith("rsync")]
    assert any("./requirements.lock" in c for c in copied)
    assert any("./configs/cluster/spot_first.py" in c for c in copied)
    assert not [c for c in rehearsal.commands if "ray-wheels" in c]  # Ray's default is a nightly wheel


def test_the_world_reaches_ssh_and_nothing_else(rehearsal: Rehearsal) -> None:
    import boto3

    workers = rehearsal.config["available_node_types"]["gpu_worker"]["node_config"]
    (group,) = boto3.client("ec2").describe_security_groups(GroupIds=workers["SecurityGroupIds"])["SecurityGroups"]
    open_to_all = [rule for rule in group["IpPermissions"] if rule["IpRanges"] or rule["Ipv6Ranges"]]
    assert [(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in open_to_all] == [("tcp", 22, 22)]
    inside = [rule for rule in group["IpPermissions"] if rule not in open_to_all]
    assert {pair["GroupId"] for rule in inside for pair in rule["UserIdGroupPairs"]} == {group["GroupId"]}


@pytest.mark.parametrize(
    ("node_type", "accelerators"), [("gpu_worker", {"accelerator_type:A10G"}), ("cpu_worker", set())]
)
def test_a_worker_has_what_its_instance_type_has(rehearsal: Rehearsal, node_type: str, accelerators: set[str]) -> None:
    import boto3

    worker = rehearsal.config["available_node_types"][node_type]
    (facts,) = boto3.client("ec2").describe_instance_types(InstanceTypes=[worker["node_config"]["InstanceType"]])[
        "InstanceTypes"
    ]
    assert worker["resources"]["CPU"] == facts["VCpuInfo"]["DefaultVCpus"]
    assert {r for r in worker["resources"] if r.startswith("accelerator_type")} == accelerators  # which Ray looked up


@pytest.mark.parametrize("node_type", ["gpu_worker", "cpu_worker"])
def test_workers_are_spot_and_may_use_the_bucket(rehearsal: Rehearsal, node_type: str) -> None:
    instance = rehearsal.start(node_type)
    assert instance.instance_lifecycle == "spot"
    assert instance.iam_instance_profile["Arn"].endswith("/brainscale-worker")


def _refuse_spot(provider: Any, code: str, patch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ClientError

    create = provider.ec2_fail_fast.create_instances

    def refusing(**settings: Any) -> Any:
        if "InstanceMarketOptions" in settings:
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, "RunInstances")
        return create(**settings)

    patch.setattr(provider.ec2_fail_fast, "create_instances", refusing)


def test_without_spot_a_worker_comes_on_demand(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    _refuse_spot(rehearsal.provider, "InsufficientInstanceCapacity", monkeypatch)
    instance = rehearsal.start("gpu_worker")
    assert instance.instance_lifecycle is None
    assert instance.instance_type == "g5.2xlarge"


def test_ray_itself_would_go_on_asking_for_spot() -> None:
    """Why spot_first.py is there: autoscaler v2 takes note of nodes that stay pending, not of refused ones."""
    from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
    from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

    monitor = CloudResourceMonitor()
    refused = InstanceUpdateEvent(instance_type="gpu_worker", new_instance_status=Instance.ALLOCATION_FAILED)
    monitor.notify([refused])
    assert monitor.get_recoverable_resource_availabilities() == {}


def test_another_refusal_is_passed_on(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.autoscaler.node_launch_exception import NodeLaunchException

    _refuse_spot(rehearsal.provider, "UnauthorizedOperation", monkeypatch)
    with pytest.raises(NodeLaunchException):
        rehearsal.start("gpu_worker")


def test_a_typo_in_a_node_type_is_caught(rehearsal: Rehearsal) -> None:
    from botocore.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError, match="InstancType"):
        rehearsal.start("gpu_worker", InstancType="g5.xlarge")
