#!/usr/bin/env bash
# The C tests between hosts: network namespaces of this machine, joined by veth pairs and a bridge, UCX over TCP between
# them. And what networks do to programs: loss, delay, a link that is cut, a port that is blocked, a host that dies.
#
#     tests/net/run.sh [FOLDER OF THE C TESTS [PATTERN OF CASES]]
#     tests/net/run.sh -- COMMAND...       a job of yours there, on two hosts with PES_A_HOST (1) PEs each, no tests
#
# Needs root and iproute2, and says so where they are missing (status 0: nothing was tested, nothing failed). Leaves no
# namespace, process or file behind. UCX is the one that libshmem finds, or SHMEM_UCX_LIB.
set -uo pipefail
cd "$(dirname "$0")/../.."
command=()
if [ "${1-}" = -- ]; then
    shift
    command=("$@")
    set --
fi
bin=${1:-build/c/tests/c}
pattern=${2:-*}
hosts=3
. tests/net/hosts.sh

# What a PE runs under: the namespace of its host. launch sets RANK.
cat >"$scratch/on_host" <<'END'
#!/bin/sh
export MASTER_ADDR=$NET.1
exec ip netns exec "$NAME-$((RANK / PES_A_HOST))" "$@"
END
chmod +x "$scratch/on_host"
export NET=$net NAME=$name PES_A_HOST=${PES_A_HOST:-1}
export UCX_TLS=${UCX_TLS:-tcp} UCX_NET_DEVICES=${UCX_NET_DEVICES:-eth0}
export SHMEM_SYMMETRIC_SIZE=64M SHMEM_TIMEOUT=${SHMEM_TIMEOUT:-60}

# job PES SECONDS PROGRAM ARGS: output in $scratch/out
job() {
    local n=$1 limit=$2 program=$3
    shift 3
    timeout -k 5 $((limit + 10)) "$bin/launch" -n "$n" -k -t "$limit" "$scratch/on_host" "$bin/$program" "$@" \
        >"$scratch/out" 2>&1
}

# ---- verdicts -------------------------------------------------------------------------------------------------------

# passes CASE PES SECONDS PROGRAM ARGS
passes() {
    local case=$1
    wanted "$case" || return 0
    shift
    job "$@"
    report "$case" $?
}

# ---- cases ---------------------------------------------------------------------------------------------------------------

conformance() {
    local test
    PES_A_HOST=1
    for test in rma amo signal order sync lock coll reduce team heap ctx threads; do
        passes "test_$test: 2 hosts" 2 100 test_$test
    done
    PES_A_HOST=2
    for test in amo signal order sync lock coll reduce team heap; do
        passes "test_$test: 2 hosts of 2 PEs" 4 100 test_$test
    done
    PES_A_HOST=1
    for test in signal sync reduce; do
        passes "test_$test: 3 hosts" 3 100 test_$test
    done
    for test in order signal; do
        UCX_NET_DEVICES=eth0,eth1 UCX_MAX_RMA_RAILS=2 UCX_MAX_EAGER_RAILS=2 UCX_WARN_UNUSED_ENV_VARS=n \
            passes "test_$test: 2 hosts, 2 networks" 2 100 test_$test
    done
}

# The GPU heap between hosts, which map none of it, on the driver without a GPU; messages take two networks in turn.
gpu_memory() {
    local -x LD_LIBRARY_PATH=$bin/fake_cuda PES_A_HOST=1
    UCX_NET_DEVICES=eth0,eth1 UCX_MAX_EAGER_RAILS=2 UCX_WARN_UNUSED_ENV_VARS=n \
        passes "GPU memory: 2 hosts, 2 networks" 2 60 fake_ucx
}

no_library() {
    wanted "no libucp" || return 0
    SHMEM_UCX_LIB=$scratch/libucp.so.0 job 2 20 test_sync
    [ $? != 0 ] && says "no transport reaches the host memory of PE [01].*ucx: SHMEM_UCX_LIB=.*cannot open"
    report "no libucp" $?
}

# The survivors learn who is lost within seconds, and finalize.
killed() {
    local how
    for how in put barrier wait; do
        wanted "killed in $how" || continue
        job 3 40 net_faults $how
        says "PE 0: $how: PEER_DEAD after [0-9]\.|PE 0: $how: PEER_DEAD after 1[0-9]\." "PE 2 is lost: UCX" \
            "PE 0: finalize: [A-Z_]+ after [0-3]\."
        report "killed in $how" $?
    done
}

# After SECONDS the link of the last host goes down, and up again UP seconds later (none: for good).
cut_link() {
    sleep "$1"
    ip -n "$name-switch" link set "port$((PES - 1))" down
    [ -n "${2-}" ] || return 0
    sleep "$2"
    ip -n "$name-switch" link set "port$((PES - 1))" up
}

