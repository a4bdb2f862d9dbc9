"""CLIP, VideoMAE and V-JEPA 2 through `transformers`, from a folder or, where asked, a hub name; safetensors only."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from videopoet.component import spec_of
from videopoet.evaluation.detectors.base import ImageTextDetector, VideoDetector
from videopoet.evaluation.detectors.folders import folder_of, hashes, loaded
from videopoet.evaluation.resize import PilBicubic, Resize, ShortSideCrop, TorchBilinear

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LETTERS = {768: "B", 1024: "L", 1280: "H", 1408: "g", 1664: "bigG"}  # of published widths
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalised(pictures: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(..., 3) in [0, 255] -> (x / 255 - mean) / std."""
    return (pictures / 255 - pictures.new_tensor(mean)) / pictures.new_tensor(std)


class CLIP(ImageTextDetector):
    """CLIP of any size: B/32, B/16 and L/14 are three metrics, and the name says which.

    source: a folder with config.json, model.safetensors and the tokenizer's files, or a name such as
    "openai/clip-vit-base-patch16" that the hub's cache holds; `download=True` fetches it. Pictures pass through OpenAI's own
    preprocessing (bicubic of 8 bits, short side, centre crop) unless `resize` says otherwise. Captions longer than 77
    tokens are cut before the end-of-text token, from whose place CLIP reads the caption.
    """

    output = "projected"

    def __init__(
        self, source: str | Path, resize: Resize | None = None, download: bool = False, revision: str | None = None
    ):
        from transformers import AutoTokenizer, CLIPModel

        super().__init__()
        folder = folder_of(source, "CLIP's model", download=download, revision=revision)
        self.network = loaded(CLIPModel, folder)
        self.tokenizer = loaded(AutoTokenizer, folder)
        vision = self.network.config.vision_config
        self.name = f"CLIP ViT-{LETTERS.get(vision.hidden_size, vision.hidden_size)}/{vision.patch_size}"
        side = vision.image_size
        self.resize = resize or Resize(
            height=side, width=side, convention=PilBicubic(), fit=ShortSideCrop(round_margin=True)
        )
        if (self.resize.height, self.resize.width) != (side, side):
            raise ValueError(
                f"{self.name} reads {side} x {side}, resize gives {self.resize.height} x {self.resize.width}"
            )
        self.weights = hashes(folder)
        self.eval()

    @property
    def dim(self) -> int:
        return self.network.config.projection_dim

    def preprocessing(self) -> dict:
        captions = {"tokens": self.network.config.text_config.max_position_embeddings, "end_of_text": "kept"}
        return {"resize": spec_of(self.resize), "mean": list(CLIP_MEAN), "std": list(CLIP_STD), "captions": captions}

    def picture_features(self, pictures: Tensor) -> Tensor:
        pixels = normalised(self.resize(pictures), CLIP_MEAN, CLIP_STD).movedim(-1, 1)
        return self.network.visual_projection(self.network.vision_model(pixel_values=pixels).pooler_output)

    @torch.inference_mode()
    def text_features(self, captions: list[str]) -> Tensor:
        longest = self.network.config.text_config.max_position_embeddings
        tokens = self.tokenizer(captions, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        tokens = {name: tokens[name].to(self.device) for name in ("input_ids", "attention_mask")}
        return self.network.text_projection(self.network.text_model(**tokens).pooler_output).float()


class VideoMAE(VideoDetector):
    """Mean of VideoMAE's tokens, after its final norm. Reads the number of frames it was trained with, mostly 16.

    `normalisation="none"` leaves pixels in [0, 1], as cd-fvd feeds its own VideoMAE; "imagenet" is the network's.
    cd-fvd's features are of ViT-g fine-tuned on SSv2; through `transformers` other sizes are other metrics.
    """

    output = "mean of tokens"

    def __init__(
        self,
        source: str | Path,
        normalisation: Literal["imagenet", "none"] = "imagenet",
        resize: Resize | None = None,
        download: bool = False,
        revision: str | None = None,
    ):
        from transformers import VideoMAEForVideoClassification, VideoMAEModel

        super().__init__()
        folder = folder_of(source, "VideoMAE's model", download=download, revision=revision)
        self.network = loaded(VideoMAEModel, folder)
        self.norm = None
        if (
            self.network.config.use_mean_pooling and self.network.layernorm is None
        ):  # fine-tuned: its norm is in the head
            self.norm = loaded(VideoMAEForVideoClassification, folder, optional=("classifier",)).fc_norm
        config = self.network.config
        self.name = f"VideoMAE width {config.hidden_size}/{config.patch_size}"
        self.least_frames = config.num_frames
        self.mean, self.std = (IMAGENET_MEAN, IMAGENET_STD) if normalisation == "imagenet" else ((0.0,) * 3, (1.0,) * 3)
        if normalisation not in ("imagenet", "none"):
            raise ValueError(f"normalisation is 'imagenet' or 'none', not {normalisation!r}")
        self.resize = resize or Resize(height=config.image_size, width=config.image_size, convention=TorchBilinear())
        self.weights = hashes(folder)
        self.eval()

    @property
    def dim(self) -> int:
        return self.network.config.hidden_size

    def preprocessing(self) -> dict:
        return {"resize": spec_of(self.resize), "mean": list(self.mean), "std": list(self.std)}

    def features(self, clips: Tensor) -> Tensor:
        if clips.shape[1] != self.least_frames:
            raise ValueError(f"{self.name} reads {self.least_frames} frames, the clips have {clips.shape[1]}")
        pixels = normalised(self.resize(clips), self.mean, self.std).movedim(-1, 2)
        tokens = self.network(pixel_values=pixels).last_hidden_state.mean(1)
        return tokens if self.norm is None else self.norm(tokens)


class VJEPA2(VideoDetector):
    """Mean of V-JEPA 2's tokens.

    JEDi as published is of the first V-JEPA (`vjepa.VJEPA`): numbers made with this one are not JEDi's, and its name says so.
    """

    output = "mean of tokens"

    def __init__(
        self, source: str | Path, resize: Resize | None = None, download: bool = False, revision: str | None = None
    ):
        from transformers import VJEPA2Model

        super().__init__()
        folder = folder_of(source, "V-JEPA 2's model", download=download, revision=revision)
        self.network = loaded(VJEPA2Model, folder)
        config = self.network.config
        self.name = f"V-JEPA 2 width {config.hidden_size}/{config.patch_size}"
        self.least_frames = config.tubelet_size
        self.resize = resize or Resize(
            height=config.crop_size, width=config.crop_size, convention=TorchBilinear(), fit=ShortSideCrop()
        )
        self.weights = hashes(folder)
        self.eval()

    @property
    def dim(self) -> int:
        return self.network.config.hidden_size

    def preprocessing(self) -> dict:
        return {"resize": spec_of(self.resize), "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}

    def features(self, clips: Tensor) -> Tensor:
        if clips.shape[1] % self.least_frames:
            raise ValueError(f"{self.name} reads frames in groups of {self.least_frames}, got {clips.shape[1]}")
        pixels = normalised(self.resize(clips), IMAGENET_MEAN, IMAGENET_STD).movedim(-1, 2)
        return self.network(pixel_values_videos=pixels, skip_predictor=True).last_hidden_state.mean(1)
