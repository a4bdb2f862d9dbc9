"""Text encoders: one contract, held by the small trained T5 and by a pretrained one that the test makes itself."""

import copy
import json
from itertools import product

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, T5Config, T5EncoderModel

from videopoet.tokenizers.text.sentencepiece import END, PAD, UNKNOWN, load_sentencepiece, train_sentencepiece
from videopoet.tokenizers.text.t5 import PretrainedT5, TextEncoder, TextTokens, TrainedT5

CAPTIONS = [
    f"a {size} {colour} {shape} drifts {direction}"
    for size, colour, shape, direction in product(
        ("big", "small"), ("red", "green", "blue"), ("circle", "square"), ("left", "right", "up")
    )
]
LENGTH = 12
SMALL = {"vocabulary_size": 80, "width": 16, "layers": 2, "heads": 2, "ff": 24, "length": LENGTH}


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "captions.model"
    train_sentencepiece(CAPTIONS, path, 80)
    return path


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    """A pretrained T5 as transformers lays it out: configuration, safetensors, tokenizer."""
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    config = T5Config(vocab_size=96, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, dropout_rate=0.5)
    T5EncoderModel(config).save_pretrained(folder)
    train_sentencepiece(CAPTIONS, folder / "spiece.model", 80)
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "pad_token": "<pad>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(params=["trained", "pretrained"])
def encoder(request, model_path, t5_folder) -> TextEncoder:
    torch.manual_seed(0)
    if request.param == "trained":
        return TrainedT5(model_path, **SMALL).eval()
    return PretrainedT5(str(t5_folder), length=LENGTH)


def test_ids_end_with_one_end_token_then_padding(encoder):
    texts = ["a big red circle", "", CAPTIONS[0]]
    tokens = encoder.tokenize(texts)
    assert isinstance(tokens, TextTokens)
    assert tokens.ids.shape == tokens.mask.shape == (3, encoder.length)
    assert tokens.ids.dtype == torch.int64 and tokens.mask.dtype == torch.bool
    counts = tokens.mask.sum(1)
    assert counts[1] == 1 and counts[0] > 1
    for ids, mask, count in zip(*tokens, counts):
        assert mask[:count].all() and not mask[count:].any()
        assert ids[count - 1] == END and (ids[: count - 1] > UNKNOWN).all() and (ids[count:] == PAD).all()


def test_states_have_the_promised_width_and_are_zero_at_padding(encoder):
    tokens = encoder.tokenize(["a big red circle", ""])
    states = encoder(*tokens)
    assert states.shape == (2, encoder.length, encoder.width) and states.is_floating_point()
    assert (states[~tokens.mask] == 0).all()
    assert (states[tokens.mask].abs().sum(-1) > 0).all()


def test_states_of_text_do_not_depend_on_padding(encoder):
    ids, mask = encoder.tokenize(["a big red circle", CAPTIONS[-1]])
    states = encoder(ids, mask)
    count = int(mask[0].sum())
    alone = encoder(ids[:1, :count], mask[:1, :count])
    torch.testing.assert_close(states[:1, :count], alone, atol=1e-5, rtol=1e-5)
    noisy = encoder(torch.where(mask, ids, 7), mask)  # whatever stands at padding
    torch.testing.assert_close(noisy, states, atol=1e-5, rtol=1e-5)


def test_states_see_the_whole_prompt_both_ways(encoder):
    first, second = encoder(*encoder.tokenize(["a big red circle drifts left", "a big red circle drifts right"]))
    assert not torch.allclose(first[0], second[0], atol=1e-4), "the first token must see the last word"


def test_a_prompt_longer_than_the_slot_is_refused_with_both_numbers(encoder):
    longest = "a " * (LENGTH - 1)  # one token a word, and </s>
    assert encoder.tokenize([longest]).mask.all()
    with pytest.raises(ValueError, match=f"prompt has {LENGTH + 1} text tokens, the limit is {LENGTH}: shorten it"):
        encoder.tokenize([longest + "a"])


