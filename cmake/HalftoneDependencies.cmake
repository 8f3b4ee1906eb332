# SPDX-License-Identifier: Apache-2.0
# halftone_find_library(target HEADER name...): an imported library without folders of headers, unless it is not there.
# Those of pictures and sounds are found by file: their .pc files name what only static linking needs.
function(halftone_find_library target header)
  string(MAKE_C_IDENTIFIER "${target}" prefix)
  string(TOUPPER "${prefix}" prefix)
  find_path(${prefix}_DIR ${header} PATH_SUFFIXES freetype2 harfbuzz)
  find_library(${prefix}_LIBRARY NAMES ${ARGN})
  mark_as_advanced(${prefix}_DIR ${prefix}_LIBRARY)
  if(${prefix}_DIR AND ${prefix}_LIBRARY AND NOT TARGET ${target})
    add_library(${target} UNKNOWN IMPORTED)
    set_target_properties(${target} PROPERTIES IMPORTED_LOCATION "${${prefix}_LIBRARY}")
  endif()
endfunction()

#[[
halftone_find_dependencies(missing)
Finds the libraries that halftone's objects call: the build needs them, and so does whoever links the installed
library. missing gets the Debian names of the packages that are not there.
]]
function(halftone_find_dependencies missing)
  set(absent "")
  foreach(entry IN ITEMS "libfmt-dev fmt" "libspdlog-dev spdlog" "libtomlplusplus-dev tomlplusplus"
                         "libicu-dev ICU COMPONENTS uc" "zlib1g-dev ZLIB" "pkg-config PkgConfig")
    separate_arguments(entry)
    list(POP_FRONT entry package)
    list(GET entry 0 name)
    find_package(${entry} QUIET)
    if(NOT ${name}_FOUND)
      list(APPEND absent ${package})
    endif()
  endforeach()
  if(PkgConfig_FOUND)
    foreach(entry IN ITEMS "libhwy-dev HALFTONE_HWY libhwy" "libre2-dev HALFTONE_RE2 re2")
      separate_arguments(entry)
      list(POP_FRONT entry package prefix module)
      pkg_check_modules(${prefix} QUIET IMPORTED_TARGET ${module})
      if(${prefix}_FOUND)
        # re2's -pthread is for old C libraries; every source of the project would be compiled with it.
        set_target_properties(PkgConfig::${prefix} PROPERTIES INTERFACE_COMPILE_OPTIONS "")
      else()
        list(APPEND absent ${package})
      endif()
    endforeach()
  endif()
  foreach(entry IN ITEMS "libpng-dev png png.h png16 png" "libfreetype-dev freetype ft2build.h freetype"
                         "libharfbuzz-dev harfbuzz hb.h harfbuzz" "libexpat1-dev expat expat.h expat"
                         "libsndfile1-dev sndfile sndfile.h sndfile" "libsamplerate0-dev samplerate samplerate.h samplerate")
    separate_arguments(entry)
    list(POP_FRONT entry package name)
    halftone_find_library(halftone_media::${name} ${entry})
    if(NOT TARGET halftone_media::${name})
      list(APPEND absent ${package})
    endif()
  endforeach()
  set(${missing} "${absent}" PARENT_SCOPE)
endfunction()
