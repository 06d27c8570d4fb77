"""Print docs/reference.md from the code: commands, options, error codes, output files, columns, configuration."""

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from brainscale import schema
from brainscale.cli.main import main as command_line
from brainscale.config.sections import Config
from brainscale.errors import ERROR_CODES

HEAD = """# Reference

Every command, option, error code, output file, column and configuration key. Made from the code by `make reference`;
a test fails when this page is stale.
"""
EVERY_COMMAND = """Every command also takes `--help`; `--debug`, which shows a traceback when something fails; and
`--log-format json`, which writes standard error as one JSON object a line (also `$BRAINSCALE_LOG_FORMAT`).
"""
COMMON = ("debug", "log_format")
"""Options of every command, said once."""
TABLES = {
    "MANIFEST": "Manifest: `M.parquet` of index and split, `manifest.parquet` of a run or an evaluation",
    "PREDICTIONS": "Predictions: `part-*.parquet` of score, `predictions.parquet` of evaluate",
    "SCANS": "Scans: `DIR.scans.parquet` of `score --unit scan`, `scans.parquet` of `evaluate --unit scan`",
    "PATIENTS": "Patients: `DIR.patients.parquet` and `patients.parquet` of `--unit patient`",
    "METRICS": "Metrics: `metrics.parquet` of evaluate and of a cross-validation",
    "SUBGROUPS": "Subgroups: `subgroups.parquet` of `evaluate --by`",
    "MATCHED": "Matched pairs, metrics: `matched.parquet` of `evaluate --match`",
    "MATCHED_PAIRS": "Matched pairs: `matched-pairs.parquet` of `evaluate --match`",
    "CONFUSION": "Confusion matrix: `confusion.parquet` of evaluate",
    "HEADER_VOTES": "Header-only control: `header-control.parquet` of evaluate",
    "HISTORY": "History: `history.parquet` of a run",
    "STEPS": "Steps: `steps/epoch-*.parquet` of a run",
    "COMPARISON": "Comparison: `compare --out T.parquet`",
    "PAIRS": "Paired tests: `T-pairs.parquet` of compare",
    "RESULTS": "Results: the table beside the page of results",
}
FILES = {
    "train --out RUN": {
        "config.yaml": "the whole configuration",
        "manifest.parquet": "the samples, labelled and split",
        "environment.json": "hardware and library versions",
        "history.parquet": "one row for each finished epoch",
        "steps/": "one row for each step, which `verify` reads",
        "checkpoints/": "states to resume from",
        "tensorboard/": "event files for TensorBoard",
        "notices/": "what workers reported",
        "mlflow.json": "the run of MLflow that this run is sent to (`--mlflow`)",
        "model/": "the trained model: `model.safetensors`, `model.onnx`, `model.json`, and its model card `README.md`",
        "evaluation/": "evaluations, by split",
        "test_looks.jsonl": "each model that was evaluated on samples that training did not see",
        "_SUCCESS.json": "written last: the run is complete",
    },
    "ensemble --out BUNDLE": {
        "model.safetensors": "the weights of all members, under `member.0.`, `member.1.`, …",
        "model.onnx": "the members and their mean as one network",
        "model.json": "the members, and all else that a score depends on",
        "novelty.safetensors": "what the first member's novelty is computed from, if it has one",
        "manifest.parquet": "what any member was trained on, if that is known of all",
        "README.md": "the model card",
        "_SUCCESS.json": "written last: the model is complete",
    },
    "evaluate --out DIR": {
        "predictions.parquet": "one row for each sample",
        "scans.parquet": "one row for each scan (`--unit scan`); `patients.parquet` with `--unit patient`",
        "metrics.parquet": "metrics with 95 % intervals",
        "confusion.parquet": "number of samples of each class by their prediction",
        "header-control.parquet": "the header-only control's probabilities for the same samples",
        "subgroups.parquet": "metrics of subgroups (`--by`)",
        "matched.parquet": "metrics on matched pairs, beside the matched columns alone (`--match`)",
        "matched-pairs.parquet": "the pairs (`--match`)",
        "shared.parquet": "samples that the model saw in training (data leakage)",
        "metrics-without-shared.parquet": "metrics without them",
        "manifest.parquet": "the samples of the data",
        "plots/": "curves as PNG and SVG",
        "report.html": "the report, one file that needs no network",
        "_SUCCESS.json": "written last: the evaluation is complete",
    },
    "score --out DIR": {
        "part-*.parquet": "predictions, one row for each sample: `part-<hash>-<rows>.parquet`, or numbered",
        "_listing/": "the files of the sources and their versions, which the parts follow",
        "_SUCCESS.json": "written last: the folder is complete; names the parts",
    },
    "train --folds K --out DIR": {
        "folds-*.parquet": "the manifest with its folds, one for each repeat",
        "repeat-*/fold-*.parquet": "the manifest of each run",
        "repeat-*/fold-*/": "a RUN for each fold",
        "metrics.parquet": "metrics of all folds",
        "_SUCCESS.json": "written last: the cross-validation is complete",
    },
    "results --out DIR": {
        "data/": "the manifest of each data set",
        "runs/STUDY/PART/ROW/seed-*/repeat-*/fold-*/": "a model: `run/` (a RUN), `evaluation/`, and what it took",
        "results.md": "the page, with its plots in `images/`",
        "results.parquet": "the table that the page is made from",
        "results/": "the index of each data set as it may be released",
    },
}


