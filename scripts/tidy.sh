#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs clang-tidy 14 with .clang-tidy; any finding is an error.
#   scripts/tidy.sh FILE...   these sources
#   scripts/tidy.sh           what differs from the branch main
#   scripts/tidy.sh --light   the sources that do not need LibTorch (what the test suite runs)
#   scripts/tidy.sh --all     everything: about half a minute per source that includes LibTorch
# Takes the flags from the build folder (HALFTONE_BUILD, default build/). Exits with 77 without clang-tidy 14.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '3,8s/^# //p' "${BASH_SOURCE[0]}"
  exit 0
fi
have clang-tidy-14 || { printf 'clang-tidy 14 is not installed: apt-get install clang-tidy-14\n' >&2; exit 77; }
cd "$HALFTONE_ROOT"
build=${HALFTONE_BUILD:-build}
[[ -e $build/compile_commands.json ]] || die "$build/compile_commands.json is missing; run cmake --preset release first"

mapfile -t files < <(python3 scripts/tidy_database.py "$build" "$@")
if ((${#files[@]} == 0)); then
  say "clang-tidy: nothing to look at"
  exit 0
fi
say "clang-tidy: ${#files[@]} sources"
# A source in which it found nothing is not looked at again until a byte of what it reads has changed.
cache=$HALFTONE_CACHE/tidy
find "$cache" -type f -mtime +30 -delete 2>/dev/null || true
printf '%s\0' "${files[@]}" | xargs -0 -n 1 -P "$(build_jobs)" python3 scripts/tidy_cached.py "$build/tidy" "$cache" 2> >(grep -v 'warnings\? generated\|^Suppressed\|^Use -header' >&2 || true)
