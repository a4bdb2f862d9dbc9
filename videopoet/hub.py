"""A model as a folder to keep or to share: three safetensors files, `config.json` and a model card."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from videopoet import component

PARTS = ("visual", "audio", "lm")


def save(poet, folder: Path, measured: dict | None = None) -> None:
    """Write the files of a `VideoPoet`. Raises ValueError for parts that do not come from a file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, module in modules(poet).items():
        component.save_again(folder / f"{name}.safetensors", module)
    (folder / "config.json").write_text(json.dumps(facts(poet), indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(facts(poet), measured), encoding="utf-8")


def push(poet, repo: str, measured: dict | None = None, private: bool = True) -> str:
    """Make the repository where it is not there yet, and upload the files to it."""
    from huggingface_hub import HfApi

    api = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        save(poet, Path(folder), measured)
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload a VideoPoet model")
    return str(address)


def download(repo: str, revision: str | None = None) -> Path:
    """The folder of a repository's files; safetensors and JSON only, so nothing that is downloaded can run."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repo, revision=revision, allow_patterns=["*.safetensors", "*.json", "README.md"]))


def modules(poet) -> dict:
    return dict(zip(PARTS, (poet.visual, poet.audio, poet.model)))


def facts(poet) -> dict:
    """What can be said of a model without measuring it."""
    parts = {
        name: {
            "class": module.spec["class_path"],
            "parameters": sum(p.numel() for p in module.parameters()),
            "fingerprint": module.fingerprint,
        }
        for name, module in modules(poet).items()
    }
    steps = poet.model.metadata.get("steps")
    return {
        "format": component.FORMAT,
        "tasks": {name: list(poet.reads(name)) for name in poet.tasks},
        "guidance": poet.guidance,
        **asdict(poet.geometry),
        "lattice": list(poet.layout.lattice),
        "steps": steps,
        "parts": parts,
    }


def card(facts: dict, measured: dict | None = None) -> str:
    """A model card. Lines that only its owner can fill in say so; nothing is claimed that was not measured."""
    parts = "\n".join(
        f"| {name} | `{part['class'].rpartition('.')[2]}` | {part['parameters']:,} | `{part['fingerprint']}` |"
        for name, part in facts["parts"].items()
    )
    steps = "not recorded" if facts["steps"] is None else f"{facts['steps']:,}"
    seconds = facts["frames"] / facts["fps"]
    return f"""---
library_name: videopoet-open
pipeline_tag: text-to-video
tags:
- videopoet
- text-to-video
---

# A VideoPoet model

One prefix language model over visual and audio tokens, by VideoPoet in the open.

*What it was trained on, its licence and what it must not be used for: to be filled in by its owner.*

## Use

```python
from videopoet.data.media import write_media
from videopoet.pipeline import VideoPoet

poet = VideoPoet.from_pretrained("FOLDER")  # this folder; VideoPoet.from_hub("USER/NAME") downloads it
write_media("x.mp4", poet.generate({_example(facts["tasks"])})[0])
```

## What it is

- Tasks: {", ".join(facts["tasks"])}.{_guided(facts["guidance"])}
- Clips: {facts["frames"]} frames of {facts["width"]} x {facts["height"]} at {facts["fps"]:g} fps ({seconds:.3g} s), \
sound at {facts["sample_rate"]} Hz.
- Latent lattice: {" x ".join(map(str, facts["lattice"]))} visual tokens per clip.
- Training steps: {steps}.

| part | class | parameters | fingerprint |
|---|---|---:|---|
{parts}

## Measured

{_measured(measured)}
"""


def _guided(guidance: dict[str, dict[str, float]]) -> str:
    """What tasks are guided by unless the caller says otherwise, in words."""
    said = (f"{task} by the {by} ({scale:g})" for task, scales in guidance.items() for by, scale in scales.items())
    return f" Guided besides by text: {', '.join(said)}." if guidance else ""


def _example(tasks: dict[str, list[str]]) -> str:
    """Arguments of `VideoPoet.generate` for the first task that is given anything."""
    names = {"text": "prompt", "label": "prompt", "image": "image", "audio": "audio"}  # a stream is made of a video
    for task, reads in tasks.items():
        files = {name: f'poet.read_{name}("FILE")' for name in ("image", "video", "audio")}
        given = dict.fromkeys(names.get(name, "video") for name in reads)
        if given:
            return ", ".join([f'"{task}"', *(f"{name}={files.get(name, repr('...'))}" for name in given)]).replace("'", '"')
    return f'"{next(iter(tasks))}", [Request()]'


def _measured(report: dict | None) -> str:
    """A table of `videopoet evaluate bounce`'s report, or that there is none."""
    rows = {task: row for task, row in (report or {}).items() if isinstance(row, dict) and "attribute_accuracy" in row}
    if not rows:
        return "Not measured."
    lines = [
        f"| {task.replace('_', '-')} | {row['n']} | {100 * row['attribute_accuracy']:.1f} | {100 * row['ceiling']:.1f} |"
        for task, row in rows.items()
    ]
    head = "Attributes that an oracle reads right in held-out scenes of the built-in world, and the tokenizers' ceiling, %."
    return "\n".join([head, "", "| task | scenes | right | ceiling |", "|---|---:|---:|---:|", *lines])
