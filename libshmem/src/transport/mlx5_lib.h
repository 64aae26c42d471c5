/* libmlx5, opened when first wanted: the functions that ibgda calls, by rdma-core's names without "mlx5dv_". */
#ifndef SHMEMI_MLX5_LIB_H
#define SHMEMI_MLX5_LIB_H

#include <infiniband/mlx5dv.h>
#include <stdbool.h>
#include <stddef.h>

#define SHMEMI_MLX5_CALLS(X)                                                                                 \
    X(bool, is_supported, (struct ibv_device * device))                                                      \
    X(struct ibv_context *, open_device, (struct ibv_device * device, struct mlx5dv_context_attr * attr))    \
    X(int, init_obj, (struct mlx5dv_obj * obj, uint64_t type))                                               \
    X(int, devx_general_cmd,                                                                                 \
      (struct ibv_context * context, const void *in, size_t inlen, void *out, size_t outlen))                \
    X(int, devx_query_eqn, (struct ibv_context * context, uint32_t vector, uint32_t *eqn))                   \
    X(struct mlx5dv_devx_uar *, devx_alloc_uar, (struct ibv_context * context, uint32_t flags))              \
    X(void, devx_free_uar, (struct mlx5dv_devx_uar * uar))                                                   \
    X(struct mlx5dv_devx_umem *, devx_umem_reg,                                                              \
      (struct ibv_context * context, void *addr, size_t size, uint32_t access))                              \
    X(int, devx_umem_dereg, (struct mlx5dv_devx_umem * umem))                                                \
    X(struct mlx5dv_devx_obj *, devx_obj_create,                                                             \
      (struct ibv_context * context, const void *in, size_t inlen, void *out, size_t outlen))                \
    X(int, devx_obj_query,                                                                                   \
      (struct mlx5dv_devx_obj * obj, const void *in, size_t inlen, void *out, size_t outlen))                \
    X(int, devx_obj_modify,                                                                                  \
      (struct mlx5dv_devx_obj * obj, const void *in, size_t inlen, void *out, size_t outlen))                \
    X(int, devx_obj_destroy, (struct mlx5dv_devx_obj * obj))

struct shmemi_mlx5_lib {
#define X(type, name, parameters) type(*name) parameters;
    SHMEMI_MLX5_CALLS(X)
#undef X
    /* For queues in a GPU's memory; NULL: rdma-core before 44. */
    struct mlx5dv_devx_umem *(*devx_umem_reg_ex)(struct ibv_context *context, struct mlx5dv_devx_umem_in *in);
};

/* The library, NULL when it is not there: `why` says what was tried. It stays open. */
const struct shmemi_mlx5_lib *shmemi_mlx5_lib(char *why, size_t n);

#endif
