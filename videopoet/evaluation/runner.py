"""A protocol from beginning to report: data, samples, features, numbers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from videopoet.evaluation.detectors.base import Detector, build_detector
from videopoet.evaluation.makers import Maker
from videopoet.evaluation.measures import Measure
from videopoet.evaluation.plans import Wish
from videopoet.evaluation.protocol import Contents, Protocol, digest, plain
from videopoet.evaluation.report_file import FORMAT, as_record, versions
from videopoet.evaluation.sampling import GivenSamples, Samples, make_samples
from videopoet.evaluation.study import Run, Study

#: Detectors that need no weights from elsewhere, by the names that --stand-in takes. All say that they are surrogates.
_SURROGATES = "videopoet.evaluation.detectors.surrogates."
STAND_INS: dict[str, dict[str, Any]] = {
    "efficientnet-lite0": {"class_path": _SURROGATES + "EfficientNetLite0"},
    "efficientnet-lite0-logits": {"class_path": _SURROGATES + "EfficientNetLite0", "init_args": {"output": "logits"}},
    "conse": {"class_path": _SURROGATES + "ConSE"},
    "transnetv2": {"class_path": _SURROGATES + "TransNetV2"},
    "musicnn": {"class_path": _SURROGATES + "Musicnn"},
    "random-conv3d": {"class_path": _SURROGATES + "RandomConv3d"},
    "pixel-statistics": {"class_path": "videopoet.evaluation.detectors.controls.PixelStatistics"},
    "frame-differences": {"class_path": "videopoet.evaluation.detectors.controls.FrameDifferences"},
    "colour-words": {"class_path": "videopoet.evaluation.detectors.colour_words.ColourWords"},
    "loudness": {"class_path": "videopoet.evaluation.detectors.loudness.Loudness"},
}


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The detectors of a run by role, and the roles that were left out."""

    detectors: dict[str, Detector]
    left_out: tuple[str, ...]
    unexpected: dict[str, str]  # role -> what it is instead of what the protocol expects


def networks(protocol: Protocol, weights: dict[str, str], stand_ins: dict[str, str], without: set[str]) -> Networks:
    """Build what a protocol names. Raises ValueError for roles it has not, and for weights that are not there."""
    unknown = sorted((set(weights) | set(stand_ins) | without) - set(protocol.networks))
    if unknown:
        raise ValueError(
            f"{protocol.name} has no network '{unknown[0]}': it has {', '.join(protocol.networks) or 'none'}"
        )
    detectors: dict[str, Detector] = {}
    left_out, unexpected = sorted(without), {}
    for role, network in protocol.networks.items():
        if role in without:
            continue
        if role not in weights and role not in stand_ins and network.optional:
            left_out.append(role)
            continue
        detectors[role] = (
            _stand_in(stand_ins[role]) if role in stand_ins else _weighted(protocol, role, weights.get(role))
        )
        if network.expects and detectors[role].name != network.expects and not detectors[role].surrogate:
            unexpected[role] = f"{detectors[role].name} instead of {network.expects}"
    return Networks(detectors=detectors, left_out=tuple(left_out), unexpected=unexpected)


def _stand_in(name: str) -> Detector:
    if name not in STAND_INS:
        raise ValueError(f"no stand-in '{name}': there are {', '.join(STAND_INS)}")
    return build_detector(STAND_INS[name])


def _weighted(protocol: Protocol, role: str, weights: str | None) -> Detector:
    try:
        return protocol.networks[role].build(weights)
    except ValueError as error:
        hint = (
            f"--weights {role}=PATH names it, --stand-in {role}=NAME takes a surrogate, --without {role} leaves it out"
        )
        raise ValueError(f"{protocol.name}, network '{role}': {error}; {hint}") from None


