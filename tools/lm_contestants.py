"""The contestants of `benchmark_lm.py`: our language model and decoder-only peers, all of one LLaMA-like shape.

Every builder takes a `Shape` and returns a `Contestant`: `logits(tokens (b, n)) -> (logits, first)` with the prediction
made at position first + i in `logits[:, i]`; `train(tokens)` for one forward and backward pass of the suffix's
cross-entropy; `start(prompt) -> logits (b, v)` and `step(ids (b, 1), position) -> logits (b, v)` for decoding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model and its work: `prefix` of `seq` positions see each other both ways, the rest is causal and predicted."""

    dim: int = 512
    layers: int = 8
    heads: int = 8
    ffn: int = 1376
    vocabulary: int = 8192
    seq: int = 1536
    prefix: int = 384
    tokens: int = 160  # to sample
    batch: int = 1
    theta: float = 10000.0
    guidance: float = 3.0

    def flops(self) -> float:
        """Of a training step that computes nothing in vain: 3 x 2 per weight and position it acts on, and per pair seen.

        The head acts on predicted positions only, and the last layer gives no states of the prefix but its last.
        """
        block = 4 * self.dim**2 + 3 * self.dim * self.ffn
        kept = self.seq - self.prefix + 1
        trunk = self.seq * block * (self.layers - 1) + self.seq * 2 * self.dim**2 + kept * (block - 2 * self.dim**2)
        suffix = self.seq - self.prefix
        late = suffix * self.prefix + suffix * (suffix + 1) / 2
        pairs = (self.layers - 1) * (self.prefix**2 + late) + late + self.prefix
        head = suffix * self.dim * self.vocabulary
        return 6 * self.batch * (trunk + head + 2 * self.dim * pairs)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    model: nn.Module
    logits: Callable
    train: Callable
    start: Callable
    step: Callable


def masks(n: int, prefix: int) -> Tensor:
    """bool (n, n): may position i (row) see position j."""
    i = torch.arange(n)
    return (i <= i[:, None]) | (i < prefix)


def from_logits(shape: Shape, model: nn.Module, logits: Callable, start: Callable, step: Callable) -> Contestant:
    """A contestant whose training takes the cross-entropy of all logits it makes."""

    def train(tokens: Tensor) -> Tensor:
        scores, first = logits(tokens)
        made = scores[:, shape.prefix - 1 - first : -1].flatten(0, 1)
        loss = F.cross_entropy(made.float(), tokens[:, shape.prefix :].flatten())
        loss.backward()
        return loss.detach()

    return Contestant(model=model, logits=logits, train=train, start=start, step=step)


# --- ours


class NoText(nn.Module):
    width = 8


