#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds, tests and measures halftone on a machine with an NVIDIA GPU; bench/gpu/gpu_check.py does it.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

if ! have python3; then
  printf 'halftone: error: gpu_check.sh needs python3, 3.9 or newer; install it, or put its folder on the PATH\n' >&2
  exit 2
fi
exec python3 -B "$HALFTONE_ROOT/bench/gpu/gpu_check.py" "$@"
