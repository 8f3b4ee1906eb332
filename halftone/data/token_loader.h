// SPDX-License-Identifier: Apache-2.0
// From the ids of samples to batches.
//
// Unpacked (MiniMind's rule), row i is sample i (bos, text, eos), cut off after seq_len ids and
// filled up with pad; input = row[:-1], target = row[1:], mask = (target stems from the sample): an
// id that equals pad counts where the sample itself has it.
// Packed, all samples stand one after another and row i is the seq_len + 1 ids from i * seq_len on,
// so that every id but the very first is predicted exactly once; only the last row has padding.
// An epoch visits the rows in an order that the seed and the epoch's number fix. Of that one order,
// batch k of process r of W with batch size B has the places (k B + j) W + r, j = 0..B-1: together
// the processes see what one process with batch size W B sees.
#pragma once

#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "halftone/core/state_dict.h"
#include "halftone/data/token_cache.h"

namespace halftone {

/// T = seq_len packed, seq_len - 1 unpacked; B may be smaller in the last batch of an epoch. A
/// process for which no row is left there gets one that is all padding.
struct TokenBatch {
  torch::Tensor input_ids;   // (B, T) int64
  torch::Tensor target_ids;  // (B, T) int64
  torch::Tensor loss_mask;   // (B, T) float32, 1 where the target counts
  std::int64_t tokens = 0;   ///< sum of the mask
  std::int64_t epoch = 0;    ///< from 0
  std::int64_t index = 0;    ///< in the epoch, from 0

  std::int64_t rows() const { return input_ids.numel(); }  ///< B T
  TokenBatch to(const torch::Device& device) const;
  std::int64_t samples() const { return input_ids.size(0); }  ///< B
  /// The rows of all parts, at least one, of one T. The mask of part i is multiplied by weights[i]:
  /// 1 for the mean over the targets of all parts.
  static TokenBatch joined(std::span<const TokenBatch> parts, std::span<const double> weights);
};

struct TokenLoaderOptions {
  std::int64_t batch_size = 1;
  std::int64_t seq_len = 512;
  bool pack = true;
  bool shuffle = true;
  std::uint64_t seed = 0;
  std::int64_t rank = 0;
  std::int64_t world_size = 1;
};

/// Batches by position; the data repeats, epoch after epoch, in an order of its own each. Nothing
/// has to be replayed to resume.
class TokenLoader {
 public:
  /// Throws UserError when batch_size or seq_len is too small.
  TokenLoader(TokenizedData data, TokenLoaderOptions options);

  const TokenLoaderOptions& options() const { return options_; }
  std::int64_t rows() const { return rows_; }  ///< per epoch, over all processes
  std::int64_t batches_per_epoch() const;      ///< of each process, the same for all

  /// A pure function of data, options and position = epoch * batches_per_epoch() + index, safe to
  /// call from several threads. Works on the calling thread alone.
  TokenBatch batch_at(std::int64_t position) const;

  /// The batch at position(), which moves on.
  TokenBatch next() { return batch_at(position_++); }
  std::int64_t position() const { return position_; }

  /// The position, and what it depends on, the same on every process. Loading throws UserError that
  /// names the first thing that differs: text, tokenizer, how special tokens in the text were read,
  /// seq_len, pack, shuffle, seed, or the batch size over all processes (how many share it may
  /// change).
  StateDict state_dict() const;
  void load_state_dict(const StateDict& state);

 private:
  std::int64_t row_at(std::int64_t epoch, std::int64_t place) const;
  std::size_t read_row(std::int64_t row, std::span<std::int64_t> ids) const;

  TokenizedData data_;
  TokenLoaderOptions options_;
  std::int64_t rows_ = 0;
  std::int64_t position_ = 0;
};

}  // namespace halftone
