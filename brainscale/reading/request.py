"""What is wanted of each frame; beside the decoder and not in it, for whoever asks needs none of its formats."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from brainscale.config.sections import LimitsConfig, PreprocessConfig


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    """What is wanted of each frame.

    Attributes:
        preprocess: how a frame becomes a plane.
        limits: what a file may ask for.
        planes: whether planes are wanted.
        hashes: whether perceptual hashes are wanted.
        key: of the keyed hash of patients and series.
    """

    preprocess: PreprocessConfig
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    planes: bool = True
    hashes: bool = False
    key: bytes = b""

    def to_json(self) -> dict[str, Any]:
        """Everything, for the child process."""
        models = {"preprocess": self.preprocess.model_dump(mode="json"), "limits": self.limits.model_dump(mode="json")}
        return {**models, "planes": self.planes, "hashes": self.hashes, "key": self.key.hex()}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> "ReadRequest":
        """What `to_json` gave."""
        preprocess, limits = PreprocessConfig(**facts["preprocess"]), LimitsConfig(**facts["limits"])
        key = bytes.fromhex(facts["key"])
        return cls(preprocess=preprocess, limits=limits, planes=facts["planes"], hashes=facts["hashes"], key=key)
