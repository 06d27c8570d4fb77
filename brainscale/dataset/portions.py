"""Cut a long listing into portions, and write each portion's rows as shards without patients and groups."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.manifest import cut_shards
from brainscale.dataset.manifest_rows import Notes, RowRules, count_notes
from brainscale.dataset.patients import find_candidates
from brainscale.dataset.sharded_patients import add_candidates
from brainscale.dataset.windows import assign_windows
from brainscale.reading.series import SeriesNotes
from brainscale.reading.sources import SourceFile
from brainscale.storage.shards import Shard, write_shard

PORTION_FILES = 2**17
"""Files after which a portion ends with its folder; with twice as many, it ends in any case."""


@dataclass(frozen=True, kw_only=True)
class Portion:
    """What a portion of a listing became.

    Attributes:
        shards: that were written.
        samples: number of readable rows.
        codes: error code → number of rows.
        first_error: sample id and error of its first row with an error; None without one.
        matched: names in the label file that some sample has.
        mismatches: number of readable samples that the pattern does not match.
        first_mismatch: id of the first of them.
        notes: what is odd about files that were read all the same.
        series: what there is to say about its series.
    """

    shards: list[Shard]
    samples: int
    codes: Counter[str]
    first_error: tuple[str, str] | None
    matched: set[str]
    mismatches: int
    first_mismatch: str
    notes: Notes
    series: SeriesNotes


def cut_portions(files: Iterable[SourceFile], size: int = PORTION_FILES) -> Iterator[list[SourceFile]]:
    """Cut files, sorted by id, where a folder ends, so that few series are cut, and all ids of samples stay in order.

    The samples of a file `a` have ids such as `a#1` and `a!b`, which come after the id of a file `a b`: these two stay
    in one portion.

    Args:
        files: in the order of their ids.
        size: number of files after which a portion ends with its folder; with twice as many, it ends in a folder.
    """
    portion: list[SourceFile] = []
    begun = ""
    for file in files:
        follows = bool(begun) and file.sample_id.startswith(begun) and file.sample_id[len(begun)] < "$"
        if not follows:
            begun = file.sample_id
            is_new_folder = bool(portion) and _folder_of(file) != _folder_of(portion[-1])
            if len(portion) >= 2 * size or (len(portion) >= size and is_new_folder):
                yield portion
                portion = []
        portion.append(file)
    if portion:
        yield portion


def _folder_of(file: SourceFile) -> str:
    return file.sample_id.rpartition("/")[0]


def write_portion(
    number: int, read_blocks: Callable[[], Iterator[pa.Table]], rules: RowRules, folder: str, shard_rows: int
) -> Portion:
    """Write the rows of a portion as shards that are not finished.

    Args:
        number: of the portion.
        read_blocks: yields the portion's samples, schema `reading.sample.COLUMNS`; called more than once.
        rules: how samples become rows.
        folder: path or address of the shards.
        shard_rows: rows of a shard.
    """
    table = pa.concat_tables(block.drop_columns(["histogram", "plane"]) for block in read_blocks())
    histograms = (block.select(["sample_id", "histogram"]) for block in read_blocks())
    table, series = assign_windows(table, histograms, rules.config.data.window)
    table = table.sort_by("sample_id")
    ids = table["sample_id"].to_pylist()
    file = rules.label_file
    rows, matched = ([None] * len(ids), set()) if file is None else file.match(ids)
    candidates = find_candidates(table, rows, file, rules.pattern, rules.config.data, rules.key)
    manifest = rules.make_rows(table, rules.choose_labels(ids, rows), [None] * len(ids), rows)
    manifest = add_candidates(manifest, candidates, table["patient_with_issuer"])
    failed = manifest.filter(pc.is_valid(manifest["error_code"])).select(["sample_id", "error_code", "error"])
    first = failed.slice(0, 1).to_pylist()
    return Portion(
        shards=[write_shard(shard, folder, "manifest", number) for shard in cut_shards(manifest, shard_rows)],
        samples=len(manifest) - len(failed),
        codes=Counter(failed["error_code"].to_pylist()),
        first_error=(first[0]["sample_id"], first[0]["error"]) if first else None,
        matched=matched,
        mismatches=len(candidates.mismatches),
        first_mismatch=ids[candidates.mismatches[0]] if candidates.mismatches else "",
        notes=count_notes(table),
        series=series,
    )
