"""Published codecs as audio tokenizers, on tiny random ones of the same classes: their own codes and their own sound."""

import importlib.util
import sys
from pathlib import Path

import encodec
import pytest
import torch
from encodec.modules import SEANetDecoder, SEANetEncoder
from encodec.quantization import ResidualVectorQuantizer
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel

from videopoet import component
from videopoet.data.mixture import layout_of
from videopoet.data.shards import ShardReader
from videopoet.data.transforms import audio_to_float
from videopoet.token_shards import tokenize_shards
from videopoet.tokenizers.audio.codec import SoundStream
from videopoet.tokenizers.audio.pretrained import TransformersDac, TransformersEncodec, encodec_state
from videopoet.tokenizers.audio.tokenizer import AudioTokenizer
from videopoet.tokenizers.streaming import Stream

ROOT = Path(__file__).parents[2]
TINY_ENCODEC = dict(sampling_rate=16_000, num_filters=2, hidden_size=8, upsampling_ratios=[5, 4, 2], codebook_size=16,
                    target_bandwidths=[1.6, 3.2, 9.6])  # 400 frames a second: 1, 2 and 6 levels  # fmt: skip
TINY_DAC = dict(sampling_rate=16_000, encoder_hidden_size=4, downsampling_ratios=[2, 4, 5, 8], decoder_hidden_size=32,
                n_codebooks=6, codebook_size=16, codebook_dim=4)  # fmt: skip


def noise(clips: int, samples: int, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(clips, 1, samples, generator=torch.Generator().manual_seed(seed))


def encodec_model(**changes) -> EncodecModel:
    torch.manual_seed(0)
    model = EncodecModel(EncodecConfig(**(TINY_ENCODEC | changes))).eval()
    liven(model, [layer.codebook for layer in model.quantizer.layers])
    return model


@torch.no_grad()
def liven(model: torch.nn.Module, codebooks: list[torch.nn.Module]) -> None:
    """Codebooks of vectors instead of zeros, and a signal that survives a deep untrained network: no biases, more gain."""
    for number, codebook in enumerate(codebooks):
        codebook.embed.normal_(std=0.3 * 0.7**number)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif name.endswith(("original0", "weight_g")):
            parameter.mul_(2.0)


def dac_model() -> DacModel:
    torch.manual_seed(0)
    model = DacModel(DacConfig(**TINY_DAC)).eval()
    for parameter in model.parameters():  # theirs start so small that all sounds are silence
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    """Folders as `save_pretrained` writes them."""
    models = {"encodec": encodec_model(), "centred": encodec_model(use_causal_conv=False), "dac": dac_model()}
    folders = {name: tmp_path_factory.mktemp(name) for name in models}
    for name, model in models.items():
        model.save_pretrained(folders[name])
    return folders


CLASSES = {"encodec": TransformersEncodec, "centred": TransformersEncodec, "dac": TransformersDac}


@pytest.fixture(params=CLASSES)
def name(request) -> str:
    return request.param


@torch.no_grad()
@pytest.mark.parametrize("levels", [None, 2])
def test_codes_and_sound_are_theirs(saved, name, levels):
    tokenizer = CLASSES[name].from_pretrained(saved[name], levels)
    audio = noise(2, 20 * tokenizer.hop + 7)
    whole = audio[..., : 20 * tokenizer.hop]
    codes = tokenizer.encode(audio)
    if name == "dac":
        theirs = DacModel.from_pretrained(saved[name]).eval()
        expected = theirs.encode(whole, n_quantizers=levels).audio_codes.transpose(1, 2)
        sound = theirs.decode(audio_codes=expected.transpose(1, 2)).audio_values[:, None]
    else:
        theirs = EncodecModel.from_pretrained(saved[name]).eval()
        bandwidth = {None: 9.6, 2: 3.2}[levels]
        expected = theirs.encode(whole, bandwidth=bandwidth).audio_codes[0].transpose(1, 2)
        sound = theirs.decode(expected.transpose(1, 2)[None], [None]).audio_values.clamp(-1, 1)
    assert codes.shape == (2, 20, levels or 6) and torch.equal(codes, expected)
    assert all(len(codes[..., level].unique()) > 2 for level in range(codes.shape[2])), "the test codes nothing"
    decoded = tokenizer.decode(codes)
    assert decoded.shape == whole.shape and decoded.std() > 1e-3
    missing = decoded.shape[2] - sound.shape[2]
    assert missing == (8 if name == "dac" else 0)
    torch.testing.assert_close(decoded[..., : sound.shape[2]], sound, atol=1e-5, rtol=0)
    assert not decoded[..., sound.shape[2] :].any(), "what their decoder does not give is silence"


def test_videopoets_geometry_is_dac_with_four_levels(saved):
    tokenizer = TransformersDac.from_pretrained(saved["dac"], levels=4)
    assert (tokenizer.sample_rate, tokenizer.hop, tokenizer.frame_rate, tokenizer.levels) == (16_000, 320, 50.0, 4)
    assert tokenizer.encode(noise(1, 34_000)).shape == (1, 106, 4)
    assert tokenizer.decode(torch.zeros(1, 106, 4, dtype=torch.long)).shape == (1, 1, 33_920)


def test_fewer_levels_are_a_prefix(saved, name):
    audio = noise(1, 3200)
    few, all_levels = (CLASSES[name].from_pretrained(saved[name], levels) for levels in (2, None))
    assert torch.equal(few.encode(audio), all_levels.encode(audio)[..., :2])
    coarse = all_levels.encode(audio)[..., :2]
    assert torch.equal(few.decode(coarse), all_levels.decode(coarse))


@pytest.mark.parametrize("levels", [0, 7])
def test_levels_that_are_not_there(saved, name, levels):
    with pytest.raises(ValueError, match=f"{levels} levels are asked for, the codec has 6"):
        CLASSES[name].from_pretrained(saved[name], levels)


def test_one_file_is_the_whole_tokenizer(saved, name, tmp_path):
    tokenizer = CLASSES[name].from_pretrained(saved[name], 3)
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for file in files:
        component.save(file, tokenizer.spec(), tokenizer.state_dict(), half=False)
    again, audio = component.load(files[0], AudioTokenizer), noise(1, 3200)
    assert torch.equal(again.encode(audio), tokenizer.encode(audio))
    assert torch.equal(again.decode(again.encode(audio)), tokenizer.decode(tokenizer.encode(audio)))
    assert again.fingerprint == component.read_fingerprint(files[1])
    fewer = CLASSES[name].from_pretrained(saved[name], 2)
    component.save(files[1], fewer.spec(), fewer.state_dict(), half=False)
    assert again.fingerprint != component.read_fingerprint(files[1])


def test_nothing_is_fetched_unless_asked(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    for cls in (TransformersEncodec, TransformersDac):
        with pytest.raises(ValueError, match=r"no codec at nobody/nothing .* only where asked"):
            cls.from_pretrained("nobody/nothing")


def test_another_codec_is_named(saved):
    with pytest.raises(ValueError, match="type 'dac', TransformersEncodec reads 'encodec'"):
        TransformersEncodec.from_pretrained(saved["dac"])


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(audio_channels=2), "EnCodec of 2 channels"),
        (dict(normalize=True), "loudness stands beside the codes"),
        (dict(chunk_length_s=1.0, overlap=0.01), "in chunks of 1.0 s"),
        (dict(norm_type="time_group_norm", use_causal_conv=False), "norm_type 'time_group_norm'"),
    ],
)
def test_the_stereo_model_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TransformersEncodec(TINY_ENCODEC | changes)


