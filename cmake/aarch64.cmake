# SPDX-License-Identifier: Apache-2.0
# Builds for 64-bit Arm with Debian's g++-aarch64-linux-gnu. `scripts/setup.sh --cross aarch64` fetches all that it
# needs; the libraries lie in the download cache, so that nothing of Arm's gets into this system.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

if(NOT HALFTONE_SYSROOT)
  set(HALFTONE_SYSROOT "$ENV{XDG_CACHE_HOME}")
  if(NOT HALFTONE_SYSROOT)
    set(HALFTONE_SYSROOT "$ENV{HOME}/.cache")
  endif()
  string(APPEND HALFTONE_SYSROOT "/halftone/aarch64/sysroot")
endif()
set(HALFTONE_SYSROOT "${HALFTONE_SYSROOT}" CACHE PATH "Folder with Debian's arm64 libraries")
if(NOT EXISTS "${HALFTONE_SYSROOT}/usr/include")
  message(FATAL_ERROR "Arm's libraries are not in '${HALFTONE_SYSROOT}': run scripts/setup.sh --cross aarch64 to fetch them, "
                      "or name another folder with HALFTONE_SYSROOT.")
endif()
set(CMAKE_SYSROOT "${HALFTONE_SYSROOT}")
# The compiler's checks are projects of their own, and read this file again.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES HALFTONE_SYSROOT)

# A folder that holds the program and its libraries runs wherever it lies (scripts/pack.sh).
set(CMAKE_BUILD_RPATH "$ORIGIN")

set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)  # programs run here
foreach(kind IN ITEMS LIBRARY INCLUDE PACKAGE)
  set(CMAKE_FIND_ROOT_PATH_MODE_${kind} ONLY)
endforeach()
set(ENV{PKG_CONFIG_SYSROOT_DIR} "${CMAKE_SYSROOT}")
set(ENV{PKG_CONFIG_LIBDIR} "${CMAKE_SYSROOT}/usr/lib/aarch64-linux-gnu/pkgconfig:${CMAKE_SYSROOT}/usr/share/pkgconfig")

# Tests run under emulation, so that they need no device.
find_program(HALFTONE_QEMU NAMES qemu-aarch64 qemu-aarch64-static)
if(HALFTONE_QEMU)
  set(CMAKE_CROSSCOMPILING_EMULATOR "${HALFTONE_QEMU};-L;${CMAKE_SYSROOT}")
endif()
