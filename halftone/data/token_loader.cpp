// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/token_loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "halftone/core/device.h"
#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/data/loader_state_impl.h"

namespace halftone {
namespace {

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

void check(const TokenLoaderOptions& options) {
  if (options.batch_size < 1)
    throw UserError(fmt::format("batch-size must be at least 1, got {}", options.batch_size));
  const std::int64_t shortest = options.pack ? 1 : 2;
  if (options.seq_len < shortest)
    throw UserError(fmt::format("seq-len must be at least {} {} packing, got {}", shortest,
                                options.pack ? "with" : "without", options.seq_len));
  HALFTONE_CHECK(options.world_size >= 1 && options.rank >= 0 && options.rank < options.world_size,
                 "[token_loader] expected 0 <= rank < world_size, got ", options.rank, " of ",
                 options.world_size);
}

void check_same(const StateDict& saved, const StateDict& now, const std::string& name,
                const char* what) {
  if (const auto changed = changed_value(saved, now, name))
    throw UserError(
        fmt::format("cannot resume: {} (saved {} {}, now {}); put the "
                    "data back as it was, or start a new run with init_from",
                    what, name, changed->saved, changed->now));
}

// Runs that were saved before there was a choice read special tokens from text: the ids are equal
// only where the text spells none.
void check_special_tokens(const StateDict& saved, const StateDict& now, const TokenFile& tokens) {
  const bool is_old = !saved.values.contains("special_tokens");
  if (is_old && tokens.special_tokens() > 0)
    throw UserError(fmt::format(
        "cannot resume: the saved run read {} special tokens out of its text in a way that is no "
        "longer supported; start a new run with init_from",
        tokens.special_tokens()));
  if (!is_old)
    check_same(saved, now, "special_tokens",
               "special tokens in the text are read in another way than in the saved run");
}

}  // namespace

TokenBatch TokenBatch::to(const torch::Device& device) const {
  TokenBatch moved = *this;
  for (torch::Tensor* tensor : {&moved.input_ids, &moved.target_ids, &moved.loss_mask})
    *tensor = to_device(*tensor, device);
  return moved;
}

TokenBatch TokenBatch::joined(std::span<const TokenBatch> parts, std::span<const double> weights) {
  HALFTONE_CHECK(!parts.empty() && parts.size() == weights.size(),
                 "[batch] expected parts to join and a weight for each, got ", parts.size(),
                 " parts and ", weights.size(), " weights");
  std::vector<torch::Tensor> inputs, targets, masks;
  std::int64_t tokens = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const TokenBatch& part = parts[i];
    inputs.push_back(part.input_ids);
    targets.push_back(part.target_ids);
    masks.push_back(weights[i] == 1.0 ? part.loss_mask : part.loss_mask * weights[i]);
    tokens += part.tokens;
  }
  TokenBatch whole = parts.front();
  whole.input_ids = at::cat(inputs);
  whole.target_ids = at::cat(targets);
  whole.loss_mask = at::cat(masks);
  whole.tokens = tokens;
  return whole;
}

TokenLoader::TokenLoader(TokenizedData data, TokenLoaderOptions options)
    : data_(std::move(data)), options_(options) {
  check(options_);
  HALFTONE_CHECK(data_.tokens != nullptr && data_.tokens->samples() > 0,
                 "[token_loader] expected tokens of at least one sample");
  const auto tokens = static_cast<std::int64_t>(data_.tokens->size());
  rows_ = options_.pack ? divide_up(std::max<std::int64_t>(tokens - 1, 1), options_.seq_len)
                        : static_cast<std::int64_t>(data_.tokens->samples());
}

std::int64_t TokenLoader::batches_per_epoch() const {
  return divide_up(rows_, options_.batch_size * options_.world_size);
}

std::int64_t TokenLoader::row_at(std::int64_t epoch, std::int64_t place) const {
  if (!options_.shuffle) return place;
  const std::uint64_t seed = random_word(options_.seed, static_cast<std::uint64_t>(epoch));
  return static_cast<std::int64_t>(
      permuted_index(seed, static_cast<std::uint64_t>(place), static_cast<std::uint64_t>(rows_)));
}

