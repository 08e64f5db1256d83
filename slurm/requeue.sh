# shellcheck shell=bash
# A training that starts itself again until the recipe's last step; sourced after environment.sh.
#
#   train ARGUMENT…      `bertpipe pretrain ARGUMENT…`, one task a rank; ends the job
#   BERTPIPE_RETRIES     restarts in a row that may add no checkpoint (default: 3)
#
# What ends it, and what follows:
#   SIGUSR1, from SLURM ahead of the time limit or by scancel     checkpoint, requeued
#   a rank, its memory, its network, srun (any other exit code)   requeued, at most $BERTPIPE_RETRIES times in vain
#   SLURM preempts the job                                        checkpoint, requeued
#   a node fails, scontrol requeue                                SLURM requeues by itself (--requeue)
#   SIGTERM or scancel by a person                                checkpoint, ended (143)
#   a recipe, shards, a folder that cannot work                   ended (2)

train() {
  local code=0 asked='' tasks='' options=()
  # A rank that dies ends the others after a minute, in which they end by themselves, their records whole.
  export SLURM_KILL_BAD_EXIT=0 SLURM_WAIT=60
  trap 'asked=USR1; [ -z "$tasks" ] || kill -s USR1 "$tasks" 2>/dev/null || :' USR1
  trap 'asked=TERM; [ -z "$tasks" ] || kill -s TERM "$tasks" 2>/dev/null || :' TERM
  "${STEP[@]}" pretrain "$@" &
  tasks=$!
  # It may have come before there was anybody to hand it on to.
  [ -z "$asked" ] || kill -s "$asked" "$tasks" 2>/dev/null || :
  # A signal ends `wait`, not the step; asked once more, `wait` gives the step's own code.
  while kill -0 "$tasks" 2>/dev/null; do wait "$tasks" || :; done
  wait "$tasks" || code=$?

  case $code in
    0 | 2 | 130) exit "$code" ;;
  esac
  if scontrol show job "$SLURM_JOB_ID" | grep --quiet 'PreemptTime=[^N]'; then
    options=(--preempted)
  elif [ "$code" = 143 ] || [ "$asked" = TERM ]; then
    # A person ended it, or SLURM itself does what is to be done.
    exit "$code"
  fi
  "${HERE[@]}" requeue "${options[@]}" --code "$code" --limit "${BERTPIPE_RETRIES:-3}" "$@" || exit "$code"
  scontrol requeue "$SLURM_JOB_ID" ||
    echo "$SLURM_JOB_NAME: SLURM does not start job $SLURM_JOB_ID again; submit the same command again" >&2
  exit "$code"
}
