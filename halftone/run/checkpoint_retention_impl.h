// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "halftone/run/checkpoint.h"

namespace halftone {

/// Which checkpoints stay when another is written. Only whole ones count, and those of later steps,
/// which the run went back from, only until the new one is there.
class CheckpointRetention {
 public:
  /// Keeps what `keep` says with that of `step`. `is_whole` may read a whole checkpoint.
  CheckpointRetention(std::filesystem::path run_dir, std::int64_t step, KeepCheckpoints keep,
                      std::function<bool(const std::filesystem::path& folder)> is_whole);

  /// Before the new checkpoint is written: removes what would go afterwards, so that a full disk
  /// has room for it. At least one whole checkpoint stays; where there is none, all of them do.
  void make_room();
  /// Once the new checkpoint is in its place: removes the rest.
  void prune() const;

 private:
  std::vector<std::int64_t> others() const;
  bool is_wanted(std::int64_t step) const;
  std::size_t most_others() const;

  std::filesystem::path run_dir_;
  std::int64_t step_;
  KeepCheckpoints keep_;
  std::function<bool(const std::filesystem::path& folder)> is_whole_;
  std::vector<std::int64_t> kept_;  // by make_room(), in the order of others()
};

}  // namespace halftone