// Fills the front of `ids` with a row's; returns how many they are.
std::size_t TokenLoader::read_row(std::int64_t row, std::span<std::int64_t> ids) const {
  const auto at = static_cast<std::uint64_t>(row);
  const auto first = at * static_cast<std::uint64_t>(options_.seq_len);
  const auto [begin, end] =
      options_.pack ? std::pair(first, data_.tokens->size()) : data_.tokens->sample_range(at);
  const auto most = static_cast<std::uint64_t>(options_.seq_len + (options_.pack ? 1 : 0));
  const std::size_t count = std::min(most, end - begin);
  data_.tokens->copy(begin, ids.first(count));
  return count;
}

TokenBatch TokenLoader::batch_at(std::int64_t position) const {
  HALFTONE_CHECK(position >= 0, "[token_loader] expected a position from 0 on, got ", position);
  TokenBatch batch{.epoch = position / batches_per_epoch(),
                   .index = position % batches_per_epoch()};
  const std::int64_t first =
      batch.index * options_.batch_size * options_.world_size + options_.rank;
  const std::int64_t left = first < rows_ ? divide_up(rows_ - first, options_.world_size) : 0;
  const std::int64_t count = std::min(options_.batch_size, left);
  const std::int64_t length = options_.seq_len - (options_.pack ? 0 : 1);
  const std::int64_t shown = std::max<std::int64_t>(count, 1);

  batch.input_ids = torch::empty({shown, length}, torch::kInt64);
  batch.target_ids = torch::empty({shown, length}, torch::kInt64);
  batch.loss_mask = torch::empty({shown, length});
  auto* input = batch.input_ids.data_ptr<std::int64_t>();
  auto* target = batch.target_ids.data_ptr<std::int64_t>();
  auto* mask = batch.loss_mask.data_ptr<float>();
  std::vector<std::int64_t> row(static_cast<std::size_t>(length + 1));
  for (std::int64_t j = 0; j < shown; ++j, input += length, target += length, mask += length) {
    const std::size_t filled =
        j < count ? read_row(row_at(batch.epoch, first + j * options_.world_size), row) : 0;
    std::fill(row.begin() + static_cast<std::ptrdiff_t>(filled), row.end(), data_.pad_id);
    std::copy(row.begin(), row.end() - 1, input);
    std::copy(row.begin() + 1, row.end(), target);
    for (std::size_t t = 1; t < row.size(); ++t) {
      const bool counts = t < filled;
      mask[t - 1] = counts ? 1.0F : 0.0F;
      batch.tokens += counts ? 1 : 0;
    }
  }
  return batch;
}

StateDict TokenLoader::state_dict() const {
  StateDict state;
  state.values["position"] = position_;
  state.values["text"] = fmt::format("{:016x}", data_.content_hash);
  state.values["tokenizer"] = fmt::format("{:016x}", data_.tokenizer_hash);
  state.values["special_tokens"] = std::string(data_.reads_special_tokens ? "tokens" : "text");
  state.values["global_batch_size"] = options_.batch_size * options_.world_size;
  state.values["seq_len"] = options_.seq_len;
  state.values["pack"] = options_.pack;
  state.values["shuffle"] = options_.shuffle;
  state.values["seed"] = static_cast<std::int64_t>(options_.seed);
  return state;
}

void TokenLoader::load_state_dict(const StateDict& state) {
  const StateDict now = state_dict();
  check_same(state, now, "tokenizer", "the tokenizer is not the one of the saved run");
  check_same(state, now, "pack", "packing differs from the saved run");
  check_same(state, now, "text", "the data is not what the saved run was trained on");
  check_special_tokens(state, now, *data_.tokens);
  check_same(state, now, "seq_len", "the sequence length differs from the saved run");
  check_same(state, now, "global_batch_size",
             "the batch size times the processes differs from the saved run");
  check_same(state, now, "shuffle", "shuffling differs from the saved run");
  check_same(state, now, "seed", "the seed differs from the saved run");
  position_ = saved_data_position(state);
}

}  // namespace halftone
