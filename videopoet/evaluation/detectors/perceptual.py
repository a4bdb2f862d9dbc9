"""LPIPS and its kin as a network of a protocol: what `--weights lpips=FILE.yaml` names."""

from pathlib import Path

import yaml

from videopoet import component
from videopoet.evaluation.detectors.base import Detector
from videopoet.evaluation.detectors.weights import sha256_of
from videopoet.evaluation.reconstruction import learned_distance
from videopoet.tokenizers.visual.perceptual import Perceptual


class PerceptualNetwork(Detector):
    """A learned distance of pictures. weights: a YAML file with a class of `videopoet.tokenizers.visual.perceptual` by
    class_path and the files of its own weights, as `tools/benchmark_compression.py --perceptual` takes it."""

    output = "distance"

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        if weights is None:
            raise ValueError(
                "a learned distance needs a YAML file with a class of videopoet.tokenizers.visual.perceptual"
            )
        try:
            spec = yaml.safe_load(Path(weights).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ValueError(f"{weights} is no YAML of a learned distance ({' '.join(str(error).split())})") from None
        made = component.instantiate(spec)
        if not isinstance(made, Perceptual):
            raise ValueError(f"{weights} describes no learned distance")
        self.distance = learned_distance(made)
        self.name = self.distance.name
        self.weights = {Path(weights).name: sha256_of(Path(weights))} | _files(spec)
        self.eval()

    @property
    def dim(self) -> int:
        return 1

    def preprocessing(self) -> dict:
        return {"range": [-1, 1]}


def _files(value) -> dict[str, str]:
    """sha256 of every file that a spec names, at any depth."""
    if isinstance(value, dict):
        return {name: digest for item in value.values() for name, digest in _files(item).items()}
    if isinstance(value, str) and len(value) < 4096 and Path(value).is_file():
        return {Path(value).name: sha256_of(Path(value))}
    return {}
