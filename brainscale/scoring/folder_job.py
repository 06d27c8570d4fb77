"""One job on a scores folder: bind a listing, score the blocks that are missing, and mark the folder as complete.

Any number of jobs may work on one folder at the same time. They bind the same listing, so they need the same parts,
and whatever one of them has written the others need not write.
"""

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from brainscale import progress
from brainscale.errors import RERUN, OutputError, StorageError
from brainscale.models.bundle import EDITED_KEY
from brainscale.models.engines import identify_precision
from brainscale.reading.plan import ReadingPlan
from brainscale.reading.preprocess import spec_fingerprint
from brainscale.reading.pseudonyms import key_fingerprint
from brainscale.reading.reader import namer_of
from brainscale.reading.sources import UNREACHABLE, SourceFile
from brainscale.schema import HIDDEN
from brainscale.scoring.blocks import PackedBlock, choose_block_files, pack_block, version_of
from brainscale.scoring.coverage import Changes, Pair, count_changes, count_work, cover, pair_files, plan_blocks
from brainscale.scoring.folders import parts_that_count, read_finished, remove_other_parts, write_finished
from brainscale.scoring.listing import (
    SHARD_ROWS,
    ListedFile,
    Listing,
    ListingWriter,
    bind,
    find_blocks,
    find_listing,
    has_versions,
    read_listing,
)
from brainscale.scoring.part_writer import part_rows
from brainscale.scoring.parts import PART_FILES, PartsThere, has_passing, list_parts
from brainscale.scoring.predictions import ScoringJob
from brainscale.scoring.result import Amount, Scores, ScoringProgress
from brainscale.scoring.scorer import BlockDone, request_of
from brainscale.scoring.spool import SpooledBlocks, SpooledFiles
from brainscale.storage.folder import Folder
from brainscale.storage.remote import StoreWatch

ATTEMPTS = 5
"""Times that a job begins again because another one bound a listing, or because parts have vanished."""


class Runner(Protocol):
    """Plans and scores, in this process or on Ray."""

    def plan(self, files: Sequence[SourceFile]) -> ReadingPlan:
        """Find the files that share a series."""

    def score(self, blocks: Iterable[PackedBlock], folder: Folder, identity: Mapping[str, str]) -> Iterator[BlockDone]:
        """Write the parts of blocks, and yield each block once it is done."""


@dataclass(frozen=True)
class Callbacks:
    """Functions that report progress, as `score_files` describes them."""

    on_start: Callable[[Amount, Amount], None]
    on_part: Callable[[Amount], None]
    on_notice: Callable[[str], None]


