"""The truth of a clip of the built-in world, found by what its shard says about it."""

import json

from videopoet.conditions.shot import Shot
from videopoet.data.bounce import Scene, Truth


def world_truth(shot: Shot) -> Truth | None:
    """The truth of the very frames of a square shot; None where the shot is not of the built-in world.

    Raises ValueError where the scene of that seed is another one by now.
    """
    said = shot.source.get("bounce")
    frames, height, width = shot.video.shape[:3]
    if said is None or height != width:
        return None
    scene = Scene.sample(said["seed"], said["split"])
    if json.loads(json.dumps(scene.attributes()["objects"])) != json.loads(json.dumps(said["objects"])):
        raise ValueError(
            f"scene {said['seed']} of the clip is not the one this version of the world draws: make the videos again "
            "by 'videopoet world'"
        )
    before = round(shot.source.get("second", 0.0) * shot.fps)
    truth = scene.truth(before + frames, shot.fps, height)
    return Truth(
        centres=truth.centres[before:],
        pixels=truth.pixels[before:],
        impacts=truth.impacts,
        flow=truth.flow[before:],
        depth=truth.depth[before:],
        order=truth.order,
    )
