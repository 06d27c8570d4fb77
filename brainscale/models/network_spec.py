"""What a model's network is built from: networks of the registry, their views, and the members of an ensemble."""

from dataclasses import dataclass

ENSEMBLE = "ensemble"
"""Name of an ensemble, where other models have the name of a network in the registry."""

ANGLE = 10.0
"""Angle in degrees by which views are turned."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """A network, or an ensemble of several.

    Attributes:
        architecture: name in the registry, or `ENSEMBLE`.
        views: number of views of an image whose probabilities are averaged: 1, 2 or 6.
        temperature: number by which a member's log-probabilities are divided before they are averaged.
        members: networks of an ensemble; empty for a network of the registry.
    """

    architecture: str
    views: int = 1
    temperature: float = 1.0
    members: tuple["NetworkSpec", ...] = ()

    @property
    def networks(self) -> tuple["NetworkSpec", ...]:
        """The networks of the registry that it consists of."""
        return self.members or (self,)

    @property
    def is_averaged(self) -> bool:
        """Whether its probabilities are a mean, over views or members."""
        return bool(self.members) or self.views > 1
