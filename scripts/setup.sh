#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes this machine ready to build halftone: Debian or Ubuntu packages that are missing, and LibTorch.
# Safe to run again: what is there is left alone.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<EOF
Usage: scripts/setup.sh [--tests] [--cuda]
       scripts/setup.sh --cross aarch64

Installs with apt what the build needs and is missing, then fetches the pinned LibTorch (554 MB) into
$HALFTONE_CACHE
unless one is there already: HALFTONE_LIBTORCH=DIR names an unpacked LibTorch >= 2.11, or python3 can
import a torch >= 2.11. Prints the folder of LibTorch on stdout.

  --tests   what the test suite needs, too
  --cuda    LibTorch with its CUDA half (2.5 GB); the CUDA toolkit itself is yours to install
  --cross   what the preset of that processor builds with: a cross compiler and an emulator from apt, LibTorch (498 MB)
            and Debian's libraries (48 MB) in $HALFTONE_CACHE/aarch64. Removing that folder undoes the latter two
EOF
}

tests=0
cuda=()
cross=
while (($# > 0)); do
  case $1 in
    --tests) tests=1 ;;
    --cuda) cuda=(--cuda) ;;
    --cross)
      [[ ${2:-} == aarch64 ]] || die "--cross needs the name of a processor: aarch64, not '${2:-}'"
      cross=$2
      shift
      ;;
    -h | --help) usage && exit 0 ;;
    *) die "setup.sh does not know '$1'; see scripts/setup.sh --help" ;;
  esac
  shift
