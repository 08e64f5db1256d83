#!/usr/bin/env bash
# A checkpoint's held-out loss and accuracy: `bertpipe evaluate` as a job on one node's CPUs.
#
#   sbatch slurm/evaluate.sh CHECKPOINT --shards SHARDS [option …]
#   sbatch slurm/evaluate.sh RUNS/base/checkpoints/latest --shards SHARDS/512 --sequences 8192
#
# Arguments: those of `bertpipe evaluate`. Without any: $BERTPIPE_CHECKPOINT on $BERTPIPE_SHARDS.
# Environment: BERTPIPE_ROOT, this checkout (default: the folder that sbatch was called in); and environment.sh's.
#SBATCH --job-name=bertpipe-evaluate
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
set -euo pipefail

export BERTPIPE_ROOT=${BERTPIPE_ROOT:-${SLURM_SUBMIT_DIR:-$PWD}}
if [ ! -r "$BERTPIPE_ROOT/slurm/environment.sh" ]; then
  echo "${SLURM_JOB_NAME:-$0}: $BERTPIPE_ROOT is no checkout of bertpipe; submit from one, or set BERTPIPE_ROOT" >&2
  exit 2
fi
# shellcheck source=slurm/environment.sh
. "$BERTPIPE_ROOT/slurm/environment.sh"

if [ $# = 0 ]; then
  if [ -z "${BERTPIPE_CHECKPOINT:-}" ] || [ -z "${BERTPIPE_SHARDS:-}" ]; then
    fail "say what to read: sbatch slurm/evaluate.sh CHECKPOINT --shards SHARDS, or set BERTPIPE_CHECKPOINT" \
      "and BERTPIPE_SHARDS"
  fi
  set -- "$BERTPIPE_CHECKPOINT" --shards "$BERTPIPE_SHARDS"
fi
"${STEP[@]}" evaluate "$@"
