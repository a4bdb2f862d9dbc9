"""Readers of the annotations of public datasets, as published: MSR-VTT, UCF-101, Kinetics, Something-Something v2.

`tools/prepare_*.py` make listings for training of what they give, `videopoet.evaluation` protocols. An `Item` has all the
captions its video was given, equal ones too.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlparse

from videopoet.data.importers import Item, one_line, read_json, read_lines, read_table, seconds

MSRVTT_SPLITS = {"train": "train", "validate": "validate", "val": "validate", "validation": "validate", "test": "test"}
MSRVTT_FIRST = {"test": 7010, "validate": 6513, "train": 0}  # number of the first video of each


def msrvtt_split_of(video: dict) -> str:
    """By the entry's own word, else by the video's number; ValueError where neither says it."""
    said = str(video.get("split", "")).strip().lower()
    if said in MSRVTT_SPLITS:
        return MSRVTT_SPLITS[said]
    number = re.fullmatch(r"video(\d+)", str(video["video_id"]))
    if said or number is None:
        raise ValueError(f"{video['video_id']}: split {said!r} is none of train, validate and test")
    return next(split for split, first in MSRVTT_FIRST.items() if int(number[1]) >= first)


def msrvtt_items(path: Path) -> Iterator[Item]:
    """Every video of one annotation file with all its captions."""
    if path.suffix.lower() == ".csv":
        for row in read_table(path, ("video_id", "sentence")):
            yield Item(split="1k-A", names=(row["video_id"],), captions=(one_line(row["sentence"]),),
                       extra={"video_id": row["video_id"]})  # fmt: skip
        return
    content = read_json(path)
    if not isinstance(content, dict) or not {"videos", "sentences"} <= content.keys():
        raise ValueError(f'{path}: not MSR-VTT\'s annotations, which hold "videos" and "sentences"')
    captions: dict[str, list[tuple[int, str]]] = {}
    for sentence in content["sentences"]:
        entry = (sentence.get("sen_id", 0), one_line(sentence["caption"]))
        captions.setdefault(sentence["video_id"], []).append(entry)
    for video in content["videos"]:
        name, url = video["video_id"], video.get("url", "")
        youtube = parse_qs(urlparse(url).query).get("v", [])
        texts = [text for _, text in sorted(captions.get(name, [])) if text]
        extra = {"video_id": name, "category": video.get("category"), "url": url,
                 "url_span": [video.get("start time"), video.get("end time")]}  # fmt: skip
        yield Item(split=msrvtt_split_of(video), names=(name,), captions=tuple(texts), uncut=tuple(youtube[:1]),
                   start=video.get("start time"), end=video.get("end time"), extra=extra)  # fmt: skip


def ucf101_words(label: str) -> str:
    """ "ApplyEyeMakeup" -> "apply eye makeup", "YoYo" -> "yo yo", "TaiChi" -> "tai chi"."""
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]*|[a-z]+|\d+", label)).lower()


def ucf101_classes(path: Path) -> dict[str, int]:
    """Label in lower case -> number, of classInd.txt."""
    found = {}
    for line in read_lines(path):
        number, _, label = line.partition(" ")
        if not (number.isdecimal() and label.strip()):
            raise ValueError(f"{path}: {line!r} is no number and class")
        found[label.strip().lower()] = int(number)
    return found


def ucf101_items(path: Path, split: str, numbers: dict[str, int]) -> Iterator[Item]:
    """Lines `Class/v_Class_g01_c01.avi`, with the number of the class behind it in the training lists."""
    for line in read_lines(path):
        name, _, said = line.replace("\\", "/").partition(" ")
        label, _, stem = name.removesuffix(".avi").partition("/")
        group = re.search(r"_g(\d+)_c(\d+)$", stem)
        number = numbers.get(label.lower())
        if group is None or number is None or (said and int(said) != number):
            raise ValueError(f"{path}: {line!r} is no clip of one of the {len(numbers)} classes")
        extra = {"label": label, "class": number, "group": int(group[1])}
        yield Item(split=split, names=(name, stem), captions=(ucf101_words(label),), extra=extra)


KINETICS_SPLITS = {"training": "train", "val": "validate", "validation": "validate", "testing": "test"}


def kinetics_rows(path: Path) -> Iterator[dict]:
    """label ("" where held out), youtube_id, time_start, time_end, split of every clip of a file."""
    if path.suffix.lower() != ".json":
        for row in read_table(path, ("youtube_id", "time_start", "time_end")):
            yield {"label": "", "split": path.stem} | row
        return
    for name, entry in read_json(path).items():
        said = entry.get("annotations", {})
        start, end = said.get("segment", (None, None))
        if start is None:
            raise ValueError(f"{path}: {name} has no segment")
        yield {"label": said.get("label", ""), "youtube_id": name, "time_start": start, "time_end": end,
               "split": entry.get("subset", path.stem)}  # fmt: skip


def kinetics_items(path: Path) -> Iterator[Item]:
    """Every clip of a file."""
    for row in kinetics_rows(path):
        name, start, end = row["youtube_id"], seconds(row["time_start"]), seconds(row["time_end"])
        label, split = one_line(row["label"]), row["split"].strip().lower() or path.stem
        cut = f"{name}_{int(start):06d}_{int(end):06d}"
        yield Item(split=KINETICS_SPLITS.get(split, split), names=(cut,), uncut=(name,), start=start, end=end,
                   captions=(label,) if label else (), extra={"label": label, "youtube_id": name})  # fmt: skip


def ssv2_split_of(path: Path) -> str:
    """train, validation or test, by the name of the file."""
    found = [split for word, split in (("train", "train"), ("val", "validation"), ("test", "test"))
             if word in path.stem.lower()]  # fmt: skip
    if len(found) != 1:
        raise ValueError(f"{path}: the name says neither train nor validation nor test")
    return found[0]


def ssv2_sentence(template: str, placeholders: list[str]) -> str:
    """The template with its objects in place of [something]; as many as there are."""
    objects = iter(placeholders)
    return re.sub(r"\[[^\]]*\]", lambda match: next(objects, match[0].strip("[]")), template)


def ssv2_items(path: Path, answers: dict[str, str]) -> Iterator[Item]:
    """Every video of a file."""
    split, content = ssv2_split_of(path), read_json(path)
    if not isinstance(content, list) or not all(isinstance(entry, dict) and "id" in entry for entry in content):
        raise ValueError(f"{path}: not a list of objects with an id, as the labels of Something-Something v2 are")
    for entry in content:
        name = str(entry["id"])
        template, objects = entry.get("template", ""), entry.get("placeholders") or []
        label = one_line(template.replace("[", "").replace("]", "")) or answers.get(name, "")
        caption = one_line(entry.get("label") or (ssv2_sentence(template, objects) if template else label))
        extra = {"id": name, "label": label, "placeholders": objects} if label else {"id": name}
        yield Item(split=split, names=(name,), captions=(caption,) if caption else (), extra=extra)
