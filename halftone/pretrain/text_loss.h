// SPDX-License-Identifier: Apache-2.0
// What is said of a model's loss on text: by halftone eval, and by the validations of a training.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "halftone/core/process_group.h"
#include "halftone/data/token_loader.h"

namespace halftone {

/// The cross entropy of the predicted tokens, added up batch by batch: means are over tokens or
/// bytes, however they are spread over batches.
class TextLoss {
 public:
  /// `token_bytes` (V): bytes of text that each id stands for, 0 for special tokens. Empty: bytes
  /// are not counted.
  explicit TextLoss(const std::vector<std::int64_t>& token_bytes = {});

  /// `cross_entropy`: the mean over the predicted tokens of `batch`, in nats. May wait for the
  /// batch's device.
  void add(double cross_entropy, const TokenBatch& batch);

  /// Counts what the other processes have added, too. Waits.
  void add_up(ProcessGroup& group);

  std::int64_t tokens() const { return tokens_; }  ///< predicted
  std::int64_t bytes() const { return bytes_; }    ///< of text that they stand for
  /// Nats a token, the mean. REQUIRES tokens() > 0.
  double loss() const;
  /// exp(loss()), no more than the largest double; what is no number stays so.
  double perplexity() const;
  /// REQUIRES bytes() > 0.
  double bits_per_byte() const;

 private:
  torch::Tensor bytes_of_;  // (V) int64, where the last batch was; undefined: not known
  double nats_ = 0;
  std::int64_t tokens_ = 0;
  std::int64_t bytes_ = 0;
};

}  // namespace halftone
