"""Train the rows of an ablation table under one budget and write the table.

    python tools/run_ablation.py table5a --train SHARDS --validation SHARDS
    python tools/run_ablation.py vocabulary_lfq --steps 2000 --train SHARDS --validation SHARDS
    python tools/run_ablation.py table5a --quick          # a few steps on scenes of the built-in world

A row is configs/ablation/TABLE_*.yaml laid over configs/ablation/base.yaml; all rows see the same clips in the same order
for the same number of steps. Validation clips choose nothing. Rows that are done are kept in --out (numbers in
TABLE.jsonl, tokenizers as ROW.safetensors): a run that was cut off goes on with what is missing. TABLE.png shows
originals and what each row makes of them.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from videopoet import component
from videopoet.commands.corpus import positive
from videopoet.commands.safely import run_safely
from videopoet.commands.sample import best_device
from videopoet.data.bounce_files import write_world_shards
from videopoet.data.progress import bar
from videopoet.data.schema import Clip
from videopoet.data.shards import ShardReader
from videopoet.data.transforms import video_to_float, video_to_uint8
from videopoet.evaluation.reconstruction import compare
from videopoet.evaluation.report import command, machine, markdown
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.tokenizers.visual.padding import pad_to_lattice, trim
from videopoet.training.cli import fit

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "ablation"
QUICK_STEPS, QUICK_CLIPS = 6, 16
SHOWN = 8  # validation clips in the picture
FIRST_VALIDATION_SEED = 1_000_000  # scenes apart from those of training


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trained row, measured on all validation clips."""

    config: str
    what: str  # first sentence of the config's header, as far as its first line goes
    settings: str
    parameters: int
    bits: float  # per clip, or per image where the row trains on images alone
    psnr_rgb: float  # dB, mean over frames and clips
    ssim_luma: float  # mean over frames and clips
    codes_used: int
    seconds: float  # of training


def tables() -> dict[str, list[Path]]:
    """Table -> its rows: table5a, table5b, table5c, vocabulary_lfq, vocabulary_vq."""
    found: dict[str, list[Path]] = {}
    for path in sorted(CONFIGS.glob("*_*.yaml")):
        parts = path.stem.split("_")
        found.setdefault(parts[0] if parts[0].startswith("table") else "_".join(parts[:2]), []).append(path)
    return found


def run(a: argparse.Namespace) -> None:
    """Data, trainings, table."""
    if (a.train is None) != (a.validation is None):
        raise ValueError("--train and --validation belong together: name both, or neither with --quick")
    if a.train is None and not a.quick:
        raise ValueError("name --train and --validation, folders made by 'videopoet shards build', or use --quick")
    a.out.mkdir(parents=True, exist_ok=True)
    if a.train is None:
        a.train, a.validation = a.out / "clips" / "train", a.out / "clips" / "validation"
        write_world_shards(a.train, QUICK_CLIPS, 0)
        write_world_shards(a.validation, QUICK_CLIPS, FIRST_VALIDATION_SEED)
    settings = json.dumps({"steps": a.steps, "batch_size": a.batch_size, "seed": a.seed, "train": str(a.train)})
    file, paths = a.out / f"{a.table}.jsonl", tables()[a.table]
    known = [Row(**json.loads(line)) for line in file.read_text().splitlines()] if file.is_file() else []
    rows = []
    for number, path in enumerate(paths, 1):
        row = next((r for r in known if (r.config, r.settings) == (path.stem, settings)), None)
        if row is None or not weights(a, row.config).is_file():
            print(f"[{number}/{len(paths)}] {path.stem}: {a.steps} steps", flush=True)
            row = train(path, settings, a)
            with file.open("a") as out:
                out.write(json.dumps(asdict(row)) + "\n")
        rows.append(row)
    page = report(rows, a)
    Image.fromarray(sheet(rows, a)).save(a.out / f"{a.table}.png")
    (a.out / f"{a.table}.md").write_text(page + "\n")
    print(f"\n{page}\n\nin {a.out}: {file.name}, {a.table}.md, {a.table}.png")


def weights(a: argparse.Namespace, config: str) -> Path:
    """Where a row's tokenizer is kept."""
    return a.out / f"{config}.safetensors"


def train(path: Path, settings: str, a: argparse.Namespace) -> Row:
    """One row by `videopoet fit`, then its last weights on every validation clip."""
    start = time.perf_counter()
    fitted = fit([
        *("-c", str(CONFIGS / "base.yaml"), "-c", str(path)),
        f"--seed_everything={a.seed}",
        f"--data.init_args.seed={a.seed}",
        f"--data.init_args.shards={a.train}",
        f"--data.init_args.validation_shards={a.validation}",
        "--trainer.limit_val_batches=0",
        "--trainer.num_sanity_val_steps=0",
        f"--data.init_args.batch_size={a.batch_size}",
        f"--trainer.max_steps={a.steps}",
        f"--trainer.logger.init_args.save_dir={a.out / 'logs'}",
        f"--trainer.logger.init_args.version={path.stem}",
        "--trainer.enable_model_summary=false",
        "--trainer.enable_checkpointing=false",
        "--trainer.callbacks=[]",
    ])  # fmt: skip
    seconds = time.perf_counter() - start
    tokenizer = fitted.model.tokenizer.eval().to(best_device())
    spec = fitted.config.fit.model.as_dict()["init_args"]["tokenizer"]
    images = fitted.datamodule.image_batch_ratio == 1.0
    facts = {"steps": a.steps, "images": images}
    component.save(weights(a, path.stem), spec, tokenizer.state_dict(), facts, half=False)
    parameters = sum(p.numel() for p in tokenizer.parameters())
    found = measure(tokenizer, a.validation, 1 if images else fitted.datamodule.num_frames)
    what = path.read_text().splitlines()[0].removeprefix("# ").split(". ")[0]
    return Row(config=path.stem, what=what, settings=settings, parameters=parameters, seconds=seconds, **found)


