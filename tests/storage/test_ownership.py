"""An output is replaced by the command that made it only, or with --overwrite; an input never unasked."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainscale.errors import OutputError, UsageError
from brainscale.storage.formats import (
    CSV,
    FOLDER,
    JSON,
    LATEX,
    MARKDOWN,
    TABLE,
    format_csv,
    format_json,
    format_markdown,
    require_format,
    suffix_of,
    write_output,
    write_text,
)
from brainscale.storage.ownership import describe_origin, is_same_place, require_own
from brainscale.storage.shards import write_shards
from brainscale.storage.tables import ORIGIN, read_table, write_table

ROWS = pa.table({"sample_id": ["a", "b"], "label": ["x|y", None], "shares": [[0.25, 0.75], None]})
MINE, OTHERS = describe_origin("overlap", {"inputs": ["a"]}), describe_origin("overlap", {"inputs": ["b"]})
DID_NOT = (
    "exists, and this command with these options did not make it: --overwrite replaces it, or choose another --out"
)


def test_an_origin_tells_commands_inputs_and_options_apart_and_names_no_path() -> None:
    origins = {
        describe_origin(command, {"inputs": inputs, "seed": seed})
        for command in ("split", "index")
        for inputs in (["/home/doe/m.parquet"], ["/home/doe/n.parquet"])
        for seed in (0, 1)
    }
    assert len(origins) == 8
    assert all(len(origin.split()) == 3 and "doe" not in origin for origin in origins)


@pytest.mark.parametrize("name", ["t.parquet", "t.md", "t.tex", "shards"])
def test_only_the_same_command_replaces_what_says_its_origin(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    require_own(path, MINE, kind="overlap")
    if name == "t.parquet":
        write_table(ROWS, path, "overlap", MINE)
    elif name == "shards":
        write_shards([ROWS], path, "overlap", MINE)
    else:
        write_text("figures", path, MINE)
    require_own(path, MINE, kind="overlap")
    with pytest.raises(OutputError, match=DID_NOT):
        require_own(path, OTHERS, kind="overlap")
    require_own(path, OTHERS, kind="overlap", overwrite=True)


@pytest.mark.parametrize("suffix", [CSV, JSON])
def test_csv_and_json_say_nothing_so_they_are_anothers(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    write_output(ROWS, path, "overlap", MINE)
    with pytest.raises(
        OutputError, match=f"exists, and a {suffix} file does not say what made it: --overwrite replaces it"
    ):
        require_own(path, MINE, kind="overlap")
    require_own(path, MINE, kind="overlap", overwrite=True)


def test_tables_of_another_kind_or_without_an_origin_and_other_files_are_anothers(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(ROWS, path, "comparison", MINE)
    with pytest.raises(OutputError, match=DID_NOT):
        require_own(path, MINE, kind="overlap")
    write_table(ROWS, path, "overlap")
    with pytest.raises(OutputError, match=DID_NOT):
        require_own(path, MINE, kind="overlap")
    path.write_text("mine")
    with pytest.raises(OutputError, match=DID_NOT):
        require_own(path, MINE, kind="overlap")


def test_a_table_made_of_another_does_not_pass_as_it(tmp_path: Path) -> None:
    first, copy = tmp_path / "a.parquet", tmp_path / "b.parquet"
    write_table(ROWS, first, "overlap", MINE)
    write_table(read_table(first, "overlap"), copy, "overlap")
    assert ORIGIN in read_table(first, "overlap").schema.metadata
    assert ORIGIN not in read_table(copy, "overlap").schema.metadata


def test_an_input_is_replaced_only_if_asked_by_whatever_name(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_table(ROWS, path, "overlap", MINE)
    (tmp_path / "link.parquet").symlink_to(path)
    for name in (f"{tmp_path}/m.parquet", f"{tmp_path}/./m.parquet", f"{tmp_path}/link.parquet"):
        with pytest.raises(OutputError, match="is an input of this command"):
            require_own(name, MINE, kind="overlap", inputs=[None, path])
    require_own(path, MINE, kind="overlap", inputs=[path], overwrite=True)
    assert is_same_place("s3://b/m/?region=x", "s3://b/m")
    assert not is_same_place("s3://b/m", "/b/m")


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "scans.parquet").mkdir()
    (tmp_path / "scans.parquet" / "a.png").touch()
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="is a folder that holds no overlap: choose another --out"):
            require_own(tmp_path / "scans.parquet", MINE, kind="overlap", overwrite=overwrite)
        with pytest.raises(OutputError, match="is a folder that holds no page: choose another --pairs"):
            require_own(tmp_path / "scans.parquet", MINE, overwrite=overwrite, option="--pairs")


@pytest.mark.parametrize(
    ("location", "suffix"),
    [
        ("a/b.PARQUET", TABLE),
        ("a.b/", FOLDER),
        ("a.parquet/", FOLDER),
        ("s3://b/t.md?region=x.csv", MARKDOWN),
        ("s3://b/m/?region=x", FOLDER),
        ("t.tex", LATEX),
        ("a.csv/m", ""),
        ("m", ""),
    ],
)
def test_the_suffix_of_paths_and_addresses(location: str, suffix: str) -> None:
    assert suffix_of(location) == suffix


def test_another_suffix_is_refused_in_one_line() -> None:
    assert require_format("t.csv", (TABLE, CSV)) == CSV
    with pytest.raises(
        UsageError, match=r"^--out t\.txt: the suffix decides the format, and must be \.parquet or \.md$"
    ):
        require_format("t.txt", (TABLE, MARKDOWN))


def test_texts_of_a_table() -> None:
    assert format_csv(ROWS) == 'sample_id,label,shares\na,x|y,"[0.25, 0.75]"\nb,,\n'
    assert '"label": "x|y"' in format_json(ROWS)
    assert format_markdown(ROWS).splitlines()[2:] == [r"| a | x\|y | \[0.25, 0.75\] |", "| b |  |  |"]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=5))
def test_csv_gives_every_text_back(texts: list[str]) -> None:
    import csv
    import io

    table = pa.table({"text": pa.array(texts, pa.string()), "number": pa.array(range(len(texts)), pa.int64())})
    kept = [row[0] for row in csv.reader(io.StringIO(format_csv(table), newline=""))][1:]
    assert kept == texts