done
if [[ -n $cross ]] && ((tests || ${#cuda[@]})); then die "--cross goes alone: it fetches what tests need, and no CUDA"; fi

# Programs are looked for by name, so that one installed by other means counts; libraries by package.
programs=(g++:g++ cmake:cmake ninja:ninja-build ccache:ccache pkg-config:pkg-config python3:python3)
libraries=(ca-certificates libcli11-dev libtomlplusplus-dev nlohmann-json3-dev libspdlog-dev libfmt-dev
  libhwy-dev libicu-dev libre2-dev libxxhash-dev libprotozero-dev zlib1g-dev libgloo-dev
  libpng-dev libfreetype-dev libharfbuzz-dev libexpat1-dev libsndfile1-dev libsamplerate0-dev)
# What a build for another processor links, in the place of this system's.
cross_libraries=("${libraries[@]:1}" libgtest-dev libgmock-dev libbenchmark-dev libc6-dev libstdc++6 libgomp1)
if [[ -n $cross ]]; then
  programs+=(aarch64-linux-gnu-g++:g++-aarch64-linux-gnu qemu-aarch64:qemu-user)
  libraries=(ca-certificates)
elif ((tests)); then
  programs+=(clang-format-14:clang-format-14 clang-tidy-14:clang-tidy-14 espeak-ng:espeak-ng)
  libraries+=(libgtest-dev libgmock-dev libbenchmark-dev)
  # What the examples train on and tests read, unless it was fetched before.
  [[ -e $HALFTONE_CACHE/data/dataset-fashion-mnist ]] || libraries+=(dataset-fashion-mnist)
  [[ -e $HALFTONE_CACHE/data/emoji ]] || libraries+=(fonts-noto-color-emoji unicode-cldr-core)
  [[ -e $HALFTONE_CACHE/data/asterisk-sounds ]] || libraries+=(asterisk-core-sounds-en{,-wav})
fi

is_installed() { [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

missing_packages() {
  local entry
  for entry in "${programs[@]}"; do
    have "${entry%%:*}" || printf '%s\n' "${entry#*:}"
  done
  for entry in "${libraries[@]}"; do
    is_installed "$entry" || printf '%s\n' "$entry"
  done
  # The index to fetch LibTorch from is the one that pip knows.
  if have python3 && python3 -m pip --version >/dev/null 2>&1; then return; fi
  printf 'python3-pip\n'
}

install_packages() {
  local missing bytes output root=()
  if ! have dpkg-query || ! have apt-get; then
    die "set-up needs apt (Debian 12, Ubuntu 24.04); elsewhere install the counterparts of ${programs[*]#*:} ${libraries[*]}, then run cmake by hand"
  fi
  mapfile -t missing < <(missing_packages)
  if ((${#missing[@]} == 0)); then
    say "all packages are installed"
    return
  fi
  if ((EUID != 0)); then
    have sudo || die "these packages are missing and only root can install them: apt-get install ${missing[*]}"
    root=(sudo)
  fi
  "${root[@]}" apt-get -qq update >/dev/null 2>&1 || say "apt-get update failed; going on with the lists that are there"
  bytes=$(apt-get -qq install --print-uris -y --no-install-recommends "${missing[@]}" 2>/dev/null |
    awk '{ sum += $3 } END { printf "%d", sum }') || bytes=0
  note_fetched "$bytes"
  say "installing packages ($((bytes / 1000000)) MB): ${missing[*]}"
  if ! output=$("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install -y \
    --no-install-recommends "${missing[@]}" 2>&1); then
    tail -n 20 <<<"$output" >&2
    die "apt-get could not install ${missing[*]}; the lines above say why"
  fi
}

# The folder of LibTorch's lib/ and include/ at or below $1; fails when there is none or it is too old.
libtorch_in() {
  local folder
  for folder in "$1" "$1/torch" "$1/libtorch"; do
    if [[ -e $folder/lib/libtorch_cpu.so && -e $folder/include/ATen/ATen.h ]]; then
      if ((${#cuda[@]})) && [[ ! -e $folder/lib/libtorch_cuda.so ]]; then return 1; fi
      printf '%s' "$folder"
      return
    fi
  done
  return 1
}

libtorch_version() {
  cat "$1/include/torch/headeronly/version.h" "$1/include/torch/csrc/api/include/torch/version.h" 2>/dev/null |
    awk '/define TORCH_VERSION_MAJOR / { a = $3 } /define TORCH_VERSION_MINOR / { b = $3 } END { print a "." b }'
}

is_recent() {
  local version
  version=$(libtorch_version "$1")
  ((${version%%.*}0 > 20)) || { ((${version%%.*}0 == 20)) && ((${version#*.}0 >= 110)); }
}

named_libtorch() {
  local folder
  folder=$(libtorch_in "$HALFTONE_LIBTORCH") ||
    die "HALFTONE_LIBTORCH is '$HALFTONE_LIBTORCH', but no ${cuda:+CUDA build of }LibTorch is there (lib/libtorch_cpu.so${cuda:+, lib/libtorch_cuda.so} and include/ATen/ATen.h); name the folder of an unpacked LibTorch, or unset it to have one fetched"
  is_recent "$folder" ||
    die "HALFTONE_LIBTORCH is LibTorch $(libtorch_version "$folder") in '$folder', but halftone needs 2.11 or newer; name another, or unset it to have one fetched"
  say "LibTorch $(libtorch_version "$folder") in $folder, as HALFTONE_LIBTORCH says"
  printf '%s\n' "$folder"
}

pip_libtorch() {
  local found folder
  found=$(python3 -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])' 2>/dev/null) &&
    folder=$(libtorch_in "$found") && is_recent "$folder" || return 1
  say "LibTorch $(libtorch_version "$folder") in $folder, the torch of python3"
  printf '%s\n' "$folder"
}

find_or_fetch_libtorch() {
  local fetch=("$HALFTONE_ROOT/scripts/fetch_libtorch.py" "${cuda[@]}") folder
  if [[ -n ${HALFTONE_LIBTORCH:-} ]]; then
    named_libtorch
  elif folder=$(python3 "${fetch[@]}" --installed); then
    say "LibTorch is in $folder"
    printf '%s\n' "$folder"
  else
    pip_libtorch || python3 "${fetch[@]}"
  fi
}

install_packages
if [[ -n $cross ]]; then
  "$HALFTONE_ROOT/scripts/fetch_sysroot.sh" arm64 "$HALFTONE_CACHE/$cross/sysroot" "${cross_libraries[@]}"
  say "the libraries are in $HALFTONE_CACHE/$cross/sysroot"
  python3 "$HALFTONE_ROOT/scripts/fetch_libtorch.py" --arch "$cross"
else
  find_or_fetch_libtorch
fi
