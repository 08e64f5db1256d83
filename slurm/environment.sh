# shellcheck shell=bash
# What every job here shares; sourced by the scripts beside it, which start "${STEP[@]}" (one task a rank) and
# "${HERE[@]}" (one process) after it, and say `fail`.
#
#   BERTPIPE_VENV        the environment that holds bertpipe, on a disk that all nodes see
#                        (default: .venv of this checkout, else whatever `bertpipe` the PATH finds)
#   BERTPIPE_CONTAINER   instead: an image that holds it, IMAGE.sif for Apptainer, IMAGE.sqsh for enroot and pyxis
#   BERTPIPE_MOUNTS      folders that it sees beside the one of submission: SOURCE:TARGET,…
#   BERTPIPE_MODULES     environment modules to load first: "cuda/12.4 gcc/13"
#   BERTPIPE_EXTENSIONS  the folder of DeepSpeed ops that `bertpipe doctor --prepare` built beforehand
#                        (default: $TORCH_EXTENSIONS_DIR, else ~/.cache/bertpipe/extensions)
#
# Nothing is downloaded or compiled in a job: nodes may have neither a network nor a compiler.

# One line and exit code 2, as bertpipe itself refuses.
fail() {
  echo "$SLURM_JOB_NAME: $*" >&2
  exit 2
}

[ -n "${SLURM_JOB_ID:-}" ] || { SLURM_JOB_NAME=$(basename "$0") && fail "is for sbatch: sbatch slurm/$SLURM_JOB_NAME …"; }

if [ -n "${BERTPIPE_MODULES:-}" ]; then
  # Modules are written for shells that mind neither unset names nor failures.
  set +eu
  # A shell that nobody logged in to may not know the word yet.
  for profile in /etc/profile.d/{modules,lmod,z00_lmod}.sh; do
    # shellcheck disable=SC1090
    command -v module >/dev/null || [ ! -r "$profile" ] || . "$profile"
  done
  command -v module >/dev/null || fail "BERTPIPE_MODULES is $BERTPIPE_MODULES, and $SLURMD_NODENAME has no \`module\`"
  # shellcheck disable=SC2086
  module load $BERTPIPE_MODULES || fail "BERTPIPE_MODULES is $BERTPIPE_MODULES, which \`module load\` refuses"
  set -eu
fi
# shellcheck source=slurm/container.sh
. "$BERTPIPE_ROOT/slurm/container.sh"

export PATH
export TORCH_EXTENSIONS_DIR=${BERTPIPE_EXTENSIONS:-${TORCH_EXTENSIONS_DIR:-$HOME/.cache/bertpipe/extensions}}
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 MLFLOW_DISABLE_TELEMETRY=true
# Since SLURM 22.05 srun forgets what sbatch was told about cores.
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
  export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}
fi

# SLURM's stop signal (the time limit, scancel) reaches the tasks by itself: bertpipe then checkpoints and ends.
# This shell outlives it, since a job whose shell has ended is killed.
trap : TERM