link_cut() {
    local PES=2 case
    if wanted "link cut for 1 s"; then
        cut_link 1 1 &
        job 2 60 net_faults stream 5 && says "PE 0: stream: SUCCESS"
        report "link cut for 1 s" $?
        wait
    fi
    for case in bulk wait; do
        wanted "link cut for good: $case" || continue
        # a kernel that gives up after 4 repeats (3 s) instead of 15 (15 minutes), in these hosts alone
        for i in 0 1; do ip netns exec "$name-$i" sysctl -qw net.ipv4.tcp_retries2=4; done
        cut_link 2 &
        if [ $case = bulk ]; then
            job 2 60 net_faults stream 30
            says "PE 0: stream: PEER_DEAD" "PE 1 is lost: UCX" "PE 0: finalize: [A-Z_]+ after [0-4]\." \
                "PE 1: finalize: [A-Z_]+ after [0-4]\."
        else
            job 2 60 net_faults silent
            says "PE 0: silent: PEER_DEAD" "PE 1 is lost: UCX" "PE 0: finalize: [A-Z_]+ after [0-4]\."
        fi
        report "link cut for good: $case" $?
        wait
        ip -n "$name-switch" link set port1 up
        for i in 0 1; do ip netns exec "$name-$i" sysctl -qw net.ipv4.tcp_retries2=15; done
    done
    if wanted "link cut for good: deadline"; then
        cut_link 2 &
        SHMEM_TIMEOUT=4 job 2 60 net_faults stream 30
        says "PE 0: stream: TIMEOUT" "SHMEM_TIMEOUT=4 is over" "PE 0: finalize: [A-Z_]+ after [0-9]\."
        report "link cut for good: deadline" $?
        wait
        ip -n "$name-switch" link set port1 up
    fi
}

has_netem() {
    ip netns exec "$name-switch" tc qdisc add dev port0 root netem delay 1ms 2>/dev/null &&
        ip netns exec "$name-switch" tc qdisc del dev port0 root
}

# How both directions of the first link behave: tc's words.
disturb() {
    local i
    for i in 0 1; do ip netns exec "$name-switch" tc qdisc add dev "port$i" root "$@" || return 1; done
}
calm() {
    local i
    for i in 0 1; do ip netns exec "$name-switch" tc qdisc del dev "port$i" root; done
}

# Loss and delay by netem; where this kernel lacks it, in a virtual machine whose kernel has it (tests/roce/roce-vm).
# Without one, a short queue that is drained slowly has to lose.
lossy() {
    local how status
    wanted "loss and delay" || return 0
    if has_netem; then
        for how in "loss 3% delay 300us" "delay 20ms 5ms"; do
            started=$SECONDS
            # shellcheck disable=SC2086 # words
            disturb netem $how && job 2 60 net_faults stream 5 && says "PE 0: stream: SUCCESS" && job 2 60 test_order
            status=$?
            calm
            report "loss and delay: netem $how" $status
        done
        return
    fi
    tests/roce/roce-vm -n 1 -t 300 -- tests/net/run.sh "$bin" "loss and delay" >"$scratch/out" 2>&1
    status=$?
    if grep -q '^ok.*netem\|^FAILED.*netem' "$scratch/out"; then
        echo "this kernel has no netem, that of a virtual machine does:"
        grep '^ok' "$scratch/out"
        [ $status = 0 ] || report "loss and delay, in a virtual machine" $status
        return
    fi
    echo "this kernel has no netem, and no virtual machine boots: $(tail -n 1 "$scratch/out")"
    disturb tbf rate 200mbit burst 8kb limit 24kb && job 2 60 net_faults stream 5 &&
        says "PE 0: stream: SUCCESS" && job 2 60 test_order
    status=$?
    calm
    report "loss (a short queue)" $status
}

# UCX's ports are dropped silently where they arrive, before the kernel looks whether they are its own.
blocked() { # UCX_TCP_SYN_CNT=auto: as the kernel of these hosts
    wanted "port blocked" || return 0
    local ns=$name-1 i
    ip -n "$ns" rule add pref 1 iif eth0 ipproto tcp dport 23000-23099 blackhole
    ip -n "$ns" rule add pref 2 table local
    ip -n "$ns" rule del pref 0
    for i in 0 1; do ip netns exec "$name-$i" sysctl -qw net.ipv4.tcp_syn_retries=1; done
    UCX_TCP_PORT_RANGE=23000-23099 UCX_TCP_SYN_CNT=auto SHMEM_TIMEOUT=15 job 2 60 test_sync
    [ $? != 0 ] && says "PE [01]: shmem_init: UCX .* finds no way to PE [01]: .*UCX_TCP_PORT_RANGE"
    report "port blocked" $?
    ip -n "$ns" rule add pref 0 table local
    ip -n "$ns" rule del pref 2
    ip -n "$ns" rule del pref 1
}

# ---- run ------------------------------------------------------------------------------------------------------------------

prepare
if [ ${#command[@]} != 0 ]; then
    SHMEM_NODE_ID=/$PES_A_HOST SHMEM_SYMMETRIC_SIZE=1G "$bin/launch" -t 3600 -n $((2 * PES_A_HOST)) \
        "$scratch/on_host" "${command[@]}"
    exit
fi
SHMEM_DEBUG=1 job 2 20 test_sync
if grep -q 'ucx: no libucp' "$scratch/out"; then
    skip "$(grep -o 'no libucp.*' "$scratch/out" | head -n 1)"
fi
grep -ho 'UCX [0-9.]* from .*' "$scratch/out" | sort -u

conformance
gpu_memory
no_library
killed
link_cut
lossy
blocked
conclude
