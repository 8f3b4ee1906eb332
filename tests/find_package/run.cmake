# SPDX-License-Identifier: Apache-2.0
# Installs the build into an empty folder, then configures, builds and runs the consumer beside this file.
#   cmake -D HALFTONE_BUILD=... -D WORK=... -P run.cmake
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE failed OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(failed)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

unset(ENV{HALFTONE_LIBTORCH})  # the package must know by itself where it found LibTorch
find_program(ccache ccache)
if(ccache)
  set(launcher "-DCMAKE_CXX_COMPILER_LAUNCHER=${ccache}")
endif()
file(REMOVE_RECURSE "${WORK}")
run(${CMAKE_COMMAND} --install "${HALFTONE_BUILD}" --prefix "${WORK}/prefix")
# A stranger's debug build works with the same package.
foreach(type IN ITEMS Release Debug)
  run(${CMAKE_COMMAND} -S "${CMAKE_CURRENT_LIST_DIR}" -B "${WORK}/${type}" -G Ninja -DCMAKE_BUILD_TYPE=${type}
      -DCMAKE_CXX_FLAGS_DEBUG=-O0 "-DCMAKE_PREFIX_PATH=${WORK}/prefix" ${launcher})
  run(${CMAKE_COMMAND} --build "${WORK}/${type}")
  # Any text will do. (__FILE__ would not: a compiler cache may make it relative.)
  run("${WORK}/${type}/consumer" "${CMAKE_CURRENT_LIST_DIR}/main.cpp")
endforeach()
if(EXISTS "${WORK}/prefix/bin/halftone")
  run("${WORK}/prefix/bin/halftone" --help)
endif()
# The library for programs that do not link halftone, from where it was installed.
file(GLOB_RECURSE library "${WORK}/prefix/libhalftone_cpu_gemm.so")
run(${CMAKE_COMMAND} -E env HALFTONE_CPU_GEMM=on HALFTONE_MATMUL=upcast
    "${HALFTONE_BUILD}/tests/kernels/gemm/cpu_gemm_library_program" "${library}" on)
message(STATUS "${output}")
