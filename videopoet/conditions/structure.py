"""What moves where and how near it is, without looks: the structure of a clip as a clip (VideoPoet, §3.3)."""

from dataclasses import dataclass, field

import numpy as np

from videopoet.conditions.depth import ChromaDepth, Depth, WorldDepth
from videopoet.conditions.flow import BlockMatching, Flow, WorldFlow
from videopoet.conditions.shot import Condition, Shot


def _flow() -> Flow:
    return WorldFlow(otherwise=BlockMatching())


def _depth() -> Depth:
    return WorldDepth(otherwise=ChromaDepth())


@dataclass(frozen=True, kw_only=True)
class FlowAndDepth(Condition):
    """Optical flow and depth as the three channels of a video: red is motion to the right, green down, blue nearness.

    Flow is divided by the clip's largest magnitude, rest is the middle level; nearness spans the clip's range. The last
    frame repeats the flow into it. The paper says "normalised" and no more; this is our reading. By default both come
    from the built-in world's truth, or are estimated where a clip is not of that world.
    """

    flow: Flow = field(default_factory=_flow)
    depth: Depth = field(default_factory=_depth)

    def __call__(self, shot: Shot) -> np.ndarray:
        depth = np.asarray(self.depth(shot), np.float64)
        motion = np.zeros((*depth.shape, 2))
        if len(depth) > 1:
            flow = self.flow(shot)
            motion[:-1], motion[-1] = flow, flow[-1]
        fastest = np.linalg.norm(motion, axis=-1).max()
        span = depth.max() - depth.min()
        near = (depth - depth.min()) / (span or 1.0)
        levels = np.concatenate([0.5 + motion / (2 * (fastest or 1.0)), near[..., None]], axis=-1)
        return np.rint(255 * levels).astype(np.uint8)
