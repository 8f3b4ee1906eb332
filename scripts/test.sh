#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up, builds everything with warnings as errors, and runs the whole suite.
# Arguments go to ctest: scripts/test.sh -L kernels, scripts/test.sh -R lint
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '3,4s/^# //p' "${BASH_SOURCE[0]}"
  exit 0
fi

cd "$HALFTONE_ROOT"
scripts/setup.sh --tests >/dev/null
say "building the library, the program and the tests into build/"
cmake --preset release -DHALFTONE_BUILD_TESTS=ON -DHALFTONE_WERROR=ON
cmake --build build --parallel "$(build_jobs)"
say "running the tests"
ctest --test-dir build --output-on-failure --parallel "$(nproc)" "$@"
