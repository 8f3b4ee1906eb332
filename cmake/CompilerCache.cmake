# SPDX-License-Identifier: Apache-2.0
# Uses ccache when it is there. The sloppiness is what ccache needs to cache files that use a
# precompiled header.
find_program(HALFTONE_CCACHE ccache)
if(HALFTONE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      ${HALFTONE_CCACHE})
endif()
