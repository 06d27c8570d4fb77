"""Connected components of a graph, in numpy."""

import numpy as np


def find_components(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """Return the smallest node of each node's connected component, int64 [count].

    The larger root of each edge between two trees is hung below the smaller one, until no edge joins two trees.

    Args:
        first: int64 [edges], one end of each edge, 0 … count − 1.
        second: int64 [edges], the other end.
        count: number of nodes.
    """
    root = np.arange(count)
    while True:
        first, second = root[first], root[second]
        joins = first != second
        if not joins.any():
            return root
        first, second = np.minimum(first[joins], second[joins]), np.maximum(first[joins], second[joins])
        np.minimum.at(root, second, first)
        while not np.array_equal(above := root[root], root):
            root = above