def tiny_package() -> encodec.EncodecModel:
    """The package's model as `_get_model` puts it together, small."""
    torch.manual_seed(0)
    shape = dict(n_filters=2, dimension=8, ratios=[5, 4, 2], causal=True, norm="weight_norm")
    quantizer = ResidualVectorQuantizer(dimension=8, n_q=6, bins=16)
    model = encodec.EncodecModel(SEANetEncoder(**shape), SEANetDecoder(**shape), quantizer, [9.6], 16_000, 1).eval()
    liven(model, [layer._codebook for layer in quantizer.vq.layers])
    return model


def as_soundstream(model: encodec.EncodecModel, levels: int) -> SoundStream:
    shape = dict(ratios=(5, 4, 2), num_filters=2, dimension=8, codebook_size=16, pad_mode="reflect")
    tokenizer = SoundStream(**shape, levels=levels).eval()
    tokenizer.load_state_dict(encodec_state(model.state_dict(), levels))
    return tokenizer


def test_the_packages_codec_is_a_soundstream():
    theirs = tiny_package()
    ours, audio = as_soundstream(theirs, 6), noise(2, 20 * 40)
    ((codes, _),) = theirs.encode(audio)
    assert torch.equal(ours.encode(audio), codes.transpose(1, 2)) and len(codes.unique()) > 4
    torch.testing.assert_close(ours.decode(codes.transpose(1, 2)), theirs.decode([(codes, None)]).clamp(-1, 1))
    few = as_soundstream(theirs, 2)
    assert torch.equal(few.encode(audio), codes.transpose(1, 2)[..., :2])


