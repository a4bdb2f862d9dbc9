"""The page of a study: a folder with `index.html` and media, or one file with everything in it; opened from the disk.

It loads nothing from elsewhere and sends nothing: its content security policy allows its own script and style, by their
hashes, and the videos.
"""

import base64
import hashlib
import html
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from videopoet.data.files import whole_or_nothing
from videopoet.data.media import read_media, write_media
from videopoet.evaluation.exporters.sources import CRF, is_plain_mp4
from videopoet.evaluation.preference.study import Clip, Study

PARTS = Path(__file__).parent
MEDIA = "media"
MAX_SINGLE = 256 * 2**20  # bytes of video in one file; browsers get slow long before they refuse


def key_path(out: Path) -> Path:
    """Where the key of a page lies: beside it, never in the folder that is handed to raters."""
    return out.with_name(f"{out.name.removesuffix('.html')}.key.json")


def write_page(study: Study, out: Path, *, progress: Callable[[int], None] | None = None) -> None:
    """Write the page and its key. `out`: a folder that is not there yet or empty, or a file called `*.html`.

    Raises ValueError where something is there, where a video cannot be read, or where one file would be too big.
    """
    single, key = out.suffix == ".html", key_path(out)
    for there in (key, *([out] if single or (out.is_dir() and any(out.iterdir())) else [])):
        if there.exists():
            raise ValueError(f"{there} is there already: name another, answers belong to the page they were given on")
    if not out.parent.is_dir():
        raise ValueError(f"the folder of {out} does not exist: make it first")
    clips = {clip.id: clip for pair in study.pairs for clip in pair.clips}
    if single:
        with TemporaryDirectory() as folder:
            sources = embedded(clips, Path(folder), progress)
    else:
        (out / MEDIA).mkdir(parents=True)
        sources = {}
        for clip in clips.values():
            sources[clip.id] = f"{MEDIA}/{clip.id}.mp4"
            write_clip(clip, out / sources[clip.id])
            if progress:
                progress(1)
    for path, text in ((key, json.dumps(study.key(), indent=2, ensure_ascii=False) + "\n"),
                       (out if single else out / "index.html", render(study, sources))):  # fmt: skip
        with whole_or_nothing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def write_clip(clip: Clip, path: Path) -> None:
    """What any browser plays: the file as it is, or written anew."""
    if is_plain_mp4(clip.path):
        shutil.copyfile(clip.path, path)  # no link: names of links and their times could tell
    else:
        write_media(path, read_media(clip.path), crf=CRF)


def embedded(clips: dict[str, Clip], folder: Path, progress: Callable[[int], None] | None) -> dict[str, str]:
    """Clip -> its bytes as a data address."""
    sources, size = {}, 0
    for clip in clips.values():
        write_clip(clip, folder / "clip.mp4")
        data = (folder / "clip.mp4").read_bytes()
        size += len(data)
        if size > MAX_SINGLE:
            raise ValueError(
                f"more than {MAX_SINGLE // 2**20} MiB of video in one file: write a folder (a name without .html), or take "
                "fewer prompts with --limit"
            )
        sources[clip.id] = f"data:video/mp4;base64,{base64.b64encode(data).decode()}"
        if progress:
            progress(1)
    return sources


def render(study: Study, sources: dict[str, str]) -> str:
    """The page. Texts of the study reach it as JSON that cannot end its element, and are shown as text, never as HTML."""
    facts = {
        "study": study.id,
        "axes": [{"id": axis.id, "title": axis.title, "question": axis.question} for axis in study.axes],
        "pairs": [
            {"id": p.id, "prompt": p.prompt, "clips": [{"id": c.id, "src": sources[c.id]} for c in p.clips]}
            for p in study.pairs
        ],
    }
    style = (PARTS / "page.css").read_text(encoding="utf-8")
    script = "\n".join((PARTS / name).read_text(encoding="utf-8") for name in ("order.js", "page.js"))
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; media-src 'self' file: data:; "
        "base-uri 'none'; form-action 'none'"
    )
    filled = {
        "title": html.escape(study.title),
        "policy": policy,
        "style": style,
        "study": json.dumps(facts, ensure_ascii=False).replace("<", "\\u003c"),
        "script": script,
    }
    page = (PARTS / "page.html").read_text(encoding="utf-8")
    pieces = page.split("{{")  # in one pass: a prompt that says {{script}} stays what it says
    return pieces[0] + "".join(filled[name] + rest for name, rest in (piece.split("}}", 1) for piece in pieces[1:]))


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
