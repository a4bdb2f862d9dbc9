"""Exporters: names, counts and folders of every benchmark on miniature prompt files, resuming, sharing, and the check."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from videopoet.cli import main
from videopoet.data.media import Media, read_media, write_media
from videopoet.evaluation.exporters import check as checking
from videopoet.evaluation.exporters import export as exporting
from videopoet.evaluation.exporters.benchmark import Entry, Sample
from videopoet.evaluation.exporters.check import check
from videopoet.evaluation.exporters.export import Shard, export, runs
from videopoet.evaluation.exporters.names import check_folder, check_name, folds, look_alikes
from videopoet.evaluation.exporters.numbered import CATEGORIES, FETV, EvalCrafter, T2VCompBench
from videopoet.evaluation.exporters.registry import BENCHMARKS
from videopoet.evaluation.exporters.sources import FolderSource, ModelSource, is_plain_mp4, read_set
from videopoet.evaluation.exporters.vbench import FOLDERS, VBench, VBenchI2V
from videopoet.evaluation.exporters.vbench2 import DIVERSITY, VBench2

HOKUSAI = "A beautiful coastal beach by Hokusai, in the style of Ukiyo"
LONG = "An astronaut é " * 20  # 300 characters: VBench-2.0 cuts at 180


def clip(seed: int, frames: int = 3, fps: float = 8.0) -> Media:
    pixels = np.random.default_rng(seed).integers(0, 255, (frames, 1, 1, 3), np.uint8)
    return Media(video=np.broadcast_to(pixels, (frames, 16, 16, 3)).copy(), fps=fps)


class Poet:
    """Stands for a model: request i is drawn from seed + i, as `VideoPoet.generate` promises. `stop`: fails at a prompt."""

    def __init__(self, stop: str | None = None):
        self.calls, self.stop = [], stop

    def generate(self, task, requests, *, seed, **how):
        self.calls.append((task, [request.prompt for request in requests], seed, how))
        if any(request.prompt == self.stop for request in requests):
            raise RuntimeError("stopped")
        return [clip(seed + i) for i in range(len(requests))]


def info(*entries) -> list[dict]:
    return [{"prompt_en": prompt, "dimension": dimensions, **more} for prompt, dimensions, more in entries]


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """A prompt file of every benchmark, with the quirks of the published ones."""
    vbench = info(
        (HOKUSAI, ["appearance_style"], {"auxiliary_info": {"appearance_style": "Ukiyo"}}),
        ("A fantasy landscape", ["overall_consistency", "aesthetic_quality", "imaging_quality"], {}),
        (HOKUSAI, ["temporal_style"], {}),  # said twice, with other dimensions
        ("a fantasy landscape", ["scene", "background_consistency"], {}),
        ("a still lake ", ["temporal_flickering", "subject_consistency"], {}),
    )
    i2v = info(
        ("a field near the ocean'", ["i2v_background"], {"image_name": "a field near the ocean'.jpg"}),
        ("a dog, camera pans left", ["camera_motion"], {"image_name": "a dog.png"}),
    )
    vbench2 = info(
        (LONG, ["Complex_Plot"], {}),
        ("A garden", ["Human_Anatomy"], {}),
        ("A garden", [DIVERSITY], {}),
        ("Ice at -20°C.", ["Thermotics"], {"auxiliary_info": ["?"]}),
    )
    fetv = [{"video_id": "1", "prompt": " hd slow motion"}, {"video_id": "video7", "prompt": "a\u2028b"}]
    written = {
        "vbench": json.dumps(vbench),
        "vbench-i2v": json.dumps(i2v),
        "vbench-2": json.dumps(vbench2, ensure_ascii=False),
        "evalcrafter": '2 goldfish in glass\r\na dog/cat: "what?"\r\n',
        "fetv": "\n".join(json.dumps(row, ensure_ascii=False) for row in fetv) + "\n",
    }
    paths = {}
    for name, text in written.items():
        paths[name] = tmp_path / f"{name}.{'txt' if name == 'evalcrafter' else 'json'}"
        paths[name].write_bytes(text.encode("utf-8"))
    paths["t2v-compbench"] = tmp_path / "prompts"
    paths["t2v-compbench"].mkdir()
    for number, (text, _) in enumerate(CATEGORIES.values()):
        (paths["t2v-compbench"] / text).write_text(f"first of {number}\nsecond of {number}\n")
    return paths


WANTED = {
    "vbench": [f"{p}-{i}.mp4" for p in (HOKUSAI, "A fantasy landscape", "a fantasy landscape", "a still lake ")
               for i in range(5)],
    "vbench-i2v": [f"{p}-{i}.mp4" for p in ("a field near the ocean'", "a dog, camera pans left") for i in range(5)],
    "vbench-2": [f"Complex_Plot/{LONG[:180]}-{i}.mp4" for i in range(3)]
    + [f"Human_Anatomy/A garden-{i}.mp4" for i in range(3)]
    + [f"Diversity/A garden-{i}.mp4" for i in range(20)]
    + [f"Thermotics/Ice at -20°C.-{i}.mp4" for i in range(3)],
    "evalcrafter": ["0000.mp4", "0001.mp4"],
    "fetv": ["videopoet/0.mp4", "videopoet/1.mp4"],
    "t2v-compbench": [f"{category}/000{n}.mp4" for category in CATEGORIES for n in (1, 2)],
}  # fmt: skip


@pytest.mark.parametrize("name", BENCHMARKS)
def test_names_and_counts(name, files):
    samples = BENCHMARKS[name]().plan(files[name], allow_partial=True)
    paths = [path for sample in samples for path in sample.paths]
    assert sorted(paths) == sorted(WANTED[name]) and len(set(paths)) == len(paths)
    assert len({(s.prompt, s.index) for s in samples}) == len(samples)
    with pytest.raises(ValueError, match=r"are published: use the published file, or --allow-partial"):
        BENCHMARKS[name]().plan(files[name])


def published(name: str) -> list[Entry]:
    """As many entries as the published file has, spread as its counts say."""
    if name == "vbench":
        prompts = [f"p{i}" for i in range(944)] + ["p0", "p1"]
        return [Entry(prompt=p, dimensions=("color",)) for p in prompts]
    if name == "vbench-i2v":
        return [Entry(prompt=f"p{i}", dimensions=("i2v_subject",), image="x.jpg") for i in range(1118)]
    if name == "vbench-2":  # 10 of Diversity and 217 prompts that are said again in another dimension
        prompts = [f"p{i}" for i in range(1013)]
        again = [Entry(prompt=p, dimensions=("Mechanics",)) for p in prompts[100:317]]
        return [
            Entry(prompt=p, dimensions=(DIVERSITY if i < 10 else "Material",)) for i, p in enumerate(prompts)
        ] + again
    if name == "t2v-compbench":
        return [Entry(prompt=f"{c}{i}", dimensions=(c,)) for c in CATEGORIES for i in range(100)]
    return [Entry(prompt=f"p{i}") for i in range(BENCHMARKS[name].wanted["entries"])]


@pytest.mark.parametrize(
    "name, videos, files",
    [("vbench", 4720, 4720), ("vbench-i2v", 5590, 5590), ("vbench-2", 1003 * 3 + 200, 3860),
     ("evalcrafter", 700, 700), ("fetv", 619, 619), ("t2v-compbench", 700, 700)],
)  # fmt: skip
def test_published_counts(name, videos, files, monkeypatch, tmp_path):
    entries = published(name)
    monkeypatch.setattr(BENCHMARKS[name], "read", lambda self, path: entries)
    samples = BENCHMARKS[name]().plan(tmp_path)
    assert (len(samples), sum(len(s.paths) for s in samples)) == (videos, files)
    last = {"evalcrafter": "0699.mp4", "fetv": "videopoet/618.mp4", "t2v-compbench": "generative_numeracy/0100.mp4"}
    assert name not in last or samples[-1].paths == (last[name],)
    entries.pop()
    with pytest.raises(ValueError, match="are published"):
        BENCHMARKS[name]().plan(tmp_path)


def test_the_second_edition_of_compbench(files):
    assert len(T2VCompBench(per_category=2).plan(files["t2v-compbench"])) == 14
    with pytest.raises(ValueError, match="14 entries, 21 are published; 2 fewest of a category, 3 are published"):
        T2VCompBench(per_category=3).plan(files["t2v-compbench"])


def test_vbench_by_dimension_shares_files_between_dimensions(files):
    samples = VBench(per_dimension=True, num_flickering=25).plan(files["vbench"], allow_partial=True)
    by_prompt = {s.prompt: [x for x in samples if x.prompt == s.prompt] for s in samples}
    assert by_prompt[HOKUSAI][0].paths == tuple(f"{d}/{HOKUSAI}-0.mp4" for d in ("appearance_style", "temporal_style"))
    assert by_prompt["A fantasy landscape"][0].paths == ("overall_consistency/A fantasy landscape-0.mp4",)
    lake = by_prompt["a still lake "]
    assert len(lake) == 25 and len(lake[4].paths) == 2 and lake[5].paths == ("temporal_flickering/a still lake -5.mp4",)
    assert set(FOLDERS.values()) < set(FOLDERS) and len(set(FOLDERS.values())) == 11
    only = VBench(dimensions=("scene",)).plan(files["vbench"], allow_partial=True)
    assert {s.prompt for s in only} == {"a fantasy landscape"}


@pytest.mark.parametrize(
    "name, cause",
    [("a/b-0.mp4", "path separator '/'"), ("..\\b-0.mp4", "path separator"), ("../x", "path separator"),
     (".hidden", "leading dot"), ("a\0b", r"U\+0000"), ("a\nb", r"U\+000A"), ("a\u2028b", r"U\+2028"), ("\ud800", r"U\+D800"),
     ("", "names nothing"),
     ("..", "names nothing"), ("é" * 119 + "-0.mp4", "244 bytes"), ("x" * 241, "241 bytes")],
)  # fmt: skip
def test_what_is_no_file_name(name, cause):
    with pytest.raises(ValueError, match=cause):
        check_name(name)


def test_what_is_a_file_name_stays_as_it_is(tmp_path):
    for name in (
        "x" * 240,
        " leading and trailing -0.mp4",
        'what\'s: "it"?-0.mp4',
        "Cafe\u0301-0.mp4",
        "-rf-0.mp4",
        "°C.-1.mp4",
    ):
        assert check_name(name) == name
        (tmp_path / name).touch()
    for name in ("model ", "model."):
        with pytest.raises(ValueError, match="ends in a space or a dot"):
            check_folder(name)


def test_names_that_some_disks_cannot_tell_apart(tmp_path, monkeypatch, files):
    assert look_alikes(["A a", "a a", "caf\u00e9", "cafe\u0301", "other", "other"]) == [
        ["A a", "a a"],
        ["caf\u00e9", "cafe\u0301"],
    ]
    assert folds(tmp_path) is False and not list(tmp_path.glob("try-*"))  # this machine's disk; others are simulated:
    monkeypatch.setattr(exporting, "folds", lambda folder: True)
    samples = VBench().plan(files["vbench"], allow_partial=True)
    with pytest.raises(ValueError, match=r"this disk cannot tell 'A fantasy landscape-0.mp4' from 'a fantasy"):
        export(VBench(), files["vbench"], samples, ModelSource(poet=Poet()), tmp_path / "out")


@pytest.mark.parametrize(
    "name, text, cause",
    [("vbench", "{", "not JSON"), ("vbench", "{}", "needs a list of entries, not dict"), ("vbench", "[]", "has no prompt"),
     ("vbench", '[{"prompt_en": 3}]', 'entry 0: needs an object with a text "prompt_en"'),
     ("vbench", '[{"prompt_en": "x", "dimension": ["colour"]}]', 'entry 0: "dimension" is'),
     ("vbench", '[{"prompt_en": "a/b", "dimension": ["color"]}]', "path separator"),
     ("vbench", '[{"prompt_en": "../../etc/x", "dimension": ["color"]}]', "path separator"),
     ("vbench-i2v", '[{"prompt_en": "x", "dimension": ["camera_motion"]}]', 'has no "image_name"'),
     ("vbench-i2v", '[{"prompt_en": "x", "dimension": ["camera_motion"], "image_name": "../x.jpg"}]', "entry 0: image"),
     ("vbench-2", json.dumps(info(*(("x" * 180 + end, ["Material"], {}) for end in "12"))), "two videos would be"),
     ("evalcrafter", "a\n\nb", "line 2: empty"), ("evalcrafter", "", "has no prompt"),
     ("fetv", '{"prompt": "a"}\nnot json', "line 2: not a JSON object"),
     ("fetv", "[1]", 'line 1: needs an object with a text "prompt"')],
)  # fmt: skip
def test_prompt_files_that_are_none(name, text, cause, tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=cause):
        BENCHMARKS[name]().plan(path, allow_partial=True)


def test_other_causes(tmp_path, files):
    with pytest.raises(ValueError, match="no such file"):
        VBench().plan(tmp_path / "absent", allow_partial=True)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="not UTF-8"):
        EvalCrafter().plan(tmp_path / "latin.txt", allow_partial=True)
    with pytest.raises(ValueError, match="vbench has no dimension 'colour', it has: subject_consistency"):
        VBench(dimensions=("colour",))
    with pytest.raises(ValueError, match="knows 5 and 25"):
        VBench(num_flickering=7)
    with pytest.raises(ValueError, match="path separator"):
        FETV(model="../x")
    (files["t2v-compbench"] / "interaction.json").write_text("[]")
    assert len(T2VCompBench().plan(files["t2v-compbench"], allow_partial=True)) == 14  # unknown names are left alone
    (files["t2v-compbench"] / "action_binding.json").write_text("[]")
    with pytest.raises(ValueError, match=r"both 5_action_binding.txt and action_binding.json"):
        T2VCompBench().plan(files["t2v-compbench"], allow_partial=True)
    one = tmp_path / "object_interactions.json"
    one.write_text('[{"prompt": "x"}]')
    assert T2VCompBench().plan(one, allow_partial=True)[0].paths == ("interaction/0001.mp4",)
    with pytest.raises(ValueError, match="no category is called so"):
        T2VCompBench().plan(files["vbench"], allow_partial=True)


def test_lines_end_at_newlines_only(tmp_path):
    """`str.splitlines` would cut the first prompt in two and shift the second to 0002."""
    (tmp_path / "prompts.txt").write_bytes("\ufeffa\u2028b\x85c\r\nlast".encode())
    samples = EvalCrafter().plan(tmp_path / "prompts.txt", allow_partial=True)
    assert [(s.prompt, s.paths) for s in samples] == [("a\u2028b\x85c", ("0000.mp4",)), ("last", ("0001.mp4",))]


def run(name, files, out, poet=None, shard=Shard(), batch=4, seed=7, **knobs):  # noqa: B008
    benchmark = BENCHMARKS[name](**knobs)
    samples = benchmark.plan(files[name], allow_partial=True)
    source = ModelSource(poet=poet or Poet(), batch=batch)
    return export(benchmark, files[name], samples, source, out, seed=seed, shard=shard), samples


def contents(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted((out / "videos").rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", ["vbench-2", "fetv"])
def test_any_number_of_processes_and_any_interruption_give_the_same_files(name, files, tmp_path):
    made, samples = run(name, files, tmp_path / "whole")
    assert made == len(samples) and sorted(contents(tmp_path / "whole")) == sorted(f"videos/{p}" for p in WANTED[name])
    for rank in (1, 0):
        run(name, files, tmp_path / "shared", shard=Shard(rank=rank, world_size=2))
    assert contents(tmp_path / "shared") == contents(tmp_path / "whole")

    with pytest.raises(RuntimeError):
        run(name, files, tmp_path / "cut", Poet(stop=samples[-1].prompt), batch=1)
    assert 0 < len(contents(tmp_path / "cut")) < len(WANTED[name])
    log = tmp_path / "cut" / "made" / "00000.jsonl"
    log.write_bytes(log.read_bytes()[:-30])  # stopped while writing a line: that video is made again
    poet = Poet()
    run(name, files, tmp_path / "cut", poet)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert (
        0 < sum(len(call[1]) for call in poet.calls) < len(samples) or len(samples) == 2
    )  # then both are the cut one's
    again = Poet()
    assert run(name, files, tmp_path / "cut", again)[0] == 0 and not again.calls
    half = tmp_path / "cut/videos" / samples[1].paths[0]
    half.write_bytes(half.read_bytes()[:100])  # cut by a full disk, say
    assert run(name, files, tmp_path / "cut")[0] == 1 and contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_sample_number_i_is_drawn_from_seed_plus_i(files, tmp_path):
    poet = Poet()
    _, samples = run("vbench-2", files, tmp_path / "out", poet, batch=8)
    assert [(call[2] - 7, len(call[1])) for call in poet.calls] == [(0, 8), (8, 8), (16, 8), (24, 2)]
    rows = [json.loads(line) for line in (tmp_path / "out/made/00000.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows] == [7 + i for i in range(len(samples))]
    garden = [p for p in (tmp_path / "out/videos").rglob("A garden-1.mp4")]
    assert len(garden) == 2 and garden[0].read_bytes() == garden[1].read_bytes()  # shared by two dimensions
    assert list(runs([0, 1, 2, 5, 7, 8], 4)) == [(0, 3), (5, 6), (7, 8), (8, 9)]


def test_another_run_is_never_mixed_in(files, tmp_path):
    run("fetv", files, tmp_path / "out")
    with pytest.raises(ValueError, match="was begun with seed 7, now it is 8"):
        run("fetv", files, tmp_path / "out", seed=8)
    files["fetv"].write_text(files["fetv"].read_text().replace("hd", "HD"))
    with pytest.raises(ValueError, match="was begun with prompts_sha256"):
        run("fetv", files, tmp_path / "out")
    (tmp_path / "mine/videos").mkdir(parents=True)
    (tmp_path / "mine/videos/holiday.mp4").touch()
    with pytest.raises(ValueError, match=r"holds videos but no export.json"):
        run("fetv", files, tmp_path / "mine")
    for rank, world in ((2, 2), (-1, 1)):
        with pytest.raises(ValueError, match="numbers go from 0"):
            Shard(rank=rank, world_size=world)


def test_shard_of_environment(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert Shard.of_environment() == Shard()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Shard.of_environment() == Shard(rank=1, world_size=4)
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(ValueError, match="no numbers"):
        Shard.of_environment()


def test_prompts_too_long_for_the_model_are_found_before_any_work(files, tmp_path):
    def fits(text):
        if len(text.split()) > 4:
            raise ValueError(f"prompt has {len(text.split())} words, the limit is 4")

    samples = VBench2().plan(files["vbench-2"], allow_partial=True)
    poet = Poet()
    with pytest.raises(ValueError, match=r"60 words, the limit is 4, or --truncate"):
        export(VBench2(), files["vbench-2"], samples, ModelSource(poet=poet, fits=fits), tmp_path / "out")
    assert not poet.calls and not (tmp_path / "out").exists()
    source = ModelSource(poet=poet, fits=fits, truncate=True, rewrites={"A garden": "A large garden"})
    export(VBench2(), files["vbench-2"], samples, source, tmp_path / "out")
    said = {prompt for call in poet.calls for prompt in call[1]}
    assert said == {"An astronaut é An", "A large garden", "Ice at -20°C."}
    assert (tmp_path / f"out/videos/Complex_Plot/{LONG[:180]}-0.mp4").is_file()  # named by the whole prompt
    with pytest.raises(ValueError, match="1 rewritten prompts are none of the benchmark's, first 'a garden'"):
        ModelSource(poet=poet, rewrites={"a garden": "x"}).check(samples)


def test_images_are_needed_and_given(files, tmp_path):
    samples = VBenchI2V().plan(files["vbench-i2v"], allow_partial=True)
    with pytest.raises(ValueError, match="2 images are given by the benchmark: name their folder with --images"):
        ModelSource(poet=Poet()).check(samples)
    images = tmp_path / "images"
    images.mkdir()
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(images / "a dog.png")
    source = ModelSource(poet=Poet(), images=images, task="image-to-video")
    with pytest.raises(ValueError, match='1 of 2 images are not there, first "a field'):
        source.check(samples)
    Image.new("RGB", (8, 8), "blue").save(images / "a field near the ocean'.jpg")
    assert export(VBenchI2V(), files["vbench-i2v"], samples, source, tmp_path / "out") == 10
    assert {call[0] for call in source.poet.calls} == {"image-to-video"}


def test_a_finished_folder_passes_and_every_fault_is_found(files, tmp_path):
    """Each fault alone: missing, renamed in case, beside, hidden, empty, no video, too long, another's, hard to share."""
    out = tmp_path / "out"
    _, samples = run("vbench", files, out)
    whole = check(VBench(), samples, out)
    assert (
        not whole.wrong and whole.expected == whole.found == 20 and whole.shapes == {"3 frames of 16 x 16 at 8 fps": 20}
    )
    assert any(
        "'A fantasy landscape-0.mp4' and 'a fantasy landscape-0.mp4' are one file" in note for note in whole.notes
    )

    def fault(change) -> list[str]:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(out, copy)
        change(copy / "videos")
        return check(VBench(), samples, copy).wrong

    lake = "a still lake -3.mp4"
    assert fault(lambda v: (v / lake).unlink()) == [f"{lake!r} is missing"]
    renamed = fault(lambda v: (v / lake).rename(v / "A still lake -3.mp4"))
    assert renamed[0] == f"{lake!r} is missing, there is 'A still lake -3.mp4': benchmarks compare letter by letter"
    assert fault(lambda v: (v / ".DS_Store").touch()) == ["'.DS_Store' is none of the benchmark's files"]
    assert any("is empty (0 bytes)" in w for w in fault(lambda v: (v / lake).write_bytes(b"")))
    assert any("cannot be read" in w for w in fault(lambda v: (v / lake).write_bytes(b"not a video" * 99)))
    assert any("SHA-256 differs" in w for w in fault(lambda v: write_media(v / lake, clip(999))))
    assert any("lasts 5.12 s" in w for w in fault(lambda v: write_media(v / lake, clip(1, frames=41))))
    with pytest.raises(ValueError, match="no such folder"):
        check(VBench(), samples, tmp_path / "absent")


