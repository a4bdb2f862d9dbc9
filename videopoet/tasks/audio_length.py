"""How long the sound of a clip is: in samples, and in frames of audio codes."""


def num_samples(frames: int, fps: float, sample_rate: int) -> int:
    """Samples under `frames` video frames, to the nearest: 17 frames at 8 fps are 2.125 s, 34,000 samples at 16 kHz."""
    return round(frames / fps * sample_rate)


def num_audio_frames(frames: int, fps: float, sample_rate: int, hop: int) -> int:
    """Frames of audio codes under `frames` video frames: whole hops only, what is left over is not coded.

    At 8 fps, 16 kHz and hop 320 (VideoPoet, §3.1), 50 audio frames a second:

        17 frames -> 34,000 samples -> 106.25 hops -> 106 audio frames
        41 frames -> 82,000 samples -> 256.25 hops -> 256 audio frames

    The sound of 106 frames is 33,920 samples, 5 ms shorter than the clip; players and `pipeline` add silence.
    """
    return num_samples(frames, fps, sample_rate) // hop
