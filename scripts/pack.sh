#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Copies the program of a build, and the libraries that it loads, into a folder that runs on another machine:
#   scripts/pack.sh BUILD FOLDER        for example: scripts/pack.sh build-aarch64 halftone-aarch64
# The C and C++ libraries are left to that machine, which must be as new as those of the build (Debian 12 or later).
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

if (($# != 2)) || [[ $1 == -* ]]; then
  sed -n '3,5s/^# //p' "${BASH_SOURCE[0]}"
  exit 0
fi
build=$1 folder=$2
program=$build/libhalftone_program.so
[[ -e $build/halftone && -e $program ]] ||
  die "'$build' has no program: build one with cmake --preset aarch64 && cmake --build --preset aarch64, then name its folder"
[[ ! -e $folder ]] || die "'$folder' exists: name a new folder, or remove it"
have readelf || die "looking for libraries needs readelf (apt-get install binutils)"

# What a library names in its dynamic section under $2, such as NEEDED.
dynamic() { readelf -d "$1" | sed -n "s/.*($2).*\[\(.*\)\]/\1/p"; }

# Where the build found Debian's libraries.
root=$(sed -n 's/^HALFTONE_SYSROOT:PATH=//p' "$build/CMakeCache.txt")
case $(readelf -h "$program" | sed -n 's/^ *Machine: *//p') in
  AArch64) triplet=aarch64-linux-gnu ;;
  *X86-64*) triplet=x86_64-linux-gnu ;;
  *) die "'$program' is for a processor that this script does not know" ;;
esac

# The file of the library $1 that $2 asks for.
find_library() {
  local directory directories
  IFS=: read -ra directories < <(dynamic "$2" 'RU*N*PATH')
  for directory in "${directories[@]}" "$root/usr/lib/$triplet" "$root/lib/$triplet"; do
    directory=${directory//\$ORIGIN/$(dirname -- "$2")}
    if [[ -e $directory/$1 ]]; then
      printf '%s' "$directory/$1"
      return
    fi
  done
  die "'$2' needs $1, which is neither in its RUNPATH nor in '$root/usr/lib/$triplet'"
}

declare -A copied=()
# Copies the library $1 and what it needs.
copy_library() {
  local name library
  copied[$(basename -- "$1")]=1
  cp -L -- "$1" "$folder.new/"
  while IFS= read -r name; do
    case $name in
      ld-linux* | libc.so.* | libm.so.* | libdl.so.* | librt.so.* | libutil.so.* | libpthread.so.* | libgcc_s.so.* | libstdc++.so.*) ;;
      *)
        [[ -z ${copied[$name]:-} ]] || continue
        library=$(find_library "$name" "$1") || exit 1
        copy_library "$library"
        ;;
    esac
  done < <(dynamic "$1" NEEDED)
}

rm -rf "$folder.new"
trap 'rm -rf "$folder.new"' EXIT
mkdir -p "$folder.new"
cp -- "$build/halftone" "$folder.new/"
copy_library "$program"
mv "$folder.new" "$folder"
say "$folder has the program and ${#copied[@]} libraries, $(du -sm "$folder" | cut -f1) MB; copy it and run $(basename -- "$folder")/halftone"
