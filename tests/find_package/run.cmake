# SPDX-License-Identifier: Apache-2.0
# Installs the build into an empty folder, then configures, builds and runs the consumer beside this file.
include("${CMAKE_CURRENT_LIST_DIR}/common.cmake")
install_halftone()
list(APPEND configure "-DCMAKE_PREFIX_PATH=${WORK}/prefix" -S "${sources}")

# A stranger's debug build works with the same package.
foreach(type IN ITEMS Release Debug)
  run(${configure} -B "${WORK}/${type}" -DCMAKE_BUILD_TYPE=${type} -DCMAKE_CXX_FLAGS_DEBUG=-O0)
  run(${CMAKE_COMMAND} --build "${WORK}/${type}")
  # Any text will do. (__FILE__ would not: a compiler cache may make it relative.)
  run("${WORK}/${type}/consumer" "${sources}/main.cpp")
endforeach()

# Nobody's compiler meets the headers of halftone's libraries.
run(ninja -C "${WORK}/Release" -t deps CMakeFiles/consumer.dir/main.cpp.o)
if(NOT output MATCHES "/halftone/halftone.h\n")
  message(FATAL_ERROR "no list of the headers that main.cpp includes:\n${output}")
endif()
set(names "fmt|spdlog|nlohmann|toml\\+\\+|unicode|hwy|re2|protozero|zlib.h|xxhash.h|png.h|ft2build.h|freetype2|harfbuzz|expat.h|sndfile.h|samplerate.h")
string(REGEX MATCHALL "[^ \n]*/include/(${names})[^\n]*" private "${output}")
list(FILTER private EXCLUDE REGEX "^[^ ]*/torch/include/")
if(private)
  message(FATAL_ERROR "the installed headers include ${private}")
endif()

# A package that is missing is named, with all others that are.
set(ENV{PKG_CONFIG_LIBDIR} "${WORK}/none")
run_to_fail("halftone needs development packages that are missing: libtomlplusplus-dev libhwy-dev libre2-dev \\(Debian"
            ${configure} -B "${WORK}/missing" -DCMAKE_DISABLE_FIND_PACKAGE_tomlplusplus=ON)
unset(ENV{PKG_CONFIG_LIBDIR})

if(EXISTS "${WORK}/prefix/bin/halftone")
  run("${WORK}/prefix/bin/halftone" --help)
endif()
# The library for programs that do not link halftone, from where it was installed.
file(GLOB_RECURSE library "${WORK}/prefix/libhalftone_cpu_gemm.so")
run(${CMAKE_COMMAND} -E env HALFTONE_CPU_GEMM=on HALFTONE_MATMUL=upcast
    "${HALFTONE_BUILD}/tests/kernels/gemm/cpu_gemm_library_program" "${library}" on)
message(STATUS "${output}")
