#!/usr/bin/env python3
"""CLIP's weights as open_clip names them -> a folder that `--weights clip=FOLDER` takes.

    python tools/convert_clip.py open_clip_model.safetensors --config open_clip_config.json --out clip-b16
    python tools/convert_clip.py open_clip_pytorch_model.bin --openai --vocabulary bpe_simple_vocab_16e6.txt.gz --out clip-b32

Names are OpenAI's (visual.transformer.resblocks.0.attn.in_proj_weight), which open_clip kept. Two things no tensor tells, and
a wrong guess gives other features without an error: the activation and the width of a head. They come from the model's own
open_clip_config.json, or from --openai (QuickGELU, 64), which is right for OpenAI's weights and wrong for most others. The
vocabulary is found in the package open_clip_torch, or named. OpenAI's own .pt files are TorchScript, programs, and not read.
"""

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from videopoet.commands.safely import run_safely
from videopoet.data.packages import find_files
from videopoet.foreign_weights import read_state, refuse

NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask")
SPECIAL = ["<|startoftext|>", "<|endoftext|>"]


def tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's names -> those of transformers' CLIPModel; projections are transposed, in_proj is cut into q, k and v."""
    fixed = {
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "logit_scale": "logit_scale",
    }
    norms = {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm",
             "ln_final": "text_model.final_layer_norm"}  # fmt: skip
    inner = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
             "mlp.c_proj": "mlp.fc2"}  # fmt: skip
    made, unknown = {}, []
    for name, tensor in state.items():
        stem, _, kind = name.rpartition(".")
        side, found, block = name.partition("transformer.resblocks.")
        if name in fixed:
            made[fixed[name]] = tensor
        elif name in ("visual.proj", "text_projection"):
            made["visual_projection.weight" if name == "visual.proj" else "text_projection.weight"] = tensor.T
        elif stem in norms:
            made[f"{norms[stem]}.{kind}"] = tensor
        elif found:
            number, _, part = block.partition(".")
            layer = f"{'vision' if side == 'visual.' else 'text'}_model.encoder.layers.{number}"
            if part in ("attn.in_proj_weight", "attn.in_proj_bias"):
                for letter, third in zip("qkv", tensor.chunk(3)):
                    made[f"{layer}.self_attn.{letter}_proj.{part.rpartition('_')[2]}"] = third
            elif part.rpartition(".")[0] in inner:
                made[f"{layer}.{inner[part.rpartition('.')[0]]}.{kind}"] = tensor
            else:
                unknown.append(name)
        elif name not in NOT_WEIGHTS:
            unknown.append(name)
    refuse("tensors that are not of OpenAI's CLIP", unknown)
    return {name: tensor.clone().contiguous() for name, tensor in made.items()}


def configuration(state: dict[str, Tensor], said: dict[str, Any] | None):
    """CLIPConfig: sizes from the tensors, activation and heads from open_clip's configuration (None: OpenAI's)."""
    from transformers import CLIPConfig

    model = {} if said is None else said.get("model_cfg", said)
    vision, text = (model.get(part, {}) for part in ("vision_cfg", "text_cfg"))
    others = ("timm_model_name", "hf_model_name", "pool_type", "ls_init_value", "attentional_pool")
    if foreign := [key for part in (vision, text) for key in others if part.get(key)]:
        raise ValueError(f"the configuration has {', '.join(foreign)}: it is of another network than OpenAI's CLIP")
    act = "quick_gelu" if said is None or model.get("quick_gelu", False) else "gelu"

    def depth(prefix: str) -> int:
        return len({name.split(".")[prefix.count(".")] for name in state if name.startswith(prefix)})

    width, words = state["visual.conv1.weight"].shape[0], state["token_embedding.weight"]
    patch, places = state["visual.conv1.weight"].shape[-1], len(state["visual.positional_embedding"]) - 1
    return CLIPConfig(
        projection_dim=state["visual.proj"].shape[1],
        vision_config={
            "hidden_size": width, "intermediate_size": len(state["visual.transformer.resblocks.0.mlp.c_fc.weight"]),
            "num_hidden_layers": depth("visual.transformer.resblocks."), "hidden_act": act,
            "num_attention_heads": width // vision.get("head_width", 64), "patch_size": patch,
            "image_size": round(places**0.5) * patch,
        },
        text_config={
            "hidden_size": words.shape[1], "intermediate_size": len(state["transformer.resblocks.0.mlp.c_fc.weight"]),
            "num_hidden_layers": depth("transformer.resblocks."), "hidden_act": act,
            "num_attention_heads": text.get("heads", words.shape[1] // 64), "vocab_size": len(words),
            "max_position_embeddings": len(state["positional_embedding"]),
            "bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1,
        },
    )  # fmt: skip


def vocabulary(path: Path, size: int) -> tuple[dict[str, int], list[str]]:
    """OpenAI's file of merges -> (word -> id, merges): bytes, bytes that end a word, merges in order, two special ones."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1:]
    merges = lines[: size - 512 - len(SPECIAL)]
    if size < 512 + len(SPECIAL) or len(merges) != size - 512 - len(SPECIAL):
        raise ValueError(f"{path} has {len(lines)} merges, a vocabulary of {size} is of {size - 512 - len(SPECIAL)}")
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(b) for b in plain] + [
        chr(256 + i) for i in range(256 - len(plain))
    ]  # other bytes have letters above 255
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(line.split()) for line in merges), *SPECIAL]
    return {word: i for i, word in enumerate(words)}, merges


