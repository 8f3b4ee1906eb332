#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Formats the C++ sources with clang-format 14; with --check only says which are not formatted.
# Files to look at can be named; default: all. Exits with 77 where clang-format 14 is missing.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '3,4s/^# //p' "${BASH_SOURCE[0]}"
  exit 0
fi
mode=(-i)
if [[ ${1:-} == --check ]]; then
  mode=(--dry-run -Werror)
  shift
fi

if have clang-format-14; then
  tool=clang-format-14
elif have clang-format && clang-format --version | grep -q 'version 14\.'; then
  tool=clang-format
else
  printf 'clang-format 14 is not installed: apt-get install clang-format-14\n' >&2
  exit 77
fi

cd "$HALFTONE_ROOT"
files=("$@")
if ((${#files[@]} == 0)); then
  mapfile -t files < <(find halftone cli tests bench examples -type f \
    \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null | sort)
fi
"$tool" "${mode[@]}" "${files[@]}"
