"""Seeds depend on every part of what they are for."""

from brainscale.seeds import derive


def test_seeds_differ_by_every_part_of_their_purpose() -> None:
    seeds = {
        derive(1, "a", 2),
        derive(2, "a", 2),
        derive(1, "b", 2),
        derive(1, "a", 3),
        derive(1, "a2"),
        derive(1, "a"),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive(42, "order", 1) == 1033042360562068201  # golden: old runs must stay repeatable
