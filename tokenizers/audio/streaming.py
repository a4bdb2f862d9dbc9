"""SEANet chunk by chunk, and how far a convolutional codec looks ahead."""

from collections.abc import Callable
from functools import singledispatch

import torch
import torch.nn.functional as F
from encodec.modules import SLSTM, SConv1d, SConvTranspose1d
from encodec.modules.seanet import SEANetResnetBlock
from torch import Tensor, nn

from videopoet.tokenizers.audio.tokenizer import LookAhead
from videopoet.tokenizers.streaming import Stream


@singledispatch
def continued(layer: nn.Module, x: Tensor, stream: Stream) -> Tensor:
    """What `layer` makes of the next piece x (b, c, s) of a signal, of which the stream holds what came before.

    Padding stands before the first piece only, and none after the last. A layer without parameters has no memory.
    """
    assert not any(True for _ in layer.parameters()), f"{type(layer).__name__} does not say how it is continued"
    return layer(x)


@continued.register(nn.Sequential)
@continued.register(nn.ModuleList)
def _(layer, x: Tensor, stream: Stream) -> Tensor:
    for part in layer:
        x = continued(part, x, stream)
    return x


@continued.register
def _(layer: SEANetResnetBlock, x: Tensor, stream: Stream) -> Tensor:
    return continued(layer.shortcut, x, stream) + continued(layer.block, x, stream)


@continued.register
def _(layer: SConv1d, x: Tensor, stream: Stream) -> Tensor:
    return layer.conv(after_past(x, layer, layer.conv.conv, layer.pad_mode, stream))


@continued.register
def _(layer: SConvTranspose1d, x: Tensor, stream: Stream) -> Tensor:
    return upsampled(x, layer, layer.convtr.convtr, stream)


@continued.register
def _(layer: SLSTM, x: Tensor, stream: Stream) -> Tensor:
    y = recurrent(x, layer.lstm, stream)
    return y + x if layer.skip else y


def after_past(x: Tensor, layer: nn.Module, conv: nn.Conv1d, pad_mode: str, stream: Stream) -> Tensor:
    """(b, c, s) after the inputs that a causal convolution still sees: padding at the start, the last ones later."""
    padding = padding_of(conv)
    x = torch.cat([stream.past(layer), x], 2) if stream.started else F.pad(x, (padding, 0), mode=pad_mode)
    stream.keep(layer, x[..., x.shape[2] - padding :])
    return x


def upsampled(x: Tensor, layer: nn.Module, conv: nn.ConvTranspose1d, stream: Stream) -> Tensor:
    """A causal transposed convolution, cut on the right: (b, c, s) -> (b, c', s * stride).

    An input reaches kernel / stride outputs of the stride, so the last ones come again before the next piece and what
    they made alone is dropped. Nothing stands before the start, which is the same as zeros.
    """
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    again = -(-kernel // stride) - 1
    before = stream.past(layer) if stream.started else x.new_zeros(*x.shape[:2], again)
    x = torch.cat([before, x], 2)
    stream.keep(layer, x[..., x.shape[2] - again :])
    return conv(x)[..., again * stride : x.shape[2] * stride]


def recurrent(x: Tensor, lstm: nn.LSTM, stream: Stream) -> Tensor:
    """(b, c, s) -> (b, c, s), from the state that the last piece left."""
    state = tuple(stream.past(lstm)) if stream.started else None
    y, state = lstm(x.permute(2, 0, 1), state)
    stream.keep(lstm, torch.stack(state))
    return y.permute(1, 2, 0)


def padding_of(conv: nn.Conv1d) -> int:
    """Inputs that SEANet adds in all, so that a stride of s makes s times less: (k - 1) * dilation - (s - 1)."""
    return (conv.kernel_size[0] - 1) * conv.dilation[0] - (conv.stride[0] - 1)


def causal_left(conv: nn.Conv1d | nn.ConvTranspose1d) -> int:
    """Inputs before the first (outputs cut before it, of a transposed convolution) in a causal SEANet."""
    return 0 if isinstance(conv, nn.ConvTranspose1d) else padding_of(conv)


def centred_left(conv: nn.Conv1d | nn.ConvTranspose1d) -> int:
    """The same in a SEANet that is not causal: half of it, the odd one on the left."""
    transposed = isinstance(conv, nn.ConvTranspose1d)
    return -(-(conv.kernel_size[0] - conv.stride[0] if transposed else padding_of(conv)) // 2)


def look_ahead_of(encoder: nn.Module, decoder: nn.Module, left: Callable, reflects: bool) -> LookAhead:
    """How far convolutions, run in the order in which the networks list them, look ahead. `left`: their left padding.

    Beside another convolution (a shortcut) one of kernel 1 adds nothing. Example: kernel 7, stride 1, padded by 3, then
    kernel 4, stride 2, padded by 1. Frame j reads the second layer's inputs 2j - 1 to 2j + 2, and these samples up to
    2j + 5: 4 after its own hop, which ends at 2j + 1.
    """
    last, hop = 0, 1
    for conv in reversed(_convolutions(encoder)):
        last = last * conv.stride[0] + (conv.kernel_size[0] - 1) * conv.dilation[0] - left(conv)
        hop *= conv.stride[0]
    final = 0  # outputs that n inputs settle, less n times the upsampling so far
    for conv in _convolutions(decoder):
        if isinstance(conv, nn.ConvTranspose1d):
            final = final * conv.stride[0] - left(conv)
        else:
            final -= (conv.kernel_size[0] - 1) * conv.dilation[0] - left(conv)
    start = max(_reflected(encoder, hop, left), _reflected(decoder, 1, left)) if reflects else 1
    return LookAhead(max(0, last + 1 - hop), max(0, -final), start)


def _reflected(network: nn.Module, per_frame: int, left: Callable) -> int:
    """Frames that padding by reflection looks at: one more than it adds, at `per_frame` signal steps a frame."""
    frames = 1
    for conv in _convolutions(network):
        if isinstance(conv, nn.ConvTranspose1d):
            per_frame *= conv.stride[0]
        else:
            frames = max(frames, left(conv) // per_frame + 1)
            per_frame //= conv.stride[0]
    return frames


def _convolutions(network: nn.Module) -> list[nn.Conv1d | nn.ConvTranspose1d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv1d | nn.ConvTranspose1d)]
