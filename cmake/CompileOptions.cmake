# SPDX-License-Identifier: Apache-2.0
# What every target of this project compiles with: flags, and the libraries whose types stay out of
# the public headers. It must be the same everywhere, because the tests and the program reuse the
# library's precompiled header.
add_library(halftone_options INTERFACE)
target_compile_options(
  halftone_options
  INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wno-missing-field-initializers
            # at::parallel_for is a header template: without OpenMP it would silently run on one thread.
            -fopenmp
            -fPIC
            # Identical bits with and without vectorisation: no fused or reordered arithmetic that the
            # source does not ask for.
            -ffp-contract=off)
target_link_libraries(halftone_options INTERFACE fmt::fmt spdlog::spdlog nlohmann_json::nlohmann_json
                                                 tomlplusplus::tomlplusplus ICU::uc PkgConfig::hwy)
if(HALFTONE_WERROR)
  target_compile_options(halftone_options INTERFACE -Werror)
endif()
if(HALFTONE_SANITIZE)
  target_compile_options(halftone_options INTERFACE -fsanitize=${HALFTONE_SANITIZE} -fno-omit-frame-pointer -g1)
  target_link_options(halftone_options INTERFACE -fsanitize=${HALFTONE_SANITIZE})
endif()
