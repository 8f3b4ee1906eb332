#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What the scripts say when they are called wrongly. Nothing here installs or fetches anything.
set -euo pipefail
scripts=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../../scripts" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# expect CODE TEXT COMMAND...: the command ends with CODE and says TEXT.
expect() {
  local code=$1 text=$2 output status=0
  shift 2
  output=$("$@" 2>&1) || status=$?
  if ((status != code)) || [[ $output != *"$text"* ]]; then
    printf '%s\nended with %d and said:\n%s\nexpected %d and: %s\n' "$*" "$status" "$output" "$code" "$text" >&2
    exit 1
  fi
}

for script in setup quickstart test format tidy gpu_check fetch_sysroot pack; do
  bash -n "$scripts/$script.sh"
done
expect 0 "Usage: scripts/setup.sh" "$scripts/setup.sh" --help
expect 0 "--build-only" "$scripts/quickstart.sh" --help
expect 0 "arguments go to ctest" "$scripts/test.sh" --help
expect 0 "--collect DIR" "$scripts/gpu_check.sh" --help
expect 0 "scripts/fetch_sysroot.sh ARCHITECTURE FOLDER PACKAGES" "$scripts/fetch_sysroot.sh" --help
expect 0 "scripts/pack.sh BUILD FOLDER" "$scripts/pack.sh" --help
expect 1 "does not know '--fast'" "$scripts/setup.sh" --fast
expect 1 "needs the name of a processor: aarch64, not 'mips'" "$scripts/setup.sh" --cross mips
expect 1 "--cross goes alone" "$scripts/setup.sh" --cross aarch64 --cuda
expect 1 "has no program" "$scripts/pack.sh" "$work" "$work/packed"
expect 1 "does not know '--fast'" "$scripts/quickstart.sh" --fast

# A machine on which every package is installed, but for one program that nobody may install.
mkdir "$work/bin"
printf '#!/bin/sh\necho installed\n' >"$work/bin/dpkg-query"
printf '#!/bin/sh\nexit 0\n' | tee "$work/bin/apt-get" "$work/bin/g++" "$work/bin/cmake" "$work/bin/ninja" \
  "$work/bin/ccache" "$work/bin/pkg-config" >/dev/null
chmod +x "$work"/bin/*
setup=(env "PATH=$work/bin:$PATH" "$scripts/setup.sh")

expect 1 "but no LibTorch is there" env HALFTONE_LIBTORCH="$work" "${setup[@]}"
libtorch=$work/torch
version=$libtorch/include/torch/headeronly/version.h
mkdir -p "$libtorch/lib" "$libtorch/include/ATen" "${version%/*}"
touch "$libtorch/lib/libtorch_cpu.so" "$libtorch/include/ATen/ATen.h"
printf '#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 10\n' >"$version"
expect 1 "is LibTorch 2.10" env HALFTONE_LIBTORCH="$work" "${setup[@]}"
for version_line in 2.11 3.0; do
  printf "#define TORCH_VERSION_MAJOR %d\n#define TORCH_VERSION_MINOR %d\n" "${version_line%.*}" "${version_line#*.}" >"$version"
  expect 0 "$libtorch" env HALFTONE_LIBTORCH="$work" "${setup[@]}"
done
expect 1 "CUDA build" env HALFTONE_LIBTORCH="$work" "${setup[@]}" --cuda
touch "$libtorch/lib/libtorch_cuda.so"
expect 0 "$libtorch" env HALFTONE_LIBTORCH="$work" "${setup[@]}" --cuda

# Libraries for another processor: an apt that has one package, with a link to a place in the system.
mkdir -p "$work/package/DEBIAN" "$work/package/usr/lib" "$work/package/lib"
printf 'Package: libx-dev\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: none\n' >"$work/package/DEBIAN/control"
printf 'the library\n' >"$work/package/lib/libx.so.1"
ln -s /lib/libx.so.1 "$work/package/usr/lib/libx.so"
dpkg-deb --root-owner-group -b "$work/package" "$work/libx-dev.deb" >/dev/null
cat >"$work/bin/apt-get" <<EOF
#!/usr/bin/env bash
for argument; do
  if [[ \$argument == Dir::Cache=* ]]; then cache=\${argument#*=}; fi
  if [[ \$argument == install ]]; then cp "$work/libx-dev.deb" "\$cache/archives/"; fi
done
echo "\$*" >>"$work/apt.log"
[[ ! -e $work/fail ]] || { echo "no such package"; exit 100; }
EOF
sysroot=(env "PATH=$work/bin:$PATH" "$scripts/fetch_sysroot.sh" arm64 "$work/sysroot" libx-dev)
touch "$work/fail"
expect 1 "no such package" "${sysroot[@]}"
[[ ! -e $work/sysroot ]]
rm "$work/fail" "$work/apt.log"
expect 0 "fetching arm64 libraries into $work/sysroot" "${sysroot[@]}"
[[ $(<"$work/sysroot/usr/lib/libx.so") == "the library" && $(readlink "$work/sysroot/usr/lib/libx.so") != /* ]]
grep -q "APT::Architecture=arm64.*install --download-only .*libx-dev" "$work/apt.log"
[[ $(grep -c "CPU implementer" "$work/sysroot/proc/cpuinfo") == $(nproc --all) ]]
rm "$work/apt.log"
expect 0 "" "${sysroot[@]}"
[[ ! -e $work/apt.log ]] # what is there is left alone

# A program that asks for a library of its own and for the system's.
mkdir -p "$work/build/beside"
printf 'int answer() { return 42; }\n' | c++ -xc++ -shared -fPIC -o "$work/build/beside/libanswer.so" -
printf 'int answer(); int ask() { return answer(); }\n' | c++ -xc++ -shared -fPIC -o "$work/build/libhalftone_program.so" \
  - -L"$work/build/beside" -lanswer -Wl,-rpath,'$ORIGIN/beside'
touch "$work/build/halftone" "$work/build/CMakeCache.txt"
expect 0 "has the program and 2 libraries" "$scripts/pack.sh" "$work/build" "$work/packed"
[[ $(cd "$work/packed" && echo *) == "halftone libanswer.so libhalftone_program.so" ]]
expect 1 "exists: name a new folder" "$scripts/pack.sh" "$work/build" "$work/packed"
rm "$work/build/beside/libanswer.so"
expect 1 "needs libanswer.so, which is neither" "$scripts/pack.sh" "$work/build" "$work/again"
[[ ! -e $work/again ]]
printf 'scripts: all as expected\n'