def main() -> None:
    """Write the page to standard output."""
    sys.stdout.write(page())


def page() -> str:
    """Return the whole page."""
    parts = [HEAD, "## Commands\n", EVERY_COMMAND, *commands(command_line, "brainscale")]
    parts += ["## Exit status\n", "0: done. 1: failed. 2: wrong usage. An error is one line on standard error.\n"]
    parts += ["## Output files\n"]
    for command, files in FILES.items():
        rows = ((f"`{name}`", text) for name, text in files.items())
        parts += [f"### brainscale {command}\n", table(("name", "holds"), rows)]
    parts += ["## Error codes\n", "The column `error_code` of manifests and predictions.\n"]
    parts += [table(("code", "means"), ((f"`{code}`", text) for code, text in ERROR_CODES.items()))]
    parts += ["## Columns\n"]
    comments = column_comments()
    for name, title in TABLES.items():
        fields = ((f"`{f.name}`", str(f.type), comments[name].get(f.name, "")) for f in getattr(schema, name))
        parts += [f"### {title}\n", table(("column", "type", "holds"), fields)]
    parts += ["## Configuration\n", "`--set section.key=value` sets one value; a YAML file of sections sets several.\n"]
    for name, section in sections(Config):
        parts += [f"### {name}\n", table(("key", "type", "default", "holds"), settings(section))]
    return "\n".join(parts)


def commands(group: click.Group, path: str) -> Iterator[str]:
    """Yield a section for each command of a group, and of the groups in it."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
            continue
        context = click.Context(command, info_name=f"{path} {name}")
        usage = " ".join([f"{path} {name}", *command.collect_usage_pieces(context)])
        yield f"### {path} {name}\n"
        yield f"`{usage}`\n"
        yield f"{paragraphs(command.help or '')}\n"
        options = [
            option for option in command.params if isinstance(option, click.Option) and option.name not in COMMON
        ]
        records = [record for option in options if (record := option.get_help_record(context))]
        yield table(("option", "does"), ((f"`{flags}`", text) for flags, text in records))


def paragraphs(text: str) -> str:
    """Return a help text with each paragraph on one line, the example as code."""
    blocks = [" ".join(block.split()) for block in text.split("\n\n") if block.strip()]
    return "\n\n".join(f"Example: `{b.removeprefix('Example: ')}`" if b.startswith("Example: ") else b for b in blocks)


def table(heading: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [heading, tuple("---" for _ in heading), *rows]
    cells = (" | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in line) for line in lines)
    return "".join(f"| {line} |\n" for line in cells)


def column_comments() -> dict[str, dict[str, str]]:
    """Return the comment behind each column of each schema: schema → column → text."""
    source = Path(schema.__file__).read_text(encoding="utf-8")
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = dict(_columns(node, comments, found))
    return found


def _columns(node: ast.AST, comments: dict[int, str], found: dict[str, dict[str, str]]) -> Iterator[tuple[str, str]]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Starred) and isinstance(inner.value, ast.Name):
            yield from found.get(inner.value.id, {}).items()
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.func.attr == "field":
            name = inner.args[0]
            if isinstance(name, ast.Constant) and (text := comments.get(inner.end_lineno or 0)):
                yield name.value, text


def sections(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the sections of a model, each followed by its own, with their names."""
    for name, field in model.model_fields.items():
        if section := section_of(field):
            yield f"{prefix}{name}", section
            yield from sections(section, f"{prefix}{name}.")


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a field that is a section; None for a key with a value."""
    model = field.annotation
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def settings(section: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    """Yield key, type, default and description of each field of a section that is no section itself."""
    for name, field in section.model_fields.items():
        if section_of(field):
            continue
        default = field.get_default(call_default_factory=True)
        shown = f"{len(default)} classes" if isinstance(default, dict) else str(default)
        yield f"`{name}`", _type_name(field.annotation), f"`{shown}`", field.description or ""


def _type_name(annotation: object) -> str:
    if annotation is type(None):
        return "null"
    if arguments := get_args(annotation):
        if get_origin(annotation) is not None and "Literal" in str(get_origin(annotation)):
            return " | ".join(map(str, arguments))
        if isinstance(annotation, type) or get_origin(annotation) in (dict, list, tuple):
            return str(get_origin(annotation).__name__)  # type: ignore[union-attr]
        return " | ".join(_type_name(a) for a in arguments if isinstance(a, type) or get_args(a))
    return getattr(annotation, "__name__", str(annotation))


if __name__ == "__main__":
    main()
