"""What a person sees: help, exit codes, one-line errors. What needs Ray is in integration/."""

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import brainscale as bs
from brainscale.cli.console import print_facts
from brainscale.cli.main import main
from brainscale.cli.overlapping import overlap_command
from brainscale.cli.splitting import split_command
from brainscale.config.data_sections import SplitConfig
from brainscale.config.sections import ARCHITECTURES
from brainscale.dataset.manifest import check_manifest
from brainscale.dataset.near_duplicates import SIMILARITY
from brainscale.schema import MANIFEST
from brainscale.stats.metric_names import PUBLISHED_NOTE
from tests.support.manifests import manifest
from tests.support.runs import Invoke


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from brainscale.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as e: assert e.code in (0, None)\n"
        "heavy = {'torch', 'ray', 'pandas', 'pyarrow', 'numpy', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "print(heavy or 'LIGHT')"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LIGHT"


def test_scoring_workers_need_no_torch() -> None:
    code = "import sys, brainscale.scoring.predictions, brainscale.scoring.folder_job; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "command",
    ["demo", "index", "split", "train", "evaluate", "score", "predict", "compare", "config", "doctor", "jobs"],
)
def test_every_command_has_help_with_an_example(invoke: Invoke, command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"Example: brainscale {command}" in result.output


def commands_of(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from commands_of(command)


@pytest.mark.parametrize("command", list(commands_of(main)), ids=lambda command: str(command.name))
def test_every_option_has_a_help_text_that_stands_alone(command: click.Command) -> None:
    assert command.help
    for option in (parameter for parameter in command.params if isinstance(parameter, click.Option)):
        assert option.help, option.name
        assert re.fullmatch(r"(?!Of|That|What|At most|So many|Whether|Said)[A-Z].*\.", option.help), option.help


@pytest.mark.parametrize("arguments", [["--help"], ["jobs", "--help"]])
def test_the_list_of_commands_has_whole_sentences(invoke: Invoke, arguments: list[str]) -> None:
    _, _, listed = invoke(*arguments).output.partition("Commands:\n")
    summaries = re.split(r"^  (?=\S)", listed, flags=re.MULTILINE)[1:]
    assert len(summaries) >= 3
    for summary in summaries:
        assert re.fullmatch(r"\w+ +[A-Z][^.]*\.\s*", summary), summary


def test_the_help_of_train_names_every_network(invoke: Invoke) -> None:
    words = set(re.findall(r"\w+", invoke("train", "--help").output))
    assert set(ARCHITECTURES) <= words


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["bogus"], 2, "No such command 'bogus'"),
        (["train"], 2, "Missing option '--data'"),
        (["train", "--data", "x", "--out", "y", "--model", "resnet"], 2, "unknown model 'resnet': did you mean"),
        (["train", "--data", "x", "--out", "y", "--set", "train.epoch=1"], 2, "unknown key 'train.epoch'"),
        (["train", "--data", "x", "--out", "y", "--config", "none"], 2, "no configuration 'none'"),
        (["train", "--data", "x", "--out", "y", "--workers", "3"], 2, "3 workers cannot share the 4 micro-batch(es)"),
        (["train", "--data", "x", "--out", "y", "--address", "host:1"], 2, "--address takes a Jobs URL"),
        (["score", "m", "x", "--out", "y", "--address", "http://127.0.0.1:9"], 1, "no Jobs server answers at"),
        (["score", "m", "x", "--out", "y", "--no-wait"], 2, "--no-wait needs --address"),
        (["jobs", "stop", "an-id"], 2, "no --address: give the URL of the Jobs server"),
        (["jobs", "list", "--address", "http://me:sesame@127.0.0.1:9"], 2, "--address contains a password"),
        (
            ["index", "x", "--out", "y.parquet", "--patient-from", "("],
            2,
            "--patient-from '(' is not a regular expression",
        ),
        (["index", "x", "--out", "y.parquet", "--patient-from", "p.*"], 2, "--patient-from 'p.*' has no group"),
        (
            ["index", "x", "--out", "y.parquet", "--label-column", "d"],
            2,
            "--label-column names a column of a label file",
        ),
        (["split", "none.parquet", "--out", "y.parquet"], 1, "no manifest at none.parquet"),
        (
            ["split", "m.parquet", "--out", "y.parquet", "--folds", "3", "--val", "0.1"],
            2,
            "--folds cannot be combined with",
        ),
        (["split", "m.parquet", "--out", "y.parquet", "--val", "0.5", "--test", "0.5"], 2, "leave nothing to train on"),
        (["compare", "nowhere", "nowhere"], 2, "the same run is named twice"),
    ],
)
def test_wrong_usage_is_one_line(invoke: Invoke, arguments: list[str], status: int, text: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == status
    assert text in result.output
    assert "Traceback" not in result.output
    assert len([line for line in result.output.splitlines() if line.startswith("Error")]) == 1


def test_split_by_hand(invoke: Invoke, tmp_path: Path) -> None:
    table = manifest([(i, "tumour" if i % 2 else "no_tumour", False) for i in range(400)])
    pq.write_table(table, tmp_path / "m.parquet")
    done = invoke("split", tmp_path / "m.parquet", "--out", tmp_path / "s.parquet", "--test", "0.3", "--json")
    assert done.exit_code == 0, done.output
    splits = pq.read_table(tmp_path / "s.parquet")["split"].to_pylist()
    assert json.loads(done.stdout)["splits"]["test"] == {
        label: sum(s == "test" and i % 2 == odd for i, s in enumerate(splits))
        for odd, label in enumerate(("no_tumour", "tumour"))
    }
    assert [splits.count(split) for split in ("train", "val", "test")] == [220, 60, 120]
    done = invoke("split", tmp_path / "m.parquet", "--out", tmp_path / "f.parquet", "--folds", "4")
    assert done.exit_code == 0
    assert set(pq.read_table(tmp_path / "f.parquet")["fold"].to_pylist()) == {0, 1, 2, 3}
    assert invoke("split", "--verify", tmp_path / "f.parquet").exit_code == 0
    done = invoke(
        "split",
        tmp_path / "m.parquet",
        "--keep",
        tmp_path / "s.parquet",
        "--seed",
        "9",
        "--out",
        tmp_path / "k.parquet",
    )
    assert done.exit_code == 0, done.output
    assert pq.read_table(tmp_path / "k.parquet")["split"].to_pylist() == splits
    assert "no --out: name the manifest to write" in invoke("split", tmp_path / "m.parquet").output
    folds = [
        "split",
        tmp_path / "m.parquet",
        "--keep",
        tmp_path / "f.parquet",
        "--seed",
        "9",
        "--out",
        tmp_path / "l.parquet",
    ]
    done = invoke(*folds, "--folds", "4")
    assert done.exit_code == 0, done.output
    assert pq.read_table(tmp_path / "l.parquet")["fold"] == pq.read_table(tmp_path / "f.parquet")["fold"]
    done = invoke(*folds, "--folds", "5", "--overwrite")
    assert done.exit_code == 1
    assert done.output.splitlines()[-1] == "Error: the earlier manifest has 4 folds, not 5: use its number of folds"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--verify", "--out", "s.parquet"], "--verify only checks a manifest: remove --out"),
        (["--out", "s.parquet", "--val", "nan"], "--val nan and --test 0.2 leave nothing to train on"),
        (["--verify", "--folds", "3"], "--verify only checks a manifest: remove --folds"),
        (["--verify", "--folds-by", "site"], "--verify only checks a manifest: remove --folds-by"),
        (["--out", "s.parquet", "--folds-by", "site", "--seed", "1"], "--folds-by cannot be combined with --seed"),
        (["--out", "s.parquet", "--folds-by", "site", "--folds", "2"], "--folds-by cannot be combined with --folds"),
        (["--out", "s.parquet", "--similarity", "none"], "--similarity changes the groups only if they are made again"),
    ],
)
def test_split_ignores_no_option(invoke: Invoke, tmp_path: Path, options: list[str], error: str) -> None:
    done = invoke("split", tmp_path / "m.parquet", *options)
    assert done.exit_code == 2
    assert error in done.output


