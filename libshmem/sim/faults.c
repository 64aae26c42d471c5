/* Faults on demand, SHMEM_SIM_FAULTS=name=N,..., and what the NIC lacks, SHMEM_SIM_LACKS=name,... */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

int sim_faults_read(struct sim_faults *f, const char *text)
{
    *f = (struct sim_faults){0};
    for (const char *at = text; *at; at += *at == ',') {
        size_t name = strcspn(at, "=,");
        char *end = NULL;
        uint64_t *value = NULL;
#define X(field, text)                                                                                       \
    if (name == strlen(#field) && strncmp(at, #field, name) == 0)                                            \
        value = &f->field;
        SIM_FAULTS(X)
#undef X
        if (!value || at[name] != '=')
            return (int)(at - text) + 1;
        *value = strtoull(at + name + 1, &end, 0);
        if (end == at + name + 1 || (*end && *end != ','))
            return (int)(at - text) + 1;
        at = end;
    }
    return 0;
}

int sim_lacks_read(uint32_t *lacks, const char *text)
{
    *lacks = 0;
    for (const char *at = text; *at; at += *at == ',') {
        size_t name = strcspn(at, ",");
        uint32_t bit = 0;
#define X(field, text)                                                                                       \
    if (name == strlen(#field) && strncmp(at, #field, name) == 0)                                            \
        bit = 1u << SIM_LACK_##field;
        SIM_LACKS(X)
#undef X
        if (!bit)
            return (int)(at - text) + 1;
        *lacks |= bit;
        at += name;
    }
    return 0;
}

/* xorshift64* */
uint64_t sim_random(struct sim_nic *nic)
{
    uint64_t x = nic->random ? nic->random : 0x9e3779b97f4a7c15ull;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    nic->random = x;
    return x * 0x2545f4914f6cdd1dull >> 16;
}
