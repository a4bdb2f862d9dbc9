"""Reports: written whole, compared only where they can be; the table, the plot, and the command."""

import copy
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from videopoet.cli import main
from videopoet.data.media import Media
from videopoet.evaluation import audio_video_alignment as av
from videopoet.evaluation.cache import FeatureCache
from videopoet.evaluation.detectors.colour_words import ColourWords
from videopoet.evaluation.measures import Measured
from videopoet.evaluation.protocol import digest, read_protocol
from videopoet.evaluation.report_file import (
    FORMAT,
    as_record,
    compare,
    differences,
    read_report,
    versions,
    write_report,
)
from videopoet.evaluation.report_of_bounce import report_of_bounce
from videopoet.evaluation.report_plot import draw
from videopoet.evaluation.sampling import Share

DETECTOR = {"name": "I3D", "key": "k", "label": "I3D", "weights": {"i3d.safetensors": "ab"}, "surrogate": False}


def made(value: float = 100.0) -> dict:
    protocol = read_protocol("kinetics600_64")
    found = Measured(metric="FVD", value=value, n={"samples": 8, "real": 8}, spread=1.0, bias=3.0, detector=DETECTOR,
                     higher_is_better=False)  # fmt: skip
    return {"format": FORMAT, "measures": [as_record(found, [])], "left_out": [], "complaints": [], "versions": versions(),
            "protocol": {"name": "k", "title": "t", "hash": protocol.hash, "spec": protocol.spec()},
            "samples": {"seed": 0}, "data": {"missing": [], "annotations": {"a.csv": "1"}}}  # fmt: skip


def changed(**paths) -> dict:
    report = copy.deepcopy(made(90.0))
    for path, value in paths.items():
        *steps, last = path.split("__")
        place = report
        for step in steps:
            place = place[int(step) if step.isdecimal() else step]
        place[last] = value
    return report


def test_what_differs_in_model_and_seed_alone_is_compared():
    pairs, refused = compare(made(), changed(samples__seed=7))
    assert [(x["value"], y["value"]) for x, y in pairs] == [(100.0, 90.0)] and not refused


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"measures__0__detector__key": "other", "measures__0__detector__weights": {"i3d.safetensors": "cd"}},
         "the networks differ: weights.i3d.safetensors: ab against cd"),
        ({"measures__0__n__samples": 7}, "the counts differ: samples: 8 against 7"),
        ({"data__missing": ["x"]}, "the data differ: missing"),
        ({"data__annotations": {"a.csv": "2"}}, "the data differ: annotations.a.csv: 1 against 2"),
        ({"measures__0__metric": "KVD"}, "only one of the reports has it"),
    ],
)  # fmt: skip
def test_what_differs_otherwise_is_refused_with_the_reason(change, why):
    pairs, refused = compare(made(), changed(**change))
    assert not pairs and why in "; ".join(refused["FVD"])


def test_protocols_that_differ_name_the_knob():
    other = made()
    other["protocol"]["spec"]["measures"][0]["init_args"]["ddof"] = 0
    other["protocol"]["hash"] = digest(other["protocol"]["spec"])
    assert compare(made(), other)[1]["FVD"] == ["the protocols differ: measures.0.ddof: 1 against 0"]


def test_differences_go_to_the_leaf():
    a = {"frames": {"class_path": "x.ClipRule", "init_args": {"frames": 16, "stride": 1}}}
    b = {"frames": {"class_path": "x.ClipRule", "init_args": {"frames": 16, "stride": 3}}}
    assert differences(a, b) == ["frames.stride: 1 against 3"]
    assert differences(a, a) == []


def test_the_command_compares_or_refuses(tmp_path, capsys):
    for name, report in {"a": made(), "b": changed(), "c": changed(measures__0__n__samples=7)}.items():
        write_report(tmp_path / f"{name}.json", report)
    main(["evaluate", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    said = capsys.readouterr().out
    assert "FVD" in said and "-10" in said and "yes" in said
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "compare", str(tmp_path / "a.json"), str(tmp_path / "c.json")])
    out = capsys.readouterr()
    assert "counts differ: samples: 8 against 7" in out.out and "no number that can be compared" in out.err


def test_plots_are_of_the_numbers(tmp_path, capsys):
    """Bars as high as values, whiskers as long as spreads, one panel a metric; names are text, whatever they hold."""
    a, b = made(), changed(measures__0__spread=4.0)
    value = [float(r["measures"][0]["value"]) for r in (a, b)]
    root = ElementTree.fromstring(draw([a, b], ["<a>", "b & c"]))
    bars = [float(bar.get("height")) for bar in root.iter() if bar.get("class") == "bar"]
    assert bars[1] / bars[0] == pytest.approx(value[1] / value[0], rel=1e-3)
    whisker = [e.get("d") for e in root.iter() if e.get("class") == "spread"][-1]
    ends = [float(x) for x in re.findall(r"[\d.]+", whisker)[1:]]
    assert abs(ends[0] - ends[1]) / bars[1] == pytest.approx(8 / value[1], rel=1e-3)
    assert {"<a>", "b & c"} <= {e.text for e in root.iter() if e.text}
    frames = changed(measures__0__details__by_frame=[1.0, float("inf"), 3.0])
    curve = next(e for e in ElementTree.fromstring(draw([frames], ["x"])).iter() if e.get("class") == "curve")
    assert len(curve.get("points").split()) == 2
    assert "inf" in draw([made(float("inf"))], ["x"])
    write_report(tmp_path / "a.json", a)
    words = ["evaluate", "compare", str(tmp_path / "a.json"), str(tmp_path / "a.json"), "--plot"]
    main([*words, str(tmp_path / "a.svg")])
    ElementTree.fromstring((tmp_path / "a.svg").read_text())
    with pytest.raises(SystemExit, match="2"):
        main([*words, str(tmp_path / "a.png")])
    assert "plots are SVG" in capsys.readouterr().err


