#!/bin/sh
# A Slurm of one node in a folder of its own, for tests: no root's configuration is touched, no cgroups are needed.
#   slurm.sh install                  take Slurm and MUNGE from Debian, if they are not here
#   slurm.sh start FOLDER PORT        ready when it returns; PORT and PORT+1 are used; then export SLURM_CONF=FOLDER/slurm.conf
#   slurm.sh stop FOLDER              end what start began
set -eu
PATH=$PATH:/usr/sbin:/sbin

install() {
  for program in slurmctld slurmd munged sbatch; do
    command -v $program >/dev/null || break
  done && command -v $program >/dev/null && return
  # The installer must start no service: those would be another Slurm.
  export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
  packages="slurm-wlm munge"
  apt-get install -qq -y --no-install-recommends $packages >/dev/null 2>&1 && return
  apt-get update -qq && apt-get install -qq -y --no-install-recommends $packages >/dev/null
}

start() {
  folder=$1 port=$2 user=$(id -un)
  memory=$(awk '/^MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
  mkdir -p "$folder/state" "$folder/spool"
  (umask 077 && head -c 128 /dev/urandom >"$folder/munge.key")
  cat >"$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1
ReturnToService=2
KillWait=2
NodeName=localhost NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES State=UP
CONF
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munge.pid" \
    --log-file="$folder/munge.log" --seed-file="$folder/munge.seed" 2>"$folder/munged.err"
  export SLURM_CONF="$folder/slurm.conf"
  slurmctld -f "$SLURM_CONF"
  slurmd -N localhost -f "$SLURM_CONF"
  for _ in $(seq 50); do
    sinfo --noheader --format=%T 2>/dev/null | grep -q idle && return
    sleep 0.2
  done
  echo "no node became ready; see $folder/slurmctld.log and $folder/slurmd.log" >&2
  return 1
}

stop() {
  SLURM_CONF=$1/slurm.conf scancel --partition=main || true
  sleep 3
  for daemon in slurmd slurmctld munge; do
    file=$1/$daemon.pid
    [ -s "$file" ] || continue
    pid=$(cat "$file")
    kill "$pid" 2>/dev/null || continue
    for _ in $(seq 50); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
  done
}

"$@"
