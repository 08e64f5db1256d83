#!/usr/bin/env bash
# A SLURM of two nodes, n1 and n2, on this one machine: real slurmctld, slurmd and munged, no systemd.
#
#   slurm_local.sh start FOLDER    start it; prints the `export` that points SLURM's commands at it
#   slurm_local.sh stop FOLDER     cancel its jobs and end its daemons
#
# Needs root, as daemons that start other users' jobs do, and Debian's slurm-wlm and munge, which it installs
# with apt where they are missing. All state, the key and the sockets lie in FOLDER; ports are free ones, so
# several may run side by side, beside a system's own too. Each node says it has $SLURM_LOCAL_CPUS CPUs
# (default 4: more than there may be, so that small jobs run side by side).
# Exit codes: 0 done, 1 failed, 3 impossible here (no root, or nothing to install from).
set -euo pipefail

usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
impossible() { echo "slurm_local.sh: $*" >&2; exit 3; }
[ $# = 2 ] || usage
action=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
cpus=${SLURM_LOCAL_CPUS:-4}
# Where Debian keeps daemons; a shell without a login may lack it.
PATH=$PATH:/usr/sbin:/sbin
export SLURM_CONF=$folder/slurm.conf

install_packages() {
  [ "$(id -u)" = 0 ] || impossible "needs root"
  if command -v slurmctld slurmd munged sbatch >/dev/null; then return; fi
  command -v apt-get >/dev/null || impossible "slurmctld is not installed, and there is no apt to install it"
  # Lists that are there already may do; a machine without a network can do neither.
  local get="apt-get install --quiet=2 --yes --no-install-recommends slurm-wlm munge"
  export DEBIAN_FRONTEND=noninteractive
  $get >"$folder/apt.log" 2>&1 || { apt-get update --quiet=2 && $get; } >>"$folder/apt.log" 2>&1 ||
    impossible "slurm-wlm and munge cannot be installed; see $folder/apt.log"
}

# Three free ports, below those that the kernel hands out and those where ranks meet.
free_ports() {
  local port found=0
  for port in $(shuf -i 12000-19999 -n 200); do
    if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      found=$((found + 1))
      [ "$found" -lt 3 ] || return 0
    fi
  done
}

write_configuration() {
  local host memory ports
  host=$(hostname -s)
  memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
  mapfile -t ports < <(free_ports)
  mkdir -p "$folder"/{log,state,spool/n1,spool/n2}
  # cred_expire: a requeued job otherwise waits two minutes. MinJobAge: ended jobs can be asked about for an hour.
  cat >"$SLURM_CONF" <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
KillWait=30
MinJobAge=3600
SlurmdTimeout=60
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[1]} CPUs=$cpus RealMemory=$memory State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[2]} CPUs=$cpus RealMemory=$memory State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=local Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO GraceTime=30
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=10
CONF
}

# Where process 1 reaps nobody, as in containers, a daemon that ended stays as a zombie: that is not alive.
alive() { grep -q '^State:[[:space:]][^Z]' "/proc/$(cat "$1" || echo none)/status"; } 2>/dev/null

idle_nodes() { sinfo --noheader --Node --states=idle --format=%N 2>/dev/null | sort -u | wc -l; }

start() {
  install_packages
  [ -s "$SLURM_CONF" ] || write_configuration
  if ! alive "$folder/munged.pid"; then
    [ -s "$folder/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
      --log-file="$folder/log/munged.log" --seed-file="$folder/munge.seed" 2>"$folder/log/munged.err" ||
      { cat "$folder/log/munged.err" >&2; exit 1; }
  fi
  alive "$folder/slurmctld.pid" || slurmctld -i
  for node in n1 n2; do alive "$folder/slurmd-$node.pid" || slurmd -N "$node"; done
  for _ in $(seq 300); do
    if [ "$(idle_nodes)" = 2 ]; then
      echo "export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 0.1
  done
  echo "slurm_local.sh: the nodes did not come up; the ends of $folder/log/*:" >&2
  tail -n 5 "$folder"/log/*.log >&2
  stop
  exit 1
}

stop() {
  local name
  if alive "$folder/slurmctld.pid"; then
    scancel --user="$(id -un)" 2>/dev/null || true
    for _ in $(seq 100); do
      [ -n "$(squeue --noheader 2>/dev/null)" ] || break
      sleep 0.1
    done
  fi
  for name in slurmd-n1 slurmd-n2 slurmctld munged; do
    if alive "$folder/$name.pid"; then
      kill "$(cat "$folder/$name.pid")"
      for _ in $(seq 50); do
        alive "$folder/$name.pid" || break
        sleep 0.1
      done
    fi
  done
}

case $action in
  start) start ;;
  stop) stop ;;
  *) usage ;;
esac
