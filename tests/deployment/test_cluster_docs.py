"""The commands of docs/cluster.md and of the files it names: they parse."""

import re
import shlex
from pathlib import Path

import click
import pytest

from tests.support.commands import require_options, shown

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "cluster.md"
FILES = [PAGE, ROOT / "cluster.yaml", *(ROOT / "configs" / "cluster").iterdir()]


def in_comments(path: Path) -> list[str]:
    """`brainscale ...` and `sbatch ... slurm.sbatch ...` lines in a file's comments, as our commands."""
    lines = [line.strip("# \n") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    ours = [re.sub(r"^sbatch configs/cluster/slurm.sbatch", "brainscale", line) for line in lines]
    return [line for line in ours if re.match("brainscale (train|evaluate|score|index) --?[a-z]", line)]


OURS = [
    *shown(PAGE, "brainscale "),
    *(line.replace("sbatch configs/cluster/slurm.sbatch", "brainscale") for line in shown(PAGE, "sbatch ")),
    *in_comments(ROOT / "cluster.yaml"),
    *in_comments(ROOT / "configs" / "cluster" / "slurm.sbatch"),
]


@pytest.mark.parametrize("line", OURS)
def test_our_commands_parse(line: str) -> None:
    options = require_options(line)
    assert options.get("out") or line.startswith("brainscale doctor")


def test_there_are_commands_to_parse() -> None:
    assert len(OURS) >= 6
    with pytest.raises(click.UsageError, match="no such option|No such option"):
        require_options("brainscale score run scans --out scores --adress http://127.0.0.1:8265")


@pytest.mark.parametrize("line", shown(PAGE, "ray ") + shown(PAGE, "RAY_AUTH_MODE=token ray "))
def test_rays_commands_parse(line: str) -> None:
    from ray.scripts.scripts import cli

    name, *arguments = shlex.split(line.rstrip("& "))[1 if line.startswith("ray ") else 2 :]
    with click.Context(cli) as group, cli.commands[name].make_context(name, arguments, parent=group):
        pass


def test_iams_commands_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run against a mock of IAM, in the page's order; the head's role is Ray's."""
    import boto3
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        iam = boto3.client("iam")
        iam.create_role(RoleName="ray-autoscaler-v1", AssumeRolePolicyDocument="{}")
        for line in shown(PAGE, "aws iam "):
            name, *options = shlex.split(line)[2:]
            given = {
                option.removeprefix("--").title().replace("-", ""): value
                for option, value in zip(options[::2], options[1::2], strict=True)
            }
            getattr(iam, name.replace("-", "_"))(**given)
        (role,) = iam.get_instance_profile(InstanceProfileName="brainscale-worker")["InstanceProfile"]["Roles"]
        assert role["RoleName"] == "brainscale-worker"
        assert iam.list_role_policies(RoleName="ray-autoscaler-v1")["PolicyNames"] == ["pass-worker"]


def test_every_file_that_is_named_is_there() -> None:
    named = set(re.findall(r"\]\(([^)#:]+)[^)]*\)", PAGE.read_text(encoding="utf-8")))
    named |= {f"../{path}" for path in re.findall(r"configs/cluster/[\w.]+", PAGE.read_text(encoding="utf-8"))}
    assert all((PAGE.parent / name).exists() for name in named), named


def test_every_start_of_ray_asks_for_a_token_and_none_opens_the_jobs_server() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert "0.0.0.0" not in text, path  # noqa: S104 (it must not be there)
        if "ray start" in text:
            assert re.search("RAY_AUTH_MODE=token", text), path
        for start in re.findall(r"ray start --head(?:[^\n]|\\\n)*(?:\n +--[^\n]*)*", text):
            assert "--dashboard-host=127.0.0.1" in start, path
