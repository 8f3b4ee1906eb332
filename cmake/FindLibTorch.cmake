# SPDX-License-Identifier: Apache-2.0
#[[
Finds LibTorch without its own TorchConfig.cmake, which insists on a CUDA toolkit when the wheel was
built with CUDA, even for a program that only uses the CPU.

Looks, in this order, at
  HALFTONE_LIBTORCH            CMake variable, then environment variable: a folder that holds
                               lib/libtorch_cpu.so, or torch/lib/libtorch_cpu.so
  the target torch             what find_package(Torch) found in the same project before
  LibTorch_BUILT_WITH          the folder that an installed halftone was built with
  the download cache           what scripts/setup.sh fetched
  python3 -m pip's torch       when importable by python3

A build for another processor wants that processor's LibTorch. Of these it asks the CMake variable and the download cache,
whose folder aarch64 scripts/setup.sh --cross aarch64 fills; the rest is for this machine.

With HALFTONE_CUDA only a LibTorch that has lib/libtorch_cuda.so counts, and the CUDA toolkit is needed for
its headers.

Defines the imported targets LibTorch::LibTorch (libtorch_cpu + libc10 and their OpenMP runtime; with
HALFTONE_CUDA also libtorch_cuda + libc10_cuda + libcudart) and the variables LibTorch_ROOT_DIR and
LibTorch_VERSION.

A program can load one LibTorch only. It is an error if find_package(Torch) finds another one, before or after.
]]
if(NOT HALFTONE_LIBTORCH AND NOT CMAKE_CROSSCOMPILING AND DEFINED ENV{HALFTONE_LIBTORCH})
  set(HALFTONE_LIBTORCH "$ENV{HALFTONE_LIBTORCH}")
endif()

