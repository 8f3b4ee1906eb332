# SPDX-License-Identifier: Apache-2.0
#[[
Finds LibTorch without its own TorchConfig.cmake, which insists on a CUDA toolkit when the wheel was
built with CUDA, even for a program that only uses the CPU.

Looks, in this order, at
  HALFTONE_LIBTORCH            CMake variable, then environment variable: a folder that holds
                               lib/libtorch_cpu.so, or torch/lib/libtorch_cpu.so
  the download cache           what scripts/setup.sh fetched
  python3 -m pip's torch       when importable by python3

Defines the imported targets LibTorch::LibTorch (libtorch_cpu + libc10; with HALFTONE_CUDA also
libtorch_cuda + libc10_cuda) and the variables LibTorch_ROOT_DIR and LibTorch_VERSION.
]]
if(NOT HALFTONE_LIBTORCH AND DEFINED ENV{HALFTONE_LIBTORCH})
  set(HALFTONE_LIBTORCH "$ENV{HALFTONE_LIBTORCH}")
endif()

function(_libtorch_root_of folder result)
  foreach(candidate IN ITEMS "${folder}" "${folder}/torch" "${folder}/libtorch")
    if(EXISTS "${candidate}/lib/libtorch_cpu.so" AND EXISTS "${candidate}/include/ATen/ATen.h")
      set(${result} "${candidate}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
  set(${result} "" PARENT_SCOPE)
endfunction()

set(LibTorch_ROOT_DIR "")
if(HALFTONE_LIBTORCH)
  _libtorch_root_of("${HALFTONE_LIBTORCH}" LibTorch_ROOT_DIR)
  if(NOT LibTorch_ROOT_DIR)
    message(FATAL_ERROR
      "HALFTONE_LIBTORCH is '${HALFTONE_LIBTORCH}', but neither lib/libtorch_cpu.so nor "
      "torch/lib/libtorch_cpu.so is below it. Name the folder of an unpacked LibTorch or torch wheel.")
  endif()
else()
  set(_cache "$ENV{XDG_CACHE_HOME}")
  if(NOT _cache)
    set(_cache "$ENV{HOME}/.cache")
  endif()
  file(GLOB _cached "${_cache}/halftone/libtorch-*")
  list(SORT _cached COMPARE NATURAL ORDER DESCENDING)
  foreach(_folder IN LISTS _cached)
    if(NOT LibTorch_ROOT_DIR)
      _libtorch_root_of("${_folder}" LibTorch_ROOT_DIR)
    endif()
  endforeach()
  if(NOT LibTorch_ROOT_DIR)
    execute_process(
      COMMAND python3 -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
      OUTPUT_VARIABLE _pip_torch OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE _pip_failed)
    if(NOT _pip_failed)
      _libtorch_root_of("${_pip_torch}" LibTorch_ROOT_DIR)
    endif()
  endif()
endif()

if(LibTorch_ROOT_DIR)
  foreach(_header IN ITEMS torch/headeronly/version.h torch/csrc/api/include/torch/version.h)
    if(NOT LibTorch_VERSION AND EXISTS "${LibTorch_ROOT_DIR}/include/${_header}")
      file(STRINGS "${LibTorch_ROOT_DIR}/include/${_header}" _lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
      string(REGEX REPLACE "[^0-9;]" "" _numbers "${_lines}")
      list(LENGTH _numbers _count)
      if(_count EQUAL 3)
        list(JOIN _numbers "." LibTorch_VERSION)
      endif()
    endif()
  endforeach()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  LibTorch REQUIRED_VARS LibTorch_ROOT_DIR VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE
    "Run scripts/setup.sh to fetch it, or name one with HALFTONE_LIBTORCH=DIR (a folder with lib/libtorch_cpu.so).")

if(LibTorch_FOUND AND NOT TARGET LibTorch::LibTorch)
  add_library(LibTorch::LibTorch INTERFACE IMPORTED)
  # Searched last: LibTorch ships headers of its own fmt (and of others), which must not hide the system's.
  target_compile_options(LibTorch::LibTorch INTERFACE
    "SHELL:-idirafter ${LibTorch_ROOT_DIR}/include"
    "SHELL:-idirafter ${LibTorch_ROOT_DIR}/include/torch/csrc/api/include")
  set(_libraries c10 torch_cpu)
  if(HALFTONE_CUDA)
    find_package(CUDAToolkit REQUIRED)
    list(APPEND _libraries c10_cuda torch_cuda)
  endif()
  # Kernels register themselves when the library is loaded: nothing refers to libtorch_cuda by symbol.
  target_link_options(LibTorch::LibTorch INTERFACE -Wl,--no-as-needed -Wl,--allow-shlib-undefined)
  foreach(_name IN LISTS _libraries)
    if(NOT EXISTS "${LibTorch_ROOT_DIR}/lib/lib${_name}.so")
      message(FATAL_ERROR "LibTorch in ${LibTorch_ROOT_DIR} has no lib${_name}.so; for HALFTONE_CUDA take a CUDA build of LibTorch.")
    endif()
    add_library(LibTorch::${_name} SHARED IMPORTED)
    set_target_properties(LibTorch::${_name} PROPERTIES IMPORTED_LOCATION "${LibTorch_ROOT_DIR}/lib/lib${_name}.so")
    target_link_libraries(LibTorch::LibTorch INTERFACE LibTorch::${_name})
  endforeach()
  if(HALFTONE_CUDA)
    target_link_libraries(LibTorch::LibTorch INTERFACE CUDA::cudart)
  endif()
endif()
mark_as_advanced(LibTorch_ROOT_DIR)
