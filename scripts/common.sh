#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shared by the scripts beside it: source it, do not run it.
# shellcheck disable=SC2034  # used by the scripts that source this
HALFTONE_ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034
HALFTONE_CACHE=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/halftone

say() { printf '==> %s\n' "$*" >&2; }
die() {
  printf 'halftone: error: %s\n' "$*" >&2
  exit 1
}
have() { command -v -- "$1" >/dev/null 2>&1; }

# 75 s -> "1m15s"
minutes() { printf '%dm%02ds' $(($1 / 60)) $(($1 % 60)); }

# Bytes of memory that builds may use: what is free, and what a container's limit leaves.
memory_bytes() {
  local bytes limit
  bytes=$(awk '/^MemAvailable:/ { printf "%.0f", $2 * 1024 }' /proc/meminfo)
  limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
  if [[ $limit =~ ^[0-9]+$ ]] && ((limit < bytes)); then bytes=$limit; fi
  printf '%s' "$bytes"
}

# One compiler per CPU, but no more than memory allows: a LibTorch source takes up to 1.5 GB.
build_jobs() {
  local jobs by_memory
  jobs=$(nproc)
  by_memory=$(($(memory_bytes) / 1500000000))
  if ((by_memory < jobs)); then jobs=$by_memory; fi
  if ((jobs < 1)); then jobs=1; fi
  printf '%d' "$jobs"
}

# Adds up what was fetched, for a script that wants to say so at the end.
note_fetched() {
  if [[ -n ${HALFTONE_FETCH_LOG:-} ]]; then printf '%d\n' "$1" >>"$HALFTONE_FETCH_LOG"; fi
}
