#!/usr/bin/env bash
# A corpus to a WordPiece vocabulary: `bertpipe vocab` as a job on one node.
#
#   sbatch slurm/vocab.sh CORPUS… -o VOCAB [option …]
#   sbatch slurm/vocab.sh corpus/*.txt -o VOCAB --size 30522
#
# Arguments: those of `bertpipe vocab`. Without any: $BERTPIPE_CORPUS, one path or glob, to $BERTPIPE_VOCAB.
# Environment: BERTPIPE_ROOT, this checkout (default: the folder that sbatch was called in); and environment.sh's.
#SBATCH --job-name=bertpipe-vocab
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
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
  if [ -z "${BERTPIPE_CORPUS:-}" ] || [ -z "${BERTPIPE_VOCAB:-}" ]; then
    fail "say what to read and what to make: sbatch slurm/vocab.sh CORPUS… -o VOCAB, or set BERTPIPE_CORPUS and BERTPIPE_VOCAB"
  fi
  set -- "$BERTPIPE_CORPUS" -o "$BERTPIPE_VOCAB"
fi
"${STEP[@]}" vocab "$@"
