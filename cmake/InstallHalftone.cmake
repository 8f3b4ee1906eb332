# SPDX-License-Identifier: Apache-2.0
include(CMakePackageConfigHelpers)
set(_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/halftone")

install(TARGETS halftone halftone_options EXPORT halftoneTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS halftone_cpu_gemm LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY halftone DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILES_MATCHING PATTERN "*.h" PATTERN "*_impl.h" EXCLUDE PATTERN "*-inl.h" EXCLUDE PATTERN "pch.h" EXCLUDE)
if(HALFTONE_BUILD_CLI)
  install(TARGETS halftone_cli halftone_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
          LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
install(EXPORT halftoneTargets NAMESPACE halftone:: DESTINATION ${_package_dir})
configure_package_config_file(cmake/halftoneConfig.cmake.in "${CMAKE_CURRENT_BINARY_DIR}/halftoneConfig.cmake"
                              INSTALL_DESTINATION ${_package_dir})
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/halftoneConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/halftoneConfig.cmake" "${CMAKE_CURRENT_BINARY_DIR}/halftoneConfigVersion.cmake"
              cmake/FindLibTorch.cmake DESTINATION ${_package_dir})
