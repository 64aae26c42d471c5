// M5: writes with an immediate that kernels post, against a queue pair that has receives: those of the library have none.
#include "receiving_end.h"
#include "shmem_device.h"

#include <cstdint>
#include <cstdio>
#include <cstring>

using namespace shmem;

static unsigned long checks, failures;
#define CHECK(condition, ...)                                                                                \
    do {                                                                                                     \
        ++checks;                                                                                            \
        if (!(condition) && failures++ < 20) {                                                               \
            std::fprintf(stderr, "%s:%d: FAILED %s: ", __FILE__, __LINE__, #condition);                      \
            std::fprintf(stderr, __VA_ARGS__);                                                               \
            std::fputc('\n', stderr);                                                                        \
        }                                                                                                    \
    } while (0)

int main()
{
    alignas(256) static shmemx_ibgda_qp pair;
    static shmemx_device_error mailbox;
    unsigned char *here;
    const unsigned char *there;
    unsigned long bytes;
    receiving_open(&pair, &here, &there, &bytes);
    unsigned claim = 0;
    shmemx_device_nic nic{};
    nic.unmapped = 1;
    nic.used = 1u << SHMEMX_NIC_IBGDA;
    shmemx_device_state state{};
    state.version = SHMEMX_DEVICE_STATE_VERSION;
    state.npes = 2;
    state.copy = state.heap = reinterpret_cast<std::uintptr_t>(here);
    state.bytes = state.stride = bytes;
    state.mailbox = reinterpret_cast<std::uintptr_t>(&mailbox);
    state.claim = reinterpret_cast<std::uintptr_t>(&claim);
    state.timeout_ns = 5000000000;
    state.nic = reinterpret_cast<std::uintptr_t>(&nic);
    state.ways.path = SHMEMX_NIC_IBGDA;
    state.ways.qps = 1;
    constexpr u64 to = 4096;
    constexpr u32 rounds = 100, few = 60; // of 64 blocks
    for (u32 round = 0; round < rounds && failures == 0; ++round) {
        const u32 n = round % few * 8, imm = 0xcafe0000u + round;
        for (u32 i = 0; i < n; ++i)
            here[i] = static_cast<unsigned char>(i * 7 + round);
        receiving_post();
        host::launch(state, 1, 1, 0, [&] { detail::ibgda::write_imm(pair, to, here, n, imm); });
        receiving_run();
        const receiving_arrival came = receiving_next();
        CHECK(came.opcode == SHMEMX_MLX5_CQE_WRITE_IMM && came.imm == imm && came.bytes == n &&
                  came.counter == round,
              "round %u: opcode %d, immediate 0x%x, %u bytes, receive %u", round, came.opcode, came.imm,
              came.bytes, came.counter);
        CHECK(std::memcmp(there + to, here, n) == 0, "round %u: other bytes", round);
        host::launch(state, 1, 1, 0, [&] {
            CHECK(detail::ibgda::settle_qp(pair), "round %u: its sender's completion", round);
        });
        CHECK(receiving_next().opcode == -1, "round %u: one more", round);
    }
    CHECK(mailbox.kind == SHMEMX_DEVICE_OK, "kind %u", mailbox.kind);
    CHECK(receiving_violations() == 0, "a rule is broken");
    receiving_close();
    std::printf("writes with an immediate by a kernel: %lu checks, %lu failed\n", checks, failures);
    return failures != 0;
}
