# SPDX-License-Identifier: Apache-2.0
# What the scripts beside this file share. Each runs with
#   cmake -D HALFTONE_BUILD=<the build to try> -D WORK=<a folder of its own> -P <script>.cmake
load_cache("${HALFTONE_BUILD}" READ_WITH_PREFIX BUILD_ HALFTONE_CUDA HALFTONE_SANITIZE CMAKE_BUILD_TYPE)
unset(ENV{HALFTONE_LIBTORCH})  # the package must know by itself where it found LibTorch
set(sources "${CMAKE_CURRENT_LIST_DIR}")
find_program(ccache ccache)
set(configure ${CMAKE_COMMAND} -G Ninja)
if(ccache)
  list(APPEND configure "-DCMAKE_CXX_COMPILER_LAUNCHER=${ccache}")
endif()
file(REMOVE_RECURSE "${WORK}")

# Sets output to all that the command prints.
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE failed OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(failed)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

# The command must fail and print what matches, in lines broken anywhere.
function(run_to_fail pattern)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE failed OUTPUT_VARIABLE output ERROR_VARIABLE output)
  string(REGEX REPLACE "[ \n]+" " " words "${output}")
  if(NOT failed OR NOT words MATCHES "${pattern}")
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}\nshould fail with '${pattern}', but ended with ${failed}:\n${output}")
  endif()
endfunction()

# Into WORK/prefix. Sets package, the folder of halftoneConfig.cmake, and libtorch, the one that halftone was built with.
function(install_halftone)
  run(${CMAKE_COMMAND} --install "${HALFTONE_BUILD}" --prefix "${WORK}/prefix")
  file(GLOB_RECURSE config "${WORK}/prefix/halftoneConfig.cmake")
  cmake_path(GET config PARENT_PATH folder)
  file(STRINGS "${config}" line REGEX "^set.LibTorch_BUILT_WITH")
  string(REGEX REPLACE ".*\"(.*)\".*" "\\1" root "${line}")
  set(package "${folder}" PARENT_SCOPE)
  set(libtorch "${root}" PARENT_SCOPE)
endfunction()

# A folder that looks as LibTorch 2.11.1 to CMake, with a TorchConfig.cmake.
function(fake_libtorch folder)
  foreach(name IN ITEMS c10 c10_cuda torch_cpu torch_cuda)
    file(WRITE "${folder}/lib/lib${name}.so")
  endforeach()
  file(WRITE "${folder}/include/ATen/ATen.h")
  file(WRITE "${folder}/include/torch/headeronly/version.h"
       "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 11\n#define TORCH_VERSION_PATCH 1\n")
  file(WRITE "${folder}/share/cmake/Torch/TorchConfig.cmake"
       "add_library(torch INTERFACE IMPORTED)\ntarget_include_directories(torch INTERFACE [[${folder}/include]])\n")
endfunction()
