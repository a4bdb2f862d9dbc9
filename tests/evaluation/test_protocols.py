"""Every protocol, from its YAML to a report, on miniature data with an untrained model; resuming, ranks, refusals."""

import copy
import json
import multiprocessing
import shutil
from dataclasses import replace
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import yaml
from replicas import kinetics600, msrvtt, scene_file, ssv2, ucf101

from videopoet import component
from videopoet.cli import main
from videopoet.conditions.flow import BlockMatching
from videopoet.data.media import Media, write_media
from videopoet.evaluation import runner, sampling
from videopoet.evaluation import study as study_module
from videopoet.evaluation.detectors.base import BUILDABLE
from videopoet.evaluation.detectors.loudness import Loudness
from videopoet.evaluation.detectors.surrogates import RandomConv3d
from videopoet.evaluation.makers import Generator, Reconstructor
from videopoet.evaluation.measures import ClipsOfDataset, FrechetDistance, Measured
from videopoet.evaluation.measures_of_sound import AudioVideoAlignment, SoundDistance
from videopoet.evaluation.msrvtt import MSRVTT
from videopoet.evaluation.protocol import component_class, plain, read_protocol
from videopoet.evaluation.report_file import as_record, compare, read_report, table, write_report
from videopoet.evaluation.resize import PilBicubic, Resize, ShortSideCrop
from videopoet.evaluation.sampling import Share
from videopoet.evaluation.shelf import header, names
from videopoet.evaluation.study import Run, Study
from videopoet.pipeline import DEFAULT_DRAW, VideoPoet
from videopoet.sampling.request import Request

