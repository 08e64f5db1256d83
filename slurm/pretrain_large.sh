#!/usr/bin/env bash
# Pretrain BERT-Large, or whatever a recipe describes: `bertpipe pretrain`, one task a rank.
#
#   sbatch slurm/pretrain_large.sh [RECIPE.yaml] [key=value …]
#   sbatch slurm/pretrain_large.sh recipes/large.yaml run=RUNS/second seed=2
#
# Arguments: those of `bertpipe pretrain`; the recipe's default is $BERTPIPE_RECIPE, else recipes/large.yaml.
# Defaults: sixteen GPUs, eight on each of two nodes, a rank each. Another machine is described ahead of the
# script's name: sbatch --nodes=4 --ntasks-per-node=4 --gpus-per-node=4 slurm/…; one without GPUs by --gpus-per-node=0.
# It ends with the recipe's last step: five minutes before the time limit it checkpoints and has itself requeued, and so
# it does when a rank or a node fails (requeue.sh says when it does not). `scancel --signal=TERM JOB` checkpoints and
# ends it; submitted again it continues, to the last bit; submitted after its end, it does nothing.
# Environment: BERTPIPE_ROOT, this checkout (default: the folder that sbatch was called in); MASTER_ADDR and
# MASTER_PORT, where rank 0 listens (default: the step's first node, a port by the job's number); environment.sh's and requeue.sh's.
#SBATCH --job-name=bertpipe-large
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
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
# shellcheck source=slurm/requeue.sh
. "$BERTPIPE_ROOT/slurm/requeue.sh"

# Overrides alone are overrides of the default recipe.
case ${1:-} in
  '' | *=*) set -- "${BERTPIPE_RECIPE:-$BERTPIPE_ROOT/recipes/large.yaml}" "$@" ;;
esac
train "$@"
