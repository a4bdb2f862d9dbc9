"""The part of a prompt that a model can take."""

from collections.abc import Callable
from typing import Any


def shortened(text: str, fits: Callable[[str], Any]) -> str:
    """The text, or the most of its words from the start that fit. fits: raises ValueError for a text that is too long."""

    def too_long(text: str) -> bool:
        try:
            fits(text)
        except ValueError:
            return True
        return False

    if not too_long(text):
        return text
    words = text.split()
    least, most = 0, len(words)  # so many fit; so many do not
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if too_long(" ".join(words[:middle])) else (middle, most)
    return " ".join(words[:least])
