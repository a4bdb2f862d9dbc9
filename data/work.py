"""Units of work on many processes of one machine, and which of many machines' ranks this is. No process group is needed."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Protocol, Self

from videopoet.data.progress import bar

POLL = 0.5  # seconds between two looks at what the workers have done
WAITING = 2  # tasks per worker that lie ready

Advance = Callable[[int], None]  # told of so many more inputs that are done
LAUNCHERS = (  # rank, ranks, rank on this machine
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),  # srun
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which of `ranks` processes this is, as torchrun or SLURM started them, and which of those on this machine."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.rank < self.ranks and self.local_rank >= 0):
            raise ValueError(
                f"rank {self.rank} of {self.ranks} ranks: a rank lies between 0 and {self.ranks - 1}; "
                "look at RANK and WORLD_SIZE, or SLURM_PROCID and SLURM_NTASKS, in the environment"
            )

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """By the environment: torchrun's words first, then SLURM's; alone where neither has said anything.

        A SLURM batch script that calls the program itself, without srun, is alone: it is told of all tasks of its job
        but no others were started. Raises ValueError for a rank that cannot be.
        """
        for rank, ranks, local in LAUNCHERS:
            if rank not in environment or ranks not in environment:
                continue
            if rank.startswith("SLURM") and "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment:
                continue
            try:
                numbers = [int(environment[name]) for name in (rank, ranks)]
                return cls(rank=numbers[0], ranks=numbers[1], local_rank=int(environment.get(local, 0)))
            except ValueError as error:
                said = ", ".join(f"{name}={environment.get(name)}" for name in (rank, ranks, local))
                raise ValueError(f"{said} in the environment: {error}") from None
        return cls()

    def mine(self, count: int) -> range:
        """This rank's share of units 0 .. count - 1: every `ranks`-th. The shares of all ranks are all units, once."""
        return range(self.rank, count, self.ranks)


class Job(Protocol):
    """What is done with one task after another. It is sent to every worker process, so it holds plain values only."""

    def start(self, worker: int) -> Callable[[Any, Advance], None]:
        """Called once in a process, which is worker number `worker`: loads what is needed, returns what does a task."""


def run_tasks(job: Job, tasks: Iterable[Any], num_tasks: int, *, workers: int, title: str, total: int) -> None:
    """Do every task, in this process (workers 0) or on so many others, under a bar over `total` inputs.

    Tasks are taken from the iterable as they are needed. The first error stops all: tasks under way break off at their
    next `advance`. Workers end when this process does, however it ends. Raises what the job raises, and ValueError
    where a worker dies.
    """
    with bar(title, total) as advance:
        if not workers or not num_tasks:
            do = job.start(0) if num_tasks else None
            for task in tasks:
                do(task, advance)
            return
        _on_processes(job, iter(tasks), min(workers, num_tasks), advance)


def _on_processes(job: Job, tasks: Iterable[Any], workers: int, advance: Advance) -> None:
    context = get_context("spawn")
    shared = _Shared(number=context.Value("i", 0), done=context.Value("q", 0), stop=context.Value("b", 0))
    shown, waiting = 0, set()
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(job, os.getpid(), shared)) as pool:
        try:
            while True:
                while len(waiting) < WAITING * workers and (task := next(tasks, shared)) is not shared:
                    waiting.add(pool.submit(_do, task))
                if not waiting:
                    break
                finished, waiting = wait(waiting, timeout=POLL, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                advance(shared.done.value - shown)
                shown = shared.done.value
        except BrokenProcessPool as error:
            raise ValueError(
                "a worker process died, of too little memory or of a file that crashes its decoder: what is whole is kept; "
                "run the same command again to go on, with fewer --workers if memory was short, or with --workers 0 to see "
                "which file it is"
            ) from error
        finally:
            shared.stop.value = bool(waiting)
            for future in waiting:
                future.cancel()


@dataclass(frozen=True)
class _Shared:
    """What all processes of a pool see: numbered workers, inputs done so far, and whether to break off."""

    number: Any
    done: Any
    stop: Any


class _Stopped(Exception):
    """Another task has failed."""


_process: dict[str, Any] = {}


def _begin(job: Job, parent: int, shared: _Shared) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent tells the others to stop
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with shared.number.get_lock():
        _process.update(job=job, shared=shared, worker=shared.number.value, do=None)
        shared.number.value += 1


def _end_with(parent: int) -> None:
    """A worker whose parent was killed would wait for tasks for ever."""
    while os.getppid() == parent:
        time.sleep(POLL)
    os._exit(1)


def _do(task: Any) -> None:
    if _process["do"] is None:  # here and not in `_begin`: there an error would be a dead worker
        _process["do"] = _process["job"].start(_process["worker"])
    _process["do"](task, _advance)


def _advance(steps: int = 1) -> None:
    shared = _process["shared"]
    if shared.stop.value:
        raise _Stopped
    with shared.done.get_lock():
        shared.done.value += steps
