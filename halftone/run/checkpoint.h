// SPDX-License-Identifier: Apache-2.0
// Checkpoints of a run: RUN/checkpoints/step-NNNNNNNN/ (the optimizer step, 8 digits or more) with
//   model.safetensors      the model's tensors, by name
//   optimizer.safetensors  the optimizer's tensors as "optimizer.NAME", the trainer's (such as
//                          random states) as "trainer.NAME"
//   optimizer-NNNNN.safetensors  where the optimizer's states are shared over processes: those of
//                          process NNNNN, of a tensor that is divided its part
//                          (optim/state_parts.h)
//   trainer.json           {"format": 1, "step", "files": {FILE: {"bytes", "xxh64"}},
//                           "model"|"optimizer"|"trainer": {NAME: VALUE}, "xxh64"}. A VALUE is a
//                           boolean, a whole number, a number with a point (a double, whose every
//                           bit survives), {"f64": "nan"|"inf"|"-inf"} or a string; the last xxh64
//                           is that of the object without it, as compact JSON with sorted keys.
// A checkpoint is built as step-NNNNNNNN.tmp-PID and renamed when all of it is on disk, so that
// whatever moment a process is killed at, each step-NNNNNNNN is complete. Damage that comes later
// is found by the sizes and checksums.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "halftone/core/process_group.h"
#include "halftone/core/state_dict.h"

namespace halftone {

struct Checkpoint {
  StateDict model;
  StateDict optimizer;
  StateDict trainer;  // scaler, random states, data position, counters
  std::int64_t step = 0;
};

/// Which checkpoints stay when another is written.
struct KeepCheckpoints {
  std::int64_t last = 2;  // the newest
  /// Instead, where it is given: those of these steps.
  std::optional<std::vector<std::int64_t>> steps = {};
};

/// Writes `checkpoint` below `run_dir` and keeps of the others what `keep` says, of which only
/// whole ones count. The rest goes before it is written, so that a full disk has room for it, but
/// never the last whole one; those of later steps, which the run went back from, go afterwards. A
/// checkpoint of the same step is replaced. Throws SystemError when the disk is full and UserError
/// when the folder can't be written; the checkpoints that stay are then as they were.
void save_checkpoint(const std::filesystem::path& run_dir, const Checkpoint& checkpoint,
                     const KeepCheckpoints& keep = {});
/// The same by several processes at once, each of which has a part of the optimizer's states and
/// writes that; the rest is process 0's. All call it. Where one fails, all throw, with the rank of
/// the one that did, and nothing has changed.
void save_checkpoint_together(ProcessGroup& group, const std::filesystem::path& run_dir,
                              const Checkpoint& checkpoint, const KeepCheckpoints& keep);
inline void save_checkpoint(const std::filesystem::path& run_dir, const Checkpoint& checkpoint,
                            std::int64_t keep_last) {
  save_checkpoint(run_dir, checkpoint, KeepCheckpoints{.last = keep_last});
}

/// The newest checkpoint that is whole; each newer, damaged one is named in a warning. Throws
/// UserError when there is none. The tensors of model and optimizer are lazy (StateDict): no more
/// than the one that is asked for is in memory. They can be read after the folder is gone, too.
Checkpoint load_latest_checkpoint(const std::filesystem::path& run_dir);

/// As load_latest_checkpoint, but with the model and the trainer's values only.
Checkpoint load_latest_model(const std::filesystem::path& run_dir);

/// That of a folder such as RUN/checkpoints/step-00000100. Throws UserError for one that is
/// damaged.
Checkpoint load_checkpoint(const std::filesystem::path& folder);
/// The same with the model and the trainer's values only.
Checkpoint load_model_of(const std::filesystem::path& folder);

/// Where the checkpoint of `step` stands below a run directory.
std::filesystem::path checkpoint_folder(const std::filesystem::path& run_dir, std::int64_t step);

/// Whether `folder` is a checkpoint's own, whole or not.
bool is_checkpoint(const std::filesystem::path& folder);

/// Steps that have a checkpoint folder, ascending.
std::vector<std::int64_t> checkpoint_steps(const std::filesystem::path& run_dir);

}  // namespace halftone
