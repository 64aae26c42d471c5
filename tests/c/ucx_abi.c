/* Not run, only compiled, and only where UCX's headers are: transport/ucx.h says what they say. */
#include <stddef.h>
#include <ucp/api/ucp.h>

#include "transport/ucx.h"

#define SAME(ours, theirs) _Static_assert((long long)(ours) == (long long)(theirs), #ours)
#define MEMBER(ours, a, theirs, b)                                                                           \
    SAME(offsetof(struct ours, a), offsetof(theirs, b));                                                     \
    SAME(sizeof(((struct ours *)0)->a), sizeof(((theirs *)0)->b))

SAME(sizeof(ucx_status), sizeof(ucs_status_t));
SAME((ucs_status_t)-1 < 0, 1);
SAME(UCX_API_MAJOR, UCP_API_MAJOR);
SAME(UCX_API_MINOR <= UCP_API_MINOR, 1);
SAME(UCX_OK, UCS_OK);
SAME(UCX_INPROGRESS, UCS_INPROGRESS);
SAME(UCX_ERR_BUSY, UCS_ERR_BUSY);
SAME(UCX_ERR_LAST, UCS_ERR_LAST);
SAME(UCX_FEATURE_RMA, UCP_FEATURE_RMA);
SAME(UCX_FEATURE_AMO32, UCP_FEATURE_AMO32);
SAME(UCX_FEATURE_AMO64, UCP_FEATURE_AMO64);
SAME(UCX_FEATURE_WAKEUP, UCP_FEATURE_WAKEUP);
SAME(UCX_FEATURE_AM, UCP_FEATURE_AM);
SAME(UCX_ATOMIC_ADD, UCP_ATOMIC_OP_ADD);
SAME(UCX_ATOMIC_SWAP, UCP_ATOMIC_OP_SWAP);
SAME(UCX_ATOMIC_CSWAP, UCP_ATOMIC_OP_CSWAP);
SAME(UCX_ATOMIC_AND, UCP_ATOMIC_OP_AND);
SAME(UCX_ATOMIC_OR, UCP_ATOMIC_OP_OR);
SAME(UCX_ATOMIC_XOR, UCP_ATOMIC_OP_XOR);
SAME(UCX_THREAD_SERIALIZED, UCS_THREAD_MODE_SERIALIZED);
SAME(UCX_CLOSE_FORCE, UCP_EP_CLOSE_FLAG_FORCE);
SAME(UCX_AM_EAGER, UCP_AM_SEND_FLAG_EAGER);
SAME(UCX_MEMORY_HOST, UCS_MEMORY_TYPE_HOST);
SAME(24 << UCX_CONTIG_SHIFT, ucp_dt_make_contig(24));

MEMBER(ucx_params, mask, ucp_params_t, field_mask);
MEMBER(ucx_params, features, ucp_params_t, features);
MEMBER(ucx_params, peers, ucp_params_t, estimated_num_eps);
MEMBER(ucx_params, name, ucp_params_t, name);
SAME(UCX_PARAM_FEATURES, UCP_PARAM_FIELD_FEATURES);
SAME(UCX_PARAM_PEERS, UCP_PARAM_FIELD_ESTIMATED_NUM_EPS);
SAME(UCX_PARAM_NAME, UCP_PARAM_FIELD_NAME);

MEMBER(ucx_worker_params, mask, ucp_worker_params_t, field_mask);
MEMBER(ucx_worker_params, thread_mode, ucp_worker_params_t, thread_mode);
SAME(UCX_WORKER_THREAD_MODE, UCP_WORKER_PARAM_FIELD_THREAD_MODE);

MEMBER(ucx_ep_params, mask, ucp_ep_params_t, field_mask);
MEMBER(ucx_ep_params, address, ucp_ep_params_t, address);
MEMBER(ucx_ep_params, error_mode, ucp_ep_params_t, err_mode);
MEMBER(ucx_ep_params, on_error, ucp_ep_params_t, err_handler);
MEMBER(ucx_ep_params, on_error.call, ucp_ep_params_t, err_handler.cb);
MEMBER(ucx_ep_params, on_error.arg, ucp_ep_params_t, err_handler.arg);
SAME(UCX_EP_ADDRESS, UCP_EP_PARAM_FIELD_REMOTE_ADDRESS);
SAME(UCX_EP_ON_ERROR, UCP_EP_PARAM_FIELD_ERR_HANDLER);

MEMBER(ucx_map_params, mask, ucp_mem_map_params_t, field_mask);
MEMBER(ucx_map_params, address, ucp_mem_map_params_t, address);
MEMBER(ucx_map_params, bytes, ucp_mem_map_params_t, length);
SAME(UCX_MAP_ADDRESS, UCP_MEM_MAP_PARAM_FIELD_ADDRESS);
SAME(UCX_MAP_BYTES, UCP_MEM_MAP_PARAM_FIELD_LENGTH);

MEMBER(ucx_am_params, mask, ucp_am_handler_param_t, field_mask);
MEMBER(ucx_am_params, id, ucp_am_handler_param_t, id);
MEMBER(ucx_am_params, call, ucp_am_handler_param_t, cb);
MEMBER(ucx_am_params, arg, ucp_am_handler_param_t, arg);
SAME(UCX_AM_ID, UCP_AM_HANDLER_PARAM_FIELD_ID);
SAME(UCX_AM_CALL, UCP_AM_HANDLER_PARAM_FIELD_CB);

MEMBER(ucx_op, mask, ucp_request_param_t, op_attr_mask);
MEMBER(ucx_op, flags, ucp_request_param_t, flags);
MEMBER(ucx_op, request, ucp_request_param_t, request);
MEMBER(ucx_op, done, ucp_request_param_t, cb);
MEMBER(ucx_op, datatype, ucp_request_param_t, datatype);
MEMBER(ucx_op, user, ucp_request_param_t, user_data);
MEMBER(ucx_op, reply, ucp_request_param_t, reply_buffer);
MEMBER(ucx_op, memory, ucp_request_param_t, memory_type);
SAME(UCX_OP_DONE, UCP_OP_ATTR_FIELD_CALLBACK);
SAME(UCX_OP_USER, UCP_OP_ATTR_FIELD_USER_DATA);
SAME(UCX_OP_DATATYPE, UCP_OP_ATTR_FIELD_DATATYPE);
SAME(UCX_OP_FLAGS, UCP_OP_ATTR_FIELD_FLAGS);
SAME(UCX_OP_REPLY, UCP_OP_ATTR_FIELD_REPLY_BUFFER);
SAME(UCX_OP_MEMORY, UCP_OP_ATTR_FIELD_MEMORY_TYPE);
