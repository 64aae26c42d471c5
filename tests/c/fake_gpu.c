/* The GPU heap's opening, both ways of sharing it, and what happens where one PE's device or driver fails: on fake_cuda.c,
 * whose environment says what fails. After each failure the job goes on, and the heap opens when the cause is gone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "device/state.h"
#include "shmemx.h"

static int me, npes, last;
static int (*ranges)(void);

static void start(void)
{
    shmem_init();
    me = shmem_my_pe();
    npes = shmem_n_pes();
    last = npes - 1;
    check_pe = me;
}

/* Nothing of the driver's is left. */
static void end(const char *what)
{
    shmem_finalize();
    CHECK(ranges() == 0, "%s: %d ranges are left", what, ranges());
}

static void works(const char *what, const char *sharing)
{
    char text[16384], wanted[32];
    long mine = 100 + me, got = 0;
    long *p = shmemx_malloc(sizeof *p, SHMEMX_MEM_DEVICE);
    if (!CHECK(p, "%s: %s", what, shmemx_last_error()))
        return;
    CHECK(shmemx_put(SHMEM_CTX_DEFAULT, p, &mine, sizeof mine, (me + 1) % npes) == 0, "%s",
          shmemx_last_error());
    shmem_barrier_all();
    CHECK(shmemx_get(SHMEM_CTX_DEFAULT, &got, p, sizeof got, me) == 0 && got == 100 + (me + last) % npes,
          "%s: %ld, %s", what, got, shmemx_last_error());
    for (int pe = 0; pe < npes; ++pe) {
        CHECK(shmemx_get(SHMEM_CTX_DEFAULT, &got, p, sizeof got, pe) == 0 && got == 100 + (pe + last) % npes,
              "%s: PE %d has %ld", what, pe, got);
        long *there = shmem_ptr(p, pe);
        CHECK(there && *there == got, "%s: shmem_ptr", what); /* the fake's memory is the machine's */
    }
    struct shmemx_device_state state;
    CHECK(shmemx_device_state(&state, sizeof state) == 0, "%s", shmemx_last_error());
    CHECK(memcmp((void *)(uintptr_t)state.self, &state, sizeof state) == 0, "%s: kernels' copy of the state",
          what);
    bool table = strcmp(sharing, "ipc") == 0;
    CHECK((state.bases != 0) == table, "%s: bases 0x%llx", what, state.bases);
    for (int pe = 0; pe < npes; ++pe) {
        const unsigned long long *bases = (void *)(uintptr_t)state.bases;
        unsigned long long base = table ? bases[pe] : state.heap + (unsigned long long)pe * state.stride;
        CHECK((uintptr_t)shmem_ptr(p, pe) == base + ((uintptr_t)p - state.copy),
              "%s: kernels find PE %d at 0x%llx", what, pe, base);
    }
    shmemx_info(text, sizeof text);
    snprintf(wanted, sizeof wanted, "shared by %s", sharing);
    CHECK(strstr(text, wanted), "%s: info does not say \"%s\"", what, wanted);
    shmem_barrier_all();
    shmem_free(p);
}

/* The first allocation fails everywhere; the last PE, where the cause is, says `code` and `text`. */
static void fails(const char *what, int code, const char *text)
{
    void *p;
    shmemx_log_errors(0);
    int rc = shmemx_allocate(&p, 8, 0, 0, SHMEMX_MEM_DEVICE);
    CHECK(rc != 0 && !p, "%s: gave %d", what, rc);
    if (me == last)
        CHECK(rc == code && strstr(shmemx_last_error(), text), "%s: gave %d, not %d, %s", what, rc, code,
              shmemx_last_error());
    CHECK(shmemx_device() == -1, "%s: device %d", what, shmemx_device());
    shmemx_log_errors(1);
    CHECK(ranges() == 0, "%s: %d ranges are left", what, ranges());
}

