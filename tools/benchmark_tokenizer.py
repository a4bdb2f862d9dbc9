"""Speed and memory of the video tokenizer and its quantizer beside their peers, in one run.

    python tools/benchmark_tokenizer.py --quick [--peer-python ENV/bin/python] [--out out/benchmark.json]

Contestants run in processes of their own and take turns, operation by operation, so that a busy machine slows all of
them alike. Reported are the medians of CPU seconds over all threads and the peak of resident memory during one
operation above what was resident before it (so without weights, with gradients). Wall time is not reported: on a
shared machine it says little. Ratios are ours against the peer's, above 1 where ours is better.

Video: encode, decode, and a training step (forward, squared error and quantizer loss, backward) of one clip of
17 x 128 x 128 pixels, 2^10 codes, in float32 and under bf16 autocast. The peer is `magvit2-pytorch` in its README's
configuration, at half its width with --quick; ours has as many FLOPs by torch's counter to within 3 %, the ratio is printed.
"of convolutions" is the time that a network's bare convolutions take on inputs of the same shapes, divided by the
time of the network: 1 would mean that padding, normalisation and activations are free.

What won here, one clip in float32, interleaved on two busy CPU cores: oneDNN for every convolution (6 %; 1.3 to 1.6 times
as fast in a stream, up to 4 times for frames of 64 x 64), the adaptive norm broadcast instead of repeated (3 %). What lost:
convolutions over time folded into channels of two-dimensional ones (4 to 140 % slower than oneDNN's own), group
normalisation out of torch's other operators (3 to 15 times slower). Normalising and activating frame by frame into the padded
input of the convolution won 4 % and is left out: it needs a second way through every block. Convolutions alone are 80 % of
the time, at the speed of a matrix product.

Quantizer: forward and backward in training mode at 2^18 codes on the 1280 tokens of such a clip (256 with --quick)
beside the `LFQ` of `vector-quantize-pytorch`, whose batch entropy is over all 2^18 codes, as is that of ours "joint".

The peers are optional. Give them an environment of their own, beside the same release of torch:

    python -m venv peers && peers/bin/pip install magvit2-pytorch==0.5.1 vector-quantize-pytorch==1.32.0
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

INSTALL = "python -m venv peers && peers/bin/pip install magvit2-pytorch==0.5.1 vector-quantize-pytorch==1.32.0"
VIDEO, QUANTIZER = ("encode", "decode", "train"), ("quantize",)
DTYPES = ("float32", "bfloat16")
#: Channels, multipliers and blocks of ours with the FLOPs of the peer of that width, to within 3 %.
EQUAL_FLOPS = {32: (32, (1, 2, 3, 7), 2), 64: (48, (1, 2, 4, 8), 3)}


# --- in a contestant's process


def our_tokenizer(width: int, checkpointed: bool):
    import torch
    from torch.utils.checkpoint import checkpoint

    from videopoet.tokenizers.quantizers.lookup_free import LookupFreeQuantizer
    from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
    from videopoet.tokenizers.visual.cnn import Decoder, Encoder, ResidualBlock

    channels, multipliers, num_blocks = EQUAL_FLOPS[width]
    network = dict(dimension=10, channels=channels, multipliers=multipliers, num_blocks=num_blocks)
    model = VideoTokenizer(Encoder(**network), LookupFreeQuantizer(10), Decoder(**network))
    model = model.to(memory_format=torch.channels_last_3d)
    if checkpointed:
        for block in model.modules():
            if isinstance(block, ResidualBlock):
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)

    def train(video):
        reconstruction = model(video)
        ((reconstruction.video - video).square().mean() + reconstruction.loss).backward()

    return model, model.latents, model.decoder, lambda z: model.quantizer(z).latents, train


def peer_tokenizer(width: int):
    from magvit2_pytorch import VideoTokenizer

    layers = ("residual", "compress_space", ("consecutive_residual", 2), "compress_space", ("consecutive_residual", 2),
              "linear_attend_space", "compress_space", ("consecutive_residual", 2), "attend_space", "compress_time",
              ("consecutive_residual", 2), "compress_time", ("consecutive_residual", 2), "attend_time")  # fmt: skip
    model = VideoTokenizer(image_size=128, init_dim=width, max_dim=8 * width, codebook_size=1024, layers=layers,
                           use_gan=False, perceptual_loss_weight=0.0)  # fmt: skip
    return model, model.encode, model.decode, lambda z: z, lambda video: model(video, return_loss=True)[0].backward()


def video_operations(name: str, width: int) -> tuple[dict, dict]:
    """Functions without arguments by operation, and what is known of the contestant."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

    if name.startswith("magvit2"):
        model, encode, decode, quantize, train = peer_tokenizer(width)
        layout = torch.contiguous_format
    else:
        model, encode, decode, quantize, train = our_tokenizer(width, "checkpointed" in name)
        layout = torch.channels_last_3d
    model.eval()
    shapes, flops = {}, {}

    def convolution(x, weight, *_, out_shape, **options) -> int:
        return conv_flop_count(list(x), list(weight), list(out_shape))

    by_one_dnn = {torch.ops.aten.mkldnn_convolution: convolution}  # an operator that the counter does not know

    @torch.no_grad()
    def counted(operation, function, x):
        """The first run, which is never timed: it counts FLOPs and the shapes that convolutions meet."""
        seen = shapes[operation] = Counter()
        hooks = [layer.register_forward_pre_hook(lambda layer, inputs: seen.update([(layer, inputs[0].shape)]))
                 for layer in model.modules() if type(layer).__bases__[0].__name__ in ("_ConvNd", "Conv3d")]  # fmt: skip
        with FlopCounterMode(display=False, custom_mapping=by_one_dnn) as counter:
            result = function(x)
        flops[operation] = counter.get_total_flops()
        for hook in hooks:
            hook.remove()
        return result

    @torch.no_grad()
    def evaluate(function, x):
        model.eval()
        function(x)

    def step():
        model.train()
        model.zero_grad(set_to_none=True)
        train(video)

    video = (torch.rand(1, 3, 17, 128, 128) * 2 - 1).contiguous(memory_format=layout)
    latents = quantize(counted("encode", encode, video)).detach()
    counted("decode", decode, latents)
    operations = {"encode": lambda: evaluate(encode, video), "decode": lambda: evaluate(decode, latents), "train": step}
    for operation, seen in shapes.items():
        operations[f"convolutions of {operation}"] = lambda seen=seen: bare_convolutions(seen)
    parameters = {id(p): p.numel() for p in model.parameters()}  # the peer's leaves its discriminator out
    return operations, {"parameters": sum(parameters.values()), "flops": flops}


