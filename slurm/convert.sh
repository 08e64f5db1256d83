#!/usr/bin/env bash
# A checkpoint to a Hugging Face model folder: `bertpipe convert` as a job on one node's CPUs.
#
#   sbatch slurm/convert.sh CHECKPOINT -o MODEL [option …]
#   sbatch slurm/convert.sh RUNS/base/checkpoints/latest -o MODELS/base
#
# Arguments: those of `bertpipe convert`. Without any: $BERTPIPE_CHECKPOINT to $BERTPIPE_MODEL.
# Environment: BERTPIPE_ROOT, this checkout (default: the folder that sbatch was called in); and environment.sh's.
#SBATCH --job-name=bertpipe-convert
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --time=01:00:00
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
  if [ -z "${BERTPIPE_CHECKPOINT:-}" ] || [ -z "${BERTPIPE_MODEL:-}" ]; then
    fail "say what to read and what to make: sbatch slurm/convert.sh CHECKPOINT -o MODEL, or set BERTPIPE_CHECKPOINT" \
      "and BERTPIPE_MODEL"
  fi
  set -- "$BERTPIPE_CHECKPOINT" -o "$BERTPIPE_MODEL"
fi
"${STEP[@]}" convert "$@"
