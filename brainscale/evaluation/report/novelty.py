"""What the report says of novelty: how many samples are unlike what the model learnt from, and which most of all."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class UnusualCase:
    """One of the most unusual samples.

    Attributes:
        sample_id: its name.
        novelty: share of the validation samples that are more usual.
        label: its class; None if unknown.
        prediction: its predicted class.
        probability: probability of a tumour.
        picture: PNG of the plane that the model saw, where there is one.
        withheld: whether the picture is left out because it may show a name.
    """

    sample_id: str
    novelty: float
    label: str | None
    prediction: str
    probability: float
    picture: bytes | None = None
    withheld: bool = False


@dataclass(frozen=True, kw_only=True)
class NoveltySection:
    """What the report says of novelty.

    Attributes:
        source: what novelty rests on, or why there is none.
        samples: number of samples with a novelty.
        unusual: number of them that are more unusual than 99 % of the validation samples.
        beyond_all: number of them that are more unusual than every validation sample.
        cases: the most unusual samples.
    """

    source: str
    samples: int = 0
    unusual: int = 0
    beyond_all: int = 0
    cases: Sequence[UnusualCase] = ()
