#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From an empty machine to a small language model that was trained here and writes poems.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

# What is trained, on what, and what it is then asked to write. Change it here.
data=fortunes-zh
run=runs/quickstart
train_flags=(--preset tiny --precision bf16-mixed --seq-len 128 --lr 3e-3 --schedule cosine --max-time 3m --log-every 100 --overwrite)
prompts=("春" "明月" "山中")
generate_flags=(--temperature 0.8 --seed 1)

usage() {
  cat <<EOF
Usage: scripts/quickstart.sh [--build-only]

Installs what is missing, fetches LibTorch (once, into $HALFTONE_CACHE),
builds the halftone program and libraries into build/, fetches poems (Debian's $data), trains a small MiniMind
on them for about 3 minutes into $run, and prints what it writes.

  --build-only   stop after the build
EOF
}

build_only=0
while (($# > 0)); do
  case $1 in
    --build-only) build_only=1 ;;
    -h | --help) usage && exit 0 ;;
    *) die "quickstart.sh does not know '$1'; see scripts/quickstart.sh --help" ;;
  esac
  shift
done

# What will happen, before the first long step.
plan() {
  local total=10
  if ((build_only)); then total=6; fi
  say "halftone quickstart: about $total minutes on two cores the first time, less when it runs again"
  cat >&2 <<EOF
      1 set-up    installs missing packages and fetches LibTorch: up to 670 MB, once
      2 build     compiles the program and the library: 4 to 6 minutes on two cores
EOF
  ((build_only)) && return
  cat >&2 <<EOF
      3 data      fetches poems: 2 MB
      4 training  trains a small model on them: 3 minutes
      5 writing   lets the model continue ${#prompts[@]} beginnings
EOF
}

started=$SECONDS
timings=()
# timed NAME COMMAND...: says that it starts, runs it and notes how long it took.
timed() {
  local name=$1 from=$SECONDS
  shift
  say "step $((${#timings[@]} + 1)), $name, starts after $(minutes $((from - started)))"
  "$@"
  timings+=("$(printf '%-12s %s' "$name" "$(minutes $((SECONDS - from)))")")
}

folder_mb() { du -sm "$1" 2>/dev/null | cut -f1; }
fetched_mb() { awk '{ sum += $1 } END { printf "%d", sum / 1e6 }' "$HALFTONE_FETCH_LOG"; }

build() {
  local jobs output
  jobs=$(build_jobs)
  say "building into build/ with $jobs jobs"
  output=$(cmake --preset release 2>&1) || { printf '%s\n' "$output" >&2; die "cmake failed, see above"; }
  cmake --build build --parallel "$jobs" --target halftone_installed >&2
}

fetch_data() {
  say "fetching $data"
  data_folder=$(build/halftone data fetch "$data" | tail -n 1)
}

train() {
  say "training: halftone train --data $data_folder --out $run ${train_flags[*]}"
  build/halftone train --data "$data_folder" --out "$run" "${train_flags[@]}"
}

write() {
  local prompt
  for prompt in "${prompts[@]}"; do
    say "halftone generate $run --prompt $prompt"
    build/halftone generate "$run" --prompt "$prompt" "${generate_flags[@]}"
    printf '\n'
  done
}

closing_lines() {
  say "done in $(minutes $((SECONDS - started))):"
  printf '      %s\n' "${timings[@]}" >&2
  say "fetched:  $(fetched_mb) MB"
  say "LibTorch: $HALFTONE_CACHE ($(folder_mb "$HALFTONE_CACHE") MB)"
  say "program:  build/halftone"
  ((build_only)) && return
  say "data:     $data_folder"
  say "model:    $run (metrics.jsonl has a line for each step)"
  say "report:   $run/report.html (loss, speed and memory as pictures; open it in a browser)"
  cat >&2 <<EOF
==> Try next:
      build/halftone generate $run --prompt "秋风" --temperature 1.0
      build/halftone train --resume $run --max-time 10m
      build/halftone train --help
EOF
}

cd "$HALFTONE_ROOT"
HALFTONE_FETCH_LOG=$(mktemp)
export HALFTONE_FETCH_LOG
trap 'rm -f "$HALFTONE_FETCH_LOG"' EXIT
plan
timed "set-up" scripts/setup.sh >/dev/null
timed "build" build
if ((!build_only)); then
  timed "data" fetch_data
  timed "training" train
  timed "writing" write
fi
closing_lines
