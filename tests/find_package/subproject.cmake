# SPDX-License-Identifier: Apache-2.0
# Configures a project that has halftone's sources as a part, which checks what they do to it, and builds what is quick:
# the project's own source and a few of halftone's. It links the library of the build that is there.
include("${CMAKE_CURRENT_LIST_DIR}/common.cmake")
cmake_path(GET sources PARENT_PATH root)
cmake_path(GET root PARENT_PATH root)
foreach(name IN ITEMS CUDA SANITIZE)
  list(APPEND configure "-DHALFTONE_${name}=${BUILD_HALFTONE_${name}}")
endforeach()
list(APPEND configure "-DHALFTONE=${root}" -DHALFTONE_UNITY=OFF -S "${sources}/subproject")

foreach(fetch IN ITEMS OFF ON)
  set(work "${WORK}/fetch_${fetch}")
  run(${configure} -B "${work}" -DFETCH=${fetch} -DCMAKE_BUILD_TYPE=Release)
  # By default the library is built, and nothing else; the project's `all` and `install` have no more of halftone.
  run(ninja -C "${work}" -n)
  if(NOT output MATCHES "libhalftone.a" OR output MATCHES "libhalftone_(operators|cpu_gemm|probe)")
    message(FATAL_ERROR "not what a project should build:\n${output}")
  endif()
  file(GLOB_RECURSE scripts "${work}/cmake_install.cmake")
  foreach(script IN LISTS scripts)
    file(STRINGS "${script}" installed REGEX "file\\(INSTALL ")
    # The folder of the clone may bear the name.
    string(REPLACE "${work}" "" installed "${installed}")
    string(REPLACE "${root}" "" installed "${installed}")
    if(installed MATCHES halftone)
      message(FATAL_ERROR "${script} installs parts of halftone: ${installed}")
    endif()
  endforeach()

  run(ninja -C "${work}" "${sources}/with_torch/main.cpp^" "${root}/halftone/system/paths.cpp^"
      "${root}/halftone/kernels/gemm/int8_cpu.cpp^")
  run(ninja -C "${work}" -t commands consumer)
  # The project's release flags lack NDEBUG, which this source must have before LibTorch's headers.
  if(output MATCHES "-include [^\n]*cmake_pch.hxx [^\n]*operation_observer.cpp\n")
    message(FATAL_ERROR "operation_observer.cpp has the precompiled header that was made without NDEBUG")
  endif()
  string(REGEX MATCH "[^\n]+\n*$" link "${output}")
  string(REGEX REPLACE "[^ ]*/libhalftone\\.a" "${HALFTONE_BUILD}/lib/libhalftone.a" link "${link}")
  run(sh -c "cd '${work}' && ${link}")
  run("${work}/consumer")
  message(STATUS "${output}")
endforeach()

# What is asked for comes.
run(${configure} -B "${WORK}/asked" -DHALFTONE_INSTALL=ON -DBRINGS=halftone_installed)
run(ninja -C "${WORK}/asked" -n)
if(NOT output MATCHES "libhalftone_operators.so")
  message(FATAL_ERROR "HALFTONE_INSTALL does not build what it installs:\n${output}")
endif()

# LibTorch is the project's.
fake_libtorch("${WORK}/other")
run(${configure} -B "${WORK}/torch_first" -DTORCH_FIRST=ON "-DTorch_DIR=${WORK}/other/share/cmake/Torch")
if(NOT output MATCHES "Found LibTorch: ${WORK}/other ")
  message(FATAL_ERROR "halftone does not take the LibTorch that find_package(Torch) found:\n${output}")
endif()

# A package that is missing is named, with all others that are.
set(ENV{PKG_CONFIG_LIBDIR} "${WORK}/none")
run_to_fail("halftone needs development packages that are missing: libfmt-dev libspdlog-dev libhwy-dev libre2-dev \\("
            ${configure} -B "${WORK}/missing" -DCMAKE_DISABLE_FIND_PACKAGE_fmt=ON)
