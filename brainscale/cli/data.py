"""Commands on data: index, split, overlap."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from brainscale.cli import options
from brainscale.cli.console import handle_errors, print_facts
from brainscale.errors import UsageError
from brainscale.logs import notice

if TYPE_CHECKING:
    import pyarrow as pa

    from brainscale.dataset.splits import SplitCheck


class Similarity(click.ParamType[float | None]):
    """A similarity of near duplicates, or `none`."""

    name = "similarity"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """Return the number, or None for `none`."""
        if value is None or str(value).lower() == "none":
            return None
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0.8 <= number <= 1:
            self.fail(f"{value!r} is neither a similarity from 0.8 to 1 nor none.", param, ctx)
        return number


SIMILARITY = click.option(
    "--similarity",
    type=Similarity(),
    metavar="0.8-1|none",
    default=0.97,
    show_default=True,
    help="Minimum similarity of near duplicates; none: near duplicates are not looked for.",
)
SHOWN_PAIRS = 20
"""Pairs in different splits that are printed."""


@click.command("index")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--out", required=True, metavar="M.parquet", help="Manifest to write.")
@click.option(
    "--labels",
    default="folder",
    show_default=True,
    metavar="folder|FILE.csv",
    help="Source of the labels: folder names, or a CSV file with the columns sample_id and label. "
    "Its other columns are added to the manifest.",
)
@click.option(
    "--id-column",
    metavar="NAME",
    show_default="sample_id, or the only column named file, path, image or the like",
    help="Column of the CSV file with the samples.",
)
@click.option("--label-column", metavar="NAME", show_default="label", help="Column of the CSV file with the labels.")
@click.option(
    "--patient-column",
    metavar="NAME",
    show_default="patient, or the only column named patient_id, subject or the like",
    help="Column of the CSV file with the patients, which are hashed.",
)
@click.option(
    "--patient-from",
    metavar="REGEX",
    help="Regular expression whose group names the patient in a sample id, such as '^([^/]+)/' for its first folder.",
)
@click.option("--config", metavar="NAME|FILE", help="Configuration with the class map, preprocessing and limits.")
@click.option(
    "--patient-key",
    metavar="FILE",
    show_default="$BRAINSCALE_PATIENT_KEY, or a random key",
    help="File with the key of the patient hashes.",
)
@click.option("--hash-paths", is_flag=True, help="Hash file names too; such a manifest cannot be used for training.")
@click.option("--pairs", metavar="P.html", help="Page to write with the pictures of near duplicates, worst first.")
@click.option(
    "--audit", metavar="A.html", help="Page to write with the pictures of doubtful labels and unusual images."
)
@click.option(
    "--audit-run",
    metavar="RUN",
    help="With --audit: run, evaluation or cross-validation whose wrong predictions are shown too.",
)
@options.shared
@options.address
@options.json
@handle_errors
def index_command(
    sources: tuple[str, ...],
    out: str,
    labels: str,
    id_column: str | None,
    label_column: str | None,
    patient_column: str | None,
    patient_from: str | None,
    config: str | None,
    patient_key: str | None,
    hash_paths: bool,
    pairs: str | None,
    audit: str | None,
    audit_run: str | None,
    shared: bool,
    address: str | None,
    no_wait: bool,
    as_json: bool,
) -> None:
    """List all samples of the sources in a manifest, with labels, hashes, groups and errors.

    A SOURCE is a folder, a file, a glob, a list of files (@FILE) or an address (s3://, gs://). Archives are read too.

    Example: brainscale index scans/ --out scans.parquet
    """
    from brainscale.config import files
    from brainscale.dataset.label_file import LabelColumns, read_label_file
    from brainscale.dataset.pages.request import PageRequest
    from brainscale.dataset.subject_names import compile_patient_pattern
    from brainscale.storage.remote import make_absolute

    pages = PageRequest(pairs=pairs, audit=audit, audit_run=audit_run)
    pages.check_options(hash_paths=hash_paths)
    columns = LabelColumns(id=id_column, label=label_column, patient=patient_column)
    columns.require_file(labels)
    if patient_from is not None:
        compile_patient_pattern(patient_from)
    request: dict[str, Any] = {
        "sources": [make_absolute(source) for source in sources],
        "out": make_absolute(out),
        "labels": labels if labels == "folder" else make_absolute(labels),
        "id_column": id_column,
        "label_column": label_column,
        "patient_column": patient_column,
        "patient_from": patient_from,
        "patient_key": patient_key and make_absolute(patient_key),
        "hash_paths": hash_paths,
        "pairs": pairs and make_absolute(pairs),
        "audit": audit and make_absolute(audit),
        "audit_run": audit_run and make_absolute(audit_run),
    }
    settings = files.load_config(config, ["resources.shared=true"] if shared else [])
    if address:
        options.run_as_job(address, no_wait, "index", {**request, "config": settings.model_dump(mode="json")}, as_json)
    if labels != "folder":  # what is wrong with it is said before Ray starts
        read_label_file(request["labels"], settings.data, columns)
    pages.check_files()
    from brainscale.cluster import session
    from brainscale.dataset.indexer import write_index
    from brainscale.storage.tables import require_replaceable

    require_replaceable(request["out"], "manifest")

    with session.session():
        result = write_index(**request, config=settings, on_notice=notice)
    print_facts({**result.to_json(), "manifest": out}, as_json)


@click.command("split")
@click.argument("manifest", metavar="M.parquet")
@click.option("--out", metavar="M2.parquet", help="Manifest to write.")
@click.option(
    "--val",
    type=click.FloatRange(0, 1, True, True),
    metavar="FRACTION",
    show_default="0.15",
    help="Validation fraction (model selection).",
)
@click.option(
    "--test",
    type=click.FloatRange(0, 1, False, True),
    metavar="FRACTION",
    show_default="0.2",
    help="Test fraction (final evaluation).",
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    metavar="N",
    help="Number of cross-validation folds, instead of --val and --test.",
)
@click.option("--seed", type=click.IntRange(0), metavar="N", default=0, show_default=True, help="Random seed.")
@click.option("--keep", metavar="OLD.parquet", help="Earlier manifest whose samples keep their split or fold.")
@click.option("--regroup", is_flag=True, help="Make the groups again, instead of using those of the manifest.")
@SIMILARITY
@click.option(
    "--verify",
    is_flag=True,
    help="Only check that samples that belong together are in one split; fail if some are not.",
)
@options.json
@handle_errors
def split_command(
    manifest: str,
    out: str | None,
    val: float | None,
    test: float | None,
    folds: int | None,
    seed: int,
    keep: str | None,
    regroup: bool,
    similarity: float | None,
    verify: bool,
    as_json: bool,
) -> None:
    """Assign the samples of a manifest to train, val and test, or to folds, without data leakage.

    Samples of one group (a patient, a series, duplicates and near duplicates) stay in the same split.

    Example: brainscale split scans.parquet --test 0.2 --out split.parquet
    """
    from brainscale.config.sections import DataConfig
    from brainscale.dataset import groups, splits
    from brainscale.dataset.manifest import read_manifest, write_manifest
    from brainscale.dataset.on_ray import open_map
    from brainscale.dataset.summary import describe_gaps, summarise
    from brainscale.storage.tables import require_replaceable

    _check_options(verify=verify, regroup=regroup)
    if folds is not None and (val is not None or test is not None):
        raise UsageError("--folds cannot be combined with --val or --test: remove one of them")
    val, test = 0.15 if val is None else val, 0.2 if test is None else test
    if not val + test < 1:  # NaN fails too
        raise UsageError(f"--val {val:g} and --test {test:g} leave nothing to train on: keep their sum below 1")
    table = read_manifest(manifest)
    if verify:
        with open_map(len(table)) as run:
            check = splits.verify_split(table, similarity, run)
        _print_check(check, table, manifest, as_json)
        return
    if out is None:
        raise UsageError("no --out: name the manifest to write, or check the one at hand with --verify")
    require_replaceable(out, "manifest")
    if regroup:
        with open_map(len(table)) as run:
            table = groups.assign_groups(table, similarity, run)
    earlier = read_manifest(keep) if keep else None
    if folds is not None:
        table = splits.assign_folds(table, folds=folds, seed=seed, keep=earlier)
    else:
        table = splits.assign_splits(table, val=val, test=test, seed=seed, keep=earlier)
    if hashing := splits.notice_of_hashing(table):
        notice(hashing)
    for text in describe_gaps(table, DataConfig()):
        notice(text)
    write_manifest(table, out)
    print_facts({"manifest": out, **asdict(summarise(table))}, as_json)


def _check_options(*, verify: bool, regroup: bool) -> None:
    """Refuse options of `split` that would be ignored.

    Raises:
        UsageError: names the option and what to do.
    """
    context = click.get_current_context()
    given = [
        name
        for name in ("out", "val", "test", "folds", "seed", "keep", "regroup", "similarity")
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if verify and (ignored := [name for name in given if name != "similarity"]):
        raise UsageError(f"--verify only checks a manifest: remove --{ignored[0]}")
    if "similarity" in given and not verify and not regroup:
        raise UsageError("--similarity changes the groups only if they are made again: add --regroup, or remove it")


def _print_check(check: "SplitCheck", table: "pa.Table", manifest: str, as_json: bool) -> None:
    """Print what a check of a manifest found, and fail if it found a violation."""
    from brainscale.dataset.patients import describe_unknown_patients

    violations = [asdict(violation) for violation in check.violations]
    facts = {
        "manifest": manifest,
        "verified": check.verified,
        "groups": check.groups,
        "samples_without_signature": check.samples_without_signature,
        "pairs_in_different_splits": violations if as_json else len(violations),
    }
    print_facts(facts, as_json)
    if check.samples_without_signature:
        notice(
            f"{check.samples_without_signature} sample(s) have no signature, so their near duplicates were not looked "
            "for: they show no contrast, or the manifest was made to be given away."
        )
    if not as_json:
        for violation in check.violations[:SHOWN_PAIRS]:
            click.echo(str(violation))
        if len(violations) > SHOWN_PAIRS:
            click.echo(f"and {len(violations) - SHOWN_PAIRS} more (--json lists all)")
    if unknown := describe_unknown_patients(table):
        notice(unknown)
    check.require_intact()


@click.command("overlap")
@click.argument("training", metavar="A.parquet")
@click.argument("external", metavar="B.parquet")
@SIMILARITY
@click.option("--out", metavar="T.parquet", help="Parquet file to write the list to as well.")
@options.json
@handle_errors
def overlap_command(training: str, external: str, similarity: float | None, out: str | None, as_json: bool) -> None:
    """List the samples of manifest B that are also in manifest A, as duplicates or near duplicates.

    Use it to check that an external dataset shares no sample with a training dataset.

    Example: brainscale overlap training.parquet external.parquet
    """
    from brainscale.dataset.manifest import read_manifest
    from brainscale.dataset.on_ray import open_map
    from brainscale.dataset.overlap import KINDS, count_overlap, describe_missed_matches, find_overlap
    from brainscale.storage.tables import require_replaceable, write_table

    if out:
        require_replaceable(out, "overlap")
    training_manifest, external_manifest = read_manifest(training), read_manifest(external)
    with open_map(len(training_manifest) + len(external_manifest)) as run:
        matches = find_overlap(training_manifest, external_manifest, similarity, run)
    if out:
        write_table(matches, out, "overlap")
    for table, name in ((training_manifest, training), (external_manifest, external)):
        for text in describe_missed_matches(table, name):
            notice(text)
    if as_json:
        click.echo(json.dumps(matches.to_pylist(), indent=2))
        return
    for row in matches.to_pylist():
        value = f" ({row['similarity']:.3f})" if row["kind"] == "near" else ""
        click.echo(f"{row['sample_id']}  {KINDS[row['kind']]}{value}  {row['other']}")
    if len(matches):
        click.echo()
    counts = count_overlap(matches, external_manifest)
    labels = list(counts[-1].labels)
    click.echo("".join([f"{'match':<10}{'samples':>9}{'share':>9}", *(f"{label:>13}" for label in labels)]))
    for count in counts:
        cells = [f"{count.kind:<10}{count.samples:>9}{count.share:>9.1%}"]
        click.echo("".join([*cells, *(f"{count.labels.get(label, 0):>13}" for label in labels)]))
    notice(f"{len(matches)} of {len(external_manifest)} samples of {external} are also in {training}")
