/* Do stores of 128 bytes from one GPU arrive whole at another? They do over NVLink (measured: 1.2e9 lines each way
 * between two H100, none torn) and within a GPU; nothing is promised over PCIe. Packets have a form for each. */
#include <stdio.h>
#include <string.h>

#include "base/gpu.h"
#include "gpu/gpu_state.h"

static struct {
    bool whole;
    char why[96];
} lines;

int shmemi_gpu_lines_settings(const char *call)
{
    const char *word = shmemi_env.DEVICE_LINES;
    if (strcmp(word, "auto") == 0 || strcmp(word, "128") == 0 || strcmp(word, "16") == 0)
        return SHMEMX_SUCCESS;
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                       "SHMEM_DEVICE_LINES=%.100s is unknown; choices: auto, 128, 16", word);
}

/* What this PE sees of the others' devices. */
static bool whole_from_here(struct shmemi_team *world, char *why, size_t n)
{
    if (strcmp(shmemi_env.DEVICE_LINES, "auto") != 0) {
        snprintf(why, n, "SHMEM_DEVICE_LINES=%.8s", shmemi_env.DEVICE_LINES);
        return strcmp(shmemi_env.DEVICE_LINES, "128") == 0;
    }
    for (int j = 0; j < world->n; ++j) {
        if (!shmemi_node.on_host[j])
            continue; /* no stores go there */
        int link = shmemi_gpu_link(shmemi_note_of(world, j, world->epoch)->data);
        if (link == SHMEMI_GPU_LINKED)
            continue;
        snprintf(why, n,
                 link == SHMEMI_GPU_UNSEEN ? "the GPU of PE %d is not visible to PE %d"
                                           : "the GPU of PE %d has no NVLink to that of PE %d",
                 j, world->me);
        return false;
    }
    return true;
}

int shmemi_gpu_lines_agree(const char *call)
{
    unsigned char device[SHMEMI_GPU_UUID_BYTES];
    int rc = 0;
    struct shmemi_team *world = shmemi_team_get(call, SHMEM_TEAM_WORLD, &rc);
    shmemi_gpu_uuid(device);
    if (!world ||
        (rc = shmemi_show(call, world, shmemi_tag(SHMEMI_MEMORY, 4, 0), device, sizeof device)) != 0)
        return rc;
    struct {
        int32_t whole;
        char why[60];
    } mine = {0, ""}, theirs;
    mine.whole = whole_from_here(world, mine.why, sizeof mine.why);
    if ((rc = shmemi_show(call, world, shmemi_tag(SHMEMI_MEMORY, 5, 0), &mine, sizeof mine)) != 0)
        return rc;
    lines.whole = true;
    lines.why[0] = 0;
    for (int j = world->n - 1; j >= 0; --j) { /* the first PE's reason stays */
        memcpy(&theirs, shmemi_note_of(world, j, world->epoch)->data, sizeof theirs);
        lines.whole = lines.whole && theirs.whole;
        if (!theirs.whole || theirs.why[0])
            snprintf(lines.why, sizeof lines.why, " (%s)", theirs.why);
    }
    return SHMEMX_SUCCESS;
}

bool shmemi_gpu_lines_whole(void)
{
    return lines.whole;
}

const char *shmemi_gpu_lines_text(char *text, size_t n)
{
    snprintf(text, n, "packets in lines of %d bytes%s", lines.whole ? 128 : 16, lines.why);
    return text;
}
