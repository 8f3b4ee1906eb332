#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains examples/disk_loader in one go and in three parts: both must come to the same weights, bit for bit.
#
# Usage: resume_disk_loader.sh PROGRAM FOLDER
set -euo pipefail
program=$1 folder=$2
rm -rf "$folder"
mkdir -p "$folder"
cd "$folder"
"$program" --out straight > straight.txt
"$program" --out parts --stop-at 100
"$program" --out parts --stop-at 700 --resume
"$program" --out parts --resume > parts.txt
cat straight.txt
cmp straight.txt parts.txt
for run in straight parts; do
  ls -d "$run"/checkpoints/* | tail -n 1 > "$run".newest
done
cmp "$(cat straight.newest)/model.safetensors" "$(cat parts.newest)/model.safetensors"
echo "the same bits"