def test_reports_are_whole_and_finite(tmp_path):
    write_report(tmp_path / "r.json", made(float("inf")))
    assert read_report(tmp_path / "r.json")["measures"][0]["value"] == "inf"
    json.loads((tmp_path / "r.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match="is no report"):
        read_report(tmp_path / "x.json")


def test_bounce_is_one_more_report(tmp_path):
    trial = {"attribute_accuracy": 0.5, "attributes": {"shape": 0.5}, "ceiling": 0.9, "ceiling_attributes": {"shape": 0.9},
             "n": 4}  # fmt: skip
    (tmp_path / "lm.safetensors").write_bytes(b"x")
    report = report_of_bounce({"text-to-video": trial}, model=tmp_path, draw=None, guidance={}, seed=0)
    write_report(tmp_path / "bounce.json", report)
    pairs, refused = compare(read_report(tmp_path / "bounce.json"), report)
    assert len(pairs) == 2 and not refused and pairs[0][0]["ceiling"] == 0.9


def test_a_path_stands_for_a_protocol_and_help_lists_them(capsys, tmp_path):
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", "--help"])
    said = capsys.readouterr().out
    for name in ("msrvtt", "kinetics600_64", "imagenet", "compare", "bounce", "prefix"):
        assert f" {name} " in said
    for wrong, why in (("nothing.yaml", "no protocol"), ("msrvt", "invalid choice")):
        with pytest.raises(SystemExit, match="2"):
            main(["evaluate", wrong, "--data", str(tmp_path), "--out", str(tmp_path / "r.json")])
        assert why in capsys.readouterr().err


def test_the_cache_is_shared_and_resumed(tmp_path):
    import torch

    one, two = FeatureCache(tmp_path), FeatureCache(tmp_path)
    one.add([("a", torch.ones(2, 3)), ("b", torch.zeros(1, 3))])
    assert "a" not in two
    two.refresh()
    assert torch.equal(two["a"], torch.ones(2, 3)) and torch.equal(two["b"], torch.zeros(1, 3))
    two.add([("a", torch.ones(2, 3))])
    assert len(list(tmp_path.iterdir())) == 1, "what is there is not written again"
    (tmp_path / "bad.safetensors").write_bytes(b"1")
    with pytest.raises(ValueError, match="is damaged"):
        FeatureCache(tmp_path)


def test_shares_are_blocks_in_turn():
    items = list(range(5))
    assert Share(rank=0, world=2).mine(items, 2) == [0, 1, 4] and Share(rank=1, world=2).mine(items, 2) == [2, 3]
    with pytest.raises(ValueError, match="RANK is 2 of WORLD_SIZE 2"):
        Share(rank=2, world=2)


def test_onsets_and_peaks_pair_off():
    assert av.paired([1.0], [0.95, 1.05], 0.1) == 1, "one onset answers one peak: two would score above 1"
    assert av.paired([0.0, 1.0], [1.05, 1.9], 0.1) == 1
    assert av.paired([0.50, 0.55], [0.46, 0.52], 0.06) == 2, "as many pairs as possible"
    assert av.Alignment(onsets=(), peaks=(), matches=0).score is None, "neither: no score, no division by zero"
    clicks = np.zeros(16000 * 2, np.float32)
    clicks[[8000, 24000]] = 1.0
    assert av.onset_times(clicks, 16000) == pytest.approx([0.5, 1.5], abs=0.05)
    assert av.onset_times(np.zeros(16000, np.float32), 16000) == []


@pytest.mark.parametrize(("late", "score"), [(0.0, 1.0), (0.06, 1.0), (0.3, 0.0), (-0.3, 0.0)])
def test_clicks_and_jerks_align_by_their_offset(late, score):
    """A picture that jerks twice and clicks `late` seconds after: 1 within a frame (1/8 s), 0 beyond, by Farnebäck's flow."""
    pytest.importorskip("cv2")
    y, x = np.mgrid[:64, :64]
    pattern = (120 + 60 * np.sin(x / 4) + 60 * np.cos(y / 5)).astype(np.uint8)[..., None].repeat(3, 2)
    jerks = [8, 20]  # the flow from these frames to the next
    moved = np.cumsum([2 * (i - 1 in jerks) for i in range(32)])
    video = np.stack([np.roll(pattern, step, 1) for step in moved])
    sound = np.zeros((1, 4 * 16000), np.float32)
    sound[0, [round((frame / 8 + late) * 16000) for frame in jerks]] = 1.0
    found = av.align(Media(video=video, fps=8.0, audio=sound, sample_rate=16000), flow=av.PUBLISHED)
    assert found.peaks == (1.0, 2.5)
    assert found.onsets == pytest.approx([1.0 + late, 2.5 + late], abs=0.05)
    assert found.score == score and found.matches == 2 * score


def test_colour_words_tell_red_from_blue():
    import torch
    import torch.nn.functional as F

    detector = ColourWords()
    pictures = np.zeros((2, 1, 8, 8, 3), np.uint8)
    pictures[0, ..., :], pictures[1, ..., :] = (225, 35, 35), (40, 70, 230)
    similar = F.normalize(detector(pictures)) @ F.normalize(detector.text_features(["a red circle", "a blue square"])).T
    assert torch.equal(similar.argmax(1), torch.tensor([0, 1]))
    assert detector.identity().metric("CLIPSIM") == "CLIPSIM(ColourWords, surrogate)"
