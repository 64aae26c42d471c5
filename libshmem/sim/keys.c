/* Memory keys. The highest 24 bits are an index, the lowest 8 a tag that changes with each use of it: a key that was given
 * back is wrong, also when its place has another one. */
#include "engine.h"

uint32_t sim_key_create(struct sim_nic *nic, uint32_t pd, uint64_t address, uint64_t bytes, uint32_t access,
                        bool gpu)
{
    if (++nic->keys_made >= nic->faults.no_key && nic->faults.no_key) {
        sim_trace_text(nic, SIM_TRACE_FAULT, 0, "no_key=%llu", (unsigned long long)nic->faults.no_key);
        return 0;
    }
    for (unsigned tries = 0; tries < SIM_KEYS; ++tries) {
        uint32_t index = nic->next_key++ % SIM_KEYS, tag = nic->next_key / SIM_KEYS;
        struct sim_key *k = &nic->keys[index];
        if (k->key || index < 2) /* no key is 0, and none is SHMEMX_MLX5_INVALID_LKEY */
            continue;
        *k = (struct sim_key){.key = index << 8 | ((tag + index) & 0xff),
                              .pd = pd,
                              .access = access,
                              .address = address,
                              .bytes = bytes,
                              .gpu = gpu};
        sim_trace(nic, SIM_TRACE_KEY, k->key, &(struct sim_trace_key){address, bytes, pd, access},
                  sizeof(struct sim_trace_key), NULL, 0);
        return k->key;
    }
    return 0;
}

bool sim_key_destroy(struct sim_nic *nic, uint32_t key)
{
    struct sim_key *k = &nic->keys[(key >> 8) % SIM_KEYS];
    if (key == 0 || k->key != key)
        return false;
    sim_gpu_settle();
    sim_trace(nic, SIM_TRACE_KEY, key, &(struct sim_trace_key){k->address, 0, k->pd, k->access},
              sizeof(struct sim_trace_key), NULL, 0);
    k->key = 0;
    return true;
}

const struct sim_key *sim_key_check(const struct sim_nic *nic, uint32_t key, uint32_t pd, uint64_t address,
                                    uint64_t bytes, uint32_t access)
{
    const struct sim_key *k = &nic->keys[(key >> 8) % SIM_KEYS];
    bool covers = key != 0 && (key >> 8) < SIM_KEYS && k->key == key && k->pd == pd &&
                  address >= k->address && bytes <= k->bytes && address - k->address <= k->bytes - bytes;
    return covers && (k->access & access) == access ? k : NULL;
}
