"""Write a comparison in the format that the suffix of its name decides."""

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from brainscale.evaluation.comparison_text import Form, format_comparison, format_pairs
from brainscale.storage.formats import CSV, JSON, LATEX, MARKDOWN, TABLE, suffix_of, write_output, write_text
from brainscale.storage.remote import split_options

if TYPE_CHECKING:
    from brainscale.evaluation.comparison import Comparison

FORMATS = (TABLE, CSV, JSON, MARKDOWN, LATEX)
FORMS: dict[str, Form] = {MARKDOWN: "markdown", LATEX: "latex"}


def format_all(comparison: "Comparison", *, form: Form = "text") -> str:
    """Return the table of models and, where there are any, that of the paired tests."""
    texts = [format_comparison(comparison.table, form=form)]
    if comparison.pairs is not None:
        classes = max(comparison.table["classes"].to_pylist())
        texts.append(format_pairs(comparison.pairs, classes=classes, form=form))
    return "\n\n".join(texts)


def files_of(out: str) -> dict[str, str]:
    """Return path or address → kind of table, of the files to write; a name in Parquet and CSV gives two.

    Args:
        out: path or address of the comparison.
    """
    suffix = suffix_of(out)
    if suffix not in (TABLE, CSV):
        return {out: "comparison"}
    base, options = split_options(out)
    return {out: "comparison", f"{base[: -len(suffix)]}-pairs{PurePosixPath(base).suffix}{options}": "paired tests"}


def write_comparison(comparison: "Comparison", out: str, origin: str) -> None:
    """Write a comparison: in Parquet and CSV the paired tests to a file of their own, in other formats to the same.

    Args:
        comparison: the tables.
        out: path or address of the file.
        origin: what `ownership.describe_origin` returned.

    Raises:
        OutputError: the file cannot be written.
        StorageError: the object store refuses, or does not answer.
    """
    suffix = suffix_of(out)
    if suffix == JSON:
        write_text(json.dumps(comparison.to_json(), indent=2) + "\n", out, origin)
    elif suffix in FORMS:
        write_text(format_all(comparison, form=FORMS[suffix]) + "\n", out, origin)
    else:
        for (file, kind), table in zip(files_of(out).items(), (comparison.table, comparison.pairs), strict=True):
            if table is not None:
                write_output(table, file, kind, origin)
