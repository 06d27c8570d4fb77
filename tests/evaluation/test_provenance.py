"""What a report says of its own origin."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from brainscale.evaluation.provenance import describe_command, find_source_name, format_time, group_facts


@pytest.mark.parametrize(
    ("model", "options", "command"),
    [
        ("runs/first", {"--split": "test", "--out": None}, "brainscale evaluate runs/first --split test"),
        (
            "/home/ann/runs/first",
            {"--data": "s3://bucket/scans?secret=1", "--by": ("site", "sex"), "--prevalence": 0.05},
            "brainscale evaluate '…/first' --data s3://bucket/scans --by site --by sex --prevalence 0.05",
        ),
        (
            "runs/a run",
            {"--show-burned-in": True, "--allow-edited-model": False, "--by": ()},
            "brainscale evaluate 'runs/a run' --show-burned-in",
        ),
    ],
)
def test_the_command_can_be_read_and_holds_no_secret(model: str, options: dict[str, object], command: str) -> None:
    assert describe_command(model, options) == command


def test_facts_stand_in_groups_and_none_is_lost() -> None:
    facts = {"run": "first", "samples": 1234, "model": "brainmrnet", "model_edited": False, "seed": "1042"}
    groups = group_facts({**facts, "data": None, "degenerate": "…", "a_new_fact": 0.5})
    assert list(groups) == ["Model", "Data", "Run", "Software"]
    assert groups["Model"] == {"model": "brainmrnet", "model edited": "no", "seed": "1042"}
    assert groups["Data"] == {"samples": "1,234"}
    assert groups["Run"] == {"run": "first", "a new fact": "0.5"}
    assert "torch" in groups["Software"]


@pytest.mark.parametrize(
    ("uris", "ids", "name"),
    [
        (["/data/scans/a/1.png", "/data/scans/b/2.png"], ["a/1.png", "b/2.png"], "scans"),
        (["s3://bucket/x/scan.zip", "s3://bucket/x/scan.zip"], ["scan.zip!a.dcm#1", "scan.zip!b.dcm#2"], "x"),
        (["/data/scans/1.png", "/data/more/2.png"], ["1.png", "2.png"], None),
        ([], [], None),
    ],
)
def test_data_are_named_by_their_folder(uris: list[str], ids: list[str], name: str | None) -> None:
    table = pa.table({"uri": pa.array(uris, pa.string()), "sample_id": pa.array(ids, pa.string())})
    assert find_source_name(table) == name


def test_a_time_is_for_people() -> None:
    assert format_time(datetime(2026, 5, 1, 9, 5, tzinfo=UTC)) == "1 May 2026, 09:05 UTC"
