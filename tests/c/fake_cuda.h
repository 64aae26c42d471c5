/* What the parts of the fake driver share: fake_cuda.c, which says what it is, and fake_cuda_stream.c. */
#ifndef TESTS_FAKE_CUDA_H
#define TESTS_FAKE_CUDA_H

#define _GNU_SOURCE
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OK = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_CONTEXT = 201,
    MAP_FAILED_ = 205,
    NOT_REGISTERED = 713,
    NOT_SUPPORTED = 801
};

#define API __attribute__((visibility("default")))

/* The calling thread's context. */
extern _Thread_local void *fake_cuda_current;

/* "word" or "word@RANK" in the variable, for this process. */
static inline bool says(const char *variable, const char *word)
{
    const char *value = getenv(variable), *rank = getenv("RANK");
    size_t n = strlen(word);
    return value && strncmp(value, word, n) == 0 &&
           (value[n] == 0 || (value[n] == '@' && rank && strcmp(value + n + 1, rank) == 0));
}
#define MAY_FAIL                                                                                             \
    if (says("FAKE_CUDA_FAIL", __func__))                                                                    \
    return INVALID_VALUE

#endif
