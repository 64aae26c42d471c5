#!/usr/bin/env bash
# Builds the library and the binding with cmake alone (no pip) and runs the GPU tests and examples on 1, 2 and 4 PEs,
# then some of them on 2 with the heap shared by cudaIpc, MoE between nodes over each path of a NIC, and, where nvcc is,
# gpu_nic.cu.
#
#   tests/gpu/run.sh [numbers of PEs ...]      default: 1 2 4
#
# PYTHON (default python3) has numpy, cffi, ml_dtypes, click, rich, pytest, hypothesis and CuPy; numba-cuda (and a NumPy
# that it knows), torch and triton where their tests are wanted. BUILD (default build/gpu) holds the build and the package. PEs are started by
# mpirun, or where there is none by tests/c/launch. The last lines are the summary; the status is that of the whole.
set -uo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
BUILD=$(realpath -m "${BUILD:-build/gpu}")
sizes=("$@")
((${#sizes[@]})) || sizes=(1 2 4)
generator=()
command -v ninja >/dev/null && generator=(-G Ninja)

mkdir -p "$BUILD"
{
    cmake -S . -B "$BUILD" "${generator[@]}" -DSHMEM_BUILD_PYTHON=ON -DSHMEM_BUILD_TESTS=ON \
        -DPython_EXECUTABLE="$(command -v "$PYTHON")" &&
        cmake --build "$BUILD" -j "$(nproc)" --target shmem_component _core launch &&
        mkdir -p "$BUILD/package/pyshmem" && cp -R pyshmem/. "$BUILD/package/pyshmem/" &&
        cmake --install "$BUILD" --prefix "$BUILD/package/pyshmem" --component shmem &&
        cmake --install "$BUILD" --prefix "$BUILD/package/pyshmem" --component python
} >"$BUILD/build.log" 2>&1 || {
    tail -n 30 "$BUILD/build.log"
    echo "GPU tests: the build failed ($BUILD/build.log)"
    exit 1
}

export PYTHONPATH="$BUILD/package${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1
export SHMEM_TIMEOUT=${SHMEM_TIMEOUT:-60} SHMEM_DEVICE_SYMMETRIC_SIZE=${SHMEM_DEVICE_SYMMETRIC_SIZE:-1G}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
summary=() status=0
ended() { # LINE: said now, and once more at the end
    summary+=("$1")
    echo "$1"
}

# tests NAME NPES [FILES ...]: pytest on so many PEs, a line of the summary, the log in NAME.log.
tests() {
    local name=$1 n=$2 log="$BUILD/pytest-$1.log" began=$SECONDS rc start
    shift 2
    if ((n == 1)); then
        start=()
    elif mpirun --version 2>/dev/null | grep -q 'Open MPI'; then
        start=(mpirun --oversubscribe --bind-to none -n "$n")
    elif command -v mpirun >/dev/null; then
        start=(mpirun -n "$n")
    else
        start=("$BUILD/tests/c/launch" -n "$n")
    fi
    timeout -k 10 300 "${start[@]}" "$PYTHON" -m pytest "$@" -q --color=no --durations=5 >"$log" 2>&1
    rc=$?
    ((rc == 0)) || {
        status=1
        tail -n 60 "$log"
    }
    ended "$name PEs: status $rc, $((SECONDS - began)) s: $(grep -E '[0-9]+ (passed|failed|error)' "$log" | tail -n 1)"
}

for n in "${sizes[@]}"; do
    tests "$n" "$n" tests/gpu
done
# The other way of sharing the heap.
SHMEM_DEVICE_SHARING=ipc tests ipc-2 2 tests/gpu/test_{rma,kernels,heap,triton}.py
# Nodes whose memory is not mapped: kernels go through the proxy, or post to the software NIC. There a kernel that is loaded
# when it is first launched would wait for those that run, and the driver's copies for it.
export CUDA_MODULE_LOADING=EAGER
SHMEM_NODE_ID=/2 SHMEM_GPU_NIC=proxy tests nodes-proxy-4 4 tests/gpu/test_moe_nodes.py
SHMEM_NODE_ID=/2 SHMEM_GPU_NIC=ibgda SHMEM_IBVERBS_LIB=sim tests nodes-ibgda-4 4 tests/gpu/test_moe_nodes.py
# Each PE a node, what is between them through a NIC's path: from CuPy's, Numba's and Triton's kernels, and by both paths at once.
export SHMEM_NODE_ID=/1
SHMEM_GPU_NIC=proxy tests proxy-2 2 tests/gpu/test_{kernels,numba,triton,moe_ll}.py
export SHMEM_GPU_NIC=ibgda SHMEM_IBVERBS_LIB=sim
tests ibgda-2 2 tests/gpu/test_{kernels,numba,triton,moe_ll}.py
SHMEM_GPU_NIC_PROXY_FROM=4096 tests both-2 2 tests/gpu/test_{kernels,moe_ll}.py
# Every operation by thousands of threads, and a kernel that fills the GPU, over both paths.
lib="$BUILD/libshmem"
if command -v nvcc >/dev/null && nvcc -std=c++17 -O3 -arch=native -Ilibshmem/include -I"$lib/include" tests/device/gpu_nic.cu \
    -o "$BUILD/gpu_nic" -L"$lib" -lshmem -Xlinker "-rpath=$lib" >>"$BUILD/build.log" 2>&1; then
    for path in proxy ibgda; do
        began=$SECONDS log="$BUILD/check-$path.log"
        SHMEM_GPU_NIC=$path timeout -k 10 120 "$BUILD/tests/c/launch" -n 2 "$BUILD/gpu_nic" check >"$log" 2>&1
        rc=$?
        ((rc == 0)) || {
            status=1
            tail -n 30 "$log"
        }
        ended "check-$path 2 PEs: status $rc, $((SECONDS - began)) s: $(grep -c ' 0 failed' "$log") of $(grep -c 'checks,' "$log") well"
    done
else
    ended "check: not run, no nvcc, or gpu_nic.cu was not compiled ($BUILD/build.log)"
fi
echo "GPU tests on: $(nvidia-smi -L 2>/dev/null | sed 's/^GPU [0-9]*: //; s/ (UUID.*//' | sort | uniq -c | xargs)"
printf '%s\n' "${summary[@]}"
exit $status