@dataclass(frozen=True)
class Bound:
    """A listing that counts, and its blocks."""

    listing: Listing
    blocks: SpooledBlocks


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a job finds in its folder.

    Attributes:
        listing: the listing that counts; None in a new folder.
        changes: what differs between the sources and that listing.
        scores: what the folder holds if there is nothing to do.
        there: names of the parts that are there then.
    """

    listing: Listing | None
    changes: Changes
    scores: Scores | None = None
    there: Sequence[str] = ()


class FolderJob:
    """A job on a scores folder.

    Args:
        folder: the folder.
        job: the model, and how to run it.
        files: the files of the sources, sorted by id.
        open_runner: starts what plans and scores.
        callbacks: report progress.
        update: whether files that are new are scored too.
        prune: whether rows of files that are gone are dropped.
        store_seconds: how long the sources' store may be away before the job ends.
    """

    def __init__(
        self,
        folder: Folder,
        job: ScoringJob,
        files: SpooledFiles,
        open_runner: Callable[[], AbstractContextManager[Runner]],
        callbacks: Callbacks,
        *,
        update: bool,
        prune: bool,
        store_seconds: float,
    ) -> None:
        self._folder, self._job, self._files = folder, job, files
        self._open_runner, self._callbacks = open_runner, callbacks
        self._update, self._prune = update, prune
        self._identity = make_identity(job)
        self._name_of = namer_of(request_of(job))
        self._done: dict[str, BlockDone] = {}  # the blocks that this job wrote
        self._store = StoreWatch(seconds=store_seconds)
        self._rows = 0
        self._began = time.monotonic()

    def run(self) -> Scores:
        """Complete the folder, and return what it holds.

        Raises:
            BrainscaleError: the folder belongs to another model, cannot be written, or rows are missing.
        """
        outlook = self.look()
        if outlook.scores is not None:  # another part is one that a job wrote which was killed after that
            remove_other_parts(self._folder, outlook.scores.parts, outlook.there)
            return outlook.scores
        if outlook.changes.new and outlook.listing is not None and not self._update:
            self._callbacks.on_notice(
                f"{outlook.changes.new} file(s) are new since this job began and are left out: --update scores them too"
            )
        self._folder.remove_abandoned()
        progress.announce(f"Scoring {self._files.count:,} files")
        with self._open_runner() as runner:
            return self._complete(runner, outlook.listing)

    def look(self) -> Outlook:
        """Return what is in the folder, and whether there is something to do; nothing is changed.

        Raises:
            BrainscaleError: the folder belongs to another model, or holds scores of files that are not in the sources.
        """
        bound = find_listing(self._folder)
        if bound is not None:
            self._require_identity(bound)
        changes = self._count_changes(bound)
        if bound is not None and (complete := self._find_complete(bound, changes)) is not None:
            return complete
        if changes.gone and not (self._update or self._prune):
            raise OutputError(
                f"{self._folder} holds scores of {changes.gone} file(s) that are not in these sources, for example "
                f"'{changes.first_gone}': give all its sources again, keep these rows with --update, drop them with "
                "--prune, or choose a new --out"
            )
        return Outlook(listing=bound, changes=changes)

    def count_work(self, bound: Listing | None) -> tuple[Amount, Amount]:
        """Return what the job covers, and how much of it is left to score, from the sizes of files.

        Args:
            bound: the listing that counts, if there is one.
        """
        return count_work(self._pairs(bound), list_parts(self._folder).done, first=bound is None, update=self._update)

    def _count_changes(self, bound: Listing | None) -> Changes:
        if bound is None:
            return Changes(new=self._files.count)
        if bound.files == self._files.count and not self._job.hash_paths:
            versions = ((file.sample_id, version_of(file)) for file in self._files)
            if has_versions(self._folder, bound, versions):
                return Changes()
        return count_changes(self._pairs(bound))

    def _pairs(self, bound: Listing | None) -> Iterator[Pair]:
        listed = iter(()) if bound is None else read_listing(self._folder, bound)
        return pair_files(self._files, listed, self._name_of, hidden=self._job.hash_paths)

    def _require_identity(self, bound: Listing) -> None:
        for key in sorted(bound.identity.keys() | self._identity.keys()):
            there, here = bound.identity.get(key), self._identity.get(key)
            if there != here:
                raise OutputError(
                    f"{self._folder} holds scores with another {key} ({there} there, {here} here): choose a new --out"
                )

    def _find_complete(self, bound: Listing, changes: Changes) -> Outlook | None:
        """Return the outlook of a folder in which there is nothing to do."""
        finished = read_finished(self._folder)
        if finished is None or finished["listing"] != bound.name or has_passing(finished["errors"]):
            return None
        if changes.changed or (self._update and changes.new) or (self._prune and changes.gone):
            return None
        parts = parts_that_count(self._folder, finished)
        there = self._folder.list_names(PART_FILES)
        if not set(parts) <= set(there):
            return None
        scores = Scores.from_facts(str(self._folder), finished, parts, files_not_in_it=changes.new or None)
        return Outlook(listing=bound, changes=changes, scores=scores, there=tuple(there))

    def _complete(self, runner: Runner, known: Listing | None) -> Scores:
        for _ in range(ATTEMPTS):
            bound = self._bind(runner, known)
            self._score(runner, bound)
            there = list_parts(self._folder)  # before the look for a listing: a later one's parts are not among them
            if (newest := self._find_newer(bound)) is not None:
                known = newest
                continue
            known = bound.listing
            if all(name in there.done for name in bound.blocks.names):
                scores = self._finish(bound, there)
                if (newest := self._find_newer(bound)) is None:
                    remove_other_parts(self._folder, scores.parts, there.names)
                    return scores
                known = newest  # its job may have marked the folder as complete before this one did
        raise OutputError(f"parts of {self._folder} vanish while they are written: find what removes them, and {RERUN}")

    def _find_newer(self, bound: Bound) -> Listing | None:
        """Return the listing with which another job has extended this one's."""
        newest = find_listing(self._folder)
        return None if newest is None or newest.name == bound.listing.name else newest

    def _bind(self, runner: Runner, known: Listing | None) -> Bound:
        """Find the blocks of the job, and bind their listing; adopt another job's if that came first."""
        for _ in range(ATTEMPTS):
            mine = self._plan(runner, known)
            if known is not None and mine.listing.shards == known.shards:
                return Bound(known, mine.blocks)
            winner = bind(self._folder, mine.listing)
            if winner.name == mine.listing.name:
                return mine
            self._require_identity(winner)
            known = winner
        raise OutputError(f"other jobs extend {self._folder} all the time: wait for them, and {RERUN}")

    def _plan(self, runner: Runner, known: Listing | None) -> Bound:
        """Cut the files into blocks, and write the shards of their listing."""
        mean = self._choose_block_files() if known is None else known.block_files
        number = 0 if known is None else known.number + 1
        writer = ListingWriter(self._folder, Listing(number=number, block_files=mean, identity=self._identity))
        blocks = SpooledBlocks()
        there = list_parts(self._folder)
        covered = cover(
            self._pairs(known),
            there,
            self._find_kept(known, there),
            self._name_of,
            first=known is None,
            update=self._update,
            prune=self._prune,
            uri=HIDDEN if self._job.hash_paths else None,
        )
        for chunk in plan_blocks(covered, self._plan_chunk(runner), mean, self._identity, SHARD_ROWS):
            writer.add([ListedFile(one.name, one.version, one.uri, (b.name,)) for b in chunk for one in b.files])
            for block in chunk:
                blocks.append(pack_block(block))
        return Bound(writer.finish(), blocks)

    def _find_kept(self, known: Listing | None, there: PartsThere) -> Mapping[str, Sequence[str]]:
        """Return gone file → blocks with its rows, where a kill came before its new block was written."""
        if known is None or known.number == 0 or self._prune:
            return {}
        wanted = {
            listed.file: listed.version
            for file, listed in self._pairs(known)
            if file is None and listed is not None and not there.done.keys() & set(listed.blocks)
        }
        return find_blocks(self._folder, wanted, there.done) if wanted else {}

    def _plan_chunk(self, runner: Runner) -> Callable[[Sequence[SourceFile]], ReadingPlan]:
        def plan(files: Sequence[SourceFile]) -> ReadingPlan:
            found = runner.plan(files)
            for text in found.notices:
                self._callbacks.on_notice(text)
            return found

        return plan

    def _choose_block_files(self) -> int:
        limit = part_rows(self._job.bundle.info.preprocess.image_size)
        return choose_block_files(self._files.count, self._files.rows, self._files.nbytes, limit)

    def _score(self, runner: Runner, bound: Bound) -> None:
        """Score the blocks that are missing, and those with errors that may be gone now."""
        there = list_parts(self._folder)
        present = [name for name in bound.blocks.names if name in there.done]
        codes = there.read_codes(present)
        done = {name for name in present if name in self._done or not has_passing(codes[name])}
        total, finished = Amount(), Amount()
        for name, files, nbytes in bound.blocks.facts():
            amount = Amount(files=files, nbytes=nbytes)
            total += amount
            finished += amount if name in done else Amount()
        self._callbacks.on_start(total, finished)
        if len(done) == len(bound.blocks.names):
            return
        notes: Counter[str] = Counter()
        missing = (block for block in _rotated(bound.blocks) if block.name not in done)
        for result in runner.score(missing, self._folder, self._identity):
            if result.parts:
                self._done[result.block] = result
            notes.update(result.notes)
            self._watch_store(result)
            self._rows += result.rows
            errors = sum(result.codes.values())
            self._callbacks.on_part(Amount(files=result.files, nbytes=result.nbytes, rows=result.rows, errors=errors))

        for note, samples in sorted(notes.items()):
            self._callbacks.on_notice(f"Note: {note}, for {samples} sample(s).")

    def _watch_store(self, result: BlockDone) -> None:
        """End the job when the object store of its sources is away.

        Raises:
            StorageError: it has been away for long.
        """
        unanswered = result.codes.get(UNREACHABLE, 0)
        self._store.count(result.rows - unanswered, unanswered, time.monotonic())
        if self._store.is_away(time.monotonic()):
            raise StorageError(
                f"the object store of the sources does not answer: check connection and credentials, and {RERUN}"
            )

    def _finish(self, bound: Bound, there: PartsThere) -> Scores:
        """Mark the folder as complete."""
        codes: Counter[str] = Counter()
        others, unusual = [], 0
        for name in bound.blocks.names:
            done = self._done.get(name)
            if done is not None and [part.name for part in there.done[name]] == list(done.parts):
                codes.update(done.codes)
                unusual += done.unusual
            else:
                others.append(name)
        for some in there.read_codes(others).values():
            codes.update(some)
        unusual += there.count_unusual(others)
        parts = [part for name in sorted(bound.blocks.names) for part in there.done[name]]
        rows, seconds = sum(part.rows for part in parts), time.monotonic() - self._began
        rate = round(self._rows / max(seconds, 1e-9), 1)
        scores = Scores(
            path=str(self._folder),
            files=bound.listing.files,
            rows=rows,
            scored=rows - sum(codes.values()),
            errors=dict(sorted(codes.items())),
            unusual=None if self._job.bundle.novelty is None else unusual,
            architecture=self._job.bundle.info.architecture,
            identity=self._identity,
            parts=[part.name for part in parts],
            listing=bound.listing.name,
            progress=ScoringProgress(rows_now=self._rows, seconds_now=round(seconds, 1), rows_a_second=rate),
        )
        write_finished(self._folder, scores)
        return scores


def _rotated(blocks: SpooledBlocks) -> Iterator[PackedBlock]:
    """Yield blocks from a random one on, so that jobs on one folder do not all score the same ones first."""
    start = secrets.randbelow(len(blocks.names))
    yield from islice(blocks, start, None)
    yield from islice(blocks, start)


def make_identity(job: ScoringJob) -> dict[str, str]:
    """Return what a score depends on; it is in the metadata of every part, and equal in all parts of a folder."""
    info = job.bundle.info
    facts: dict[str, Any] = {
        "hash_paths": "true" if job.hash_paths else "false",
        "model": info.weights_sha256,
        "preprocess": spec_fingerprint(info.preprocess),
        "threshold": repr(job.threshold),
        "temperature": repr(info.temperature),
        "classes": json.dumps(list(info.classes)),
        "novelty": info.novelty_sha256 or "none",
        "precision": identify_precision(job.bundle, job.engine.precision),
        **({"scan_key": key_fingerprint(job.key)} if job.has_key else {}),
        **({EDITED_KEY: job.bundle.sha256} if job.bundle.edited else {}),
    }
    return facts
