# shellcheck shell=bash
# What every job here shares; sourced by the scripts beside it, which say `fail` and `bertpipe` after it.
#
#   BERTPIPE_VENV        the environment that holds bertpipe, on a disk that all nodes see
#                        (default: .venv of this checkout, else whatever `bertpipe` the PATH finds)
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

if [ -n "${BERTPIPE_VENV:-}" ]; then
  [ -x "$BERTPIPE_VENV/bin/bertpipe" ] ||
    fail "BERTPIPE_VENV is $BERTPIPE_VENV, where there is no bin/bertpipe that $SLURMD_NODENAME can run"
elif [ -x "$BERTPIPE_ROOT/.venv/bin/bertpipe" ]; then
  BERTPIPE_VENV=$BERTPIPE_ROOT/.venv
fi
[ -z "${BERTPIPE_VENV:-}" ] || PATH=$BERTPIPE_VENV/bin:$PATH
command -v bertpipe >/dev/null ||
  fail "no bertpipe on $SLURMD_NODENAME: \`make install\` in $BERTPIPE_ROOT, or set BERTPIPE_VENV"

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
