# Tests of the device code in one process: its threads are the PEs. A part of CMakeLists.txt.
add_executable(test_device_host test_host.cpp test_host_coll.cpp)
target_compile_features(test_device_host PRIVATE cxx_std_17)
target_include_directories(test_device_host PRIVATE "${PROJECT_SOURCE_DIR}/libshmem/include")
target_compile_definitions(test_device_host PRIVATE SHMEM_DEVICE_CHECKS)
target_compile_options(test_device_host PRIVATE -Wall -Wextra -Wshadow -Werror)
target_link_libraries(test_device_host PRIVATE shmem_options Threads::Threads)
set(pes 4)
if(SHMEM_SANITIZE MATCHES "thread")
    set(pes 3) # the fourth takes as long as the others
endif()
add_test(NAME device-host COMMAND test_device_host ${pes})
set_tests_properties(device-host PROPERTIES TIMEOUT 300 LABELS npes1 PROCESSORS 2)

# The kernels of MoE dispatch and combine: low latency; large batches, on one node and between nodes.
foreach(name moe_ll moe_normal moe_nodes)
    set(label npes1)
    set(rounds 2)
    if(NOT name STREQUAL "moe_normal")
        set(label device) # minutes under ThreadSanitizer
    endif()
    if(name STREQUAL "moe_nodes")
        set(rounds 0)
    elseif(name STREQUAL "moe_ll" AND SHMEM_SANITIZE MATCHES "thread")
        set(rounds few) # 20 seconds; of 23 barriers and acquires, taken out one at a time, it misses 4
        set(label npes1)
    endif()
    if(SHMEM_SANITIZE MATCHES "thread" AND name STREQUAL "moe_nodes")
        continue()
    endif()
    add_executable(test_${name} test_${name}.cpp)
    target_compile_features(test_${name} PRIVATE cxx_std_17)
    target_include_directories(test_${name} PRIVATE "${PROJECT_SOURCE_DIR}/libshmem/include"
        "${PROJECT_SOURCE_DIR}/libshmem/src/gpu")
    target_compile_options(test_${name} PRIVATE -Wall -Wextra -Wshadow -Werror)
    target_link_libraries(test_${name} PRIVATE shmem_options Threads::Threads)
    string(REPLACE "_" "-" test "device-${name}")
    if(NOT SHMEM_SANITIZE)
        set(rounds "") # sanitizers need fewer to see what they look for, and take longer for each
    elseif(rounds GREATER 1)
        set(rounds 1) # 20 seconds each
    endif()
    add_test(NAME ${test} COMMAND test_${name} ${rounds})
    set_tests_properties(${test} PROPERTIES TIMEOUT 600 PROCESSORS 2 LABELS ${label})
endforeach()

# Kernels that post to a NIC, against one of the test's own.
add_executable(test_ibgda test_ibgda.cpp test_ibgda_sizes.cpp)
target_compile_features(test_ibgda PRIVATE cxx_std_17)
target_include_directories(test_ibgda PRIVATE "${PROJECT_SOURCE_DIR}/libshmem/include")
target_compile_options(test_ibgda PRIVATE -Wall -Wextra -Wshadow -Werror)
target_link_libraries(test_ibgda PRIVATE shmem_options Threads::Threads)
add_test(NAME device-ibgda COMMAND test_ibgda)
set_tests_properties(device-ibgda PROPERTIES TIMEOUT 300 LABELS npes1 PROCESSORS 2)

# The codec and the quantized collectives, against the CPU's codec.
add_executable(test_quant_gpu test_quant.cpp)
target_compile_features(test_quant_gpu PRIVATE cxx_std_17)
target_include_directories(test_quant_gpu PRIVATE "${PROJECT_SOURCE_DIR}/libshmem/include"
    "${PROJECT_SOURCE_DIR}/libshmem/src/gpu")
target_compile_options(test_quant_gpu PRIVATE -Wall -Wextra -Wshadow -Werror)
target_link_libraries(test_quant_gpu PRIVATE shmem shmem_options Threads::Threads)
set(arguments "") # every kind twice on 2, 3 and 4 PEs, with lines and with pairs
if(SHMEM_SANITIZE)
    set(arguments 6) # once, with lines on 3 PEs and with pairs on 2 and 4
endif()
add_test(NAME device-quant COMMAND test_quant_gpu ${arguments})
set_tests_properties(device-quant PROPERTIES TIMEOUT 600 PROCESSORS 2 LABELS npes1)