def run(a: argparse.Namespace) -> None:
    from transformers import CLIPModel

    if (a.config is None) != a.openai:
        raise ValueError(
            "name the model's open_clip_config.json by --config, or say --openai where the weights are OpenAI's"
        )
    if a.out.exists():
        raise ValueError(f"{a.out} is there already: name another folder")
    found = [a.vocabulary] if a.vocabulary else find_files("open_clip_torch", r"/bpe_simple_vocab_16e6\.txt\.gz")
    if not found or not found[0].is_file():
        raise ValueError(
            "no vocabulary: name bpe_simple_vocab_16e6.txt.gz (of openai/CLIP or open_clip) by --vocabulary"
        )
    state = read_state(a.weights)
    refuse("missing from the checkpoint", [name for name in ("visual.conv1.weight", "visual.proj", "text_projection",
           "token_embedding.weight", "positional_embedding", "visual.positional_embedding") if name not in state])  # fmt: skip
    model = CLIPModel(configuration(state, json.loads(a.config.read_text(encoding="utf-8")) if a.config else None))
    made = {name: tensor.float() for name, tensor in tensors(state).items()}
    try:
        model.load_state_dict(made, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{a.weights} is not OpenAI's CLIP: {' '.join(str(error).split())[:300]}") from None
    words, merges = vocabulary(found[0], len(state["token_embedding.weight"]))
    model.save_pretrained(a.out)
    special = dict(zip(("bos_token", "eos_token"), SPECIAL)) | {"unk_token": SPECIAL[1], "pad_token": SPECIAL[1]}
    tokenizer = special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": len(state["positional_embedding"])}
    files = {"vocab.json": words, "special_tokens_map.json": special, "tokenizer_config.json": tokenizer}
    for name, content in files.items():
        (a.out / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    (a.out / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    vision = model.config.vision_config
    print(f"ViT of width {vision.hidden_size}, patches of {vision.patch_size}, {vision.hidden_act}, in {a.out}")


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = root.add_argument
    add("weights", type=Path, metavar="FILE", help=".safetensors, or a torch file of tensors alone")
    add("--config", type=Path, metavar="JSON", help="the model's open_clip_config.json")
    add("--openai", action="store_true", help="the weights are OpenAI's: QuickGELU, heads 64 wide")
    add(
        "--vocabulary",
        type=Path,
        metavar="GZ",
        help="bpe_simple_vocab_16e6.txt.gz (default: the installed open_clip's)",
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="gets config.json, model.safetensors and the tokenizer's files",
    )
    root.set_defaults(run=run)
    return root


if __name__ == "__main__":
    run_safely(parser().parse_args(), [])
