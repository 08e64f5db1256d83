# shellcheck shell=bash
# Where bertpipe comes from: an environment on disk, or an image; sourced by environment.sh, whose variables it reads.
# shellcheck disable=SC2034  # what it sets is used by who sources it
# Sets STEP, `srun … bertpipe` for all tasks of the job, and HERE, one process of it on this node.

mounts=$PWD:$PWD,$BERTPIPE_ROOT:$BERTPIPE_ROOT${BERTPIPE_MOUNTS:+,$BERTPIPE_MOUNTS}
case ${BERTPIPE_CONTAINER:-} in
  '')
    if [ -n "${BERTPIPE_VENV:-}" ]; then
      [ -x "$BERTPIPE_VENV/bin/bertpipe" ] ||
        fail "BERTPIPE_VENV is $BERTPIPE_VENV, where there is no bin/bertpipe that $SLURMD_NODENAME can run"
    elif [ -x "$BERTPIPE_ROOT/.venv/bin/bertpipe" ]; then
      BERTPIPE_VENV=$BERTPIPE_ROOT/.venv
    fi
    [ -z "${BERTPIPE_VENV:-}" ] || PATH=$BERTPIPE_VENV/bin:$PATH
    command -v bertpipe >/dev/null ||
      fail "no bertpipe on $SLURMD_NODENAME: \`make install\` in $BERTPIPE_ROOT, or set BERTPIPE_VENV or BERTPIPE_CONTAINER"
    HERE=(bertpipe)
    STEP=(srun bertpipe)
    ;;
  *.sif)
    [ -r "$BERTPIPE_CONTAINER" ] || fail "BERTPIPE_CONTAINER is $BERTPIPE_CONTAINER, which $SLURMD_NODENAME cannot read"
    command -v apptainer >/dev/null ||
      fail "BERTPIPE_CONTAINER is $BERTPIPE_CONTAINER, and $SLURMD_NODENAME has no apptainer; load its module by BERTPIPE_MODULES"
    # --nv: the GPUs' driver, from the node; without GPUs it only warns.
    HERE=(apptainer exec --nv --bind "$mounts" --pwd "$PWD" "$BERTPIPE_CONTAINER" bertpipe)
    STEP=(srun "${HERE[@]}")
    ;;
  *.sqsh)
    [ -r "$BERTPIPE_CONTAINER" ] || fail "BERTPIPE_CONTAINER is $BERTPIPE_CONTAINER, which $SLURMD_NODENAME cannot read"
    options=(--container-image="$BERTPIPE_CONTAINER" --container-mounts="$mounts" --container-workdir="$PWD")
    STEP=(srun "${options[@]}" bertpipe)
    # Beside a step that may still be ending.
    HERE=(srun --overlap --nodes=1 --ntasks=1 "${options[@]}" bertpipe)
    ;;
  *)
    fail "BERTPIPE_CONTAINER is $BERTPIPE_CONTAINER, neither an IMAGE.sif for Apptainer nor an IMAGE.sqsh for enroot"
    ;;
esac