@pytest.mark.parametrize("prompts", ["one string", [None], ["a", 3], [b"bytes"], [["nested"]]])
def test_anything_but_a_list_of_strings_is_refused(encoder, prompts):
    with pytest.raises(ValueError, match="prompts must be a list of strings, not "):
        encoder.tokenize(prompts)


def test_float16_is_refused(encoder):
    with pytest.raises(ValueError, match="float16"):
        copy.deepcopy(encoder).half()(*encoder.tokenize(["a"]))


def test_state_dict_of_one_encoder_fills_another_that_was_built_without_its_model(model_path, tmp_path):
    torch.manual_seed(0)
    trained = TrainedT5(model_path, **SMALL).eval()
    save_file(trained.state_dict(), tmp_path / "text.safetensors")
    torch.manual_seed(1)
    empty = TrainedT5(None, **SMALL).eval()
    with pytest.raises(ValueError, match="no SentencePiece model"):
        empty.tokenize(["a"])
    wrapper = torch.nn.ModuleDict({"text": empty})  # inside another module, as the LM holds it
    wrapper.load_state_dict({f"text.{k}": v for k, v in load_file(tmp_path / "text.safetensors").items()})
    tokens = empty.tokenize(CAPTIONS[:4])
    assert torch.equal(tokens.ids, trained.tokenize(CAPTIONS[:4]).ids)
    torch.testing.assert_close(empty(*tokens), trained(*tokens))
    # The tied embedding is stored once and stays tied.
    assert empty.encoder.shared.weight.data_ptr() == empty.encoder.encoder.embed_tokens.weight.data_ptr()


def test_loading_a_state_dict_replaces_a_model_that_was_already_in_use(model_path, tmp_path):
    train_sentencepiece(["zebras graze", "zebras gaze"], tmp_path / "other.model", 40)
    other = TrainedT5(tmp_path / "other.model", **SMALL)
    before = other.tokenize(["a circle"]).ids
    trained = TrainedT5(model_path, **SMALL)
    other.load_state_dict(trained.state_dict())
    after = other.tokenize(["a circle"]).ids
    assert torch.equal(after, trained.tokenize(["a circle"]).ids) and not torch.equal(after, before)


def test_trained_encoder_learns_and_copies(model_path):
    encoder = TrainedT5(model_path, **SMALL)
    tokens = encoder.tokenize(CAPTIONS[:2])
    encoder(*tokens).square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    assert torch.equal(copy.deepcopy(encoder).tokenize(CAPTIONS[:2]).ids, tokens.ids)


def test_embedding_must_hold_every_piece(model_path):
    pieces = load_sentencepiece(model_path.read_bytes()).get_piece_size()
    with pytest.raises(ValueError, match=f"has {pieces} pieces, the embedding {pieces - 1}"):
        TrainedT5(model_path, **SMALL | {"vocabulary_size": pieces - 1})
    with pytest.raises(ValueError, match="width 16 cannot be shared by 3 heads"):
        TrainedT5(model_path, **SMALL | {"heads": 3})
    with pytest.raises(ValueError, match=r"no SentencePiece model at .*videopoet text-model"):
        TrainedT5(model_path.with_name("absent.model"), **SMALL)


def test_pretrained_encoder_stays_frozen(t5_folder):
    encoder = PretrainedT5(str(t5_folder), length=LENGTH)
    holder = torch.nn.ModuleDict({"text": encoder, "head": torch.nn.Linear(16, 1)})
    holder.train()
    assert not any(module.training for module in encoder.modules())
    tokens = encoder.tokenize(["a big red circle"])
    states = encoder(*tokens)
    assert torch.equal(states, encoder(*tokens)), "dropout 0.5 must be off"
    assert not states.requires_grad and not any(parameter.requires_grad for parameter in encoder.parameters())
    holder["head"](states).sum().backward()
    assert holder["head"].weight.grad is not None


