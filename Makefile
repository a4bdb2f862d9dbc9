# Two commands do everything: `make demo` and `make test`. Both set up `.venv` first, once.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: demo test setup lint help

demo: setup  ## run the main job: prompts to videos with sound, measured, under out/demo
	@echo "==> demo: videos, report and page under out/demo"
	@$(VENV)/bin/videopoet demo --out out/demo
	@echo
	@echo "Next: open out/demo/index.html in a browser; numbers are in out/demo/report.json."
	@echo "      Your own prompt: $(VENV)/bin/videopoet sample text-to-video --help"

test: setup  ## run the whole test suite
	@echo "==> tests: the whole suite"
	@$(VENV)/bin/python -m pytest -n 2 --dist worksteal
	@echo
	@echo "Next: \`make demo\` turns sentences into videos with sound; \`make lint\` checks style and import arrows."

lint: setup  ## check style (ruff) and the import arrows (import-linter)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/lint-imports

setup: $(READY)  ## make .venv with the pinned dependencies (done once; the other targets call it)

# The stamp is written last, so a set-up that was cut short is taken up again, and a finished one is never repeated
# until the dependencies change.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "error: $(PYTHON) not found: install Python 3.11, 3.12 or 3.13" \
	  "(Debian/Ubuntu: sudo apt install python3 python3-venv), or name one: make setup PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	  echo "error: $(PYTHON) is \"$$($(PYTHON) --version 2>&1 | head -n 1)\", Python 3.11, 3.12 or 3.13 is needed:" \
	  "install one and name it: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make virtual environments, its venv module is missing:" \
	  "install it (Debian/Ubuntu: sudo apt install python3-venv) and run make again" >&2; exit 1; }
	@echo "==> set-up 1/3: virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "==> set-up 2/3: dependencies (a minute or more, about 1.4 GB with a CPU build of torch)"
	@$(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@echo "==> set-up 3/3: torchaudio beside this build of torch"
	@$(VENV)/bin/python tools/prepare_environment.py
	@# torch-fidelity, which one test compares with: never on the path, since torchmetrics would import it, and it torchvision
	@$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --upgrade -c constraints.txt \
	  --target $(VENV)/share/torch-fidelity torch-fidelity || echo "no torch-fidelity: the test that needs it is skipped"
	@touch $(READY)
	@echo "==> set-up done. Next: \`make demo\` or \`make test\`; neither sets up again"

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