def reflecting() -> dict[str, AudioTokenizer]:
    model = encodec_model()
    tokenizer = TransformersEncodec(TINY_ENCODEC).eval()
    tokenizer.load_state_dict(model.state_dict())
    return {"transformers": tokenizer, "package": as_soundstream(tiny_package(), 3)}


@pytest.mark.parametrize("kind", ["transformers", "package"])
@pytest.mark.parametrize("stepwise", [True, False])
@pytest.mark.parametrize("chunk", [13, 97, 10_000])
def test_causal_encodec_streams(kind, stepwise, chunk):
    """Padding by reflection looks at 7 frames: the first codes come when those are there."""
    tokenizer = reflecting()[kind]
    audio, stream, hop = noise(1, 30 * 40 + 3), Stream(stepwise=stepwise), tokenizer.hop
    assert tokenizer.look_ahead == (0, 0, 7)
    chunks = [tokenizer.encode(part, stream) for part in audio.split(chunk, 2)]
    codes = torch.cat(chunks, 1)
    assert torch.equal(codes, tokenizer.encode(audio)) and stream.pending == 3
    if chunk < hop:
        first = next(i for i, part in enumerate(chunks) if part.shape[1])
        assert first == -(-7 * hop // chunk) - 1 and chunks[first].shape[1] == 7
    stream = Stream(stepwise=stepwise)
    sound = torch.cat([tokenizer.decode(part, stream) for part in codes.split(1 + chunk // 40, 1)], 2)
    torch.testing.assert_close(sound, tokenizer.decode(codes), atol=1e-5, rtol=0)


def test_what_looks_ahead_does_not_stream(saved):
    for name in ("centred", "dac"):
        tokenizer = CLASSES[name].from_pretrained(saved[name])
        with pytest.raises(ValueError, match=f"codes depend on the {tokenizer.look_ahead.encoding} samples after them"):
            tokenizer.encode(noise(1, 3200), Stream())


def test_a_prefix_is_a_prefix_up_to_the_look_ahead(saved, name):
    tokenizer = CLASSES[name].from_pretrained(saved[name])
    hop, (encoding, decoding, start) = tokenizer.hop, tokenizer.look_ahead
    assert (encoding > 0) == (decoding > 0) == (name != "encodec")
    total = 2 * (max(encoding, decoding) // hop + start + 2)
    audio = noise(1, total * hop)
    codes = tokenizer.encode(audio)
    sound = tokenizer.decode(codes)
    for frames in (start, total // 2, total - 1):
        whole = max(0, frames * hop - decoding)
        ours = tokenizer.decode(codes[:, :frames])
        torch.testing.assert_close(ours[..., :whole], sound[..., :whole], atol=1e-5, rtol=1e-4)
        whole = max(0, (frames * hop - encoding) // hop)
        assert torch.equal(tokenizer.encode(audio[..., : frames * hop])[:, :whole], codes[:, :whole])


@pytest.mark.parametrize("name", ["centred", "dac"])
def test_the_look_ahead_is_exact(saved, name):
    """A NaN spreads to whatever depends on it."""
    tokenizer = CLASSES[name].from_pretrained(saved[name])
    hop, (encoding, decoding, _) = tokenizer.hop, tokenizer.look_ahead
    total = 2 * (max(encoding, decoding) // hop + 4)
    frames = 3
    with torch.no_grad():
        for missing in (0, 1):
            audio = noise(1, total * hop)
            audio[..., frames * hop + encoding - missing :] = torch.nan
            assert int(tokenizer.latents(audio).isnan().any(1)[0].long().argmax()) == frames - missing
        latents = tokenizer.latents(noise(1, total * hop))
        latents[..., total // 2 :] = torch.nan
        sound = tokenizer.synthesize(latents)
        assert int(sound.isnan()[0, 0].long().argmax()) == total // 2 * hop - decoding


def test_clips_are_tokenized_by_it(saved, world, shipped, tmp_path):
    """A published codec in a component file takes the place of ours in `videopoet tokenize --audio`."""
    dac = TransformersDac.from_pretrained(saved["dac"], 4)
    component.save(tmp_path / "dac.safetensors", dac.spec(), dac.state_dict(), half=False)
    visual, audio = (component.load(path) for path in (shipped / "visual.safetensors", tmp_path / "dac.safetensors"))
    manifest = tokenize_shards(world, tmp_path / "tokens", visual, audio)
    assert (manifest.audio_frames, manifest.audio_levels, manifest.audio_codebook_size) == (106, 4, 16)
    assert manifest.audio_hop == 320 and layout_of(manifest, 8).frames_per_audio_frame == 0.16
    assert manifest.fingerprints["audio"] == component.read_fingerprint(tmp_path / "dac.safetensors")
    clip, tokens = ShardReader(world)[0], ShardReader(tmp_path / "tokens")[0]
    assert torch.equal(
        torch.from_numpy(tokens["audio"]).long(), dac.encode(audio_to_float(clip["audio"])[None, None])[0]
    )


WRONG = {
    "has sound at 16000 Hz, 24000 are needed": dict(sample_rate=24_000, levels=3, codebook_size=16),
    "has 3 levels, 4 are needed": dict(sample_rate=16_000, levels=4, codebook_size=16),
    "has codebooks of 16 codes, 1024 are needed": dict(sample_rate=16_000, levels=3, codebook_size=1024),
}


@pytest.mark.parametrize("message", WRONG)
def test_another_geometry_is_an_error_with_both_numbers(saved, message):
    tokenizer = TransformersDac.from_pretrained(saved["dac"], 3)
    tokenizer.must_match(sample_rate=16_000, levels=3, codebook_size=16)
    with pytest.raises(ValueError, match=message):
        tokenizer.must_match(**WRONG[message])


# --- the converter


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("convert_audio_codec", ROOT / "tools/convert_audio_codec.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def convert(tool, *arguments) -> None:
    namespace = tool.parser().parse_args([str(argument) for argument in arguments])
    namespace.run(namespace)


def test_the_converter_writes_a_component(tool, saved, name, tmp_path, capsys):
    convert(tool, saved[name], "--levels", 2, "--out", tmp_path / "codec.safetensors")
    made, audio = component.load(tmp_path / "codec.safetensors", AudioTokenizer), noise(1, 3200)
    assert type(made) is CLASSES[name]
    assert torch.equal(made.encode(audio), CLASSES[name].from_pretrained(saved[name], 2).encode(audio))
    assert "frames a second x 2 x 16" in capsys.readouterr().out


def test_the_packages_checkpoint_converts(tool, tmp_path, capsys):
    """The published size, 24 kHz: the codes of the package's own model, from a file as it publishes them."""
    torch.manual_seed(0)
    theirs = encodec.EncodecModel.encodec_model_24khz(pretrained=False)
    for layer in theirs.quantizer.vq.layers:
        layer._codebook.embed.normal_(std=0.1)
    torch.save(theirs.state_dict(), tmp_path / "encodec_24khz.th")
    convert(tool, tmp_path / "encodec_24khz.th", "--levels", 4, "--out", tmp_path / "codec.safetensors")
    assert "24000 Hz, 75 frames a second x 4 x 1024; streams" in capsys.readouterr().out
    made, audio = component.load(tmp_path / "codec.safetensors", AudioTokenizer), noise(1, 4800)
    theirs.set_target_bandwidth(3.0)
    ((codes, _),) = theirs.encode(audio)
    assert codes.shape == (1, 4, 15) and torch.equal(made.encode(audio), codes.transpose(1, 2))
    with pytest.raises(ValueError, match="33 levels are asked for, the codec has 32"):
        tool.read_encodec(tmp_path / "encodec_24khz.th", 33)


def test_untrained_weights_are_refused(tool, tmp_path):
    EncodecModel(EncodecConfig(**TINY_ENCODEC)).save_pretrained(tmp_path / "untrained")
    with pytest.raises(ValueError, match=r"all codes of level 0 of .* not trained"):
        convert(tool, tmp_path / "untrained", "--out", tmp_path / "codec.safetensors")
    assert not (tmp_path / "codec.safetensors").exists()


def test_the_converters_errors_are_one_line(tool, saved, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    torch.save({"encoder.model.0.conv.conv.weight_g": torch.zeros(1)}, tmp_path / "other.th")
    stereo = {
        "quantizer.vq.layers.0._codebook.embed": torch.zeros(1),
        "encoder.model.0.conv.norm.weight": torch.ones(2),
    }
    torch.save(stereo, tmp_path / "encodec_48khz.th")
    out = tmp_path / "codec.safetensors"
    for source, target, message in (
        (tmp_path / "nowhere", out, "only where asked"),
        (tmp_path, out, "'bert': only dac and encodec are known"),
        (tmp_path / "other.th", out, "is no EnCodec"),
        (tmp_path / "encodec_48khz.th", out, "stereo model of 48 kHz"),
        (saved["dac"], tmp_path / "absent" / "codec.safetensors", "a folder that exists"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            convert(tool, source, "--out", target)
        assert "\n" not in str(caught.value)