def test_pretrained_weights_stay_out_of_checkpoints(t5_folder):
    encoder = PretrainedT5(str(t5_folder), length=LENGTH)
    holder = torch.nn.ModuleDict({"text": encoder, "head": torch.nn.Linear(16, 1)})
    assert set(holder.state_dict()) == {"head.weight", "head.bias"}
    before = encoder(*encoder.tokenize(["a circle"]))
    holder.load_state_dict(holder.state_dict(), strict=True)
    assert torch.equal(encoder(*encoder.tokenize(["a circle"])), before)


def test_pretrained_encoder_equals_transformers_and_ignores_autocast(t5_folder):
    encoder = PretrainedT5(str(t5_folder), length=LENGTH)
    tokens = encoder.tokenize(["a big red circle"])
    count = int(tokens.mask.sum())
    reference = T5EncoderModel.from_pretrained(t5_folder).eval()(input_ids=tokens.ids[:, :count]).last_hidden_state
    torch.testing.assert_close(encoder(*tokens)[:, :count], reference, atol=1e-5, rtol=1e-5)
    states = encoder(*tokens)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder(*tokens), states)
    low = PretrainedT5(str(t5_folder), length=LENGTH, dtype="bfloat16")(*tokens)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low[:, :count].float(), reference, atol=0.1, rtol=0.1)


def test_what_is_not_a_complete_t5_is_refused(t5_folder, tmp_path):
    with pytest.raises(ValueError, match=r"no T5 encoder at .*absent.*hf download"):
        PretrainedT5(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match=r"no T5 encoder at 'no/such-name'"):
        PretrainedT5("no/such-name")
    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="it is a bert model"):
        PretrainedT5(str(tmp_path / "bert"))
    weights = load_file(t5_folder / "model.safetensors")
    del weights["encoder.final_layer_norm.weight"]
    for name in ("config.json", "spiece.model", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((t5_folder / name).read_bytes())
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, the first is encoder\.final_layer_norm\.weight"):
        PretrainedT5(str(tmp_path))
    with pytest.raises(ValueError, match="float16"):
        PretrainedT5(str(t5_folder), dtype="float16")


def test_sentencepiece_training_is_deterministic_and_bounded(tmp_path, capfd):
    sizes = [train_sentencepiece(iter(CAPTIONS), tmp_path / name / "x.model", 60) for name in ("one", "two")]
    assert sizes == [60, 60]
    assert (tmp_path / "one/x.model").read_bytes() == (tmp_path / "two/x.model").read_bytes()
    assert train_sentencepiece(CAPTIONS, tmp_path / "soft.model", 5000) < 5000, "the size is a limit, not a demand"
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["one", "soft.model", "two"], "no partial file"
    assert capfd.readouterr() == ("", "")


def test_captions_come_back_from_their_pieces_whole_words_where_possible(model_path):
    processor = load_sentencepiece(model_path.read_bytes())
    for caption in CAPTIONS:
        assert processor.decode(processor.encode(caption)) == caption
    assert len(processor.encode("circle")) == 1
    assert processor.encode("A BIG  Red\tCircle") == processor.encode("a big red circle")


def test_sentencepiece_errors_leave_no_file(tmp_path):
    path = tmp_path / "x.model"
    with pytest.raises(ValueError, match="no caption with text"):
        train_sentencepiece(["", " \n"], path, 50)
    with pytest.raises(ValueError, match=r"cannot make 5 pieces from captions with \d+ different characters"):
        train_sentencepiece(CAPTIONS, path, 5)
    with pytest.raises(ValueError, match="a caption must be text, not NoneType"):
        train_sentencepiece(["fine", None], path, 50)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="5 bytes are not a SentencePiece model"):
        load_sentencepiece(b"hello")


def test_captions_to_train_on_are_cut(encoder):
    long = " ".join(["circle"] * (LENGTH + 5))
    ids, mask = encoder.tokenize([long], truncate=True)
    assert ids.shape == (1, LENGTH) and mask.all()
    assert ids[0, -1] == encoder.pieces_of("")[-1], "the end token stays"