@torch.inference_mode()
def measure(tokenizer: VideoTokenizer, shards: Path, num_frames: int | None) -> dict[str, float]:
    """PSNR, SSIM and code usage over the validation clips."""
    reader, scores, used, bits = ShardReader(shards, "media"), [], set(), 0.0
    device = next(tokenizer.parameters()).device
    with bar("validation clips", len(reader)) as advance:
        for record in reader:
            video = Clip.from_record(record).video[:num_frames]
            codes = tokenizer.encode(video_to_float(video)[None].to(device))
            back = video_to_uint8(tokenizer.decode(codes))[0]
            scores.append(compare(video, back))
            used.update(codes.unique().tolist())
            bits = codes.numel() * (tokenizer.codebook_size - 1).bit_length()
            advance(1)
    means = {name: sum(s[name].overall for s in scores) / len(scores) for name in ("psnr_rgb", "ssim_luma")}
    return means | {"codes_used": len(used), "bits": bits}


@torch.inference_mode()
def sheet(rows: list[Row], a: argparse.Namespace) -> np.ndarray:
    """uint8 picture: a frame of some validation clips, originals above, then a line of each row.

    The middle frame, or of rows that train on images alone the first, without the others.
    """
    reader = ShardReader(a.validation, "media")
    indices = np.linspace(0, len(reader) - 1, min(SHOWN, len(reader))).astype(int)
    videos = [Clip.from_record(reader[int(i)]).video for i in indices]
    tokenizers = [component.load(weights(a, row.config), VideoTokenizer) for row in rows]
    if tokenizers[0].metadata["images"]:
        videos = [video[:1] for video in videos]
    lines = [videos, *([rebuilt(tokenizer, video) for video in videos] for tokenizer in tokenizers)]
    pictures = [np.concatenate([video[len(video) // 2] for video in line], 1) for line in lines]
    return np.concatenate(pictures).repeat(2, 0).repeat(2, 1)


def rebuilt(tokenizer: VideoTokenizer, video: np.ndarray) -> np.ndarray:
    """uint8 (t, h, w, 3) -> what the tokenizer makes of it, frames that do not fill a window padded as in use."""
    padded, size = pad_to_lattice(video_to_float(video)[None], tokenizer.stride, tokenizer.encoder.rule)
    return video_to_uint8(trim(tokenizer.decode(tokenizer.encode(padded)), size))[0]


def report(rows: list[Row], a: argparse.Namespace) -> str:
    """The table with what it takes to read it."""
    columns = ["row", "what", "parameters", "bits", "PSNR, dB", "SSIM (luma)", "codes used", "training, s"]
    lines = [
        [r.config, r.what, f"{r.parameters / 1e6:.2f} M", f"{r.bits:.0f}", f"{r.psnr_rgb:.2f}", f"{r.ssim_luma:.3f}",
         str(r.codes_used), f"{r.seconds:.0f}"] for r in rows
    ]  # fmt: skip
    losses = "pixel losses" + (
        " and an adversary" if all("adversarial:" in p.read_text() for p in tables()[a.table]) else ""
    )
    facts = (f"{a.steps} steps of {a.batch_size} clips each, small networks (configs/ablation/base.yaml), {losses}, on "
             f"{len(ShardReader(a.train, 'media'))} clips; measured on {len(ShardReader(a.validation, 'media'))} others. "
             "Bits are those of one clip, or of one image (a first frame) in tables of image tokenizers. "
             "Nothing here is a result of the papers.")  # fmt: skip
    quick = ["--quick: to see that it runs; not to be quoted"] if a.quick else []
    return "\n\n".join([facts, f"`{command()}`", machine(), *quick, markdown(columns, lines, left=2)])


def main(arguments: list[str] | None = None) -> None:
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root.add_argument("table", choices=list(tables()), help="whose rows are trained")
    root.add_argument("--train", type=Path, metavar="SHARDS", help="media shards")
    root.add_argument("--validation", type=Path, metavar="SHARDS", help="media shards of other clips")
    root.add_argument("--steps", type=positive, default=1000)
    root.add_argument("--batch-size", type=positive, default=4)
    root.add_argument("--seed", type=int, default=0)
    root.add_argument("--out", type=Path, default=Path("out/ablation"), metavar="DIR")
    root.add_argument("--quick", action="store_true", help=f"at most {QUICK_STEPS} steps of 2 clips")
    root.set_defaults(run=run)
    a = root.parse_args(arguments)
    if a.quick:
        a.steps, a.batch_size = min(a.steps, QUICK_STEPS), min(a.batch_size, 2)
    run_safely(a, [])


if __name__ == "__main__":
    main()
