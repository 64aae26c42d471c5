/* What the files of bench_core share. core.c says what it is. */
#ifndef BENCH_CORE_H
#define BENCH_CORE_H

#include <stddef.h>

enum { INT8_GROUP = 128 };
/* The expert-parallel layer of the speed goals: 512 x 2048 float32 tokens a PE, top-4. */
enum { TOKENS = 512, HIDDEN = 2048, TOPK = 4, EXPERTS = 32 };
enum who { PE0, ALL, PAIR };
enum unit { NANOSECONDS, GIGABYTES, RATIO };

struct op {
    const char *group, *name;
    size_t bytes;
    enum who who;
    enum unit unit;
    void (*run)(const struct op *op, long iterations);
    const char *against; /* RATIO: this over that, operations of equal bytes in the list before it */
    const char *of;
    long iterations;
    double *samples;
};

extern int me; /* this PE */

/* Ends the job with the library's message where a call has failed. */
void must(int code, const char *what);
/* malloc; ends the job where there is no memory. */
void *allocate(size_t bytes);

/* core_moe.c: dispatch and combine. */
void set_up_layers(void);
void check_and_free_layers(void);
void run_dispatch(const struct op *op, long iterations);
void run_combine(const struct op *op, long iterations);

#endif