function(_libtorch_root_of folder result)
  foreach(candidate IN ITEMS "${folder}" "${folder}/torch" "${folder}/libtorch")
    if(EXISTS "${candidate}/lib/libtorch_cpu.so" AND EXISTS "${candidate}/include/ATen/ATen.h"
       AND (NOT HALFTONE_CUDA OR EXISTS "${candidate}/lib/libtorch_cuda.so"))
      set(${result} "${candidate}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
  set(${result} "" PARENT_SCOPE)
endfunction()

function(_libtorch_root_of_torch result)
  set(${result} "" PARENT_SCOPE)
  if(TARGET torch)
    get_target_property(imported torch IMPORTED)
    get_target_property(includes torch INTERFACE_INCLUDE_DIRECTORIES)
    if(imported AND includes)
      list(GET includes 0 include)
      get_filename_component(root "${include}/.." ABSOLUTE)
      set(${result} "${root}" PARENT_SCOPE)
    endif()
  endif()
endfunction()

# Links may lead to the same library.
function(_libtorch_check_torch root)
  _libtorch_root_of_torch(torch)
  if(torch)
    file(REAL_PATH "${root}/lib/libtorch_cpu.so" ours)
    file(REAL_PATH "${torch}/lib/libtorch_cpu.so" theirs)
    if(NOT ours STREQUAL theirs)
      _libtorch_version_of("${root}" our_version)
      _libtorch_version_of("${torch}" their_version)
      message(FATAL_ERROR
        "halftone takes LibTorch ${our_version} in ${root}, but find_package(Torch) found ${their_version} in ${torch}; "
        "set HALFTONE_LIBTORCH or Torch_DIR so that both are one.")
    endif()
  endif()
endfunction()

function(_libtorch_version_of root result)
  set(${result} "" PARENT_SCOPE)
  foreach(header IN ITEMS torch/csrc/api/include/torch/version.h torch/headeronly/version.h)
    if(EXISTS "${root}/include/${header}")
      file(STRINGS "${root}/include/${header}" lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
      string(REGEX REPLACE "[^0-9;]" "" numbers "${lines}")
      list(LENGTH numbers count)
      if(count EQUAL 3)
        list(JOIN numbers "." version)
        set(${result} "${version}" PARENT_SCOPE)
      endif()
    endif()
  endforeach()
endfunction()

set(LibTorch_ROOT_DIR "")
_libtorch_root_of_torch(_torch)
if(HALFTONE_LIBTORCH)
  _libtorch_root_of("${HALFTONE_LIBTORCH}" LibTorch_ROOT_DIR)
  if(NOT LibTorch_ROOT_DIR)
    message(FATAL_ERROR
      "HALFTONE_LIBTORCH is '${HALFTONE_LIBTORCH}', but neither lib/libtorch_cpu.so nor "
      "torch/lib/libtorch_cpu.so is below it (HALFTONE_CUDA needs libtorch_cuda.so beside it). Name the folder "
      "of an unpacked LibTorch or torch wheel.")
  endif()
elseif(_torch)
  _libtorch_root_of("${_torch}" LibTorch_ROOT_DIR)
  if(NOT LibTorch_ROOT_DIR)
    message(FATAL_ERROR
      "find_package(Torch) found ${_torch}, but its lib has no libtorch_cpu.so (HALFTONE_CUDA needs libtorch_cuda.so "
      "beside it). Name another LibTorch with Torch_DIR.")
  endif()
elseif(LibTorch_BUILT_WITH)
  _libtorch_root_of("${LibTorch_BUILT_WITH}" LibTorch_ROOT_DIR)
endif()
if(NOT LibTorch_ROOT_DIR)
  set(_cache "$ENV{XDG_CACHE_HOME}")
  if(NOT _cache)
    set(_cache "$ENV{HOME}/.cache")
  endif()
  string(APPEND _cache "/halftone")
  if(CMAKE_CROSSCOMPILING)
    string(APPEND _cache "/${CMAKE_SYSTEM_PROCESSOR}")
  endif()
  file(GLOB _cached "${_cache}/libtorch-*")
  list(SORT _cached COMPARE NATURAL ORDER DESCENDING)
  # Without HALFTONE_CUDA the CUDA half would only be loaded for nothing.
  set(_cached_cuda ${_cached})
  list(FILTER _cached EXCLUDE REGEX "-cuda$")
  list(FILTER _cached_cuda INCLUDE REGEX "-cuda$")
  foreach(_folder IN LISTS _cached _cached_cuda)
    if(NOT LibTorch_ROOT_DIR)
      _libtorch_root_of("${_folder}" LibTorch_ROOT_DIR)
    endif()
  endforeach()
  if(NOT LibTorch_ROOT_DIR AND NOT CMAKE_CROSSCOMPILING)
    execute_process(
      COMMAND python3 -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
      OUTPUT_VARIABLE _pip_torch OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE _pip_failed)
    if(NOT _pip_failed)
      _libtorch_root_of("${_pip_torch}" LibTorch_ROOT_DIR)
    endif()
  endif()
endif()

if(LibTorch_ROOT_DIR)
  _libtorch_version_of("${LibTorch_ROOT_DIR}" LibTorch_VERSION)
  _libtorch_check_torch("${LibTorch_ROOT_DIR}")
  # And once more when the project has found all that it wants. (EVAL: a deferred call reads variables late.)
  set(_scopes "${CMAKE_SOURCE_DIR}" "${CMAKE_CURRENT_SOURCE_DIR}")
  list(REMOVE_DUPLICATES _scopes)
  foreach(_scope IN LISTS _scopes)
    cmake_language(EVAL CODE "
      cmake_language(DEFER DIRECTORY [[${_scope}]] CALL _libtorch_check_torch [[${LibTorch_ROOT_DIR}]])")
  endforeach()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  LibTorch REQUIRED_VARS LibTorch_ROOT_DIR VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE
    "Run scripts/setup.sh to fetch it (with --cuda for HALFTONE_CUDA, with --cross aarch64 for Arm), or name one with HALFTONE_LIBTORCH=DIR (a folder with lib/libtorch_cpu.so).")

if(LibTorch_FOUND AND NOT TARGET LibTorch::LibTorch)
  add_library(LibTorch::LibTorch INTERFACE IMPORTED)
  # Searched last: LibTorch ships headers of its own fmt (and of others), which must not hide the system's.
  target_compile_options(LibTorch::LibTorch INTERFACE
    "SHELL:-idirafter ${LibTorch_ROOT_DIR}/include"
    "SHELL:-idirafter ${LibTorch_ROOT_DIR}/include/torch/csrc/api/include")
  # Kernels register themselves when the library is loaded: nothing refers to libtorch_cuda by symbol.
  target_link_options(LibTorch::LibTorch INTERFACE -Wl,--no-as-needed -Wl,--allow-shlib-undefined)

  function(_libtorch_link name file)
    if(NOT EXISTS "${file}")
      message(FATAL_ERROR "LibTorch in ${LibTorch_ROOT_DIR} has no ${file}; take another one with HALFTONE_LIBTORCH.")
    endif()
    add_library(LibTorch::${name} SHARED IMPORTED)
    set_target_properties(LibTorch::${name} PROPERTIES IMPORTED_LOCATION "${file}")
    target_link_libraries(LibTorch::LibTorch INTERFACE LibTorch::${name})
  endfunction()

  _libtorch_link(c10 "${LibTorch_ROOT_DIR}/lib/libc10.so")
  _libtorch_link(torch_cpu "${LibTorch_ROOT_DIR}/lib/libtorch_cpu.so")
  # at::parallel_for expands to calls of OpenMP in our objects. They must reach the runtime that LibTorch
  # itself uses: a second one would have threads of its own.
  file(GLOB _openmp "${LibTorch_ROOT_DIR}/lib/libgomp*.so*" "${LibTorch_ROOT_DIR}/../torch.libs/libgomp*.so*")
  if(_openmp)
    list(GET _openmp 0 _openmp)
    _libtorch_link(openmp "${_openmp}")
  else()
    target_link_options(LibTorch::LibTorch INTERFACE -fopenmp)
  endif()
  if(HALFTONE_CUDA)
    find_package(CUDAToolkit REQUIRED)
    target_include_directories(LibTorch::LibTorch SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
    _libtorch_link(c10_cuda "${LibTorch_ROOT_DIR}/lib/libc10_cuda.so")
    _libtorch_link(torch_cuda "${LibTorch_ROOT_DIR}/lib/libtorch_cuda.so")
    # The runtime that this LibTorch was built for, where it brings one along, before the toolkit's.
    file(GLOB _cudart "${LibTorch_ROOT_DIR}/../nvidia/cu*/lib/libcudart.so.*" "${LibTorch_ROOT_DIR}/lib/libcudart*.so*")
    if(_cudart)
      list(GET _cudart 0 _cudart)
      _libtorch_link(cudart "${_cudart}")
    else()
      target_link_libraries(LibTorch::LibTorch INTERFACE CUDA::cudart)
    endif()
  endif()
endif()
mark_as_advanced(LibTorch_ROOT_DIR)
