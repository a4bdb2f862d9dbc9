"""A stand-in for CLIP that needs nothing: colours that are seen against colours that are named."""

import torch
from torch import Tensor

from videopoet.evaluation.detectors.base import ImageTextDetector
from videopoet.evaluation.resize import Antialiased, Resize, RoundTo8Bits

COLOURS = {
    "red": (220, 40, 40),
    "green": (50, 180, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 215, 50),
    "orange": (240, 140, 30),
    "purple": (150, 60, 180),
    "cyan": (60, 200, 210),
    "magenta": (215, 40, 200),
    "pink": (240, 130, 180),
    "white": (245, 245, 245),
    "black": (10, 10, 10),
    "grey": (128, 128, 128),
}
COMMON = 0.05  # in every feature, so that a caption without colours has a direction


class ColourWords(ImageTextDetector):
    """Shares of twelve named colours in a picture of 32 x 32 pixels; of a caption, the colours that it names.

    It tries a protocol out where no network is at hand, and tells a red circle from a blue one; it knows nothing else.
    """

    name, surrogate, output = "ColourWords", True, "shares of colours"

    def __init__(self):
        super().__init__()
        self.weights: dict[str, str] = {}
        self.resize = Resize(height=32, width=32, convention=Antialiased(), rounding=RoundTo8Bits())
        self.register_buffer("colours", torch.tensor(list(COLOURS.values()), dtype=torch.float32), persistent=False)

    @property
    def dim(self) -> int:
        return len(COLOURS) + 1

    def preprocessing(self) -> dict:
        return {"colours": {name: list(value) for name, value in COLOURS.items()}, "common": COMMON, "pixels": 32}

    def picture_features(self, pictures: Tensor) -> Tensor:
        pixels = self.resize(pictures).to(self.device).flatten(1, 2)
        nearest = torch.cdist(pixels, self.colours[None].expand(len(pixels), -1, -1)).argmin(2)
        shares = torch.nn.functional.one_hot(nearest, len(COLOURS)).float().mean(1)
        return torch.cat([shares.sqrt(), torch.full((len(shares), 1), COMMON, device=self.device)], 1)

    def text_features(self, captions: list[str]) -> Tensor:
        words = [set(caption.lower().replace("gray", "grey").split()) for caption in captions]
        named = torch.tensor([[float(name in said) for name in COLOURS] + [COMMON] for said in words])
        return named.to(self.device)