SURROGATES = {"clip": "colour-words", "clip_b32": "colour-words", "i3d": "random-conv3d", "c3d": "random-conv3d",
              "fid": "random-conv3d", "logits": "random-conv3d", "vggish": "loudness"}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A replica for each protocol, by its name."""
    root = tmp_path_factory.mktemp("data")
    videos = root / "videos"
    for i in range(3):
        scene_file(videos / f"{i}.mp4", i)
    (root / "davis").mkdir()
    scene_file(root / "davis" / "bear.mp4", 5)
    (root / "davis" / "prompts.csv").write_text("video,prompt\nbear,a red bear\nbear,a blue bear\n")
    (root / "imagenet").mkdir()
    (root / "imagenet" / "LOC_synset_mapping.txt").write_text("n1 tench\nn2 goldfish\n")
    np.savez(root / "imagenet" / "VIRTUAL_imagenet256_labeled.npz", mu=np.zeros(96), sigma=np.eye(96))
    folders = {"msrvtt": msrvtt(root / "vtt"), "ucf101": ucf101(root / "ucf"), "kinetics600": kinetics600(root / "k600"),
               "ssv2": ssv2(root / "ssv2"), "imagenet": root / "imagenet", "stylization": root / "davis"}  # fmt: skip
    return lambda name: next(
        (f for kind, f in folders.items() if name.removeprefix("tokenizer_").startswith(kind)), videos
    )


def shrunk(name: str):
    """The protocol with real clips of 48 pixels and flow that needs no package."""
    protocol = read_protocol(name)
    source = protocol.source
    if source.resize is not None:
        source = replace(source, resize=replace(source.resize, height=48, width=48))
    measures = tuple(replace(m, flow=BlockMatching()) if isinstance(m, AudioVideoAlignment) else m
                     for m in protocol.measures)  # fmt: skip
    made = replace(protocol, measures=measures, source=source)
    object.__setattr__(made, "name", protocol.name)
    return made


def measured(protocol, folder: Path, work: Path, shipped: Path, poet, *, draw=DEFAULT_DRAW, **how):
    how = {"allow_partial": True, "limit": 3} | how
    stand_ins = {role: name for role, name in SURROGATES.items() if role in protocol.networks}
    nets = runner.networks(protocol, {}, stand_ins, set())
    if protocol.task == "reconstruct":
        maker = Reconstructor(poet.visual, shipped, poet.audio)
    else:
        maker = Generator(poet, shipped, draw)
    return runner.measure(protocol, Run(data=folder, work=work, **how), nets, maker)


@pytest.mark.parametrize("name", names())
def test_every_protocol_runs_and_says_what_it_measured(name, data, shipped, poet, tmp_path):
    protocol = shrunk(name)
    if name == "msrvtt_stride3":  # a model must make 46 frames: ours makes 17
        with pytest.raises(ValueError, match="no sample could be read"):
            measured(protocol, data(name), tmp_path, shipped, poet)
        return
    report = measured(protocol, data(name), tmp_path, shipped, poet)
    write_report(tmp_path / "report.json", report)
    report = read_report(tmp_path / "report.json")
    assert report["protocol"]["hash"] == protocol.hash and report["measures"]
    assert report["samples"]["maker"]["weights"] and report["versions"]["torch"]
    assert len(report["data"]["prompts"]) == 16
    assert report["precision"] == {"features": "float32", "measures": "float64"}
    for m in report["measures"]:
        assert np.isfinite(float(m["value"])) and sum(m["n"].values()) > 0, m["metric"]
        assert not m["comparable_to"] and m["not_comparable_because"], "three samples compare with nothing"
        if m["detector"]:
            assert m["detector"]["surrogate"] and "surrogate" in m["metric"]
    assert table(report).row_count == len(report["measures"])


@pytest.mark.parametrize("name", names())
def test_header_says_what_it_is_and_the_command(name):
    lines = header(names()[name]).splitlines()
    assert len(lines) >= 3 and lines[1].startswith(f"videopoet evaluate {name} ")
    assert len(lines[0]) <= 125 and max(map(len, lines)) <= 150


@pytest.mark.parametrize("name", names())
def test_the_file_states_every_knob(name):
    """Nothing in a measurement is a default that only the code knows: a new field stands in every file, or this fails."""

    def full(value):
        if isinstance(value, dict):
            made = {key: full(item) for key, item in value.items()}
            return {"init_args": {}} | made if "class_path" in made else made
        return [full(item) for item in value] if isinstance(value, list) else value

    wanted = plain(read_protocol(name))
    del wanted["init_args"]["name"]  # the file's own
    assert full(yaml.safe_load(names()[name].read_text(encoding="utf-8"))) == wanted


CLIPS_OWN = Resize(height=224, width=224, convention=PilBicubic(), fit=ShortSideCrop(round_margin=True))


@pytest.mark.parametrize("name", names())
def test_the_file_states_what_its_networks_do_to_pictures(name):
    """Resize, crop and layer of a network are knobs too: the detector would take its own, the file writes it out."""
    for role, network in read_protocol(name).networks.items():
        cls = component_class(network.detector)
        knobs = set(signature(cls).parameters) - {"weights", "source", "folder", "download", "revision"}
        assert set(network.arguments) == knobs, f"{role}: {cls.__name__}"
        for knob, written in network.arguments.items():  # as published is as the detector has it by itself
            if knob == "resize":
                made = component.instantiate(written, BUILDABLE)
                assert made == (signature(cls).parameters[knob].default or CLIPS_OWN), f"{role}: {knob}"


def test_what_is_known_to_differ_from_a_paper_claims_no_comparison():
    """UCF-101: classes in words where papers wrote sentences, and 9,537 real clips where MAGVIT has 10,000."""
    of = ("ucf101_zero_shot", "ucf101_class", "ssv2_inpainting", "ssv2_outpainting")
    claims = {name: {m.metric: tuple(m.comparable_to) for m in read_protocol(name).measures} for name in of}
    assert claims["ucf101_zero_shot"] == {"IS": (), "FVD": ()}
    assert claims["ucf101_class"]["FVD"] == () and claims["ucf101_class"]["IS"]
    assert claims["ssv2_inpainting"] == claims["ssv2_outpainting"] == {"FVD": ()}  # 24,777 clips, MAGVIT has 50,000


def test_hash_holds_every_knob():
    protocol = read_protocol("msrvtt")
    assert protocol.hash == read_protocol(names()["msrvtt"]).hash
    other = replace(protocol, measures=protocol.measures[:2])
    assert other.hash != protocol.hash
    assert replace(protocol, title="x").hash == protocol.hash
    json.dumps(plain(protocol))


def test_unknown_names_suggest(tmp_path):
    with pytest.raises(ValueError, match="did you mean msrvtt"):
        read_protocol("msrvt")
    (tmp_path / "x.yaml").write_text("class_path: os.system")
    with pytest.raises(ValueError, match="refusing to build"):
        read_protocol(tmp_path / "x.yaml")
    with pytest.raises(ValueError, match="has no network 'clap'"):
        runner.networks(read_protocol("msrvtt"), {"clap": "x"}, {}, set())
    with pytest.raises(ValueError, match=r"network 'i3d': .*--weights i3d=PATH"):
        runner.networks(read_protocol("msrvtt"), {}, {"clip": "colour-words"}, set())


@pytest.fixture(scope="module")
def first(data, shipped, poet, tmp_path_factory):
    """One run of msrvtt: protocol, data, its work folder and its report."""
    protocol, work = shrunk("msrvtt"), tmp_path_factory.mktemp("work")
    return protocol, data("msrvtt"), work, measured(protocol, data("msrvtt"), work, shipped, poet)


class Forbidden(Generator):
    def make(self, *arguments):
        raise AssertionError("all samples were there")


def test_a_second_run_makes_and_computes_nothing(first, shipped, poet, monkeypatch):
    protocol, folder, work, report = first
    nets = runner.networks(protocol, {}, {r: SURROGATES[r] for r in protocol.networks}, set())
    for detector in nets.detectors.values():
        monkeypatch.setattr(detector, "features", None)
    again = runner.measure(protocol, Run(data=folder, work=work, limit=3, allow_partial=True), nets,
                           Forbidden(poet, shipped, DEFAULT_DRAW))  # fmt: skip
    assert again == report


def test_resumes_after_a_kill(first, shipped, poet, tmp_path, monkeypatch):
    protocol, folder, _, report = first
    monkeypatch.setattr(sampling, "BLOCK", 1)
    real, calls = Generator.make, []

    def killed(self, task, requests, seed):
        calls.append(seed)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, task, requests, seed)

    monkeypatch.setattr(Generator, "make", killed)
    with pytest.raises(KeyboardInterrupt):
        measured(protocol, folder, tmp_path, shipped, poet)
    assert not list(tmp_path.rglob("*.part*"))
    made = {p.name: p.read_bytes() for p in tmp_path.rglob("0000*.safetensors")}
    assert len(made) == 2
    again = measured(protocol, folder, tmp_path, shipped, poet)
    for a, b in zip(
        report["measures"], again["measures"], strict=True
    ):  # pictures may differ by a level in other batches
        assert a["value"] == pytest.approx(b["value"], rel=1e-4) and a["n"] == b["n"]
    assert calls == [0, 1, 2, 2], "what was made is not made again, and draws from the same seeds"
    assert all(p.read_bytes() == made[p.name] for p in tmp_path.rglob("0000*.safetensors") if p.name in made)


def rank(number: int, folder: Path, work: Path, shipped: Path) -> None:
    sampling.BLOCK = study_module.UNITS = 1
    report = measured(shrunk("msrvtt"), folder, work, shipped, VideoPoet.from_pretrained(shipped),
                      share=Share(rank=number, world=2), patience=60.0)  # fmt: skip
    assert (report is None) == (number == 1)
    if report:
        write_report(work / "report.json", report)


def test_two_processes_measure_what_one_does(first, shipped, tmp_path):
    _, folder, _, report = first
    write_report(tmp_path / "one.json", report)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=rank, args=(n, folder, tmp_path, shipped)) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(280)
        assert process.exitcode == 0
    two, one = (read_report(tmp_path / name) for name in ("report.json", "one.json"))
    for a, b in zip(one["measures"], two["measures"], strict=True):
        assert a["value"] == pytest.approx(b["value"], rel=1e-4) and a["n"] == b["n"]
    assert compare(one, two)[0] and not compare(one, two)[1]


def test_no_rank_waits_for_a_clip_that_another_could_not_read(tmp_path, monkeypatch):
    """Rank 1 finds a clip unreadable and says so; rank 0 finds another, and puts two more in their places by itself."""
    folder = msrvtt(tmp_path / "vtt", videos=5)
    contents = MSRVTT(videos=None).read(folder)
    keys = [entry.key for entry in contents.entries]
    for key in keys[1:3]:
        (folder / "TestVideo" / f"{key}.mp4").write_bytes(b"not a video")
    monkeypatch.setattr(study_module, "UNITS", 1)
    monkeypatch.setattr(sampling.time, "sleep", lambda seconds: pytest.fail("waits for what nobody makes"))
    distance = FrechetDistance(reals=ClipsOfDataset(count=3))

    def extracted(work: str, share: Share) -> Study:
        run = Run(data=folder, work=tmp_path / work, share=share, patience=3600.0)
        study = Study(shrunk("msrvtt"), contents, [], None, {"i3d": RandomConv3d()}, run, {})
        distance.extract(study)
        return study

    extracted("two", Share(rank=1, world=2))
    two, one = extracted("two", Share(rank=0, world=2)), extracted("one", Share())
    assert two.unusable == one.unusable and sorted(one.unusable) == sorted(keys[1:3])
    assert [item.key for item in distance.reals(two, two.unusable)] == [keys[0], *keys[3:]]
    assert np.array_equal(distance.real_set(two), distance.real_set(one)) and len(distance.real_set(one)) == 3


def test_a_video_without_sound_is_replaced_by_one_that_has_some(tmp_path):
    folder = msrvtt(tmp_path / "vtt", videos=3)
    contents = MSRVTT(videos=None).read(folder)
    silent = contents.entries[0]
    scene_file(silent.path, 0, sound=False)
    protocol = replace(shrunk("msrvtt"), source=replace(shrunk("msrvtt").source, sound=True))
    study = Study(protocol, contents, [], None, {"vggish": Loudness()}, Run(data=folder, work=tmp_path / "w", limit=2), {})
    distance = SoundDistance(reals=ClipsOfDataset())
    distance.extract(study)
    assert list(study.unusable) == [silent.key]
    assert len(study.rows(distance._heard(study), distance.reals(study, study.unusable))) == 2


def test_a_measure_takes_its_part_of_the_samples(first, shipped, poet):
    protocol, folder, work, _ = first
    distance = replace(protocol.measures[-1], fakes=2, repeats=1)
    part = replace(protocol, measures=(protocol.measures[0], distance))
    clipsim, fvd = measured(part, folder, work, shipped, poet)["measures"]
    assert clipsim["n"] == {"samples": 3} and fvd["n"] == {"samples": 2, "repeats": 1, "real": 3}
    assert clipsim["value"] == first[3]["measures"][0]["value"]


def test_rank_0_makes_what_a_lost_rank_left(first, shipped, poet, tmp_path):
    protocol, folder, _, report = first
    alone = measured(protocol, folder, tmp_path, shipped, poet, share=Share(rank=0, world=2), patience=0.01)
    assert [m["value"] for m in alone["measures"]] == [m["value"] for m in report["measures"]]


def test_incomplete_data_are_refused_unless_allowed(data, shipped, poet, tmp_path):
    with pytest.raises(ValueError, match=r"1 of 4 videos are missing.*59794.*--allow-partial"):
        measured(shrunk("msrvtt"), data("msrvtt"), tmp_path, shipped, poet, allow_partial=False)


def test_prompts_longer_than_the_model_reads_are_shortened_and_counted(data, shipped, poet, tmp_path):
    maker, words = Generator(poet, shipped, DEFAULT_DRAW), "a small red circle falls on a plain dark background"
    long = " and ".join([words] * 20)
    with pytest.raises(ValueError, match="text tokens, the limit is"):
        poet.model.text([long])
    assert maker.reads(words) == words and long.startswith(maker.reads(long)) and len(maker.reads(long)) > len(words)
    asked = [Request(prompt=long), Request(prompt=maker.reads(long))]
    made = [maker.make("text-to-image", [request], seed=3)[0].media.video for request in asked]
    assert np.array_equal(*made)

    protocol = shrunk("msrvtt")
    folder = tmp_path / "data"
    shutil.copytree(data("msrvtt"), folder)
    annotations = next(folder.rglob("*.json"))
    said = json.loads(annotations.read_text())
    said["sentences"] = [sentence | {"caption": long} for sentence in said["sentences"]]
    annotations.write_text(json.dumps(said))
    report = measured(protocol, folder, tmp_path / "work", shipped, poet)
    assert report["samples"]["prompts_shortened"] == 3
    other = copy.deepcopy(report)
    other["data"]["prompts"] = "of other sentences"
    assert not compare(report, other)[0] and "the data differ: prompts" in str(compare(report, other)[1])
    assert "3 prompts shortened" in table(report).caption


def test_an_unreadable_video_is_named_and_left_out(data, shipped, poet, tmp_path):
    protocol = shrunk("ssv2_inpainting")
    report = measured(protocol, data("ssv2"), tmp_path, shipped, poet)
    assert list(report["data"]["unusable"]) == ["3"] and "3.webm" in report["data"]["unusable"]["3"]
    assert report["measures"][0]["n"]["samples"] == 2
    exact = replace(protocol, dataset=replace(protocol.dataset, videos=3), plan=replace(protocol.plan, expected=3))
    with pytest.raises(ValueError, match="1 clips cannot be used, first 3"):
        measured(exact, data("ssv2"), tmp_path, shipped, poet, allow_partial=False, limit=None)


def test_samples_of_another_model(first, shipped, poet, tmp_path):
    protocol, folder, work, report = first
    run = Run(data=folder, work=tmp_path / "work", limit=3, allow_partial=True)
    _, wishes, _ = runner.plan(protocol, run)
    sampling.write_plan(tmp_path / "plan.jsonl", wishes, 0)
    rows = [json.loads(line) for line in (tmp_path / "plan.jsonl").read_text().splitlines()]
    given = tmp_path / "given"
    given.mkdir()
    for row in rows:
        made = next(work.rglob(f"{row['name']}.safetensors"))
        (given / f"{row['number']:06d}.safetensors").write_bytes(made.read_bytes())
    nets = runner.networks(protocol, {}, {r: SURROGATES[r] for r in protocol.networks}, set())
    other = runner.measure(protocol, run, nets, given=given)
    assert [m["value"] for m in other["measures"]] == [m["value"] for m in report["measures"]]
    (given / "000001.safetensors").unlink()
    fewer = runner.measure(protocol, run, nets, given=given)
    assert any("1 of 3 samples are not in" in c for c in fewer["complaints"])


def test_reconstructions_of_another_tokenizer_have_no_codes(data, shipped, poet, tmp_path):
    protocol = shrunk("tokenizer_videos")
    own = measured(protocol, data("tokenizer_videos"), tmp_path / "own", shipped, poet, limit=2)
    given = tmp_path / "given"
    given.mkdir()
    for path in (tmp_path / "own" / "samples").rglob("0000*.safetensors"):
        (given / path.name).write_bytes(path.read_bytes())
    nets = runner.networks(protocol, {}, {r: SURROGATES[r] for r in protocol.networks if r in SURROGATES}, set())
    run = Run(data=data("tokenizer_videos"), work=tmp_path / "own", limit=2, allow_partial=True)
    report = runner.measure(protocol, run, nets, given=given)
    values = {m["metric"]: m["value"] for m in report["measures"]}
    of_codes = {"codebook usage", "codebook perplexity", "bits per pixel"}
    assert values == {m["metric"]: m["value"] for m in own["measures"] if m["metric"] not in of_codes} and values
    assert report["left_out"] == [*own["left_out"], "codes"]
    for path in given.iterdir():  # of another size
        write_media(path.with_suffix(".mp4"), Media(video=np.zeros((17, 20, 20, 3), np.uint8), fps=8.0))
        path.unlink()
    with pytest.raises(ValueError, match=r"PSNR and SSIM: no clip and its reconstruction could be read: sample 0: .*20"):
        runner.measure(protocol, run, nets, given=given)


def test_the_command_from_annotations_to_a_report_and_a_comparison(data, shipped, tmp_path, capsys, monkeypatch):
    words = ["--model", str(shipped), "--data", str(data("msrvtt")), "--stand-in", "clip=colour-words,i3d=random-conv3d",
             "--allow-partial", "--limit", "3"]  # fmt: skip
    main(["evaluate", "msrvtt", *words, "--plan", str(tmp_path / "plan.jsonl")])
    assert len((tmp_path / "plan.jsonl").read_text().splitlines()) == 3
    main(["evaluate", "msrvtt", *words, "--out", str(tmp_path / "a.json")])
    said = capsys.readouterr().out
    assert "surrogate" in said and "nothing published" in said and f"report in {tmp_path / 'a.json'}" in said
    assert read_report(tmp_path / "a.json")["left_out"] == ["clip_b32"]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    work = ["--work", str(tmp_path / "a.json.work")]
    main(["evaluate", "msrvtt", *words, *work, "--seed", "0", "--out", str(tmp_path / "b.json")])
    assert not (tmp_path / "b.json").exists(), "rank 0 alone writes"
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "msrvtt", *words[:4], "--out", str(tmp_path / "c.json"), "--weights", "clip=/nowhere"])
    assert "--stand-in clip=NAME" in capsys.readouterr().err


def test_a_full_run_of_the_published_network_is_comparable_and_nothing_else():
    network = {"name": "CLIP", "surrogate": False}
    found = Measured(metric="CLIPSIM", value=0.3, detector=network, comparable_to=("VideoPoet",))
    assert as_record(found, [])["comparable_to"] == ["VideoPoet"]
    assert as_record(found, ["2 clips cannot be used"])["comparable_to"] == []
    assert as_record(replace(found, shortfalls=("1 repeats instead of 20",)), [])["comparable_to"] == []
    assert as_record(replace(found, detector=network | {"surrogate": True}), [])["comparable_to"] == []
