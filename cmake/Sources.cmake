# SPDX-License-Identifier: Apache-2.0
# Adds the sources of the calling folder to the library and says how each is compiled. Most of a source's compile
# time is LibTorch's headers and templates, so a folder's sources share one pass of the compiler, a batch.
set(HALFTONE_BATCH 12)  # sources at most

#[[
halftone_add_sources([LIBTORCH a.cpp ...] [PLAIN b.cpp ...] [ALONE c.cpp ...] [NDEBUG d.cpp ...])
  LIBTORCH  uses LibTorch, hence the precompiled header
  PLAIN     needs no LibTorch and does not find its headers: a target of its own, without the precompiled header
  ALONE     is never in a batch: Highway compiles it once per instruction set, or its macros must not meet others
  NDEBUG    defines NDEBUG for itself: as LIBTORCH in a release build whose flags have it for all sources, else as ALONE
]]
function(halftone_add_sources)
  cmake_parse_arguments(PARSE_ARGV 0 sources "" "" "LIBTORCH;PLAIN;ALONE;NDEBUG")
  if(CMAKE_BUILD_TYPE STREQUAL "Release" AND "${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_RELEASE}" MATCHES "-DNDEBUG")
    list(APPEND sources_LIBTORCH ${sources_NDEBUG})
  else()
    list(APPEND sources_ALONE ${sources_NDEBUG})
  endif()
  target_sources(halftone PRIVATE ${sources_LIBTORCH} ${sources_ALONE})
  target_sources(halftone_plain PRIVATE ${sources_PLAIN})
  set_source_files_properties(${sources_ALONE} TARGET_DIRECTORY halftone
                              PROPERTIES SKIP_PRECOMPILE_HEADERS ON SKIP_UNITY_BUILD_INCLUSION ON)
  file(RELATIVE_PATH folder "${PROJECT_SOURCE_DIR}/halftone" "${CMAKE_CURRENT_SOURCE_DIR}")
  string(MAKE_C_IDENTIFIER "${folder}" folder)
  foreach(pair IN ITEMS halftone:LIBTORCH halftone_plain:PLAIN)
    string(REPLACE ":" ";" pair "${pair}")
    list(POP_FRONT pair target kind)
    list(LENGTH sources_${kind} count)
    math(EXPR batches "(${count} + ${HALFTONE_BATCH} - 1) / ${HALFTONE_BATCH}")
    set(index 0)
    foreach(source IN LISTS sources_${kind})
      math(EXPR batch "${index} * ${batches} / ${count}")
      set_source_files_properties(${source} TARGET_DIRECTORY ${target} PROPERTIES UNITY_GROUP ${folder}_${kind}_${batch})
      math(EXPR index "${index} + 1")
    endforeach()
  endforeach()
endfunction()