def test_an_output_replaces_no_other_file(invoke: Invoke, tmp_path: Path) -> None:
    table = manifest([(i, "tumour" if i % 2 else "no_tumour", False) for i in range(40)])
    pq.write_table(table, tmp_path / "m.parquet")
    notes, split = tmp_path / "notes.txt", tmp_path / "s.parquet"
    notes.write_text("mine")
    done = invoke("split", tmp_path / "m.parquet", "--out", notes)
    assert (done.exit_code, done.output) == (
        2,
        f"Error: --out {notes}: the suffix decides the format, and must be .parquet or a slash for a folder\n",
    )
    assert notes.read_text() == "mine"
    assert [invoke("split", tmp_path / "m.parquet", "--out", split).exit_code for _ in range(2)] == [0, 0]
    done = invoke("overlap", split, tmp_path / "m.parquet", "--out", split)
    assert (done.exit_code, f"Error: {split} is an input of this command: --overwrite" in done.output) == (1, True)
    assert "split" in pq.read_schema(split).names


def test_overlap_says_what_it_cannot_match(invoke: Invoke, tmp_path: Path) -> None:
    rows = manifest([(i, "tumour", False) for i in range(4)]).to_pylist()
    rows[0] |= {"patient": "p", "signature": b"\0" * 256, "phash": "0" * 16, "head_phash": "0" * 16}
    pq.write_table(pa.Table.from_pylist(rows, schema=MANIFEST), tmp_path / "m.parquet")
    done = invoke("overlap", tmp_path / "m.parquet", tmp_path / "m.parquet")
    assert done.exit_code == 0, done.output
    assert f"of 4 samples of {tmp_path / 'm.parquet'} have no signature: near duplicates of these" in done.stderr
    assert f"3 of 4 samples of {tmp_path / 'm.parquet'} have no known patient: their patients may be" in done.stderr