def bare_convolutions(shapes: Counter) -> float:
    """CPU seconds of every convolution alone: one run per distinct layer shape, times its number."""
    import torch

    total, known = 0.0, {}
    with torch.no_grad():
        for (layer, shape), count in shapes.items():
            key = (type(layer).__name__, layer.weight.shape, layer.stride, shape)
            if key not in known:
                x = torch.randn(shape)
                if x.ndim == 5:
                    x = x.contiguous(memory_format=torch.channels_last_3d)
                convolve = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[
                    x.ndim - 3
                ]
                padding = tuple(k // 2 for k in layer.weight.shape[2:])
                convolve(x, layer.weight, None, layer.stride, padding)
                start = time.process_time()
                convolve(x, layer.weight, None, layer.stride, padding)
                known[key] = time.process_time() - start
            total += known[key] * count
    return total


def quantizer_operations(name: str, tokens: int) -> tuple[dict, dict]:
    import torch

    latents = torch.randn(1, 18, tokens, 1, requires_grad=True)
    if name.startswith("vector-quantize"):
        from vector_quantize_pytorch import LFQ

        peer = LFQ(codebook_size=2**18, dim=18, entropy_loss_weight=0.1, commitment_loss_weight=0.25).train()
        run = lambda: peer(latents)[2].backward()  # noqa: E731
    else:
        from videopoet.tokenizers.quantizers.lookup_free import LookupFreeQuantizer

        ours = LookupFreeQuantizer(18, bits_per_group=18 if "joint" in name else 9).train()
        run = lambda: ours(latents).loss.backward()  # noqa: E731
    if "vector-quantize" not in name:  # the first call loads code; a peer that takes gigabytes is spared
        run()
    return {"quantize": run}, {}


def declare_torchvision() -> None:
    """Lets torchvision's CUDA wheel import beside a CPU build of torch, which lacks two operators it registers."""
    import torch

    try:
        import torchvision  # noqa: F401
    except (RuntimeError, ImportError):
        declare_torchvision.library = library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for module in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[module]


def memory(field: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at its peak. Linux only; nan elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), float("nan"))


