"""What torch's allocator gave out while a piece of code ran: an account of memory that owes nothing to the planner."""

import gc
from typing import Self

from torch.profiler import ProfilerActivity, profile, record_function

MARK = "allocator: "


class Allocator:
    """Bytes between marks, as the CPU allocator reports them to the profiler; inside of a `with`.

    `held[name]`: bytes given out and not taken back when `mark(name)` was called. `peak[name]`: the most since the mark
    before. Both count from the beginning. Room that a kernel takes for itself is among them if it asks torch for it.
    """

    def __enter__(self) -> Self:
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self._profile.__enter__()
        return self

    def mark(self, name: str) -> None:
        gc.collect()
        with record_function(MARK + name):
            pass

    def __exit__(self, *exception) -> None:
        self._profile.__exit__(*exception)
        self.held: dict[str, int] = {}
        self.peak: dict[str, int] = {}
        now = most = 0
        for event in self._events():
            if event.name.startswith(MARK):
                name = event.name.removeprefix(MARK)
                self.held[name], self.peak[name], most = now, most, now
            elif event.name == "[memory]":
                now += event.extra_fields.alloc_size
                most = max(most, now)

    def _events(self) -> list:
        found, rest = [], list(self._profile.profiler.kineto_results.experimental_event_tree())
        while rest:
            event = rest.pop()
            found.append(event)
            rest += event.children
        return sorted(found, key=lambda event: event.start_time_ns)
