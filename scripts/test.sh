#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up, builds everything with warnings as errors, and runs the whole suite.
# With --sanitize first: a debug build under the address and undefined-behaviour sanitizers, in build-sanitize/.
# Other arguments go to ctest: scripts/test.sh -L kernels, scripts/test.sh --sanitize -R inspect
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '3,5s/^# //p' "${BASH_SOURCE[0]}"
  exit 0
fi

preset=release folder=build werror=ON
if [[ ${1:-} == --sanitize ]]; then
  shift
  preset=sanitize folder=build-sanitize
  werror=OFF # g++ 12 gives false warnings about instrumented code
  # LibTorch and its libraries keep what they allocate once until the process ends. Freed memory is held back, but not
  # so much that tests of memory bounds measure it.
  export ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=16:${ASAN_OPTIONS:-}
  export UBSAN_OPTIONS=print_stacktrace=1:${UBSAN_OPTIONS:-}
fi

cd "$HALFTONE_ROOT"
scripts/setup.sh --tests >/dev/null
say "building the library, the program and the tests into $folder/"
cmake --preset "$preset" -DHALFTONE_BUILD_TESTS=ON -DHALFTONE_BUILD_EXAMPLES=ON -DHALFTONE_WERROR="$werror"
cmake --build "$folder" --parallel "$(build_jobs)"
say "running the tests"
ctest --test-dir "$folder" --output-on-failure --parallel "$(nproc)" "$@"