def forget_peak() -> None:
    """Returns freed memory and starts the peak over, where the system allows it."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        pass


def work(name: str, size: int, threads: int) -> None:
    """Answers lines `{"operation", "dtype"}` on standard input by lines of measurements."""
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    warnings.filterwarnings("ignore")
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if not name.startswith("ours"):
        declare_torchvision()
    try:
        operations, facts = (quantizer_operations if "LFQ" in name else video_operations)(name, size)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), file=out, flush=True)
        return
    print(json.dumps(facts | {"torch": torch.__version__}), file=out, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        forget_peak()
        resident, start = memory("VmRSS"), time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=order["dtype"] == "bfloat16"):
            seconds = operations[order["operation"]]()
        cpu = seconds if isinstance(seconds, float) else time.process_time() - start
        print(json.dumps({"cpu_s": cpu, "peak_mib": memory("VmHWM") - resident}), file=out, flush=True)


# --- in the main process


@dataclass
class Contestant:
    """A process that answers orders; `facts` is what it said of itself, None where it is not installed."""

    name: str
    process: subprocess.Popen
    facts: dict | None

    @classmethod
    def start(cls, name: str, size: int, python: str, threads: int) -> "Contestant":
        command = [python, __file__, "--work", name, "--size", str(size), "--threads", str(threads)]
        root = Path(__file__).resolve().parents[1]
        environment = os.environ | {"PYTHONPATH": str(root)} if name.startswith("ours") else None
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        contestant = cls(name, process, None)
        facts = contestant._answer()
        if "missing" in facts:
            print(
                f"{name} is left out ({facts['missing']}). To include it:\n  {INSTALL}\n  and --peer-python peers/bin/python"
            )
            return contestant
        contestant.facts = facts
        return contestant

    def measure(self, operation: str, dtype: str) -> dict:
        print(json.dumps({"operation": operation, "dtype": dtype}), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise ValueError(
                f"{self.name} ended with exit status {self.process.wait()} (-9: no memory left?); see above"
            )
        return json.loads(line)

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def contest(contestants: list[Contestant], operations: list[tuple[str, str]], repeats: int) -> dict:
    """{(operation, dtype, name): {"cpu_s", "peak_mib"}}: medians over rounds in which everybody runs once."""
    raw = {}
    for operation, dtype in operations:
        for _ in range(repeats):
            for contestant in contestants:
                raw.setdefault((operation, dtype, contestant.name), []).append(contestant.measure(operation, dtype))
    return {
        key: {field: statistics.median(run[field] for run in runs) for field in runs[0]} for key, runs in raw.items()
    }


def run(names: list[str], operations: list[tuple[str, str]], size: int, repeats: int, options) -> list[dict]:
    """Measures and prints one table; the first contestant present that is not ours is what ratios refer to."""
    started = [Contestant.start(n, size, sys.executable if n.startswith("ours") else options.peer_python, options.threads)
               for n in names]  # fmt: skip
    present = [contestant for contestant in started if contestant.facts is not None]
    results = contest(present, operations, repeats)
    peer = next((contestant for contestant in present if not contestant.name.startswith("ours")), None)
    for contestant in present:
        facts = contestant.facts
        if "flops" in facts:
            total, theirs = (sum(c.facts["flops"].values()) if c else 0 for c in (contestant, peer))
            ratio = f", {total / theirs:.2f} of the peer's" if peer and peer is not contestant else ""
            print(f"{contestant.name}: {facts['parameters'] / 1e6:.1f} M parameters, {total / 1e9:.0f} GFLOPs{ratio}")
    rows = []
    print(f"\n{'':16}{'':10}{'':28}{'CPU s':>9}{'MiB':>8}{'x faster':>10}{'x memory':>10}{'GFLOP/s':>9}{'of conv.':>9}")
    for operation, dtype in operations:
        for contestant in present:
            row = {"operation": operation, "dtype": dtype, "contestant": contestant.name, "size": size}
            row |= results[operation, dtype, contestant.name] | {"torch": contestant.facts["torch"]}
            if peer and contestant is not peer:
                theirs = results[operation, dtype, peer.name]
                row |= {
                    key + "_ratio": theirs[key] / max(row[key], least)
                    for key, least in (("cpu_s", 1e-4), ("peak_mib", 1.0))
                }
            if operation in contestant.facts.get("flops", ()):
                row["gflops_per_s"] = contestant.facts["flops"][operation] / row["cpu_s"] / 1e9
                bare = contestant.measure(f"convolutions of {operation}", dtype)["cpu_s"]
                row["of_convolutions"] = bare / row["cpu_s"]
            numbers = [row.get(key) for key in ("cpu_s_ratio", "peak_mib_ratio", "gflops_per_s", "of_convolutions")]
            cells = "".join(f"{'' if n is None else f'{n:.2f}':>{w}}" for n, w in zip(numbers, (10, 10, 9, 9)))
            print(
                f"{operation:16}{dtype:10}{contestant.name:28}{row['cpu_s']:9.3f}{row['peak_mib']:8.0f}{cells}",
                flush=True,
            )
            rows.append(row)
    for dtype in dict.fromkeys(dtype for operation, dtype in operations if operation == "decode"):
        for contestant in present:
            if peer and contestant is not peer:
                mine, theirs = (
                    sum(results[o, dtype, c.name]["cpu_s"] for o in ("encode", "decode")) for c in (contestant, peer)
                )
                print(f"encode + decode, {dtype}: {contestant.name} {theirs / mine:.2f} x faster")
    print()
    for contestant in started:
        contestant.end()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="half width, 256 tokens, one repeat; under 3 minutes on 2 cores"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="1 by default: waiting threads burn CPU seconds too")
    parser.add_argument("--peer-python", default=sys.executable, help="Python of the environment that holds the peers")
    parser.add_argument("--only", choices=("video", "quantizer"), help="one of the two tables")
    parser.add_argument("--out", type=Path, help="write all numbers as JSON")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work, options.size, options.threads)
    rows, repeats = [], 1 if options.quick else options.repeats
    if options.only != "video":
        tokens = 256 if options.quick else 1280
        print(f"Quantizer, forward and backward, 2^18 codes, {tokens} tokens")
        names = ["vector-quantize-pytorch LFQ", "ours LFQ, joint entropy", "ours LFQ, 2 x 9 bits"]
        rows += run(names, [("quantize", "float32")], tokens, repeats, options)
    if options.only != "quantizer":
        width = 32 if options.quick else 64
        print(f"Video, 17 x 128 x 128 pixels, {options.threads} thread(s)")
        names = ["magvit2-pytorch", "ours", "ours, checkpointed"]
        plan = [(operation, dtype) for dtype in DTYPES for operation in VIDEO]
        rows += run(names, plan, width, repeats, options)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
        print(f"All numbers: {options.out}")


if __name__ == "__main__":
    main()
