/* PMIx as far as we use it: the public ABI of the standard, versions 3 to 5, bound at run time. */
#ifndef SHMEMI_BOOTSTRAP_PMIX_H
#define SHMEMI_BOOTSTRAP_PMIX_H

#include "base.h"

typedef int pmix_status_t;
typedef struct {
    char nspace[256];
    uint32_t rank;
} pmix_proc_t;
typedef struct {
    uint16_t type;
    union {
        bool flag;
        int integer;
        uint32_t uint32;
        struct {
            char *bytes;
            size_t size;
        } bo;
        struct { /* pmix_envar_t, the largest member */
            char *envar, *value;
            char separator;
        } envar;
    } data;
} pmix_value_t;
typedef struct {
    char key[512];
    uint32_t flags;
    pmix_value_t value;
} pmix_info_t;
_Static_assert(sizeof(pmix_proc_t) == 260, "PMIx ABI");
_Static_assert(sizeof(pmix_value_t) == 8 + 3 * sizeof(void *), "PMIx ABI");
_Static_assert(sizeof(pmix_info_t) == 520 + sizeof(pmix_value_t), "PMIx ABI");
typedef void (*pmix_op_cbfunc_t)(pmix_status_t status, void *data);
typedef void (*pmix_value_cbfunc_t)(pmix_status_t status, pmix_value_t *value, void *data);

enum {
    PMIX_SUCCESS = 0,
    PMIX_ERROR = -1,
    PMIX_PARTIAL_SUCCESS = -52,
    PMIX_LOST_CONNECTION = -61,
    PMIX_OPERATION_SUCCEEDED = -157
};
enum { PMIX_BOOL = 1, PMIX_INT = 6, PMIX_UINT32 = 14, PMIX_BYTE_OBJECT = 27, PMIX_GLOBAL = 3 };
#define PMIX_RANK_WILDCARD (UINT32_MAX - 1)

struct shmemi_pmix {
    pmix_status_t (*Init)(pmix_proc_t *, pmix_info_t *, size_t);
    pmix_status_t (*Finalize)(const pmix_info_t *, size_t);
    pmix_status_t (*Abort)(int, const char *, pmix_proc_t *, size_t);
    pmix_status_t (*Put)(uint8_t, const char *, pmix_value_t *);
    pmix_status_t (*Commit)(void);
    pmix_status_t (*Fence_nb)(const pmix_proc_t *, size_t, const pmix_info_t *, size_t, pmix_op_cbfunc_t,
                              void *);
    pmix_status_t (*Get)(const pmix_proc_t *, const char *, const pmix_info_t *, size_t, pmix_value_t **);
    pmix_status_t (*Get_nb)(const pmix_proc_t *, const char *, const pmix_info_t *, size_t,
                            pmix_value_cbfunc_t, void *);
    const char *(*Error_string)(pmix_status_t);
    int (*Initialized)(void);
};

/* Looks for the library once and binds all functions. One copy of PMIx a process: MPI's if it is there, or
 * the one that MPI would load. False: `why` says what is missing. `path` (static) is where it came from. */
bool shmemi_pmix_find(struct shmemi_pmix *pmix, const char **path, char *why, size_t n);

#endif
