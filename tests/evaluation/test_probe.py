"""Probes learn what their input says, labels survive tokenization, and misfits are named."""

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from videopoet import component
from videopoet.data.labelled import LabelledSamples, LabelledSchedule
from videopoet.data.labels import BounceLabel, FolderLabel
from videopoet.data.schema import MediaManifest, TokenManifest
from videopoet.evaluation.probe import (
    BitEmbedding,
    CodebookEmbedding,
    PixelPatches,
    Probe,
    accuracy_interval,
    majority_accuracy,
)
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer

SCRIPT = Path(__file__).parents[2] / "tools" / "run_probe.py"
MEDIA = MediaManifest(fps=8, frames=9, height=16, width=16, sample_rate=16000)


def tokens(size: int) -> TokenManifest:
    return TokenManifest(fps=8, frames=9, height=16, width=16, sample_rate=16000, fingerprints={}, visual_lattice=(3, 2, 2),
                         visual_codebook_size=size, audio_frames=0, audio_levels=1, audio_codebook_size=2)  # fmt: skip


def pixels(number: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise clips in which the last frames get brighter, or darker."""
    classes = torch.randint(2, (number,), generator=generator)
    video = 0.3 * torch.randn(number, 3, 9, 16, 16, generator=generator)
    video += torch.linspace(-0.5, 0.5, 9)[:, None, None] * (2 * classes - 1)[:, None, None, None, None]
    return video, classes


def codes(number: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random codes of 6 bits whose fourth bit says whether it is early (class 0) or late (class 1) that it is set."""
    classes = torch.randint(2, (number,), generator=generator)
    codes = torch.randint(64, (number, 3, 2, 2), generator=generator)
    late = torch.arange(3)[None, :, None, None] > 0
    return torch.where(late == classes[:, None, None, None].bool(), codes | 8, codes & ~8), classes


VARIANTS = {
    "pixels": (lambda: PixelPatches(width=16, patch=(4, 8, 8)), pixels),
    "bits": (lambda: BitEmbedding(width=16, num_bits=6), codes),
    "codebook": (lambda: CodebookEmbedding(width=16, size=64), codes),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_learns_what_its_input_says(name):
    torch.manual_seed(0)
    build, draw = VARIANTS[name]
    probe, generator = (
        Probe(build(), num_classes=2, lattice=(3, 2, 2), layers=1, heads=2, dropout=0.0),
        torch.Generator(),
    )
    optimizer = torch.optim.AdamW(probe.parameters(), 1e-2)
    before = [p.clone() for p in probe.parameters()]
    for step in range(60):
        loss, _ = probe.loss(*draw(32, generator.manual_seed(step)))
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in probe.parameters())
        optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, probe.parameters()))
    with torch.no_grad():
        _, accuracy = probe.eval().loss(*draw(200, generator.manual_seed(999)))
    assert accuracy > 0.9  # chance is 0.5


def test_the_first_frame_has_a_patch_of_its_own():
    patches = PixelPatches(width=8, patch=(4, 8, 8))
    video = torch.randn(1, 3, 9, 16, 24)
    places = patches(video)
    assert places.shape == (1, 3, 2, 3, 8)
    changed = video.clone()
    changed[:, :, 1:] += 1
    assert torch.equal(patches(changed)[:, :1], places[:, :1])
    changed = video.clone()
    changed[:, :, 4, 8:, 16:] += 1  # frame 4 is the last of the second patch
    differs = (patches(changed) != places).any(-1)[0]
    assert differs.nonzero().tolist() == [[1, 1, 2]]


def test_bits_are_plus_and_minus_one_least_significant_first():
    embedding = BitEmbedding(width=3, num_bits=3)
    torch.nn.init.eye_(embedding.project.weight)
    torch.nn.init.zeros_(embedding.project.bias)
    assert embedding(torch.tensor([[[[5, 2]]]])).tolist() == [[[[[1, -1, 1], [-1, 1, -1]]]]]


def test_a_tokenizers_codebook_is_used_as_it_is(shipped):
    path = shipped / "visual.safetensors"
    embedding = CodebookEmbedding(width=4, tokenizer=str(path))
    quantizer = component.load(path, VideoTokenizer).quantizer
    drawn = torch.randint(quantizer.size, (2, 3, 2, 2))
    assert torch.allclose(embedding.table(drawn).movedim(-1, 1), quantizer.embed(drawn))  # mean square is 1 already
    assert not embedding.table.weight.requires_grad and embedding.size == quantizer.size


