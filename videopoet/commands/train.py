"""`videopoet fit | export`: train any part, ship what was trained."""

import argparse
from pathlib import Path


def add(commands) -> None:
    fit = commands.add_parser(
        "fit",
        add_help=False,
        help="train a tokenizer or the language model (LightningCLI)",
        description="Arguments go to Lightning's CLI: -c FILE, --trainer.max_steps=N, --ckpt_path=last, --help.",
    )
    fit.set_defaults(run=run_fit, passes_rest=True)

    export = commands.add_parser(
        "export",
        help="turn a training checkpoint into one safetensors file",
        epilog="example: videopoet export out/runs/lm/last.ckpt --out my_model/lm.safetensors",
    )
    export.add_argument("checkpoint", type=Path, metavar="CKPT")
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    export.add_argument("--full-precision", action="store_true", help="keep float32 (default: store float16)")
    export.add_argument(
        "--int8", metavar="PREFIX", help="store the weights whose name starts so in 8 bits, e.g. decoder."
    )
    export.add_argument(
        "--decoder-of",
        type=Path,
        metavar="FILE",
        help="write this tokenizer with the checkpoint's decoder; its codes and fingerprint stay",
    )
    export.set_defaults(run=run_export)


def run_fit(arguments: argparse.Namespace, rest: list[str]) -> None:
    from videopoet.training.cli import fit

    fit(rest)


def run_export(arguments: argparse.Namespace) -> None:
    from videopoet.training.export import export, export_decoder

    a = arguments
    if a.decoder_of is not None:
        if a.full_precision or a.int8:
            raise ValueError("--decoder-of keeps the number formats of its file: drop --full-precision and --int8")
        size = export_decoder(a.checkpoint, a.decoder_of, a.out)
    else:
        size = export(a.checkpoint, a.out, half=not a.full_precision, int8=a.int8)
    print(f"{a.out}: {size / 1e6:.1f} MB")
