/* The error codes, from errors.def. */
#ifndef SHMEMX_ERRORS_H
#define SHMEMX_ERRORS_H

enum shmemx_error {
#define SHMEMX_ERROR(name, value, python, text) SHMEMX_ERR_##name = value,
#include "errors.def"
#undef SHMEMX_ERROR
    SHMEMX_SUCCESS = 0
};

#endif
