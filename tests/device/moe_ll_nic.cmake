# Low-latency MoE over the paths: a part of CMakeLists.txt. All PEs are nodes of their own or two a node; queues so short that they wrap.
function(moe_ll_nic_test name npes node environment) # and the program's argument
    set(test moe-ll-${name}-npes${npes})
    # -k: those whom a dead one leaves end by themselves
    add_test(NAME ${test} COMMAND ${prefix} $<TARGET_FILE:launch> -n ${npes} -k $<TARGET_FILE:test_moe_ll_nic> ${ARGN})
    set_tests_properties(${test} PROPERTIES TIMEOUT 180 PROCESSORS ${npes} LABELS nic ENVIRONMENT
        "SHMEM_TIMEOUT=60;SHMEM_SYMMETRIC_SIZE=32M;SHMEM_NODE_ID=${node};SHMEM_TRANSPORTS=shm,wire;${environment}")
endfunction()
moe_ll_nic_test(proxy 2 /1 "${proxy}" one)
if(SHMEM_TEST_UCX AND SHMEM_TEST_LONG)
    moe_ll_nic_test(proxy-ucx 2 /1 "${proxy};${ucx}" one)
endif()
moe_ll_nic_test(proxy-late 2 /1 "${proxy};NIC_JOB_LATE_US=20000" late)
if(TARGET shmem_sim)
    if(SHMEM_SANITIZE)
        moe_ll_nic_test(ibgda 2 /1 "${ibgda};SHMEM_IBGDA_QPS=2" alone)
    else()
        moe_ll_nic_test(ibgda 2 /1 "${ibgda};SHMEM_IBGDA_QPS=2" few)
    endif()
    if(SHMEM_SANITIZE MATCHES "thread")
        set_tests_properties(moe-ll-ibgda-npes2 PROPERTIES LABELS npes2)
    endif()
    moe_ll_nic_test(nodes 4 /2 "${ibgda};SHMEM_IBGDA_QPS=2" one)
    moe_ll_nic_test(dead 3 /1 "${ibgda};SHMEM_IBGDA_QPS=2;SHMEM_SIM_FAULTS=retry_ms=300" dead)
    set_tests_properties(moe-ll-dead-npes3 PROPERTIES PASS_REGULAR_EXPRESSION
        "dead: PE 0: went on: given up 0x4, the same sums")
endif()
