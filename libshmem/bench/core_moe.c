/* bench_core's dispatch and combine of MoE. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"
#include "shmem.h"
#include "shmemx.h"

static struct expert_parallel {
    shmemx_moe_t *moe;
    shmemx_moe_handle_t *routing; /* of a dispatch that stays, for the combines */
    float *y;
    shmemx_moe_combine_t combine;
} layers[2]; /* float32, INT8 both ways */
static float *tokens, *weights, *combined;
static int64_t *choices;

static void dispatch(struct expert_parallel *layer, shmemx_moe_handle_t **handle)
{
    must(shmemx_moe_dispatch(layer->moe, tokens, HIDDEN * sizeof(float), TOKENS, choices, SHMEMX_INT64,
                             weights, handle),
         "moe_dispatch");
}

void run_dispatch(const struct op *op, long iterations)
{
    struct expert_parallel *layer = &layers[strstr(op->name, "int8") != NULL];
    for (long i = 0; i < iterations; i++) {
        shmemx_moe_handle_t *handle;
        dispatch(layer, &handle);
        must(shmemx_moe_handle_free(handle), "moe_handle_free");
    }
}

void run_combine(const struct op *op, long iterations)
{
    struct expert_parallel *layer = &layers[strstr(op->name, "int8") != NULL];
    for (long i = 0; i < iterations; i++)
        must(shmemx_moe_combine(layer->moe, layer->routing, &layer->combine), "moe_combine");
}

static uint64_t random_word(uint64_t *state) /* xorshift64* (Vigna 2016) */
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dull;
}

void set_up_layers(void)
{
    uint64_t state = 88172645463325252ull + (uint64_t)me;
    tokens = allocate(sizeof(float) * TOKENS * HIDDEN);
    combined = allocate(sizeof(float) * TOKENS * HIDDEN);
    weights = allocate(sizeof(float) * TOKENS * TOPK);
    choices = allocate(sizeof(int64_t) * TOKENS * TOPK);
    for (long i = 0; i < (long)TOKENS * HIDDEN; i++)
        tokens[i] = (float)((double)random_word(&state) * 0x1p-63 - 1);
    for (long t = 0; t < TOKENS; t++)
        for (long k = 0; k < TOPK; k++) {
            int64_t *choice = choices + t * TOPK;
            choice[k] = (int64_t)(random_word(&state) >> 32) % EXPERTS;
            weights[t * TOPK + k] = 1.0f / TOPK;
            for (long earlier = 0; earlier < k; earlier++)
                if (choice[earlier] == choice[k]) { /* experts of a token are different: draw again */
                    k--;
                    break;
                }
        }
    for (int i = 0; i < 2; i++) {
        struct expert_parallel *layer = &layers[i];
        int quant = i ? SHMEMX_MOE_QUANT_INT8 : SHMEMX_MOE_QUANT_NONE;
        shmemx_moe_config_t config = {.team = SHMEM_TEAM_WORLD,
                                      .type = SHMEMX_FLOAT32,
                                      .quant = quant,
                                      .combine_quant = quant,
                                      .group = INT8_GROUP,
                                      .hidden = HIDDEN,
                                      .num_experts = EXPERTS,
                                      .topk = TOPK,
                                      .max_tokens = TOKENS};
        must(shmemx_moe_create(&config, &layer->moe), "moe_create");
        dispatch(layer, &layer->routing);
        shmemx_moe_received_t got;
        must(shmemx_moe_received(layer->routing, &got), "moe_received");
        layer->y = allocate(sizeof(float) * HIDDEN * (size_t)(got.rows + 1));
        must(shmemx_moe_rows(layer->routing, layer->y, HIDDEN * sizeof(float)), "moe_rows");
        layer->combine = (shmemx_moe_combine_t){.y = layer->y,
                                                .y_stride = HIDDEN * sizeof(float),
                                                .y_rows = got.rows,
                                                .weighted = 1,
                                                .out = combined,
                                                .out_stride = HIDDEN * sizeof(float)};
    }
}

/* One expert's output is its input here, so that the weighted sum gives each token back. */
void check_and_free_layers(void)
{
    for (int i = 0; i < 2; i++) {
        struct expert_parallel *layer = &layers[i];
        must(shmemx_moe_combine(layer->moe, layer->routing, &layer->combine), "moe_combine");
        double worst = 0;
        for (long j = 0; j < (long)TOKENS * HIDDEN; j++)
            worst = fmax(worst, fabs((double)combined[j] - (double)tokens[j]));
        if (!(worst <= (i ? 0.02 : 1e-5))) { /* |x| <= 1: two INT8 steps of 1/254 each way */
            fprintf(stderr, "bench_core: PE %d: %s dispatch and combine are off by %g\n", me,
                    i ? "INT8" : "float32", worst);
            shmem_global_exit(1);
        }
        must(shmemx_moe_handle_free(layer->routing), "moe_handle_free");
        must(shmemx_moe_destroy(layer->moe), "moe_destroy");
        free(layer->y);
    }
    free(tokens);
    free(combined);
    free(weights);
    free(choices);
}
