"""Networks and views whose probabilities are averaged, as one network."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from brainscale.models.network_spec import NetworkSpec
from brainscale.models.normalisation import normalise
from brainscale.models.registry import NETWORKS, build_network, count_flops
from brainscale.models.views import iterate_views

MEMBER = "member"
"""Prefix of the weights of an ensemble: those of its first member begin with `member.0.`."""


class Ensemble(nn.Module):
    """The mean of the probabilities of its members, each the mean over the member's views.

    Args:
        networks: the members; each takes normalised planes [N, 3, S, S] and returns logits [N, classes].
        specs: the views and the temperature of each member.
    """

    def __init__(self, networks: Sequence[nn.Module], specs: Sequence[NetworkSpec]) -> None:
        super().__init__()
        self.member = nn.ModuleList(networks)
        self.specs = tuple(specs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logarithms of the mean probabilities, float32 [N, classes], for normalised planes."""
        black = normalise(torch.zeros(1, 1, 1, device=x.device))

        def run(network: nn.Module, view: Tensor) -> Tensor:
            logits: Tensor = network(view + black)
            return logits

        def run_again_for_gradients(network: nn.Module, view: Tensor) -> Tensor:
            """Keep no layer's output for the gradients: those of all members and views would fill the memory."""
            logits: Tensor = checkpoint(run, network, view, use_reentrant=False)
            return logits

        return self.average(x - black, run_again_for_gradients if x.requires_grad else run)

    def average(self, planes: Tensor, run: Callable[[nn.Module, Tensor], Tensor], *, together: bool = False) -> Tensor:
        """Return the logarithms of the mean probabilities, float32 [N, classes].

        Args:
            planes: float [N, ..., S, S]; black is 0.
            run: returns the logits of a member for views of the planes; the first view is the planes themselves.
            together: whether all views are one batch, the N planes themselves first; else one follows the other.
        """
        of_members = []
        for network, spec in zip(self.member, self.specs, strict=True):
            views = iterate_views(planes, spec.views)
            if together:
                logits = run(network, torch.cat(list(views))).unflatten(0, (spec.views, -1))
            else:
                logits = torch.stack([run(network, view) for view in views])
            of_members.append(_log_mean(torch.log_softmax(logits.float() / spec.temperature, -1)))
        return _log_mean(torch.stack(of_members))


def _log_mean(log_probabilities: Tensor) -> Tensor:
    """Return the logarithm of the mean of probabilities over the first axis; all are given as logarithms."""
    return torch.logsumexp(log_probabilities, 0) - math.log(len(log_probabilities))


def build_from_spec(spec: NetworkSpec, classes: int) -> nn.Module:
    """Return the network of a model with random weights; an `Ensemble` for several views or members."""
    networks = [build_network(each.architecture, classes) for each in spec.networks]
    return Ensemble(networks, spec.networks) if spec.is_averaged else networks[0]


def name_parameters(spec: NetworkSpec, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a model's file under their names in the network of `build_from_spec`.

    The file of a network with several views is that of the network itself.
    """
    prefix = f"{MEMBER}.0." if spec.is_averaged and not spec.members else ""
    return {f"{prefix}{name}": value for name, value in weights.items()}


def first_stage(spec: NetworkSpec) -> str:
    """Return the name of the module that novelty is computed from, in the first network of a model."""
    return NETWORKS[spec.networks[0].architecture].first_stage


def count_model_flops(spec: NetworkSpec, classes: int, size: int) -> int:
    """Return the floating-point operations of a model for one image of size × size pixels, over all views."""
    return sum(each.views * count_flops(each.architecture, classes, size) for each in spec.networks)
