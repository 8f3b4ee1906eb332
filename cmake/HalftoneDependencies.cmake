# SPDX-License-Identifier: Apache-2.0
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
  set(${missing} "${absent}" PARENT_SCOPE)
endfunction()
