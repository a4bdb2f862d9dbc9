"""A folder of shards while it is built, by any number of processes on any number of machines that see one file system.

Work is cut into units, and which inputs make up a unit depends on the list of inputs alone. A unit becomes one shard
(several, if it is very large) and then a receipt; both appear whole or not at all, under names that are the unit's own.
So a process that is killed, doubled or started anew can neither lose nor repeat a sample: the folder is made of the
receipts of units 0 .. n - 1, by whichever process finds them all there. While it is built it is called `.NAME.part`.
"""

import hashlib
import json
import os
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from videopoet.data.rejections import REJECTED, Rejection, write_rejected
from videopoet.data.schema import MANIFEST, Manifest, Shard
from videopoet.data.shards import Record, ShardWriter
from videopoet.data.work import Advance

PLAN = "build.json"
WORK = ".work"  # receipts, and shards that are being written
LOCK = "publishing"
PATIENCE = 60.0  # seconds a process on another machine may take to give the folder its name
SHOWN = 4  # differences of settings that an error names


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a folder is built of. Equal plans give equal folders, byte by byte."""

    settings: dict[str, Any]  # all that the content depends on beside the inputs; JSON can hold it
    inputs: str  # digest of the list of inputs
    num_inputs: int
    units: int

    @classmethod
    def of(cls, settings: dict[str, Any], inputs: Iterable[Any], num_inputs: int, units: int) -> Self:
        """With the digest of inputs that JSON can hold."""
        digest = hashlib.sha256()
        for entry in inputs:
            digest.update(json.dumps(entry, sort_keys=True).encode() + b"\n")
        settings = json.loads(json.dumps(settings))  # as it will be read again
        return cls(settings=settings, inputs=digest.hexdigest()[:32], num_inputs=num_inputs, units=units)

    def differences(self, other: "Plan") -> str:
        """In words, what `other` has otherwise; empty if they are equal."""
        names = sorted(self.settings.keys() | other.settings.keys())
        pairs = [(name, self.settings.get(name), other.settings.get(name)) for name in names]
        found = [f"{name} {was!r} is now {now!r}" for name, was, now in pairs if was != now]
        if self.inputs != other.inputs:
            found.append(f"the list of {self.num_inputs} inputs is now another, of {other.num_inputs}")
        return "; ".join(found[:SHOWN] + ["and more"] * (len(found) > SHOWN))


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What became of the inputs. fields: how many samples have `video`, `audio`, ... and `captions`."""

    samples: int
    fields: dict[str, int]
    rejected: dict[str, int]  # kind -> inputs, or clips of them
    first: str = ""  # the first rejection, in words


