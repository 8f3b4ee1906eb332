# SPDX-License-Identifier: Apache-2.0
include(CMakePackageConfigHelpers)
set(_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/halftone")

install(TARGETS halftone halftone_options EXPORT halftoneTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS halftone_cpu_gemm halftone_operators halftone_probe halftone_probe_torch LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
# Users get the umbrella header and what it reaches: no other header can become their habit.
set(_found halftone/halftone.h)
while(_found)
  list(POP_FRONT _found _header)
  list(APPEND _public_headers "${_header}")
  file(STRINGS "${_header}" _includes REGEX "^#include \"halftone/")
  list(TRANSFORM _includes REPLACE "^#include \"([^\"]*)\".*" "\\1")
  list(APPEND _found ${_includes})
  list(REMOVE_DUPLICATES _found)
  list(REMOVE_ITEM _found ${_public_headers})
endwhile()
foreach(_header IN LISTS _public_headers)
  get_filename_component(_folder "${_header}" DIRECTORY)
  install(FILES "${_header}" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/${_folder}")
endforeach()
if(HALFTONE_BUILD_CLI)
  install(TARGETS halftone_cli halftone_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
          LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
# All that is installed: `cmake --install` builds nothing itself.
add_custom_target(halftone_installed DEPENDS halftone halftone_cpu_gemm halftone_operators halftone_probe halftone_probe_torch)
if(HALFTONE_BUILD_CLI)
  add_dependencies(halftone_installed halftone_cli halftone_program)
endif()
install(EXPORT halftoneTargets NAMESPACE halftone:: DESTINATION ${_package_dir})
configure_package_config_file(cmake/halftoneConfig.cmake.in "${CMAKE_CURRENT_BINARY_DIR}/halftoneConfig.cmake"
                              INSTALL_DESTINATION ${_package_dir})
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/halftoneConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/halftoneConfig.cmake" "${CMAKE_CURRENT_BINARY_DIR}/halftoneConfigVersion.cmake"
              cmake/FindLibTorch.cmake cmake/HalftoneDependencies.cmake DESTINATION ${_package_dir})
set(_torch "${CMAKE_CURRENT_BINARY_DIR}/Torch")  # what Torch_DIR can name
configure_file(cmake/TorchConfig.cmake.in "${_torch}/TorchConfig.cmake" @ONLY)
write_basic_package_version_file("${_torch}/TorchConfigVersion.cmake" VERSION ${LibTorch_VERSION}
                                 COMPATIBILITY AnyNewerVersion)
install(FILES "${_torch}/TorchConfig.cmake" "${_torch}/TorchConfigVersion.cmake" DESTINATION ${_package_dir}/Torch)
