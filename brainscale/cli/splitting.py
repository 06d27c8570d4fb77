"""The command split."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from brainscale.cli import options
from brainscale.cli.console import handle_errors, load_arrow, print_facts
from brainscale.cli.next_steps import after_split, print_next
from brainscale.cli.similarity import SIMILARITY
from brainscale.errors import UsageError
from brainscale.logs import notice
from brainscale.progress import announce

if TYPE_CHECKING:
    from brainscale.dataset.outputs import ManifestOutput
    from brainscale.dataset.split_check import SplitCheck
    from brainscale.storage.shards import ShardedTable


SHOWN_PAIRS = 20
"""Pairs in different splits that are printed."""


@click.command("split")
@click.argument("manifest", metavar="M.parquet")
@click.option("--out", metavar="M2.parquet", help="Manifest to write: a .parquet file, or folder/ for one in shards.")
@options.overwrite
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
@click.option(
    "--folds-by",
    metavar="COLUMN",
    help="Column of the manifest each of whose values is one fold, such as a site, instead of drawn folds.",
)
@click.option("--seed", type=click.IntRange(0), metavar="N", default=0, show_default=True, help="Random seed.")
@click.option("--keep", metavar="OLD.parquet", help="Earlier manifest whose samples keep their split or fold.")
@click.option("--regroup", is_flag=True, help="Make the groups again, instead of using those of the manifest.")
@SIMILARITY
@click.option(
    "--verify",
    is_flag=True,
    help="Check an existing split; fail if samples that belong together are in different splits.",
)
@options.shared
@options.json
@handle_errors
def split_command(
    manifest: str,
    out: str | None,
    overwrite: bool,
    val: float | None,
    test: float | None,
    folds: int | None,
    folds_by: str | None,
    seed: int,
    keep: str | None,
    regroup: bool,
    similarity: float | None,
    verify: bool,
    shared: bool,
    as_json: bool,
) -> None:
    """Assign the samples of a manifest to train, val and test, or to folds, without data leakage.

    Samples of one group (a patient, a series, duplicates and near duplicates) stay in the same split.

    Example: brainscale split scans.parquet --test 0.2 --out split.parquet
    """
    load_arrow()
    from brainscale.dataset.manifest import open_manifest_shards
    from brainscale.dataset.outputs import ManifestOutput, describe_input_state
    from brainscale.storage.ownership import describe_origin
    from brainscale.storage.remote import make_absolute

    _check_options(verify=verify, regroup=regroup, folds_by=folds_by)
    if folds is not None and (val is not None or test is not None):
        raise UsageError("--folds cannot be combined with --val or --test: remove one of them")
    val, test = 0.15 if val is None else val, 0.2 if test is None else test
    if not val + test < 1:  # NaN fails too
        raise UsageError(f"--val {val:g} and --test {test:g} leave nothing to train on: keep their sum below 1")
    if verify:
        _verify(manifest, similarity, shared, as_json)
        print_next(after_split(manifest, None, None))
        return
    if out is None:
        raise UsageError("no --out: name the manifest to write, or check the one at hand with --verify")
    inputs = [make_absolute(path) for path in (manifest, keep) if path]
    drawn = {"val": val, "test": test, "folds": folds, "folds_by": folds_by, "seed": seed}
    grouped = {"regroup": regroup, "similarity": similarity if regroup else None}
    origin = describe_origin("split", {"inputs": inputs, **drawn, **grouped})
    output = ManifestOutput(location=options.make_absolute_output(out), origin=origin)
    output.check_format()
    output.check_owner(inputs, overwrite=overwrite)
    sharded = open_manifest_shards(manifest)
    if sharded is not None and folds_by is not None:
        raise UsageError(f"--folds-by needs a manifest of one file, and {manifest} is in shards: write it as one file")
    from brainscale.cli.progress import show_progress

    with show_progress():
        if sharded is None:
            state = describe_input_state(inputs)
            facts = _find_finished(output, state, overwrite=overwrite) or _split_one_file(
                manifest, output, state, (val, test), folds, folds_by, seed, keep, regroup, similarity
            )
        else:
            facts = _split_shards(sharded, output, (val, test), folds, seed, keep, regroup, similarity, shared)
    print_facts({"manifest": out, **facts}, as_json)
    print_next(after_split(out, folds, folds_by))


def _find_finished(output: "ManifestOutput", state: str | None, *, overwrite: bool) -> dict[str, Any] | None:
    """Return what to print of a manifest that this command has made of these inputs already, if it is there."""
    from brainscale.dataset.manifest import describe_form
    from brainscale.dataset.summary import summarise

    table = None if overwrite else output.read_unchanged(state)
    if table is None:
        return None
    options.notice_if_complete(True, output.location)
    return {"form": describe_form(output.shards), **asdict(summarise(table))}


def _split_one_file(
    manifest: str,
    output: "ManifestOutput",
    state: str | None,
    fractions: tuple[float, float],
    folds: int | None,
    folds_by: str | None,
    seed: int,
    keep: str | None,
    regroup: bool,
    similarity: float | None,
) -> dict[str, Any]:
    """Split a manifest in memory, write it and return what to print."""
    from brainscale.config.data_sections import DataConfig
    from brainscale.dataset import groups, splits
    from brainscale.dataset.folds_by_column import assign_folds_by, describe_missing_values
    from brainscale.dataset.inclusion import clear_left_out
    from brainscale.dataset.manifest import describe_form, read_manifest
    from brainscale.dataset.on_ray import open_map
    from brainscale.dataset.summary import describe_gaps, summarise

    table = read_manifest(manifest)
    announce(f"Splitting {manifest}")
    if keep is None and any(table[name].null_count < len(table) for name in ("split", "fold")):
        notice(f"Note: {manifest} is split already, and is split anew. --keep {manifest} keeps what is assigned.")
    if regroup:
        with open_map(len(table)) as run:
            table = groups.assign_groups(table, similarity, run)
    table = clear_left_out(table)
    earlier = read_manifest(keep) if keep else None
    if folds_by is not None:
        table, _ = assign_folds_by(table, folds_by)
        if missing := describe_missing_values(table, folds_by):
            notice(missing)
    elif folds is not None:
        table = splits.assign_folds(table, folds=folds, seed=seed, keep=earlier)
    else:
        val, test = fractions
        table = splits.assign_splits(table, val=val, test=test, seed=seed, keep=earlier)
    if hashing := splits.notice_of_hashing(table):
        notice(hashing)
    for text in describe_gaps(table, DataConfig()):
        notice(text)
    return {"form": describe_form(output.write(table, state)), **asdict(summarise(table))}


def _split_shards(
    sharded: "ShardedTable",
    output: "ManifestOutput",
    fractions: tuple[float, float],
    folds: int | None,
    seed: int,
    keep: str | None,
    regroup: bool,
    similarity: float | None,
    shared: bool,
) -> dict[str, Any]:
    """Split a manifest shard by shard, write it as shards and return what to print."""
    from brainscale.config.data_sections import DataConfig
    from brainscale.dataset.manifest import describe_form, open_as_shards
    from brainscale.dataset.on_ray import open_columns
    from brainscale.dataset.sharded import SplitRequest, split_shards
    from brainscale.dataset.sharded_summary import add_counts, count_shards, describe_gaps_of_shards

    announce(f"Splitting {sharded.location}")
    with open_columns(sharded, out=output.location, shared=shared) as columns:
        earlier = replace(columns, tables=(open_as_shards(keep),)) if keep else None
        val, test = fractions
        request = SplitRequest(val=val, test=test, folds=folds, seed=seed, keep=earlier)
        written, hashing = split_shards(
            columns, output.location, request, regroup=regroup, similarity=similarity, origin=output.origin
        )
        result = replace(columns, tables=(written,))
        counts = count_shards(result, DataConfig())
        summary = add_counts(result, counts)
    for text in (*([hashing] if hashing else []), *describe_gaps_of_shards(counts)):
        notice(text)
    return {"form": describe_form(len(written.shards)), **asdict(summary)}


def _verify(manifest: str, similarity: float | None, shared: bool, as_json: bool) -> None:
    """Check the splits of a manifest in either form, and print the result."""
    from brainscale.cli.progress import show_progress
    from brainscale.dataset.manifest import open_manifest_shards, read_manifest
    from brainscale.dataset.on_ray import open_columns, open_map
    from brainscale.dataset.patients import count_unknown_patients, describe_patients
    from brainscale.dataset.sharded_checks import count_facts, verify_shards
    from brainscale.dataset.split_check import verify_split

    sharded = open_manifest_shards(manifest)
    if sharded is None:
        table = read_manifest(manifest)
        with show_progress() as display, open_map(len(table)) as run:
            display.announce(f"Checking the splits of {manifest}")
            check = verify_split(table, similarity, run)
        unknown = describe_patients(*count_unknown_patients(table))
    else:
        with show_progress() as display, open_columns(sharded, shared=shared) as columns:
            display.announce(f"Checking the splits of {manifest}")
            check = verify_shards(columns, similarity)
            facts = count_facts(columns)
        unknown = describe_patients(facts.without_patient, facts.readable)
    _print_check(check, unknown, manifest, as_json)


def _check_options(*, verify: bool, regroup: bool, folds_by: str | None) -> None:
    """Refuse options of `split` that would be ignored.

    Raises:
        UsageError: names the option and what to do.
    """
    context = click.get_current_context()
    given = [
        name
        for name in ("out", "val", "test", "folds", "folds_by", "seed", "keep", "regroup", "similarity", "overwrite")
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if verify and (ignored := [name for name in given if name != "similarity"]):
        raise UsageError(f"--verify only checks a manifest: remove --{ignored[0].replace('_', '-')}")
    if folds_by is not None and (
        ignored := [name for name in ("val", "test", "folds", "seed", "keep") if name in given]
    ):
        raise UsageError(f"--folds-by cannot be combined with --{ignored[0]}: remove one of the two")
    if "similarity" in given and not verify and not regroup:
        raise UsageError("--similarity changes the groups only if they are made again: add --regroup, or remove it")


def _print_check(check: "SplitCheck", unknown: str | None, manifest: str, as_json: bool) -> None:
    """Print what a check of a manifest found, and fail if it found a violation."""
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
            "for: they show no contrast, or the manifest was made with --hash-paths."
        )
    if not as_json:
        for violation in check.violations[:SHOWN_PAIRS]:
            click.echo(str(violation))
        if len(violations) > SHOWN_PAIRS:
            click.echo(f"and {len(violations) - SHOWN_PAIRS} more (--json lists all)")
    if unknown:
        notice(unknown)
    check.require_intact()
