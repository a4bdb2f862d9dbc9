"""The one learning-rate schedule: linear warm-up, cosine decay."""

import math


def warmup_cosine(step: int, warmup_steps: int, max_steps: int, floor: float = 0.01) -> float:
    """Factor on the peak rate: 1/w at step 0, 1 at step w, `floor` at `max_steps`. Without a `max_steps` (-1): constant."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if max_steps <= warmup_steps:
        return 1.0
    progress = min(1.0, (step - warmup_steps) / (max_steps - warmup_steps))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
