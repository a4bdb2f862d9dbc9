#!/bin/bash
# Training on several machines without a scheduler: run this on each of them, with the same arguments.
#
#   MEETING=first-machine:29400 NODES=2 tools/launch/torchrun.sh -c configs/demo/lm.yaml -c configs/strategy/ddp.yaml
#
# MEETING  host:port of the first machine, where the agents of torchrun meet; default: this machine alone
# NODES    how many machines, or a range as 1:4; with a range training goes on when machines leave or come
# RANKS    processes on this machine; default: one per GPU, one without
#
# `--trainer.devices` and `--trainer.num_nodes` follow from these. When a rank fails all are started again, up to 10 times,
# and go on with the newest checkpoint. Two of these on one machine are a test (tests/training/test_interruptions.py).
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: [MEETING=host:port NODES=n] tools/launch/torchrun.sh -c CONFIG [...]" >&2; exit 2; }
videopoet="$(command -v videopoet || true)"
[ -n "$videopoet" ] || { echo "error: no videopoet on the PATH: source .venv/bin/activate" >&2; exit 2; }
gpus="$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)"
exec "$(dirname "$videopoet")/torchrun" \
  --nnodes="${NODES:-1}" --nproc-per-node="${RANKS:-$((gpus > 0 ? gpus : 1))}" --max-restarts=10 \
  --rdzv-backend=c10d --rdzv-id="${RUN_ID:-videopoet}" --rdzv-endpoint="${MEETING:-localhost:29400}" \
  --no-python "$videopoet" fit "$@" --ckpt_path=last
