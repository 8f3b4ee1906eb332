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

for script in setup quickstart test format tidy gpu_check; do
  bash -n "$scripts/$script.sh"
done
expect 0 "Usage: scripts/setup.sh" "$scripts/setup.sh" --help
expect 0 "--build-only" "$scripts/quickstart.sh" --help
expect 0 "arguments go to ctest" "$scripts/test.sh" --help
expect 0 "--collect DIR" "$scripts/gpu_check.sh" --help
expect 1 "does not know '--fast'" "$scripts/setup.sh" --fast
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
printf 'scripts: all as expected\n'
