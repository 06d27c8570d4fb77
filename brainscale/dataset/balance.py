"""Divide groups of samples among splits in given shares, each label alike, without cutting a group.

Groups with the same number of samples of each label are of one *kind* and interchangeable. So the work depends on the
number of kinds, and the seed decides which of the groups of a kind goes where.

All arithmetic on fractions is element by element: sums over many elements may be rounded differently on another
machine, and a split must not depend on the machine.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

SIZE_WEIGHT = 1e-3
"""Weight of a split's number of samples beside that of a label's samples in it: it decides between equals."""
CANDIDATES = 256
"""Number of kinds, the smallest, that the improvement exchanges; with more kinds, the first pass is already even."""
ATTEMPTS = 5
"""Number of orders in which groups of few kinds are placed; the most even result counts."""
SWEEPS = 50
"""Maximum number of times that the improvement looks at all pairs of splits."""
TOLERANCE = 1e-6
"""Smallest improvement that counts, in squared samples."""

Counts = npt.NDArray[np.int64]


def balance_groups(
    counts: Counts,
    shares: Sequence[float],
    keys: npt.NDArray[np.int64],
    kept: npt.NDArray[np.int64],
    tie_order: Sequence[int],
) -> npt.NDArray[np.int64]:
    """Return the split of each group, int64 [groups].

    The splits come as close as the groups let to their share of the samples of each label, and have a sample of each
    label if they can. The deviation of a split is measured relative to its share, that of a label relative to the
    label's frequency.

    Args:
        counts: number of samples of each group and label [groups, labels].
        shares: share of each split, above 0, 1 in all.
        keys: a random number for each group: groups are taken in this order where nothing else decides.
        kept: split of each group that already has one, −1 for the others.
        tie_order: the splits, in the order in which they are chosen where they are equally good.
    """
    is_free = kept < 0
    kinds, kind_of_group = np.unique(counts[is_free], axis=0, return_inverse=True)
    kind_of_group, free_keys = kind_of_group.reshape(-1), keys[is_free]
    by_kind = np.lexsort((free_keys, kind_of_group))
    sizes_of_kinds = np.bincount(kind_of_group, minlength=len(kinds))
    first_keys = free_keys[by_kind][np.cumsum(sizes_of_kinds) - sizes_of_kinds]
    size_classes = np.frexp(kinds.sum(axis=1))[1]  # classes of sizes, so that each seed gives another partition
    attempts = []
    for width in range(ATTEMPTS if len(kinds) <= CANDIDATES else 1):
        order = np.lexsort((first_keys, -(size_classes >> width)))  # largest first, then in ever wider classes
        ledger = _Ledger(kinds[order], counts, np.asarray(shares, np.float64), kept, list(tie_order))
        ledger.place_kinds(sizes_of_kinds[order].tolist())
        ledger.exchange_groups()
        attempts.append((ledger.cost(), width, ledger.placed[np.argsort(order)]))
    _, _, placed = min(attempts, key=lambda attempt: attempt[:2])
    splits = kept.copy()
    free_splits = np.empty(len(by_kind), np.int64)
    free_splits[by_kind] = np.repeat(np.tile(np.arange(len(shares)), len(kinds)), placed.reshape(-1))
    splits[is_free] = free_splits
    return splits


class _Ledger:
    """How many groups of each kind are in each split, and by how much each split deviates.

    Attributes:
        placed: number of groups of each kind in each split [kinds, splits]; kept groups are not counted.
        vectors: samples of a kind's group, weighted: each label, then all together [kinds, labels + 1].
        deviation: weighted samples of each split above its share [splits, labels + 1].
        presence: number of groups of each split with each label, kept ones included [splits, labels].
    """

    def __init__(
        self,
        kinds: Counts,
        counts: Counts,
        shares: npt.NDArray[np.float64],
        kept: npt.NDArray[np.int64],
        tie_order: list[int],
    ) -> None:
        totals = counts.sum(axis=0)
        weights = np.append(totals.sum() / np.maximum(totals, 1), SIZE_WEIGHT**0.5)
        samples = np.zeros((len(shares), len(totals)), np.int64)
        self.presence = np.zeros_like(samples)
        np.add.at(samples, kept[kept >= 0], counts[kept >= 0])
        np.add.at(self.presence, kept[kept >= 0], counts[kept >= 0] > 0)
        self.shares, self.tie_order = shares, tie_order
        self.has_label = kinds > 0
        self.vectors = _with_sum(kinds) * weights
        self.deviation = (_with_sum(samples) - shares[:, None] * _with_sum(totals[None])) * weights
        self.placed = np.zeros((len(kinds), len(shares)), np.int64)

    def place_kinds(self, numbers: Sequence[int]) -> None:
        """Place all groups, a kind at a time: most of them in proportion to what the splits lack, the last ones singly.

        Args:
            numbers: number of groups of each kind.
        """
        splits, shares = len(self.shares), self.shares.tolist()
        left = (np.array(numbers, np.int64) @ self.has_label).tolist()
        vectors, deviation, presence = self.vectors.tolist(), self.deviation.tolist(), self.presence.tolist()
        placed = [[0] * splits for _ in numbers]
        absent = [sum(not row[label] for row in presence) for label in range(len(left))]

        def place(kind: int, split: int, number: int) -> None:
            placed[kind][split] += number
            deviation[split] = [d + number * v for d, v in zip(deviation[split], vectors[kind], strict=True)]
            for label in labels:
                absent[label] -= not presence[split][label]
                presence[split][label] += number
                left[label] -= number

        for kind, number in enumerate(numbers):
            vector, labels = vectors[kind], np.flatnonzero(self.has_label[kind]).tolist()
            if number > splits:  # as many as there are splits are placed singly: enough for each to get one
                lacks = [sum(max(-row[label], 0.0) * vector[label] for label in labels) for row in deviation]
                whole = sum(lacks)
                for split, lack in enumerate(lacks):
                    if bulk := int((number - splits) * lack / whole) if whole else 0:
                        place(kind, split, bulk)
            square = sum(v * v for v in vector)
            for _ in range(number - sum(placed[kind])):
                scarce = [label for label in labels if left[label] <= absent[label]]
                ranked = []
                for split in self.tie_order:
                    above = sum(v * d for v, d in zip(vector, deviation[split], strict=True))
                    supplied = sum(not presence[split][label] for label in scarce)
                    ranked.append((-supplied, (square + 2 * above) / shares[split]))
                place(kind, self.tie_order[ranked.index(min(ranked))], 1)
        self.placed = np.array(placed, np.int64).reshape(self.placed.shape)
        self.deviation, self.presence = np.array(deviation), np.array(presence, np.int64)

    def exchange_groups(self) -> None:
        """Move a group, or exchange two, between two splits as long as that lowers the deviation.

        No exchange takes the last group with a label out of a split, and one that brings a missing label comes first.
        """
        first = max(0, len(self.placed) - CANDIDATES)
        nothing = np.zeros((1, self.vectors.shape[1]))
        vectors = np.concatenate([self.vectors[first:], nothing])  # a move is an exchange for nothing
        has_label = np.concatenate([self.has_label[first:], nothing[:, :-1] > 0])
        apart = np.zeros((len(vectors), len(vectors)))
        for column in vectors.T:
            apart += (column[:, None] - column[None]) ** 2
        pairs = list(combinations(range(len(self.shares)), 2))
        is_changed = dict.fromkeys(range(len(self.shares)), True)
        for _ in range(SWEEPS):
            was_changed, is_changed = is_changed, dict.fromkeys(is_changed, False)
            for one, other in pairs:
                if not any(change[split] for change in (was_changed, is_changed) for split in (one, other)):
                    continue
                if self._exchange_best(one, other, first, vectors, has_label, apart):
                    is_changed[one] = is_changed[other] = True
            if not any(is_changed.values()):
                return

    def cost(self) -> tuple[int, float]:
        """Return how many labels are missing in splits, and how uneven the splits are."""
        uneven = [d * d / share for row, share in zip(self.deviation.tolist(), self.shares, strict=True) for d in row]
        return int((self.presence == 0).sum()), float(sum(uneven))

    def _exchange_best(
        self,
        one: int,
        other: int,
        first: int,
        vectors: npt.NDArray[np.float64],
        has_label: npt.NDArray[np.bool_],
        apart: npt.NDArray[np.float64],
    ) -> bool:
        """Make the best exchange between two splits; return whether there was a good one.

        Args:
            one: split that gives the first group of the exchange.
            other: split that gives the second.
            first: number of the first of the kinds that may be exchanged.
            vectors: weighted samples of these kinds, and of nothing [n, labels + 1].
            has_label: labels of these kinds, and of nothing [n, labels].
            apart: squared difference of each two of them [n, n].
        """
        slopes = self.deviation[other] / self.shares[other] - self.deviation[one] / self.shares[one]
        pull = np.zeros(len(vectors))
        for column, slope in zip(vectors.T, slopes.tolist(), strict=True):
            pull += column * slope
        change = apart * (1 / self.shares[one] + 1 / self.shares[other]) + 2 * (pull[:, None] - pull[None])
        lost = np.zeros(change.shape)  # labels that a split loses, minus those that it gains
        for label, (in_one, in_other) in enumerate(self.presence[[one, other]].T.tolist()):
            given, taken = has_label[:, None, label], has_label[None, :, label]
            if in_one < 2:
                lost = lost + (given & ~taken if in_one else -1.0 * taken)
            if in_other < 2:
                lost = lost + (taken & ~given if in_other else -1.0 * given)
        available = np.append(self.placed[first:, [one, other]] > 0, [[True, True]], axis=0)
        change[~available[:, 0]], change[:, ~available[:, 1]] = np.inf, np.inf
        lost = np.where(np.isfinite(change), lost, 0)
        fewest = min(lost.min(), 0)
        change[lost > fewest] = np.inf
        given_kind, taken_kind = divmod(int(change.argmin()), len(change))
        if fewest == 0 and change[given_kind, taken_kind] >= -TOLERANCE:
            return False
        for kind, source, target in ((given_kind, one, other), (taken_kind, other, one)):
            self.deviation[source] -= vectors[kind]
            self.deviation[target] += vectors[kind]
            self.presence[source] -= has_label[kind]
            self.presence[target] += has_label[kind]
            if kind < len(vectors) - 1:
                self.placed[first + kind, source] -= 1
                self.placed[first + kind, target] += 1
        return True


def _with_sum(samples: Counts) -> Counts:
    """Return rows of numbers with their sum as a last column."""
    return np.concatenate([samples, samples.sum(axis=1, keepdims=True)], axis=1)
