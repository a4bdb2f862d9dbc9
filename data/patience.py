"""How long a storage that fails or is slow is asked again."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from videopoet.data.faults import ShardFault

REMEDY = "build or copy it again"
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a failing or slow storage is asked again: `attempts` times, waiting twice as long after each."""

    attempts: int = 4
    first_wait: float = 0.5  # seconds
    longest_wait: float = 20.0  # seconds
    timeout: float = 120.0  # seconds that one answer of a remote storage may take

    def ask(self, name: str, work: Callable[[], Result], limited: bool) -> Result:
        """What `work` returns. Raises ShardFault naming the shard `name`: "vanished" at once, "storage" in the end."""
        wait, error = self.first_wait, None
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(min(wait, self.longest_wait))
                wait *= 2
            try:
                return _within(self.timeout, work) if limited else work()
            except ShardFault:
                raise
            except FileNotFoundError as missing:
                raise ShardFault(f"{name}: is missing; {REMEDY}", shard=name, reason="vanished") from missing
            except Exception as failed:  # stores raise what they like
                error = failed
        said = f"{type(error).__name__}: {error}".strip(": ")
        raise ShardFault(
            f"{name}: the storage failed {self.attempts} times ({said}); see that it can be reached, or raise "
            "data.init_args.storage.patience",
            shard=name,
            reason="storage",
        ) from error


def _within(seconds: float, work: Callable[[], Result]) -> Result:
    """What `work` returns or raises; TimeoutError if that takes longer. A call that hangs is left behind in its thread."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((True, work()))
        except Exception as error:
            outcome.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer in {seconds:g} s")
    good, value = outcome[0]
    if not good:
        raise value
    return value
