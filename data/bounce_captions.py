"""Sentences that say exactly what happens in a scene of the built-in world.

The vocabulary is a few dozen lower-case words, and a caption has at most 22 of them, because a very small language
model trains on it. Every caption names shape, colour, size and motion of each object, and the background.
"""

DIRECTION_PHRASES = {
    "left": ("to the left", "left"),
    "right": ("to the right", "right"),
    "up": ("to the top", "up"),
    "down": ("to the bottom", "down"),
    "up left": ("to the upper left", "up and left"),
    "up right": ("to the upper right", "up and right"),
    "down left": ("to the lower left", "down and left"),
    "down right": ("to the lower right", "down and right"),
}
_MOTION_PHRASES = {
    "still": ("stands still", "does not move"),
    "drift": ("drifts {0}", "glides {1}", "drifts {1}", "glides {0}"),
    "bounce": ("bounces off the walls", "bounces around"),
    "fall": ("falls and rebounds off the floor", "falls and rebounds"),
}
_ONE = (
    "{subject} {motion} on {background}",
    "on {background} {subject} {motion}",
    "a video of {subject} that {motion} on {background}",
    "{subject} {motion} in front of {background}",
)
_TWO = (
    "{first} while {second} on {background}",
    "on {background} {first} while {second}",
    "{first} and {second} on {background}",
    "on {background} {first} and {second}",
)


def captions(objects, background) -> tuple[str, ...]:
    """Several phrasings of one scene, most plain first, always the same for the same scene.

    ``objects`` are one or two ``bounce.Body``, ``background`` is a ``bounce.Background``.
    """
    ground = f"a {background.kind} {background.tone} background"
    if len(objects) == 1:
        body = objects[0]
        phrases = _motions(body)
        return tuple(
            template.format(subject=_subject(body), motion=phrases[index % len(phrases)], background=ground)
            for index, template in enumerate(_ONE)
        )
    # Two objects use the short phrases only, which keeps the longest caption at 22 words; the later templates name the
    # objects in the other order, since neither is the main one.
    short = [f"{_subject(body)} {_short_motion(body)}" for body in objects]
    return tuple(
        template.format(first=short[index // 2], second=short[1 - index // 2], background=ground)
        for index, template in enumerate(_TWO)
    )


def _subject(body) -> str:
    return f"a {body.size} {body.colour} {body.shape}"


def _motions(body) -> tuple[str, ...]:
    direction = DIRECTION_PHRASES.get(getattr(body.motion, "direction", ""), ("", ""))
    return tuple(phrase.format(*direction) for phrase in _MOTION_PHRASES[body.motion.kind])


def _short_motion(body) -> str:
    return min(_motions(body), key=lambda phrase: len(phrase.split()))