def test_positions_tell_places_apart_and_larger_lattices_are_refused():
    torch.manual_seed(0)
    probe = Probe(BitEmbedding(width=8, num_bits=4), num_classes=3, lattice=(3, 4, 4), layers=1, heads=2).eval()
    one = torch.zeros(1, 3, 2, 2, dtype=torch.int64)
    one[0, 0, 0, 0] = 15
    assert probe(one).shape == (1, 3)
    assert not torch.allclose(probe(one), probe(one.flip(1)))
    assert not torch.allclose(probe(one), probe(one.flip(3)))
    with pytest.raises(ValueError, match=r"4 x 2 x 2 places.*\(3, 4, 4\)"):
        probe(torch.zeros(1, 4, 2, 2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("embedding", "manifest", "message"),
    [
        (PixelPatches(width=8), tokens(64), "reads media shards, these hold tokens"),
        (BitEmbedding(width=8, num_bits=6), MEDIA, "reads token shards, these hold media"),
        (BitEmbedding(width=8, num_bits=5), tokens(64), "64 codes, BitEmbedding has 32"),
        (PixelPatches(width=8, patch=(3, 8, 8)), MEDIA, "do not divide"),
    ],
)
def test_shards_that_do_not_fit_are_refused(embedding, manifest, message):
    with pytest.raises(ValueError, match=message):
        embedding.check(manifest)


def test_shards_that_fit_are_taken():
    PixelPatches(width=8).check(MEDIA)
    BitEmbedding(width=8, num_bits=6).check(tokens(64))
    CodebookEmbedding(width=8, size=64).check(tokens(64))


def test_labels_name_folders_and_single_objects():
    folder, motion = FolderLabel(), BounceLabel()
    assert folder({"file": "running/a/1.mp4"}) == "running" and folder({"file": "1.mp4"}) is None and folder({}) is None
    one = {"motion": {"kind": "fall"}, "shape": "circle"}
    assert motion({"bounce": {"objects": [one]}}) == "fall"
    assert BounceLabel(attribute="shape")({"bounce": {"objects": [one]}}) == "circle"
    assert motion({"bounce": {"objects": [one, one]}}) is None and motion({"file": "a/1.mp4"}) is None
    with pytest.raises(ValueError, match="weight"):
        BounceLabel(attribute="weight")


def test_labels_survive_tokenization_and_order_is_a_function_of_the_step(world, world_tokens):
    clips, codes = (LabelledSamples(str(folder), BounceLabel()) for folder in (world, world_tokens))
    assert clips.labels == codes.labels and clips.counts().total() == len(clips.labels) <= 6
    assert clips.inputs(0).shape == (3, 17, 16, 16) and codes.inputs(0).shape == (5, 2, 2)
    names = clips.names()
    a, b = (LabelledSchedule(codes, names, batch_size=2, seed=1)[7] for _ in range(2))
    assert torch.equal(a.inputs, b.inputs) and torch.equal(a.classes, b.classes)
    whole = LabelledSchedule(codes, names, batch_size=4, seed=None)
    seen = torch.cat([whole[i].classes for i in range(len(whole))])
    assert [names[i] for i in seen] == list(codes.labels.values())
    with pytest.raises(ValueError, match="classes that training does not have"):
        LabelledSchedule(codes, names[1:], batch_size=2, seed=0)
    with pytest.raises(ValueError, match="none of 6 samples"):
        LabelledSamples(str(world), FolderLabel())


def test_accuracy_comes_with_its_baseline_and_interval():
    assert majority_accuracy(Counter(a=5, b=3), Counter(a=1, b=3)) == 0.25
    assert accuracy_interval(0.8, 100) == pytest.approx((0.711, 0.867), abs=1e-3)
    assert accuracy_interval(1.0, 10)[1] == 1.0 and accuracy_interval(0.0, 10)[0] == 0.0
    with pytest.raises(ValueError):
        accuracy_interval(0.5, 0)


def test_the_tool_trains_every_variant_once_and_writes_a_table(shipped, tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("run_probe", SCRIPT)
    tool = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = tool
    spec.loader.exec_module(tool)
    monkeypatch.setattr(tool, "SHIPPED", shipped)
    arguments = ["--out", str(tmp_path / "p"), "--train-scenes", "12", "--test-scenes", "9", "--size", "16", "--steps", "2",
                 "--batch-size", "2", "--width", "8", "--layers", "1", "--heads", "2", "--label", "colour"]  # fmt: skip
    monkeypatch.setattr(tool, "FIRST_TEST_SEED", 0)  # the same classes on both sides, whatever was drawn
    tool.main(arguments)
    lines = (tmp_path / "p" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["variant"] for line in lines] == ["pixels", "lfq bits"]
    table = (tmp_path / "p" / "table.md").read_text()
    assert "| always the commonest class |" in table and "| lfq bits | 6 bits of lookup-free codes |" in table
    tool.main(arguments)  # nothing is left to do
    assert (tmp_path / "p" / "results.jsonl").read_text().splitlines() == lines
    assert "2 steps" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        tool.main(["--out", str(tmp_path / "q"), "--label", "folder"])
    assert "needs --train and --test" in capsys.readouterr().err