def test_split_says_what_has_no_label_and_no_known_patient(invoke: Invoke, tmp_path: Path) -> None:
    rows = manifest([(i, ("tumour", "no_tumour", None)[i % 3], False) for i in range(90)]).to_pylist()
    for row in rows:
        row |= {"patient": row["sha256"][:8] if row["sample_id"] < "060" else None}
        row["sample_id"] = f"yes/no/{row['sample_id']}" if row["label"] == "no_tumour" else row["sample_id"]
    pq.write_table(check_manifest(pa.Table.from_pylist(rows, schema=MANIFEST), "m"), tmp_path / "m.parquet")
    done = invoke("split", tmp_path / "m.parquet", "--out", tmp_path / "s.parquet", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["samples_without_patient"] == 30
    for text in (
        "30 of 90 sample(s) have no label, the first of them '002.png'",
        "30 of 90 sample(s) are in folders of different classes, the first of them 'yes/no/001.png'",
        "The patient is unknown for 30 of 90 samples, so slices of one patient may be in different splits. To name",
    ):
        assert text in done.stderr


def test_more_groups_than_can_be_balanced_are_said(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brainscale.dataset.splits.BALANCED_GROUPS", 399)
    table = manifest([(i, "tumour" if i % 2 else "no_tumour", False) for i in range(400)])
    pq.write_table(table, tmp_path / "m.parquet")
    done = invoke("split", tmp_path / "m.parquet", "--out", tmp_path / "s.parquet")
    assert done.exit_code == 0, done.output
    assert "400 groups, more than 399: they are assigned by hash" in done.output


def test_a_file_that_is_no_manifest(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("hello")
    assert "cannot be read as a Parquet file" in invoke("split", tmp_path / "text.parquet", "--out", "y.parquet").output
    pq.write_table(manifest([(1, "tumour", False)]).drop_columns(["sha256"]), tmp_path / "less.parquet")
    assert "it has no column sha256" in invoke("split", tmp_path / "less.parquet", "--out", "y.parquet").output


def test_figures_stand_beside_their_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {
        "looks": None,
        "splits": {"test": {"tumour": 1, "no_tumour": 2}, "val": {"tumour": 3}},
        "metrics": {"auroc": 0.9, "mcc": None, "macro_recall": 1.0},
        "intervals": {"auroc": [0.8, 0.95], "mcc": [None, None], "macro_recall": [None, None]},
    }
    print_facts(facts, as_json=False)
    text, note = capsys.readouterr().out.split("\n\n")
    assert " ".join(note.split()) == PUBLISHED_NOTE
    lines = dict(line.split("  ", 1) for line in text.splitlines())
    assert {label: text.strip() for label, text in lines.items()} == {
        "models evaluated on this split": "–",
        "splits": "test (tumour 1, no_tumour 2), val (tumour 3)",
        "AUROC": "0.9000  0.8000 to 0.9500",
        "Matthews correlation": "–",
        "Macro recall": "1.0000",
    }
    print_facts(facts, as_json=True)
    assert json.loads(capsys.readouterr().out) == facts


def test_debug_shows_the_traceback(invoke: Invoke) -> None:
    result = invoke("split", "none.parquet", "--out", "y.parquet", "--debug")
    assert result.exit_code == 1
    assert "no manifest" in str(result.exception)


def test_every_default_similarity_is_the_one_that_was_measured() -> None:
    """The command line and the API name it themselves, since they import nothing of the rooms before it is needed."""
    options = {option.name: option.default for command in (split_command, overlap_command) for option in command.params}
    assert options["similarity"] == inspect.signature(bs.overlap).parameters["similarity"].default == SIMILARITY
    assert SplitConfig().similarity == SIMILARITY


@pytest.mark.parametrize(
    ("words", "offered"), [("brainscale pre", ["plain,predict"]), ("brainscale score --prec", ["plain,--precision"])]
)
def test_a_shell_completes_commands_and_options(words: str, offered: list[str]) -> None:
    asked = {"_BRAINSCALE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    program = Path(sys.executable).with_name("brainscale")
    done = subprocess.run([program], env=os.environ | asked, capture_output=True, text=True)
    assert done.stdout.splitlines() == offered
    assert "bash_source brainscale" in (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train"], "Error: Missing option '--data' (see `"),
        (["score", "run"], "Error: Missing argument 'SOURCE...' (see `"),
        (["tarin"], "Error: No such command 'tarin'. Did you mean 'train'? (see `"),
        (["score", "run", "scans", "--out", "x", "--workers", "0"], "Error: Invalid value for '--workers': 0 is not"),
    ],
)
def test_what_click_refuses_is_one_line_that_names_the_help(arguments: list[str], text: str, invoke: Invoke) -> None:
    refused = invoke(*arguments)
    assert refused.exit_code == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith(text)
    assert line.endswith(" --help`)")
