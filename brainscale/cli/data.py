"""Commands on data: index, split, overlap."""

import json
from dataclasses import asdict
from typing import Any

import click

from brainscale.cli import options
from brainscale.cli.console import common, print_facts
from brainscale.errors import UsageError
from brainscale.logs import notice
from brainscale.storage.remote import absolute


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--out", required=True, metavar="M.parquet", help="The manifest to write.")
@click.option("--labels", default="folder", show_default=True, metavar="folder|FILE.csv", help="Where labels are.")
@click.option("--config", metavar="NAME|FILE", help="For another class map, preprocessing or limits.")
@click.option("--patient-key", metavar="FILE", help="Key of the patients' hashes.  [default: $BRAINSCALE_PATIENT_KEY]")
@click.option("--hash-paths", is_flag=True, help="Hash the names of files too; such a manifest cannot be trained on.")
@options.shared
@options.address
@options.json
@common
def index(
    sources: tuple[str, ...],
    out: str,
    labels: str,
    config: str | None,
    patient_key: str | None,
    hash_paths: bool,
    shared: bool,
    address: str | None,
    no_wait: bool,
    as_json: bool,
) -> None:
    """List every sample of the sources, with hashes, groups and errors, labelled by folder.

    A SOURCE is a folder, a file, a glob, a list of files (@FILE) or an address (s3://, gs://). Archives are read too.

    Example: brainscale index scans/ --out scans.parquet
    """
    from brainscale.config import files

    request: dict[str, Any] = {
        "sources": [absolute(source) for source in sources],
        "out": absolute(out),
        "labels": labels if labels == "folder" else absolute(labels),
        "patient_key": patient_key and absolute(patient_key),
        "hash_paths": hash_paths,
    }
    settings = files.load_config(config, ["resources.shared=true"] if shared else [])
    if address:
        options.submit(address, no_wait, "index", {**request, "config": settings.model_dump(mode="json")}, as_json)
    from brainscale.cluster import session
    from brainscale.dataset.indexer import write_index

    with session.session():
        result = write_index(**request, config=settings, on_notice=notice)
    print_facts({**result.to_json(), "manifest": out}, as_json)


@click.command()
@click.argument("manifest", metavar="M.parquet")
@click.option("--out", metavar="M2.parquet", help="The manifest to write.")
@click.option("--val", type=click.FloatRange(0, 1, True, True), help="Share that chooses the model.  [default: 0.15]")
@click.option("--test", type=click.FloatRange(0, 1, False, True), help="Share kept sealed.  [default: 0.2]")
@click.option("--folds", type=click.IntRange(2), help="Folds instead of val and test.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--keep", metavar="OLD.parquet", help="An earlier split whose samples keep their sides.")
@click.option("--distance", type=click.IntRange(0, 8), help="Join pictures within so many bits first.  [default: 4]")
@click.option("--verify", is_flag=True, help="Only check that no group is cut; fails where one is.")
@options.json
@common
def split(
    manifest: str,
    out: str | None,
    val: float | None,
    test: float | None,
    folds: int | None,
    seed: int,
    keep: str | None,
    distance: int | None,
    verify: bool,
    as_json: bool,
) -> None:
    """Split a manifest, or cut it into folds, so that no group stands on two sides.

    Example: brainscale split scans.parquet --val 0.15 --test 0.2 --out scans-split.parquet
    """
    from brainscale.dataset import groups, splits
    from brainscale.dataset.manifest import read_manifest, write_manifest
    from brainscale.dataset.summary import summarise

    if folds is not None and (val is not None or test is not None or keep is not None):
        raise UsageError("--folds takes the place of --val, --test and --keep: give one or the other")
    val, test = 0.15 if val is None else val, 0.2 if test is None else test
    if val + test >= 1:
        raise UsageError(f"--val {val:g} and --test {test:g} leave nothing to train on")
    table = read_manifest(manifest)
    if verify:
        check = splits.verify_split(table, groups.DISTANCE if distance is None else distance)
        print_facts({"manifest": manifest, **asdict(check)}, as_json)
        return
    if out is None:
        raise UsageError("--out says where to write; or check what is there with --verify")
    if distance is not None:
        table = groups.assign_groups(table, distance)
    if folds is not None:
        table = splits.assign_folds(table, folds=folds, seed=seed)
    else:
        kept = splits.map_content_to_split(read_manifest(keep)) if keep else None
        table = splits.assign_splits(table, val=val, test=test, seed=seed, keep=kept)
    write_manifest(table, out)
    print_facts({"manifest": out, **asdict(summarise(table))}, as_json)


@click.command()
@click.argument("one", metavar="A.parquet")
@click.argument("other", metavar="B.parquet")
@click.option("--distance", type=click.IntRange(0, 8), default=4, show_default=True, help="Bits between near pictures.")
@click.option("--out", metavar="T.parquet", help="Write the list as Parquet too.")
@options.json
@common
def overlap(one: str, other: str, distance: int, out: str | None, as_json: bool) -> None:
    """List the samples of B that are in A, exactly or nearly: what an external set shares with a training set.

    Example: brainscale overlap training.parquet external.parquet
    """
    from brainscale.dataset.manifest import read_manifest
    from brainscale.dataset.overlap import find_overlap as find
    from brainscale.storage.tables import write_table

    other_table = read_manifest(other)
    found = find(read_manifest(one), other_table, distance)
    if out:
        write_table(found, out, "overlap")
    if as_json:
        click.echo(json.dumps(found.to_pylist(), indent=2))
        return
    for row in found.to_pylist():
        near = row["kind"] if not row["distance"] else f"{row['kind']}, {row['distance']} bits"
        click.echo(f"{row['sample_id']}  {near}  {row['other']}")
    notice(f"{len(found)} of {len(other_table)} samples of {other} are in {one}")
