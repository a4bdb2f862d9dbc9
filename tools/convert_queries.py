"""A language model trained before queries turned with the place they aim at, as a start for training on.

    python tools/convert_queries.py OLD.safetensors NEW.safetensors

Until version 0.1 was released, a query turned with the place of the token it read; now it turns with that of the token it
predicts. Within a row of a frame that is one column further on, so queries are turned back by one column: exactly where the
norm's weights of the two halves of a channel pair agree, nearly where they do not. Elsewhere (at the ends of rows, in
sound, towards conditions, whose places changed too) the model must learn anew: train it on before it is used.
"""

import argparse
from pathlib import Path

import torch

from videopoet import component
from videopoet.models.attention import Attention, Rotary
from videopoet.models.token_lm import TokenLM


@torch.no_grad()
def turn_back(attention: Attention, rotary: Rotary) -> None:
    """Queries (heads, head width) of `attention` turned by minus one column."""
    frequency = rotary.base ** (-rotary.order.float() / rotary.count)
    angle = torch.where(rotary.axis == 2, -frequency, 0.0)[:, None]
    width = attention.qkv.in_features
    low, high = attention.qkv.weight[:width].unflatten(0, (attention.heads, 2, -1)).unbind(1)
    turned = torch.stack([low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()], 1)
    attention.qkv.weight[:width] = turned.flatten(0, 2)
    pairs = attention.norm_q.weight.view(2, -1)
    pairs[:, rotary.axis == 2] = pairs[:, rotary.axis == 2].mean(0)


def convert(source: Path, target: Path) -> None:
    model = component.load(source, TokenLM)
    for block in model.transformer.blocks:
        turn_back(block.attention, model.transformer.rotary)
    model.metadata["layout"]["origin"] = model.metadata["layout"]["text_length"] + 5
    component.save(target, model.spec, model.state_dict(), model.metadata)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source", type=Path, help="an exported language model")
    parser.add_argument("target", type=Path, help="where the converted one is written")
    a = parser.parse_args(arguments)
    convert(a.source, a.target)
    print(f"{a.target}: train on with `videopoet fit --start_from={a.target}`")


if __name__ == "__main__":
    main()
