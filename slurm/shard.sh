#!/usr/bin/env bash
# A corpus to sentence-pair shards: `bertpipe shard` as a job on one node, one worker process a core.
#
#   sbatch slurm/shard.sh CORPUS… --vocab VOCAB -o SHARDS [option …]
#   sbatch slurm/shard.sh corpus/*.txt --vocab VOCAB -o SHARDS/128 --max-seq-length 128
#
# Arguments: those of `bertpipe shard`. Without any: $BERTPIPE_CORPUS, one path or glob, with $BERTPIPE_VOCAB to
# $BERTPIPE_SHARDS. Submitted again after it was cut short, it continues.
# Environment: BERTPIPE_ROOT, this checkout (default: the folder that sbatch was called in); and environment.sh's.
#SBATCH --job-name=bertpipe-shard
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
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
  if [ -z "${BERTPIPE_CORPUS:-}" ] || [ -z "${BERTPIPE_VOCAB:-}" ] || [ -z "${BERTPIPE_SHARDS:-}" ]; then
    fail "say what to read and what to make: sbatch slurm/shard.sh CORPUS… --vocab VOCAB -o SHARDS, or set" \
      "BERTPIPE_CORPUS, BERTPIPE_VOCAB and BERTPIPE_SHARDS"
  fi
  set -- "$BERTPIPE_CORPUS" --vocab "$BERTPIPE_VOCAB" -o "$BERTPIPE_SHARDS"
fi
# Ahead of the arguments: a --workers among them is the last word.
"${STEP[@]}" shard --workers "${SLURM_CPUS_PER_TASK:-1}" "$@"
