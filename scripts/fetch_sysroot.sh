#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Unpacks Debian's packages for another processor, and what they depend on, into a folder:
#   scripts/fetch_sysroot.sh ARCHITECTURE FOLDER PACKAGES...
# apt finds, fetches and checks them with lists of its own beside the folder: nothing is installed, no root is needed,
# and whoever removes the folder has undone it.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

if (($# < 3)) || [[ $1 == -* ]]; then
  sed -n '3,6s/^# //p' "${BASH_SOURCE[0]}"
  exit 0
fi
architecture=$1 folder=$2
shift 2
stamp=$folder/.complete
wanted=$(printf '%s\n' "$architecture" "$@")
if [[ -e $stamp && $(<"$stamp") == "$wanted" ]]; then exit 0; fi
{ have apt-get && have dpkg-deb; } ||
  die "fetching $architecture libraries needs apt and dpkg-deb (Debian 12); elsewhere name a folder that has them with -DHALFTONE_SYSROOT=DIR"

say "fetching $architecture libraries into $folder"
work=$folder.apt
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial"
: >"$work/status" # as if nothing were installed, so that every dependency comes
apt=(apt-get -q -o "APT::Architecture=$architecture" -o "APT::Architectures::=$architecture" -o "Dir::State=$work/state"
  -o "Dir::State::status=$work/status" -o "Dir::Cache=$work/cache" -o "Dir::Log=$work" -o APT::Sandbox::User= -o Debug::NoLocking=1)
if ! output=$("${apt[@]}" update 2>&1) ||
  ! output=$("${apt[@]}" install --download-only -y --no-install-recommends "$@" 2>&1); then
  tail -n 20 <<<"$output" >&2
  die "apt-get could not fetch the $architecture packages; the lines above say why (Ubuntu keeps them on another server, which its sources must name)"
fi

rm -rf "$folder.new"
mkdir -p "$folder.new"
for package in "$work"/cache/archives/*.deb; do
  dpkg-deb -x "$package" "$folder.new"
  note_fetched "$(stat -c %s "$package")"
done
# A link to /lib/... means the folder's, not this system's.
find "$folder.new" -type l -lname '/*' -print0 | while IFS= read -r -d '' link; do
  ln -sfn "$(realpath -m -s --relative-to="$(dirname -- "$link")" "$folder.new$(readlink -- "$link")")" "$link"
done
# Under qemu a program sees these files in the place of this machine's, whose processor LibTorch would take for an Arm
# that it does not know. They describe a Cortex-A76, the processor of a small device.
mkdir -p "$folder.new/proc" "$folder.new/sys/devices/system/cpu/cpu0/regs/identification"
for ((cpu = 0; cpu < $(nproc --all); ++cpu)); do
  printf '%s\t: %s\n' processor "$cpu" Features "fp asimd" "CPU implementer" 0x41 "CPU architecture" 8 \
    "CPU variant" 0x4 "CPU part" 0xd0b "CPU revision" 1
  printf '\n'
done >"$folder.new/proc/cpuinfo"
printf '0x00000000414fd0b1\n' >"$folder.new/sys/devices/system/cpu/cpu0/regs/identification/midr_el1"

printf '%s\n' "$wanted" >"$folder.new/.complete"
rm -rf "$folder" "$work"
mv "$folder.new" "$folder"
