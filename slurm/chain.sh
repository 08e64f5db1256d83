# shellcheck shell=bash
# Jobs that wait for one another; sourced by pipeline.sh, which has set BERTPIPE_PIPELINE, their common name.
#
#   show_what_is_queued           end here where jobs of that name wait or run, and name them
#   submit STAGE AFTER sbatch's…  a job that starts when those in AFTER (12:13) have ended well; its number is in $job

jobs=()

show_what_is_queued() {
  local queued
  queued=$(squeue --noheader --me --format='%j|%i|%T' |
    NAME=$BERTPIPE_PIPELINE awk -F '|' '{stage = $1; sub(/.*\./, "", stage)} $1 == ENVIRON["NAME"] "." stage')
  [ -n "$queued" ] || return 0
  echo "pipeline $BERTPIPE_PIPELINE is queued already:"
  column -t -s '|' <<<"$queued"
  exit 0
}

submit() {
  local after=${2:+--dependency=afterok:$2}
  # What can't start any more is cancelled, instead of waiting for ever.
  job=$(sbatch --parsable --job-name="$BERTPIPE_PIPELINE.$1" ${after:+"$after" --kill-on-invalid-dep=yes} "${@:3}") || {
    [ ${#jobs[@]} = 0 ] || scancel "${jobs[@]}"
    fail "SLURM refuses the job of $1, for the reason above; nothing is left in its queue"
  }
  job=${job%%;*}
  jobs+=("$job")
  printf '%-12s %10s   %s\n' "$1" "$job" "${2//:/ }"
}
