# SPDX-License-Identifier: Apache-2.0
# What every target of this project compiles with: flags, and the libraries whose types stay out of
# the public headers. It must be the same everywhere, because the tests and the program reuse the
# library's precompiled header. None of the flags reaches a user of the installed package.
add_library(halftone_options INTERFACE)
set(_flags
    -Wall -Wextra -Wpedantic -Wshadow -Wno-missing-field-initializers
    # at::parallel_for is a header template: without OpenMP it would silently run on one thread.
    -fopenmp
    -fPIC
    # Identical bits with and without vectorisation: no fused or reordered arithmetic that the
    # source does not ask for.
    -ffp-contract=off)
# In a batch every source is an included file, in which g++ takes a class with a member of an unnamed namespace's
# type for one that several sources share.
if(HALFTONE_UNITY)
  list(APPEND _flags -Wno-subobject-linkage)
endif()
if(HALFTONE_WERROR)
  list(APPEND _flags -Werror)
endif()
if(HALFTONE_SANITIZE)
  list(APPEND _flags -fsanitize=${HALFTONE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  target_link_options(halftone_options INTERFACE -fsanitize=${HALFTONE_SANITIZE})
endif()
target_compile_options(halftone_options INTERFACE "$<BUILD_INTERFACE:${_flags}>")
# Whoever links the installed library links these too; the header-only one is ours alone.
target_link_libraries(halftone_options INTERFACE fmt::fmt spdlog::spdlog tomlplusplus::tomlplusplus ICU::uc ZLIB::ZLIB
                                                 PkgConfig::HALFTONE_HWY PkgConfig::HALFTONE_RE2
                                                 $<BUILD_INTERFACE:nlohmann_json::nlohmann_json>)
target_include_directories(halftone_options SYSTEM INTERFACE
                           "$<BUILD_INTERFACE:${HALFTONE_XXHASH_DIR};${HALFTONE_PROTOZERO_DIR}>")
