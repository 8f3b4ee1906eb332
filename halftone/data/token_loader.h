// SPDX-License-Identifier: Apache-2.0
// From the ids of samples to batches.
//
// Unpacked (MiniMind's rule), row i is sample i (bos, text, eos), cut off after seq_len ids and
// filled up with pad; input = row[:-1], target = row[1:], mask = (target stems from the sample): an
// id that equals pad counts where the sample itself has it.
// Packed, all samples stand one after another and row i is the seq_len + 1 ids from i * seq_len on,
// so that every id but the very first is predicted exactly once; only the last row has padding.
// Of chats only the targets that an assistant has to say count. Rows in which none does are left
// out. Of preferences, two rows belong together, the better chat and the other one: a batch has B
// such pairs, and 2 B rows.
// An epoch visits the rows in an order that the seed and the epoch's number fix. Several processes
// share the batches of that one order (train/batch_stream.h).
#pragma once

#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "halftone/core/document_ends.h"
#include "halftone/core/state_dict.h"
#include "halftone/data/token_cache.h"

namespace halftone {

/// T = seq_len packed, seq_len - 1 unpacked; B may be smaller in the last batch of an epoch.
struct TokenBatch {
  torch::Tensor input_ids;   // (B, T) int64
  torch::Tensor target_ids;  // (B, T) int64
  torch::Tensor loss_mask;   // (B, T) float32, 1 where the target counts
  std::int64_t tokens = 0;   ///< sum of the mask
  std::int64_t epoch = 0;    ///< from 0
  std::int64_t index = 0;    ///< in the epoch, from 0
  std::int64_t pairs = 0;    ///< of preferences: those with targets that count
  /// With document_mask: where in each row its documents end, the last one with T. No document may
  /// know of another. The first target of a document does not count.
  std::shared_ptr<const DocumentEnds> document_ends = nullptr;

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
  bool document_mask = false;  ///< of packed rows: say where documents end
};

/// Batches by position; the data repeats, epoch after epoch, in an order of its own each. Nothing
/// has to be replayed to resume.
class TokenLoader {
 public:
  /// Throws UserError when batch_size or seq_len is too small, or no row of chats has an answer;
  /// for preferences that are packed, too.
  TokenLoader(TokenizedData data, TokenLoaderOptions options);

  const TokenLoaderOptions& options() const { return options_; }
  /// Per epoch; of preferences, pairs.
  std::int64_t rows() const { return rows_; }
  /// Rows, or pairs, without an answer that could be learned.
  std::int64_t rows_left_out() const { return static_cast<std::int64_t>(left_out_.size()); }
  std::int64_t batches_per_epoch() const;

  /// A pure function of data, options and position = epoch * batches_per_epoch() + index, safe to
  /// call from several threads. Works on the calling thread alone.
  TokenBatch batch_at(std::int64_t position) const;

  /// The batch at position(), which moves on.
  TokenBatch next() { return batch_at(position_++); }
  std::int64_t position() const { return position_; }

  /// The position, and what it depends on. Loading throws UserError that names the first thing that
  /// differs: text, tokenizer, how special tokens in the text were read, seq_len, pack, shuffle,
  /// seed or batch_size.
  StateDict state_dict() const;
  void load_state_dict(const StateDict& state);

 private:
  /// A row as the tokens hold it, with with_answer() of each id where they are of chats.
  struct Row {
    std::vector<std::int64_t> ids;  // as many as it has, without padding
    std::uint64_t first = 0;        // in all ids
  };

  bool is_chat() const { return data_.kind != SampleKind::kText; }
  std::int64_t rows_of_pair() const { return data_.kind == SampleKind::kPreference ? 2 : 1; }
  std::int64_t all_rows() const;
  void leave_out_rows();
  bool has_answer(std::int64_t row) const;
  std::int64_t row_at(std::int64_t epoch, std::int64_t place) const;
  Row read_row(std::int64_t row) const;
  std::vector<std::int64_t> document_starts(const Row& row) const;
  void fill_row(const Row& row, std::int64_t index, TokenBatch& batch,
                DocumentEnds& documents) const;

  TokenizedData data_;
  TokenLoaderOptions options_;
  std::int64_t rows_ = 0;
  std::vector<std::int64_t> left_out_;  // rows, or pairs, in order
  std::int64_t position_ = 0;
};

}  // namespace halftone
