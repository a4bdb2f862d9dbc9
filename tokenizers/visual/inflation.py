"""Image tokenizer -> video tokenizer (MAGVIT-v2, App. A.2): the two-dimensional kernel becomes the last temporal slice.

The image network is a plain configuration of the same classes with `CausalLayers(time_kernel=1)` and strides of 1 in
time. Inflated, the video network does on one frame exactly what the image network does, because the other temporal
slices are zero; it is the start of the training on video. The discriminator is not inflated.
"""

import torch
from torch import Tensor, nn

from videopoet.tokenizers.visual.causal import DepthToSpaceUpsample


@torch.no_grad()
def inflate(image: nn.Module, video: nn.Module) -> None:
    """Write the weights of an image network (encoder, decoder or tokenizer) into the video network of the same widths.

    (o, i, 1, h, w) goes to the last slice of (o, i, t, h, w). Where a video upsampler makes s_t frames of one, each of
    them starts as the image: (c s_h s_w, ...) is repeated to (c s_t s_h s_w, ...). Everything else is copied.

    Raises ValueError naming the first tensors that have no counterpart or do not fit; then nothing is written.
    """
    source, target = image.state_dict(), video.state_dict()
    repeats = _upsampler_repeats(video)
    state, problems = {}, []
    for name in sorted(source.keys() | target.keys()):
        if name not in source or name not in target:
            problems.append(f"{name}: only in the {'video' if name in target else 'image'} network")
            continue
        tensor = source[name]
        if name in repeats:
            tensor = _repeat_frames(tensor, *repeats[name])
        tensor = _into_last_slice(tensor, target[name].shape)
        if tensor.shape != target[name].shape:
            problems.append(f"{name}: {tuple(source[name].shape)} in the image network, "
                            f"{tuple(target[name].shape)} in the video network")  # fmt: skip
        state[name] = tensor
    if problems:
        shown = "; ".join(problems[:3]) + ("; ..." if len(problems) > 3 else "")
        raise ValueError(
            f"the image network does not inflate into the video network, {len(problems)} of {len(target)} tensors "
            f"do not fit ({shown}): configure both with the same widths, blocks, layers and quantizer"
        )
    video.load_state_dict(state)


def _upsampler_repeats(video: nn.Module) -> dict[str, tuple[int, int]]:
    """Tensors of depth-to-space convolutions -> (frames they make of one, pixels they make of one)."""
    found = {}
    for name, module in video.named_modules():
        if isinstance(module, DepthToSpaceUpsample):
            prefix, (st, sh, sw) = f"{name}.conv." if name else "conv.", module.stride
            found |= {prefix + key: (st, sh * sw) for key in module.conv.state_dict()}
    return found


def _repeat_frames(tensor: Tensor, frames: int, pixels: int) -> Tensor:
    """(c * pixels, ...) -> (c * frames * pixels, ...), the order in which `depth_to_space` reads channels."""
    return tensor.unflatten(0, (-1, 1, pixels)).repeat_interleave(frames, 1).flatten(0, 2)


def _into_last_slice(tensor: Tensor, shape: torch.Size) -> Tensor:
    """(o, i, 1, h, w) -> (o, i, t, h, w), zero but for the last slice; any other tensor as it is."""
    if tensor.ndim != 5 or tensor.shape[2] != 1 or len(shape) != 5 or shape[2] == 1:
        return tensor
    inflated = tensor.new_zeros(*tensor.shape[:2], shape[2], *tensor.shape[3:])
    inflated[:, :, -1] = tensor[:, :, 0]
    return inflated
