# SPDX-License-Identifier: Apache-2.0
# Installs the build, then uses it beside find_package(Torch), found before and after: LibTorch's own, the stand-in that
# halftone installs, and another release.
include("${CMAKE_CURRENT_LIST_DIR}/common.cmake")
install_halftone()
list(APPEND configure -DCMAKE_BUILD_TYPE=Release -S "${sources}/with_torch")

function(build_and_run name torch_dir)
  foreach(order IN ITEMS "Torch halftone" "halftone Torch")
    string(MAKE_C_IDENTIFIER "${name}_${order}" folder)
    run(${configure} -B "${WORK}/${folder}" "-DORDER=${order}" "-Dhalftone_DIR=${package}" "-DTorch_DIR=${torch_dir}"
        ${ARGN})
    run(${CMAKE_COMMAND} --build "${WORK}/${folder}")
    run("${WORK}/${folder}/with_torch")
    message(STATUS "${name}, ${order}: ${output}")
  endforeach()
endfunction()

build_and_run(stand_in "${package}/Torch")

# The LibTorch of this machine may be the part of a wheel that a CPU needs: without the other libraries, which its own
# TorchConfig.cmake insists on, and without a CUDA toolkit. Empty ones take their place.
if(NOT BUILD_HALFTONE_CUDA)
  set(whole "${WORK}/whole/torch")
  file(COPY "${libtorch}/share/cmake" DESTINATION "${whole}/share")
  file(MAKE_DIRECTORY "${whole}/lib")
  file(CREATE_LINK "${libtorch}/include" "${whole}/include" SYMBOLIC)
  file(GLOB files "${libtorch}/lib/libc10.so" "${libtorch}/lib/libtorch_cpu.so" "${libtorch}/lib/libgomp*")
  foreach(file IN LISTS files)
    cmake_path(GET file FILENAME name)
    file(CREATE_LINK "${file}" "${whole}/lib/${name}" SYMBOLIC)
  endforeach()
  foreach(folder IN ITEMS nvidia torch.libs)  # LibTorch looks there
    if(EXISTS "${libtorch}/../${folder}")
      file(CREATE_LINK "${libtorch}/../${folder}" "${whole}/../${folder}" SYMBOLIC)
    endif()
  endforeach()
  find_program(compiler c++ REQUIRED)
  foreach(name IN ITEMS libtorch.so libtorch_cuda.so libc10_cuda.so libtorch_nvshmem.so libkineto.a)
    run(${compiler} -shared -Wl,-soname,${name} -o "${whole}/lib/${name}" -x c /dev/null)
  endforeach()
  file(WRITE "${WORK}/no_cuda.cmake" "add_library(torch::cudart INTERFACE IMPORTED)\n")
  build_and_run(own "${whole}/share/cmake/Torch" "-DCMAKE_PROJECT_with_torch_INCLUDE=${WORK}/no_cuda.cmake")
endif()

# Another release.
set(other "${WORK}/other")
fake_libtorch("${other}")
list(APPEND configure "-Dhalftone_DIR=${package}" "-DTorch_DIR=${other}/share/cmake/Torch" -B "${WORK}/clash")
run_to_fail("halftone was built with LibTorch [0-9.]+ \\(${libtorch}\\), but this project uses 2.11.1 \\(${other}\\): use"
            ${configure} "-DORDER=Torch halftone")
run_to_fail("halftone takes LibTorch [0-9.]+ in ${libtorch}, but find_package\\(Torch\\) found 2.11.1 in ${other}; set"
            ${configure} "-DORDER=halftone Torch")
run_to_fail("halftone takes LibTorch [0-9.]+ in ${libtorch}, but find_package\\(Torch\\) found 2.11.1 in ${other}; set"
            ${configure} "-DORDER=Torch halftone" "-DHALFTONE_LIBTORCH=${libtorch}")
run_to_fail("halftone was built with LibTorch [0-9.]+ \\(${libtorch}\\), but this project uses 2.11.1 \\(${other}\\): use"
            ${configure} "-DORDER=halftone" "-DHALFTONE_LIBTORCH=${other}")
