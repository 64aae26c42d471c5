# What others use to compile, link and start: compiler wrappers, launcher, pkg-config file, CMake package. All find their
# files from where they are, so that the tree can be moved. `libdir`, `includedir`: below the prefix.
include(CMakePackageConfigHelpers)
set(here "${CMAKE_CURRENT_BINARY_DIR}/install")

# Files two folders below libdir lead back to the prefix by as many steps as libdir has parts, and two.
string(REGEX REPLACE "[^/]+" ".." up "${libdir}")
set(to_prefix "${up}/..")
configure_file(cmake/libshmem.pc.in "${here}/libshmem.pc" @ONLY)
install(FILES "${here}/libshmem.pc" DESTINATION "${libdir}/pkgconfig" COMPONENT shmem)
set(to_prefix "${up}/../..")
configure_file(cmake/libshmemConfig.cmake.in "${here}/libshmemConfig.cmake" @ONLY)
write_basic_package_version_file("${here}/libshmemConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${here}/libshmemConfig.cmake" "${here}/libshmemConfigVersion.cmake"
    DESTINATION "${libdir}/cmake/libshmem" COMPONENT shmem)

# $(wrapper name template): bin/NAME, and in a wheel the stub of that name beside Python.
function(wrapper name template)
    configure_file("tools/wrappers/${template}.in" "${here}/${name}" @ONLY)
    install(PROGRAMS "${here}/${name}" DESTINATION bin COMPONENT shmem)
    if(SKBUILD_SCRIPTS_DIR)
        install(PROGRAMS tools/wrappers/in_package.py DESTINATION "${SKBUILD_SCRIPTS_DIR}" RENAME "${name}"
            COMPONENT shmem)
    endif()
endfunction()
set(language C)
set(variable SHMEM_CC)
set(compiler cc)
foreach(name shmemcc oshcc)
    wrapper(${name} compile)
endforeach()
set(language C++)
set(variable SHMEM_CXX)
set(compiler c++)
foreach(name shmemcxx oshc++ oshcxx oshCC)
    wrapper(${name} compile)
endforeach()
foreach(name shmemrun oshrun)
    wrapper(${name} run)
endforeach()
