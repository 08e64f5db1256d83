#!/usr/bin/env bash
# Raw text to a model: a job a stage, each waiting for those before it; run it where you would type sbatch.
#
#   bash slurm/pipeline.sh [RECIPE.yaml] [key=value …] CORPUS…
#   BERTPIPE_SBATCH="--nodes=4 --time=48:00:00" bash slurm/pipeline.sh recipes/large.yaml run=RUNS/second corpus/*.txt
#
# Arguments: the recipe (default: $BERTPIPE_RECIPE, else recipes/base.yaml), its overrides, the corpus.
# Environment: that of the scripts it submits, and
#   BERTPIPE_SBATCH            sbatch's options for the training: nodes, tasks, time
#   BERTPIPE_PIPELINE          a name for the whole, in job names and in MLflow (default: the run folder's)
#   BERTPIPE_VOCAB, _MODEL     the folders to make (default: VOCAB, MODELS/NAME)
#   BERTPIPE_VOCAB_OPTIONS, _SHARD_OPTIONS, _EVALUATE_OPTIONS     more for those commands: "--size 8192"
# Run twice, it shows what is queued; run after a failure, the stages that are done say so and end at once.
set -euo pipefail
fail() { echo "pipeline.sh: $*" >&2 && exit 2; }

export BERTPIPE_ROOT=${BERTPIPE_ROOT:-$PWD}
[ -r "$BERTPIPE_ROOT/slurm/chain.sh" ] || fail "$BERTPIPE_ROOT is no checkout of bertpipe; go to one, or set BERTPIPE_ROOT"
SLURMD_NODENAME=$(hostname)
# shellcheck source=slurm/container.sh
. "$BERTPIPE_ROOT/slurm/container.sh"
# shellcheck source=slurm/chain.sh
. "$BERTPIPE_ROOT/slurm/chain.sh"

recipe=${BERTPIPE_RECIPE:-$BERTPIPE_ROOT/recipes/base.yaml}
case ${1:-} in *.yaml | *.yml) recipe=$1 && shift ;; esac
overrides=()
while [[ ${1:-} =~ ^[a-z0-9_.]+= ]]; do overrides+=("$1") && shift; done
[ $# -gt 0 ] || fail "say what to read: bash slurm/pipeline.sh [RECIPE.yaml] [key=value …] CORPUS…"
ask() { "${HERE[@]}" recipe "$recipe" "${overrides[@]}" --get "$1"; }
run=$(ask run)
folders=$(ask 'phases.*.shards')
lengths=$(ask 'phases.*.sequence_length')
[[ $folders != *'{'* ]] || fail "$recipe reads a mixture ($folders); submit its slurm/shard.sh one by one, then the rest"
[ "$(ask model.preset)" = large ] && script=pretrain_large.sh || script=pretrain_base.sh
# Shards that several phases read hold pairs for the shortest of them.
shards=$(paste <(echo "$lengths") <(echo "$folders") | sort -n | awk -F '\t' '!seen[$2]++')

export BERTPIPE_PIPELINE=${BERTPIPE_PIPELINE:-$(basename "$run")}
vocab=${BERTPIPE_VOCAB:-VOCAB} model=${BERTPIPE_MODEL:-MODELS/$BERTPIPE_PIPELINE}
show_what_is_queued
printf '%-12s %10s   %s\n' stage job 'waits for'
# shellcheck disable=SC2086  # options are words
{
  submit vocab '' "$BERTPIPE_ROOT/slurm/vocab.sh" "$@" -o "$vocab" ${BERTPIPE_VOCAB_OPTIONS:-}
  made=$job all=''
  while IFS=$'\t' read -r length folder; do
    submit "shard-$length" "$made" "$BERTPIPE_ROOT/slurm/shard.sh" "$@" --vocab "$vocab" -o "$folder" \
      --max-seq-length "$length" ${BERTPIPE_SHARD_OPTIONS:-}
    all+=:$job
  done <<<"$shards"
  submit pretrain "${all#:}" ${BERTPIPE_SBATCH:-} "$BERTPIPE_ROOT/slurm/$script" "$recipe" "${overrides[@]}"
  trained=$job
  submit evaluate "$trained" "$BERTPIPE_ROOT/slurm/evaluate.sh" "$run/checkpoints/latest" --shards "${folders##*$'\n'}" \
    ${BERTPIPE_EVALUATE_OPTIONS:---sequences 8192}
  [ -e "$model/config.json" ] ||
    submit convert "$trained" "$BERTPIPE_ROOT/slurm/convert.sh" "$run/checkpoints/latest" -o "$model"
}
echo "watch it: bertpipe status $run"