static void broken(const char *function)
{
    char what[80];
    snprintf(what, sizeof what, "%s@%d", function, last);
    setenv("FAKE_CUDA_FAIL", what, 1);
    int code = strcmp(function, "cuMemCreate") == 0 || strcmp(function, "cuMemAlloc_v2") == 0
                   ? SHMEMX_ERR_NO_MEMORY
                   : SHMEMX_ERR_SYSTEM;
    fails(what, code, "CUDA error 1");
    unsetenv("FAKE_CUDA_FAIL");
}

static void with(const char *sharing)
{
    if (sharing)
        setenv("SHMEM_DEVICE_SHARING", sharing, 1);
    else
        unsetenv("SHMEM_DEVICE_SHARING");
}

static void test_failures(const char *sharing)
{
    static const char *const vmm[] = {"cuMemAddressReserve", "cuMemCreate", "cuMemExportToShareableHandle",
                                      "cuMemMap", "cuMemSetAccess"},
                             *const ipc[] = {"cuMemAlloc_v2", "cuIpcGetMemHandle"},
                             *const both[] = {"cuMemsetD8Async", "cuMemHostAlloc", "cuMemcpyAsync"};
    bool table = strcmp(sharing, "ipc") == 0;
    start();
    for (size_t i = 0; i < (table ? sizeof ipc : sizeof vmm) / sizeof(char *); ++i)
        broken(table ? ipc[i] : vmm[i]);
    if (npes > 1)
        broken(table ? "cuIpcOpenMemHandle_v2" : "cuMemImportFromShareableHandle");
    for (size_t i = 0; i < sizeof both / sizeof *both; ++i)
        broken(both[i]);
    works("after failures", sharing);
    end("after failures");
}

static void test_choice(void)
{
    char at[16];
    with(NULL);
    start();
    works("auto", "vmm");
    end("auto");
    snprintf(at, sizeof at, "vmm@%d", last);
    setenv("FAKE_CUDA_LACKS", at, 1);
    start();
    works("one PE without VMM", "ipc");
    end("one PE without VMM");
    with("vmm");
    start();
    fails("vmm where it is not", SHMEMX_ERR_UNSUPPORTED, "no virtual memory management");
    setenv("FAKE_CUDA_LACKS", "fd", 1);
    fails("vmm without descriptors", SHMEMX_ERR_UNSUPPORTED, "no POSIX descriptors");
    unsetenv("FAKE_CUDA_LACKS");
    works("vmm", "vmm");
    end("vmm");
    if (npes > 1) {
        with(me == last ? "ipc" : "vmm");
        start();
        fails("both at once", SHMEMX_ERR_MISMATCH, "is vmm on PE 0 and ipc on PE");
        end("both at once");
        with(me == last ? "ipc" : "auto");
        start();
        works("ipc by one PE's wish", "ipc");
        end("ipc by one PE's wish");
    }
    with("cuda");
    shmemx_log_errors(0);
    CHECK(shmemx_init() == SHMEMX_ERR_ARGUMENT && strstr(shmemx_last_error(), "auto, vmm, ipc"), "%s",
          shmemx_last_error());
    shmemx_log_errors(1);
}

/* The form of packets: what one PE cannot see, or asks for, holds for all. */
static void form(const char *what, const char *expected)
{
    char text[8192];
    start();
    void *p = shmemx_malloc(8, SHMEMX_MEM_DEVICE);
    shmemx_info(text, sizeof text);
    CHECK(p && strstr(text, expected), "%s: no \"%s\" in: %s", what, expected, text);
    end(what);
}
static void test_lines(void)
{
    char device[8];
    form("one device", "packets in lines of 128 bytes,");
    snprintf(device, sizeof device, "%d", me);
    setenv("FAKE_CUDA_DEVICE", device, 1); /* each PE sees its own alone */
    form("unseen devices", npes > 1 ? "16 bytes (the GPU of PE 1 is not visible to PE 0)" : "128 bytes,");
    if (me == last)
        setenv("SHMEM_DEVICE_LINES", "16", 1);
    else
        setenv("SHMEM_DEVICE_LINES", "128", 1);
    form("one PE's wish", "16 bytes (SHMEM_DEVICE_LINES=");
    setenv("SHMEM_DEVICE_LINES", "128", 1);
    form("all PEs' wish", "128 bytes (SHMEM_DEVICE_LINES=128)");
    setenv("SHMEM_DEVICE_LINES", "64", 1);
    shmemx_log_errors(0);
    CHECK(shmemx_init() == SHMEMX_ERR_ARGUMENT && strstr(shmemx_last_error(), "auto, 128, 16"), "%s",
          shmemx_last_error());
    shmemx_log_errors(1);
    unsetenv("SHMEM_DEVICE_LINES");
    unsetenv("FAKE_CUDA_DEVICE");
}

