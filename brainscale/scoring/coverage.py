"""What a job covers: the files of the sources beside those of the folder's listing, in blocks."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from brainscale.reading.plan import ReadingPlan
from brainscale.reading.sources import SourceFile
from brainscale.scoring.blocks import Block, BlockFile, cut_blocks, estimate_rows, version_of
from brainscale.scoring.listing import ListedFile, merge_by_file
from brainscale.scoring.parts import PartsThere
from brainscale.scoring.result import Amount

Pair = tuple[SourceFile | None, ListedFile | None]
Plan = Callable[[Sequence[SourceFile]], ReadingPlan]


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What differs between the sources and a listing: numbers of files.

    Attributes:
        new: in the sources only.
        changed: with other bytes than those listed.
        gone: in the listing only.
        first_gone: id of the first of these.
    """

    new: int = 0
    changed: int = 0
    gone: int = 0
    first_gone: str | None = None


def count_changes(pairs: Iterable[Pair]) -> Changes:
    """Count what differs between files and those of a listing."""
    new = changed = gone = 0
    first_gone = None
    for file, listed in pairs:
        if file is None:
            gone += 1
            first_gone = first_gone or (listed and listed.file)
        elif listed is None:
            new += 1
        elif version_of(file) != listed.version:
            changed += 1
    return Changes(new=new, changed=changed, gone=gone, first_gone=first_gone)


def count_work(pairs: Iterable[Pair], done: Container[str], *, first: bool, update: bool) -> tuple[Amount, Amount]:
    """Return the files that a job covers, and those of them that are left to score, with approximate numbers of rows.

    Args:
        pairs: files of the sources and of the listing that counts.
        done: names of the blocks that are there.
        first: whether there is no listing yet, so that all files are covered.
        update: whether files that are new are covered too.
    """
    total = left = Amount()
    for file, listed in pairs:
        if file is None or (listed is None and not (first or update)):
            continue
        amount = Amount(files=1, nbytes=file.nbytes or 0, rows=estimate_rows(file))
        total += amount
        is_same = listed is not None and version_of(file) == listed.version
        if listed is None or not is_same or not all(block in done for block in listed.blocks):
            left += amount
    return total, left


def pair_files(
    files: Iterable[SourceFile], listed: Iterable[ListedFile], name_of: Callable[[str], str], *, hidden: bool
) -> Iterator[Pair]:
    """Pair the files of the sources with those of a listing, by the names that the folder has for them.

    Args:
        files: sorted by id.
        listed: sorted by name.
        name_of: id → name.
        hidden: whether names are hashes, so that the files have to be sorted by them first.
    """
    named = ((name_of(file.sample_id), file) for file in files)
    return merge_by_file(sorted(named, key=lambda one: one[0]) if hidden else named, listed)


def cover(
    pairs: Iterable[Pair],
    there: PartsThere,
    kept: Mapping[str, Sequence[str]],
    name_of: Callable[[str], str],
    *,
    first: bool,
    update: bool,
    prune: bool,
    uri: str | None,
) -> Iterator[BlockFile]:
    """Yield the files that a job covers, by name.

    Args:
        pairs: files of the sources and of the listing that counts.
        there: the parts in the folder.
        kept: file → blocks with its rows, where they are not in those that the listing names.
        name_of: id → name.
        first: whether there is no listing yet, so that all files are covered.
        update: whether files that are new are covered too.
        prune: whether files that are gone are dropped; otherwise they keep their rows.
        uri: what the rows show as their address; None for the address itself.
    """
    for file, listed in pairs:
        if file is not None and (listed is not None or first or update):
            shown = listed.uri if listed else uri or file.uri
            yield BlockFile(file=file, name=name_of(file.sample_id), version=version_of(file), uri=shown)
        elif file is None and listed is not None and not prune:
            blocks = kept.get(listed.file, listed.blocks)
            kept_in = [part.name for block in blocks for part in there.done.get(block, ())]
            gone = SourceFile(sample_id=listed.file, uri=listed.uri)
            yield BlockFile(file=gone, name=listed.file, version=listed.version, uri=listed.uri, kept_in=tuple(kept_in))


def plan_blocks(
    covered: Iterable[BlockFile], plan: Plan, mean_files: int, identity: Mapping[str, str], chunk_files: int
) -> Iterator[list[Block]]:
    """Yield the blocks of files, some hundred thousand files at a time: series are looked for among those.

    Args:
        covered: files by name.
        plan: finds the files that share a series.
        mean_files: mean number of files of a block.
        identity: what a score depends on besides the files.
        chunk_files: number of files at a time.
    """
    files = iter(covered)
    while chunk := list(islice(files, chunk_files)):
        yield list(cut_blocks(_in_order(chunk, plan), mean_files, identity))


def _in_order(chunk: Sequence[BlockFile], plan: Plan) -> list[BlockFile]:
    """Return files by name, those of one series side by side at the place of the first of them.

    A large archive may be there several times, in portions.
    """
    present = [one.file for one in chunk if not one.kept_in]
    found = plan(present)
    if found.files == present and not found.series:
        return list(chunk)
    by_id = {one.file.sample_id: one for one in chunk}
    placed = [replace(by_id[file.sample_id], file=file, series=found.series.get(file.key, {})) for file in found.files]
    first: dict[int, tuple[str, int]] = {}
    for one in placed:
        if one.file.group is not None:
            first[one.file.group] = min(_place_of(one), first.get(one.file.group, _place_of(one)))
    placed += [one for one in chunk if one.kept_in]

    def places(one: BlockFile) -> tuple[tuple[str, int], tuple[str, int]]:
        place = _place_of(one)
        return place if one.file.group is None else first[one.file.group], place

    return sorted(placed, key=places)


def _place_of(one: BlockFile) -> tuple[str, int]:
    """Return by what files and portions are sorted."""
    return one.name, one.file.place[1]