def test_the_check_notes_what_is_odd(files, tmp_path):
    _, samples = run("evalcrafter", files, tmp_path / "out")
    videos = tmp_path / "out/videos"
    shutil.rmtree(tmp_path / "out/made")
    shutil.copyfile(videos / "0000.mp4", videos / "0001.mp4")
    notes = check(EvalCrafter(), samples, tmp_path / "out").notes
    assert any("1 videos stand for several samples" in note for note in notes)
    write_media(videos / "0001.mp4", clip(3, frames=5))
    notes = check(EvalCrafter(), samples, videos).notes  # the folder of videos itself will do
    assert any("not all videos are alike" in note for note in notes)


def test_samples_that_are_there_are_named_anew(files, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    samples = VBench(per_dimension=True).plan(files["vbench"], allow_partial=True)
    for number, sample in enumerate(samples):
        write_media(flat / f"{sample.prompt}-{sample.index}.mp4", clip(number))
    source = FolderSource(folder=flat)
    export(VBench(per_dimension=True), files["vbench"], samples, source, tmp_path / "out")
    assert not check(VBench(per_dimension=True), samples, tmp_path / "out").wrong
    twin = tmp_path / f"out/videos/temporal_style/{HOKUSAI}-0.mp4"
    assert os.path.samefile(twin, flat / f"{HOKUSAI}-0.mp4")  # linked, not copied
    (flat / f"{HOKUSAI}-0.mp4").unlink()
    with pytest.raises(ValueError, match=r"1 of 20 samples are not there, first number 0 of prompt 'A beautiful"):
        FolderSource(folder=flat).check(samples)


def test_samples_by_captions_and_of_other_kinds(tmp_path, files):
    flat = tmp_path / "flat"
    (flat / "a").mkdir(parents=True)
    write_media(flat / "a/one.mp4", clip(1))
    shutil.copyfile(flat / "a/one.mp4", flat / "a/two.mov")
    listing = [
        {"file": "a/one.mp4", "caption": "2 goldfish in glass"},
        {"file": "a/two.mov", "caption": 'a dog/cat: "what?"'},
    ]
    (flat / "captions.jsonl").write_text("\n".join(map(json.dumps, listing)))
    assert next((m.key, m.prompt, m.index) for m in read_set(flat)) == ("a/one", "2 goldfish in glass", 0)
    samples = EvalCrafter().plan(files["evalcrafter"], allow_partial=True)
    export(EvalCrafter(), files["evalcrafter"], samples, FolderSource(folder=flat), tmp_path / "out")
    videos = tmp_path / "out/videos"
    assert is_plain_mp4(videos / "0001.mp4") and len(read_media(videos / "0001.mp4").video) == 3  # written anew as mp4
    listing[1]["caption"] = listing[0]["caption"]
    (flat / "captions.jsonl").write_text("\n".join(map(json.dumps, listing)))
    with pytest.raises(ValueError, match=r'are both number 0 of prompt .* give them an "index"'):
        read_set(flat)
    with pytest.raises(ValueError, match="no video in it"):
        (tmp_path / "empty").mkdir()
        read_set(tmp_path / "empty")


def test_an_export_is_a_set_of_samples_with_their_prompts(files, tmp_path):
    """Numbered files say nothing of their prompts, the log does; what is not there any more is left out."""
    _, samples = run("t2v-compbench", files, tmp_path / "out")
    assert {(m.prompt, m.index) for m in read_set(tmp_path / "out")} == {(s.prompt, s.index) for s in samples}
    export(T2VCompBench(), files["t2v-compbench"], samples, FolderSource(folder=tmp_path / "out"), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "out")
    (tmp_path / "out/videos/interaction/0002.mp4").unlink()
    assert len(read_set(tmp_path / "out")) == 13
    shutil.rmtree(tmp_path / "out/videos")
    with pytest.raises(ValueError, match="an export of which no video is there"):
        read_set(tmp_path / "out")


def test_a_look_at_files(tmp_path):
    (tmp_path / "gone").symlink_to(tmp_path / "absent")
    assert checking.look(tmp_path / "gone")[2] == "is a link to nothing"
    one = Sample(prompt="x", index=0, paths=("x-0.mp4",))
    assert replace(one, index=1) != one


def test_the_command_makes_resumes_and_checks(files, tmp_path, capsys, shipped):
    """Once with a real, tiny model: the same seed and sample, whether in one batch or another."""
    out, common = tmp_path / "out", ["benchmark", "fetv", "--prompts", str(files["fetv"]), "--allow-partial"]
    main([*common, "--out", str(out), "--model", str(shipped), "--seed", "3"])
    assert "all 2 files are there, and nothing else" in capsys.readouterr().out
    main([*common, "--out", str(out), "--model", str(shipped), "--seed", "3", "--batch", "1"])
    assert "0 made now, 2 of 2 there" in capsys.readouterr().out
    main([*common, "--out", str(tmp_path / "single"), "--model", str(shipped), "--seed", "3", "--batch", "1"])
    assert contents(out) == contents(tmp_path / "single")
    facts = json.loads((out / "export.json").read_text())
    assert (
        facts["benchmark"] == "fetv"
        and set(facts["model"]) == {"visual", "audio", "lm"}
        and "Temperature" in facts["draw"]
    )
    (out / "videos/videopoet/1.mp4").unlink()
    with pytest.raises(SystemExit, match="2"):
        main([*common, "--out", str(out), "--check"])
    assert "1 faults, 1 of 2 files are there; first: 'videopoet/1.mp4' is missing" in capsys.readouterr().err
    assert json.loads((out / "check.json").read_text())["wrong"]


def test_the_command_shares_and_plans(files, tmp_path, capsys, monkeypatch, shipped):
    common = ["benchmark", "evalcrafter", "--prompts", str(files["evalcrafter"]), "--allow-partial", "--batch", "1"]
    main([*common, "--out", str(tmp_path / "none"), "--dry-run"])
    assert "evalcrafter: 2 videos in 2 files" in capsys.readouterr().out and not (tmp_path / "none").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, said in (("0", "1 made now, 1 of 2 there"), ("1", "all 2 files are there")):
        monkeypatch.setenv("RANK", rank)
        main([*common, "--out", str(tmp_path / "out"), "--model", str(shipped)])
        assert said in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["benchmark", "vbench", "--prompts", str(files["vbench"]), "--out", str(tmp_path / "x")])
    assert "5 entries, 946 are published; 4 prompts, 944 are published" in capsys.readouterr().err