static void test_sizes(const char *sharing)
{
    with(sharing);
    if (npes > 1) {
        setenv("SHMEM_DEVICE_SYMMETRIC_SIZE", me == last ? "128M" : "256M", 1);
        start();
        fails("two sizes", SHMEMX_ERR_MISMATCH, "SHMEM_DEVICE_SYMMETRIC_SIZE");
        end("two sizes");
    }
    setenv("SHMEM_DEVICE_SYMMETRIC_SIZE", "1M", 1); /* less than the library's own */
    start();
    fails("too small", SHMEMX_ERR_NO_MEMORY, "SHMEM_DEVICE_SYMMETRIC_SIZE");
    end("too small");
    unsetenv("SHMEM_DEVICE_SYMMETRIC_SIZE");
}

static void test_buffers(void)
{
    static _Alignas(4096) char early[4096], late[8192];
    char at[16];
    start();
    CHECK(shmemx_buffer_register(early, sizeof early) == 0, "%s", shmemx_last_error());
    int before = ranges();
    snprintf(at, sizeof at, "unified@%d", last);
    setenv("FAKE_CUDA_LACKS", at, 1);
    fails("the device sees other addresses", SHMEMX_ERR_UNSUPPORTED, "at other addresses");
    unsetenv("FAKE_CUDA_LACKS");
    long *p = shmemx_malloc(8, SHMEMX_MEM_DEVICE);
    CHECK(p && before == 0, "%s", shmemx_last_error());
    int with_heap = ranges();
    CHECK(shmemx_buffer_register(late, 4096) == 0 && ranges() == with_heap + 1, "%s", shmemx_last_error());
    shmemx_log_errors(0);
    CHECK(shmemx_buffer_register(late + 4096, 100) == 0, "%s", shmemx_last_error());
    CHECK(shmemx_buffer_register(late + 4096 + 100, 100) == SHMEMX_ERR_ARGUMENT &&
              strstr(shmemx_last_error(), "pinned already"),
          "%s", shmemx_last_error());
    setenv("FAKE_CUDA_FAIL", "cuMemHostRegister_v2", 1);
    CHECK(shmemx_buffer_register(early + 1, 1) == SHMEMX_ERR_ARGUMENT, "overlap: %s", shmemx_last_error());
    static char other[100];
    CHECK(shmemx_buffer_register(other, sizeof other) == SHMEMX_ERR_SYSTEM, "%s", shmemx_last_error());
    unsetenv("FAKE_CUDA_FAIL");
    CHECK(shmemx_buffer_unregister(other) == SHMEMX_ERR_ADDRESS, "%s", shmemx_last_error());
    shmemx_log_errors(1);
    CHECK(shmemx_buffer_unregister(late) == 0 && shmemx_buffer_unregister(early) == 0 &&
              ranges() == with_heap,
          "%d ranges, before %d: %s", ranges(), with_heap, shmemx_last_error());
    shmem_barrier_all();
    end("buffers");
}

int main(void)
{
    char *sharing = strdup(getenv("SHMEM_DEVICE_SHARING"));
    void *lib = dlopen("libcuda.so.1", RTLD_NOW);
    *(void **)&ranges = lib ? dlsym(lib, "fake_cuda_ranges") : NULL;
    if (!CHECK(ranges, "this is no fake libcuda.so.1"))
        return check_done();
    test_failures(sharing);
    test_sizes(sharing);
    with(sharing);
    test_buffers();
    test_lines();
    test_choice();
    free(sharing);
    return check_done();
}