def ours(shape: Shape, io: str = "flat") -> Contestant:
    """io: flat, by kind (the softmax runs over the ids of the target's kind) or factored (two halves of the bits)."""
    from videopoet.models.token_io import Factored, Flat
    from videopoet.models.token_lm import TokenLM
    from videopoet.models.transformer import Transformer
    from videopoet.sequence import Batch, Segment, Sequence
    from videopoet.vocabulary import Modality

    size, p = shape.vocabulary, shape.prefix
    ways = {
        "flat": lambda: Flat(size, shape.dim, tied=False),
        "by kind": lambda: Flat(size, shape.dim, tied=False, starts=[0, size // 8]),
        "factored": lambda: Factored(size + 256, shape.dim, 256, size),
    }
    trunk = Transformer(shape.dim, shape.layers, shape.heads, shape.ffn)
    model, shift = TokenLM(trunk, ways[io](), NoText()), 256 if io == "factored" else 0
    model.project_text, model.modality.weight.requires_grad = None, False  # the peers have neither

    def segments(t: Tensor) -> list[Segment]:
        return [Segment.given(t[:p] + shift, Modality.VISUAL), Segment.generated(t[p:] + shift, Modality.VISUAL)]

    def batch(tokens: Tensor) -> Batch:
        return Batch.of([Sequence.of(segments(t)) for t in tokens])

    def logits(tokens: Tensor) -> tuple[Tensor, int]:
        longer = F.pad(tokens, (0, 1))  # a training sequence ends one token before its last target
        return F.linear(model.hidden(batch(longer)), model.io.rows), 0

    def train(tokens: Tensor) -> Tensor:
        loss = model.loss(batch(tokens)).total
        loss.backward()
        return loss.detach()

    def start(prompt: Tensor) -> Tensor:
        given = batch(F.pad(prompt, (0, shape.tokens + 1)))
        start.places, rows = given.places[0], [Sequence.of(segments(t)).head(p) for t in F.pad(prompt, (0, 1))]
        hidden, start.cache = model.prefill(Batch.of(rows), p + shape.tokens)
        return model.io.decode(hidden, model.io.rows)

    def step(ids: Tensor, position: int) -> Tensor:
        hidden = model.step(ids[:, 0], Modality.VISUAL, start.places[position], start.cache)
        return model.io.decode(hidden, model.io.rows)

    return Contestant(model=model, logits=logits, train=train, start=start, step=step)


def ours_compiled(shape: Shape) -> Contestant:
    """Blocks compiled as `TokenLMTraining(compile=True)` has them, for training: decoding stays as it is."""
    contestant, eager = ours(shape), torch.compiler.set_stance("force_eager")
    for block in contestant.model.transformer.blocks:
        block.compile(dynamic=True)
    return replace(contestant, start=eager(contestant.start), step=eager(contestant.step))


# --- peers


def transformers_llama(shape: Shape) -> Contestant:
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.dim, intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.heads,
        max_position_embeddings=shape.seq + 8, rope_theta=shape.theta, attn_implementation="sdpa",
        tie_word_embeddings=False)  # fmt: skip
    model = LlamaForCausalLM(config)
    hidden = torch.zeros(1, 1, shape.seq, shape.seq).masked_fill(
        ~masks(shape.seq, shape.prefix), torch.finfo(torch.float32).min
    )
    memory = {}

    def logits(tokens: Tensor) -> tuple[Tensor, int]:
        mask = hidden.to(model.dtype).expand(len(tokens), -1, -1, -1)
        return model(tokens, attention_mask=mask, use_cache=False).logits, 0

    def start(prompt: Tensor) -> Tensor:
        b, n = prompt.shape
        memory["cache"] = DynamicCache()
        seen = torch.zeros(b, 1, n, n, dtype=model.dtype)
        out = model(prompt, attention_mask=seen, past_key_values=memory["cache"], use_cache=True, logits_to_keep=1)
        return out.logits[:, -1]

    def step(ids: Tensor, position: int) -> Tensor:
        return model(ids, past_key_values=memory["cache"], use_cache=True).logits[:, -1]

    return from_logits(shape, model, logits, start, step)


def litgpt(shape: Shape) -> Contestant:
    from litgpt import GPT, Config

    config = Config(
        name="benchmark", block_size=shape.seq + 8, vocab_size=shape.vocabulary, padded_vocab_size=shape.vocabulary,
        n_layer=shape.layers, n_head=shape.heads, n_embd=shape.dim, n_query_groups=shape.heads, rotary_percentage=1.0,
        parallel_residual=False, bias=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
        intermediate_size=shape.ffn, rope_base=int(shape.theta))  # fmt: skip
    model, mask = GPT(config), masks(shape.seq, shape.prefix)[None, None]

    def logits(tokens: Tensor) -> tuple[Tensor, int]:  # its forward takes no mask without a cache: the blocks do
        cos, sin = (a[: tokens.shape[1]][None] for a in (model.cos, model.sin))
        x = model.transformer.wte(tokens)
        for block in model.transformer.h:
            x = block(x, cos, sin, mask, None, None)
        return model.lm_head(model.transformer.ln_f(x)), 0

    def start(prompt: Tensor) -> Tensor:
        b, n = prompt.shape
        model.clear_kv_cache()
        model.set_kv_cache(b, max_seq_length=n + shape.tokens, dtype=next(model.parameters()).dtype)
        model.mask_cache[:, :, :n, :n] = True
        return model(prompt, input_pos=torch.arange(n), input_pos_maxp1=n)[:, -1]

    def step(ids: Tensor, position: int) -> Tensor:
        return model(ids, input_pos=torch.tensor([position]), input_pos_maxp1=position + 1)[:, -1]

    return from_logits(shape, model, logits, start, step)


def torchtune(shape: Shape) -> Contestant:
    from torchtune.models.llama3 import llama3
    from torchtune.modules.common_utils import disable_kv_cache

    model = llama3(
        vocab_size=shape.vocabulary, num_layers=shape.layers, num_heads=shape.heads, num_kv_heads=shape.heads,
        embed_dim=shape.dim, max_seq_len=shape.seq + 8, intermediate_dim=shape.ffn,
        rope_base=int(shape.theta))  # fmt: skip
    length = shape.prefix + shape.tokens
    mask, seen = masks(shape.seq, shape.prefix)[None], masks(length, shape.prefix)[None]
    ready: dict[str, object] = {}

    def logits(tokens: Tensor) -> tuple[Tensor, int]:
        if not ready:
            return model(tokens, mask=mask.expand(len(tokens), -1, -1)), 0
        with disable_kv_cache(model):
            return model(tokens, mask=mask.expand(len(tokens), -1, -1)), 0

    def start(prompt: Tensor) -> Tensor:
        b, n = prompt.shape
        key = {"rows": b, "dtype": next(model.parameters()).dtype}
        if ready != key:
            model.setup_caches(b, key["dtype"], decoder_max_seq_len=length)
            ready.update(key)
        model.reset_caches()
        return model(prompt, mask=seen[:, :n].expand(b, -1, -1), input_pos=torch.arange(n)[None])[:, -1]

    def step(ids: Tensor, position: int) -> Tensor:
        mask = seen[:, position : position + 1].expand(len(ids), -1, -1)
        return model(ids, mask=mask, input_pos=torch.tensor([[position]]))[:, -1]

    return from_logits(shape, model, logits, start, step)


def x_transformers(shape: Shape) -> Contestant:
    from x_transformers import Decoder, TransformerWrapper
    from x_transformers.x_transformers import PrefixDecoder

    def build(cls):
        layers = cls(
            dim=shape.dim, depth=shape.layers, heads=shape.heads, attn_dim_head=shape.dim // shape.heads,
            rotary_pos_emb=True, use_rmsnorm=True, ff_glu=True, ff_swish=True, ff_no_bias=True,
            ff_mult=shape.ffn / shape.dim, attn_flash=True)  # fmt: skip
        return TransformerWrapper(
            num_tokens=shape.vocabulary, max_seq_len=shape.seq + 8, attn_layers=layers, use_abs_pos_emb=False
        )

    # PrefixDecoder takes no cache: a causal decoder with the same weights goes on from its keys and values.
    model, decoder, memory = build(PrefixDecoder), build(Decoder), {}

    def logits(tokens: Tensor) -> tuple[Tensor, int]:
        return model(tokens, prefix_attn_len=shape.prefix), 0

    def start(prompt: Tensor) -> Tensor:
        for ours, theirs in zip(decoder.parameters(), model.parameters(), strict=True):
            ours.data = theirs.data
        memory["ids"] = prompt
        scores, memory["cache"] = model(prompt, prefix_attn_len=prompt.shape[1], return_intermediates=True)
        return scores[:, -1]

    def step(ids: Tensor, position: int) -> Tensor:
        memory["ids"] = torch.cat([memory["ids"], ids], 1)
        scores, memory["cache"] = decoder(memory["ids"], cache=memory["cache"], return_intermediates=True)
        return scores[:, -1]

    return from_logits(shape, model, logits, start, step)


BUILDERS = {
    "ours": ours,
    "ours, compiled": ours_compiled,
    "ours, by kind": lambda shape: ours(shape, "by kind"),
    "ours, 2 factors": lambda shape: ours(shape, "factored"),
    "transformers Llama": transformers_llama,
    "litgpt": litgpt,
    "torchtune": torchtune,
    "x-transformers": x_transformers,
}


# --- what is measured


@torch.inference_mode()
def sample(contestant: Contestant, prompt: Tensor, shape: Shape) -> Tensor:
    """Greedy decoding with guidance as one doubled batch: prompt (2b, prefix), guided rows first -> ids (b, tokens)."""
    b, made = len(prompt) // 2, []
    scores = contestant.start(prompt)
    for i in range(shape.tokens):
        guided, free = scores[:b], scores[b:]
        made.append((free + shape.guidance * (guided - free)).argmax(-1, keepdim=True))
        if i + 1 < shape.tokens:
            scores = contestant.step(made[-1].repeat(2, 1), shape.prefix + i)
    return torch.cat(made, 1)


@torch.no_grad()
def correctness(contestant: Contestant, shape: Shape) -> dict:
    """`prefix`: the prefix's last token reaches its first position. `causal`: the last token reaches no earlier one.
    `cache`: largest difference of logits between cached decoding and the full forward over the first four tokens."""
    contestant.model.eval()
    tokens = torch.randint(0, shape.vocabulary, (1, shape.seq), generator=torch.Generator().manual_seed(1))
    whole, first = contestant.logits(tokens)

    def changed(place: int) -> Tensor:
        other = tokens.clone()
        other[0, place] = (other[0, place] + 1) % shape.vocabulary
        return (contestant.logits(other)[0] - whole).abs().amax(-1)[0]

    facts = {"prefix": bool(changed(shape.prefix - 1)[0] > 1e-6), "causal": bool(changed(-1)[:-1].max() < 1e-5)}
    scores, worst = contestant.start(tokens[:, : shape.prefix].repeat(2, 1)), 0.0
    for i in range(min(4, shape.tokens)):
        at = shape.prefix - 1 + i
        worst = max(worst, float((scores[0] - whole[0, at - first]).abs().max()))
        if i + 1 < shape.tokens:
            scores = contestant.step(tokens[:, at + 1 : at + 2].repeat(2, 1), at + 1)
    contestant.model.train()
    return facts | {"cache": worst, "correct": facts["prefix"] and facts["causal"] and worst < 1e-3}
