"""What to make of each frame; apart from the decoder, since whoever asks needs none of its formats."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from brainscale.config.data_sections import LimitsConfig, PreprocessConfig


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    """What to make of each frame.

    Attributes:
        preprocess: how a frame becomes a plane.
        limits: largest sizes, memory and time that a file may need.
        planes: whether to make planes.
        hashes: whether to make perceptual hashes.
        key: key of the hashes of patients and series, and of paths.
        hash_paths: whether the names of files and members become hashes.
    """

    preprocess: PreprocessConfig
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    planes: bool = True
    hashes: bool = False
    key: bytes = b""
    hash_paths: bool = False

    def facts_only(self) -> "ReadRequest":
        """Return a request for all but planes and perceptual hashes, with paths as they are."""
        return replace(self, planes=False, hashes=False, hash_paths=False)

    def to_json(self) -> dict[str, Any]:
        """Return the request as JSON-able values, for the child process, which knows no paths."""
        models = {"preprocess": self.preprocess.model_dump(mode="json"), "limits": self.limits.model_dump(mode="json")}
        return {**models, "planes": self.planes, "hashes": self.hashes, "key": self.key.hex()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ReadRequest":
        """Return the request whose `to_json` gave these values, with paths as they are."""
        preprocess, limits = PreprocessConfig(**values["preprocess"]), LimitsConfig(**values["limits"])
        key = bytes.fromhex(values["key"])
        return cls(preprocess=preprocess, limits=limits, planes=values["planes"], hashes=values["hashes"], key=key)