class Build:
    """`Build(out, plan, ...).open()`, then `write` of every unit, in any order and anywhere, then `publish`."""

    def __init__(self, out: str | os.PathLike, plan: Plan, manifest: Manifest, *, prefix: str, inputs: str = "files",
                 max_samples: int = 1 << 30, max_bytes: int = 1 << 30, overwrite: bool = False):  # fmt: skip
        self.out, self.plan, self.manifest, self.prefix, self.inputs = Path(out), plan, manifest, prefix, inputs
        self.max_samples, self.max_bytes, self.overwrite = max_samples, max_bytes, overwrite
        self.staging = self.out.with_name(f".{self.out.name}.part")
        self.work = self.staging / WORK

    def open(self) -> bool:
        """Begin, or join what others began; False where the folder is whole already, built by an equal plan.

        Raises ValueError where `out` is in use by anything else, or was begun with other inputs or settings.
        """
        if self.is_whole():
            return False
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            if not (self.out / MANIFEST).is_file():
                raise ValueError(f"{self.out}: exists and is not a shard folder; choose another name")
            if not self.overwrite:
                before = _read_plan(self.out / PLAN)
                why = f" of other inputs or settings ({before.differences(self.plan)})" if before else ""
                raise ValueError(
                    f"{self.out}: already holds shards{why}; choose another folder or pass overwrite (--overwrite)"
                )
        self.work.mkdir(parents=True, exist_ok=True)
        path = self.staging / PLAN
        written = path.exists()  # asked first: another process may write it now
        begun = _read_plan(path)
        if begun is None and written:
            raise ValueError(f"{path}: is no plan of this program; delete {self.staging} to begin anew")
        if begun is None:
            self._write(path, json.dumps({"plan": asdict(self.plan)}, indent=2) + "\n")
        elif begun != self.plan:
            raise ValueError(
                f"{self.out}: was begun with other inputs or settings ({begun.differences(self.plan)}); go on with those, "
                f"or delete {self.staging} to begin anew"
            )
        if self.is_whole():  # published by another process between the first look and now
            shutil.rmtree(self.staging, ignore_errors=True)
            return False
        return True

    def is_whole(self) -> bool:
        """Whether the folder is there, built by an equal plan."""
        if _read_plan(self.out / PLAN) != self.plan or not (self.out / MANIFEST).is_file():
            return False
        shutil.rmtree(self.out / WORK, ignore_errors=True)  # left if the publisher was killed after giving the name
        return True

    def missing(self, units: Iterable[int]) -> list[int]:
        """Those of `units` that are still to be done."""
        if not self.work.is_dir() and self.is_whole():  # published since `open`
            return []
        done = self._done()
        return [unit for unit in units if unit not in done]

    def write(self, unit: int, items: Iterable[tuple[str, Record] | Rejection]) -> None:
        """Make a unit whole: its shards first, its receipt last. Whoever else does the same writes the same."""
        folder = self.work / f"{unit:06d}-{_who()}"
        self._sweep(unit, folder.name)
        fields: Counter[str] = Counter()
        rejected = []
        with ShardWriter(folder, prefix=self.prefix, max_samples=self.max_samples, max_bytes=self.max_bytes) as writer:
            for item in items:
                if isinstance(item, Rejection):
                    rejected.append(item)
                    continue
                key, record = item
                writer.write(key, record)
                fields.update(name for name in record if name != "json")
                fields["captions"] += bool(record["json"].get("captions"))
            written = writer.finish(self.manifest)
        shards = [self._place(folder, unit, part, shard) for part, shard in enumerate(written.shards)]
        receipt = {
            "shards": [asdict(shard) for shard in shards],
            "fields": dict(sorted(fields.items())),
            "rejected": [rejection.record() for rejection in rejected],
        }
        self._write(self.work / f"{unit:06d}.json", json.dumps(receipt, ensure_ascii=False))
        shutil.rmtree(folder, ignore_errors=True)

    def publish(
        self, finish: Callable[[Manifest, Totals], Manifest], planned: tuple[Rejection, ...] = ()
    ) -> Totals | None:
        """Write the manifest and give the folder its name, if every unit is there; None while some are missing.

        finish: fills what the manifest says of the whole. planned: what was rejected before there were units. Of
        several processes that come at once, one publishes and all return the totals. Raises ValueError where there is
        no sample at all, and where a shard has gone that its receipt tells of.
        """
        if not self.is_whole():
            if len(self._done()) < self.plan.units:
                return None
            self._publish(finish, planned)
        if _read_plan(self.staging / PLAN) == self.plan:  # begun again by a process that came while this one published
            shutil.rmtree(self.staging, ignore_errors=True)
        return self.totals()

    def totals(self) -> Totals:
        """Of the whole folder."""
        return Totals(**json.loads((self.out / PLAN).read_text(encoding="utf-8"))["totals"])

    def _publish(self, finish: Callable[[Manifest, Totals], Manifest], planned: tuple[Rejection, ...]) -> None:
        shards, fields, first = [], Counter(), list(planned[:1])
        rejected = self.work / f".{REJECTED}.{_who()}"

        def rejections() -> Iterator[Rejection]:
            yield from planned
            for unit in range(self.plan.units):
                receipt = json.loads((self.work / f"{unit:06d}.json").read_text(encoding="utf-8"))
                shards.extend(self._still_there(unit, Shard(**shard)) for shard in receipt["shards"])
                fields.update(receipt["fields"])
                found = [Rejection(**rejection) for rejection in receipt["rejected"]]
                first.extend(found[: 1 - len(first)])
                yield from found

        try:
            kinds = write_rejected(rejected, rejections())
            totals = Totals(
                samples=sum(shard.samples for shard in shards),
                fields=dict(sorted(fields.items())),
                rejected=dict(sorted(kinds.items())),
                first=f"{first[0].file}: {first[0].reason}" if first else "",
            )
            if not totals.samples:
                shutil.rmtree(self.staging, ignore_errors=True)
                raise ValueError(f"{self.out}: none of {self.plan.num_inputs} {self.inputs} gave a clip; "
                                 f"the first, {totals.first}")  # fmt: skip
            manifest = finish(replace(self.manifest, shards=tuple(shards), num_samples=totals.samples), totals)
            self._name(rejected, manifest, totals)
        except FileNotFoundError:  # another process was faster
            if not self.is_whole():
                raise
        finally:
            rejected.unlink(missing_ok=True)

    def _name(self, rejected: Path, manifest: Manifest, totals: Totals) -> None:
        """The last, short step, of one process at a time."""
        if not self._lock():
            return
        os.replace(rejected, self.staging / REJECTED)
        plan = {"plan": asdict(self.plan), "totals": asdict(totals)}
        self._write(self.staging / PLAN, json.dumps(plan, indent=2, ensure_ascii=False) + "\n")
        self._write(self.staging / MANIFEST, manifest.to_json())
        if self.out.exists():  # goes into what is removed last; that is gone once another process has published
            os.replace(self.out, self.work / f"old-{_who()}")
        os.replace(self.staging, self.out)
        shutil.rmtree(self.out / WORK, ignore_errors=True)

    def _lock(self) -> bool:
        """Whether this process is to publish; it waits for the one that does, and takes over from one that died."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                with (self.work / LOCK).open("x") as file:
                    file.write(_who())
                return True
            except FileExistsError:
                if not _lives(self._holder()) or time.monotonic() > until:
                    (self.work / LOCK).unlink(missing_ok=True)
            except FileNotFoundError:
                return False
            if self.is_whole():
                return False
            time.sleep(0.1)

    def _holder(self) -> str:
        try:
            return (self.work / LOCK).read_text() or "somebody-0"  # who has not yet written the name
        except FileNotFoundError:
            return ""

    def _done(self) -> set[int]:
        try:
            return {int(name[:-5]) for name in os.listdir(self.work) if name.endswith(".json") and name[0] != "."}
        except FileNotFoundError:  # published meanwhile
            return set()

    def _sweep(self, unit: int, own: str) -> None:
        """Removes what killed processes of this machine left of a unit."""
        for path in [*self.work.glob(f"{unit:06d}-*"), *self.work.glob(f".{unit:06d}-*")]:
            who = path.name.lstrip(".").partition("-")[2]
            if own in path.name or not _lives(who):
                shutil.rmtree(path, ignore_errors=True)

    def _write(self, path: Path, text: str) -> None:
        temporary = self.work / f".{path.name}.{_who()}"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)

    def _place(self, folder: Path, unit: int, part: int, shard: Shard) -> Shard:
        """Moves a shard, and what lies beside it under its name, out of the folder it was written in."""
        stem = shard.name.removesuffix(".tar")
        name = f"{self.prefix}-{unit:06d}" + (f"_{part:03d}" if part else "")
        for file in sorted(folder.glob(f"{stem}*")):
            os.replace(file, self.staging / (name + file.name.removeprefix(stem)))
        return replace(shard, name=f"{name}.tar")

    def _still_there(self, unit: int, shard: Shard) -> Shard:
        path = self.staging / shard.name
        if not path.is_file() or path.stat().st_size != shard.bytes:
            if not self.staging.is_dir():
                raise FileNotFoundError(path)
            (self.work / f"{unit:06d}.json").unlink(missing_ok=True)
            raise ValueError(
                f"{path}: is gone or of another size since it was written; run the command again to make it"
            )
        return shard


def read_settings(folder: str | os.PathLike) -> dict[str, Any]:
    """What a folder was built with, empty where it does not say."""
    plan = _read_plan(Path(folder) / PLAN)
    return plan.settings if plan else {}


def counted(items: Iterable[Any], advance: Advance, every: int = 1) -> Iterator[Any]:
    """The items, each counted once the next is asked for."""
    for item in items:
        yield item
        advance(every)


def _read_plan(path: Path) -> Plan | None:
    """None where there is no such file, or one of another program's."""
    try:
        return Plan(**json.loads(path.read_text(encoding="utf-8"))["plan"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _who() -> str:
    """This process among all machines'; letters, digits, '-' and '_'."""
    host = "".join(letter if letter.isalnum() else "_" for letter in socket.gethostname())
    return f"{host}-{os.getpid()}"


def _lives(who: str) -> bool:
    """Whether a process may still be at work: of this machine's it is known, another machine's is believed to be."""
    host, _, pid = who.rpartition("-")
    if host != _who().rpartition("-")[0]:
        return bool(host)
    pid = pid.partition(".")[0]
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass
    return True
