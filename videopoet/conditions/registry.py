"""The conditions by name: the streams that `videopoet tokenize --condition` makes and tasks read."""

from pathlib import Path

from videopoet.conditions.hidden import (
    Black,
    Central,
    Edge,
    HiddenRegion,
    Horizontal,
    Interpolation,
    MovingRectangle,
    MovingStrip,
    Outside,
    Vertical,
)
from videopoet.conditions.shot import Condition
from videopoet.conditions.structure import FlowAndDepth

#: Regions and fills as MAGVIT's (App. B.1); "dynamic" moves from left to right.
CONDITIONS: dict[str, Condition] = {
    "inpainting_central": HiddenRegion(region=Central(), fill=Black()),
    "inpainting_dynamic": HiddenRegion(region=MovingRectangle(), fill=Black()),
    "outpainting_central": HiddenRegion(region=Outside(region=Central()), fill=Edge()),
    "outpainting_vertical": HiddenRegion(region=Outside(region=Vertical()), fill=Edge()),
    "outpainting_horizontal": HiddenRegion(region=Outside(region=Horizontal()), fill=Edge()),
    "outpainting_dynamic": HiddenRegion(region=Outside(region=MovingStrip()), fill=Black()),
    "interpolation": Interpolation(given=1),
    "flow_depth": FlowAndDepth(),
}
TAKEN = (
    "visual",
    "audio",
    "json",
    "text",
    "label",
    "video",
    "image",
)  # members and streams with a meaning of their own


def conditions_of(names: list[str]) -> dict[str, Condition]:
    """Conditions by name ("all" is every one of these) or from YAML files of `name: {class_path, init_args}`.

    Raises ValueError for an unknown name, a file that is no such mapping, and a stream name that would not do.
    """
    found: dict[str, Condition] = {}
    for name in names:
        if name.endswith((".yaml", ".yml")):
            found |= _read(Path(name))
        elif name == "all":
            found |= CONDITIONS
        elif name in CONDITIONS:
            found[name] = CONDITIONS[name]
        else:
            raise ValueError(f"no condition '{name}': there are {', '.join(CONDITIONS)}, all, and YAML files")
    return found


def _read(path: Path) -> dict[str, Condition]:
    import yaml

    from videopoet.component import instantiate

    if not path.is_file():
        raise ValueError(f"no file at {path}")
    try:
        specs = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    values = {name: instantiate(spec) for name, spec in specs.items()} if isinstance(specs, dict) else {}
    if not values or not all(isinstance(value, Condition) for value in values.values()):
        raise ValueError(f"{path} must map names of streams to conditions, each by class_path and init_args")
    for name in values:
        if name in TAKEN or not str(name).replace("_", "").isalnum():
            raise ValueError(f"{path}: '{name}' cannot name a stream: take other letters, digits and '_'")
    return values