def plan(protocol: Protocol, run: Run) -> tuple[Contents, list[Wish], list[str]]:
    """The data, the samples to make, and what is not as published. Raises ValueError for the last unless allow_partial."""
    contents = protocol.dataset.read(run.data)
    if not contents.entries:
        raise ValueError(f"{run.data} holds nothing of what {protocol.name} measures: {'; '.join(contents.complaints)}")
    wishes = protocol.plan(contents.entries, run.data)
    complaints = list(contents.complaints)
    if protocol.plan.expected is not None and len(wishes) != protocol.plan.expected:
        complaints.append(f"the data give {len(wishes)} samples instead of {protocol.plan.expected}")
    _check(complaints, run)
    if run.limit is not None:
        wishes = wishes[: run.limit]
        complaints.append(f"limited to {run.limit} samples and real clips")
    return contents, wishes, complaints


def measure(protocol: Protocol, run: Run, nets: Networks, maker: Maker | None = None, given: Path | None = None
            ) -> dict[str, Any] | None:  # fmt: skip
    """Everything; the report on rank 0, None elsewhere.

    maker: makes the samples; given: a folder of samples made by something else, in its place.
    """
    contents, wishes, complaints = plan(protocol, run)
    facts = {"given": str(given)} if given else maker.facts
    if given:
        samples, unusable = GivenSamples(given, protocol, run.seed), {}
        wishes, lacking = _present(samples, wishes, run)
        complaints += lacking
    else:
        samples = Samples(run.work / "samples", protocol, facts, run.seed)
        advance = run.stage("samples", len(wishes))
        unusable = make_samples(samples, maker, wishes, run.share, progress=advance, patience=run.patience)
    study = Study(protocol, contents, wishes, samples, nets.detectors, run, facts)
    study.unusable, study.known = dict(unusable), dict(unusable)
    study.shortened = 0 if given else sum(maker.reads(wish.prompt) != wish.prompt for wish in wishes)
    if given and any(m.of_codes for m in protocol.measures):
        nets = replace(nets, left_out=(*nets.left_out, "codes"))
    measures = [m for m in protocol.measures if not set(m.roles) & set(nets.left_out) and not (given and m.of_codes)]
    for each in measures:
        each.extract(study)
    if run.share.rank:
        return None
    if study.unusable:
        key, why = next(iter(study.unusable.items()))
        complaints.append(f"{len(study.unusable)} clips cannot be used, first {key} ({why})")
        _check(complaints[-1:], run)
    return _report(study, measures, nets, complaints)


def _present(samples: GivenSamples, wishes: list[Wish], run: Run) -> tuple[list[Wish], list[str]]:
    there = [wish for wish in wishes if wish in samples]
    lacking = [
        f"{len(wishes) - len(there)} of {len(wishes)} samples are not in {samples.folder} (--plan lists them all)"
    ]
    lacking = lacking if len(there) < len(wishes) else []
    _check(lacking, run)
    return there, lacking


def _check(complaints: list[str], run: Run) -> None:
    if complaints and not run.allow_partial:
        raise ValueError(f"{'; '.join(complaints)}: --allow-partial measures what there is, and compares it with nothing "
                         "published")  # fmt: skip


def _report(study: Study, measures: list[Measure], nets: Networks, complaints: list[str]) -> dict[str, Any]:
    protocol, contents, records = study.knobs, study.contents, []
    for each in measures:
        reasons = complaints + [nets.unexpected[role] for role in each.roles if role in nets.unexpected]
        records += [as_record(found, reasons) for found in each.measure(study)]
    prompts = digest([wish.prompt for wish in study.wishes])  # one name of a file of prompts may stand for several
    data = {"annotations": contents.sources, **contents.facts, "prompts": prompts, "missing": list(contents.missing),
            "limit": study.run.limit, "unusable": dict(sorted(study.unusable.items()))}  # fmt: skip
    return {
        "format": FORMAT,
        "protocol": {"name": protocol.name, "title": protocol.title, "hash": protocol.hash, "spec": protocol.spec()},
        "measures": records,
        "left_out": list(nets.left_out),
        "samples": {"n": len(study.wishes), "seed": study.run.seed, "prompts_shortened": study.shortened,
                    "maker": plain(study.maker_facts)},
        "data": data,
        "complaints": complaints,
        "precision": {"features": "float32", "measures": "float64"},  # as `full_precision` and the measures see to
        "versions": versions(),
    }
