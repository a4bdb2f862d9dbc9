"""The house's rules that no other test would notice: import names, import arrows, what may lie in tracked files.

Every check that reads sources is a function from (path, text) to findings, and is first shown to find a bad example.
"""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINKS = {"videopoet/tokenizers": "../tokenizers", "videopoet/data": "../data"}
SECOND_NAMES = {"data", "tokenizers"}  # top-level folders that are imported as videopoet.data, videopoet.tokenizers
OWN_TOKENIZERS = {"quantizers", "visual", "audio", "text"}  # what lies in tokenizers/; the rest is Hugging Face's
DATA_MODULES = {"data/clips.py", "data/mixture.py", "data/steps.py"}  # the last is the base of the two


def git(*arguments: str) -> str:
    """Output of git in the repository; skips where the sources are not a git checkout (a release archive)."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def repository_files() -> list[Path]:
    """Every tracked file and every new one git does not ignore, links excluded."""
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    paths = (ROOT / name for name in names if name)
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def sources() -> list[tuple[str, str]]:
    """(path relative to the root, text) of every Python file."""
    files = [path for path in repository_files() if path.suffix == ".py"]
    return [(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in files]


def imported_names(text: str) -> set[str]:
    """Dotted names a source imports absolutely: `from a.b import c` gives both `a.b` and `a.b.c`."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imports_second_name(text: str) -> set[str]:
    """Imports of our files as `data.…` or `tokenizers.…`, which would load one file as two modules."""
    found = set()
    for name in imported_names(text):
        head, *rest = name.split(".")
        if head in SECOND_NAMES and (head == "data" or (rest and rest[0] in OWN_TOKENIZERS)):
            found.add(name)
    return found


def imports_lightning(text: str) -> bool:
    return any(name.split(".")[0] in {"lightning", "pytorch_lightning"} for name in imported_names(text))


def may_import_lightning(path: str) -> bool:
    """`*/training*`, the command line and the DataModules; tests and tools stand outside the house."""
    parts = path.split("/")
    return (
        parts[0] in {"tests", "tools"}
        or path == "videopoet/cli.py"
        or path in DATA_MODULES
        or any(part.startswith("training") for part in parts[1:])
    )


def foreign_places(text: str) -> list[str]:
    """Machine paths and package-registry hosts: neither means anything on another machine."""
    path = r"(?<![\w.~$)/-])/(?:work|opt|root|tmp|home)/[\w.-]+"
    host = r"pythonhosted\.org|py[p]i\.org|index[-]url|find[-]links"
    return re.findall(f"{path}|{host}", text)


def test_importing_from_the_repository_root_keeps_hugging_face_tokenizers():
    code = "import transformers, lightning, videopoet.tokenizers.visual, tokenizers; print(tokenizers.__file__)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "site-packages" in Path(result.stdout.strip().splitlines()[-1]).parts


def test_top_level_folders_are_not_packages():
    for name in SECOND_NAMES:
        assert not (ROOT / name / "__init__.py").exists(), f"{name}/__init__.py makes a package that shadows others"


def test_symlinks_are_relative_and_in_git():
    for link, target in LINKS.items():
        assert (ROOT / link).is_symlink() and (ROOT / link).readlink() == Path(target)
        assert (ROOT / link).resolve() == ROOT / Path(link).name
    modes = {line.split()[-1]: line.split()[0] for line in git("ls-files", "-s", *LINKS).splitlines()}
    assert modes == dict.fromkeys(LINKS, "120000")


def test_no_file_is_imported_under_a_second_name():
    bad = "import data.bounce\nfrom tokenizers.visual import cnn\nfrom data import media\nfrom tokenizers import text"
    assert {"data.bounce", "tokenizers.visual", "data.media", "tokenizers.text"} <= imports_second_name(bad)
    assert not imports_second_name("from tokenizers import Tokenizer\nimport videopoet.data.bounce\nfrom . import data")
    found = {path: names for path, text in sources() if (names := imports_second_name(text))}
    assert not found


def test_only_training_cli_and_data_modules_know_lightning():
    assert imports_lightning("def fit():\n    from lightning.pytorch import Trainer")
    assert may_import_lightning("tokenizers/visual/training.py") and may_import_lightning("videopoet/training/ema.py")
    assert not may_import_lightning("videopoet/models/token_lm.py") and not may_import_lightning("data/bounce.py")
    found = [path for path, text in sources() if imports_lightning(text) and not may_import_lightning(path)]
    assert not found


def test_no_machine_path_and_no_registry_host():
    for bad in ("see /" + "work/x.py", '"/' + 'tmp/out.mp4"', "--index" + "-url x", "py" + "pi.org/simple"):
        assert foreign_places(bad), bad
    for good in ("out/tmp/x", "#!/usr/bin/env bash", "path/to/" + "opt/x", "https://arxiv.org/abs/2312.14125"):
        assert not foreign_places(good), good
    found = {}
    for path in repository_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if places := foreign_places(text):
            found[path.relative_to(ROOT).as_posix()] = places
    assert not found


def test_imports_point_one_way():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    lint = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(contracts)} kept, 0 broken" in result.stdout


def test_constraints_pin_torch_first_and_every_dependency():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins[0] == "torch==2.13.0"
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][\w.]*", pin) for pin in pins)
    pinned = {re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower() for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    assert {re.split(r"[\[<>=!~]", name)[0].lower() for name in wanted} <= pinned
    assert "torchvision" not in pinned  # beside CPU torch it breaks lightning and transformers
