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
  std::int64_t tokens = 0, pairs = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const TokenBatch& part = parts[i];
    inputs.push_back(part.input_ids);
    targets.push_back(part.target_ids);
    masks.push_back(weights[i] == 1.0 ? part.loss_mask : part.loss_mask * weights[i]);
    tokens += part.tokens;
    pairs += part.pairs;
  }
  TokenBatch whole = parts.front();
  whole.input_ids = at::cat(inputs);
  whole.target_ids = at::cat(targets);
  whole.loss_mask = at::cat(masks);
  whole.tokens = tokens;
  whole.pairs = pairs;
  if (whole.document_ends) {
    DocumentEnds documents;
    for (const TokenBatch& part : parts)
      documents.insert(documents.end(), part.document_ends->begin(), part.document_ends->end());
    whole.document_ends = std::make_shared<const DocumentEnds>(std::move(documents));
  }
  return whole;
}

TokenLoader::TokenLoader(TokenizedData data, TokenLoaderOptions options)
    : data_(std::move(data)), options_(options) {
  check(options_);
  HALFTONE_CHECK(data_.tokens != nullptr && data_.tokens->samples() > 0,
                 "[token_loader] expected tokens of at least one sample");
  if (options_.pack && data_.kind == SampleKind::kPreference)
    throw UserError("preferences cannot be packed: each needs rows of its own; set pack to false");
  rows_ = all_rows();
  if (is_chat()) leave_out_rows();
}

std::int64_t TokenLoader::all_rows() const {
  const auto tokens = static_cast<std::int64_t>(data_.tokens->size());
  return options_.pack ? divide_up(std::max<std::int64_t>(tokens - 1, 1), options_.seq_len)
                       : static_cast<std::int64_t>(data_.tokens->samples()) / rows_of_pair();
}

void TokenLoader::leave_out_rows() {
  for (std::int64_t row = 0; row < rows_; ++row) {
    bool learns = true;
    for (std::int64_t i = 0; i < rows_of_pair(); ++i)
      learns = learns && has_answer(row * rows_of_pair() + i);
    if (!learns) left_out_.push_back(row);
  }
  if (rows_left_out() == rows_)
    throw UserError(
        fmt::format("none of the {} {} has an answer within {} tokens; raise seq_len, or name data "
                    "with answers of an assistant",
                    rows_, options_.pack ? "rows" : "chats", options_.seq_len));
  rows_ -= rows_left_out();
}

bool TokenLoader::has_answer(std::int64_t row) const {
  const Row held = read_row(row);
  const std::vector<std::int64_t>& ids = held.ids;
  return !ids.empty() && std::any_of(ids.begin() + 1, ids.end(), is_answer);
}

std::int64_t TokenLoader::batches_per_epoch() const {
  return divide_up(rows_, options_.batch_size);
}

std::int64_t TokenLoader::row_at(std::int64_t epoch, std::int64_t place) const {
  std::int64_t row = place;
  if (options_.shuffle) {
    const std::uint64_t seed = random_word(options_.seed, static_cast<std::uint64_t>(epoch));
    row = static_cast<std::int64_t>(
        permuted_index(seed, static_cast<std::uint64_t>(place), static_cast<std::uint64_t>(rows_)));
  }
  // Row `row` of those that are kept: as many more as were left out before it.
  std::int64_t before = 0;
  for (std::int64_t end = rows_left_out(); before < end;) {
    const std::int64_t middle = (before + end) / 2;
    const std::int64_t kept = left_out_[static_cast<std::size_t>(middle)] - middle;
    (kept <= row ? before : end) = kept <= row ? middle + 1 : middle;
  }
  return row + before;
}

TokenLoader::Row TokenLoader::read_row(std::int64_t row) const {
  const auto at = static_cast<std::uint64_t>(row);
  const auto first = at * static_cast<std::uint64_t>(options_.seq_len);
  const auto [begin, end] =
      options_.pack ? std::pair(first, data_.tokens->size()) : data_.tokens->sample_range(at);
  const auto most = static_cast<std::uint64_t>(options_.seq_len + (options_.pack ? 1 : 0));
  Row result{.ids = std::vector<std::int64_t>(std::min(most, end - begin)), .first = begin};
  data_.tokens->copy(begin, result.ids);
  return result;
}

// Where in the row samples begin, but for its own first id.
std::vector<std::int64_t> TokenLoader::document_starts(const Row& row) const {
  const TokenFile& tokens = *data_.tokens;
  // The first sample that begins behind the row's first id.
  std::uint64_t sample = 0;
  for (std::uint64_t end = tokens.samples(); sample < end;) {
    const std::uint64_t middle = sample + (end - sample) / 2;
    (tokens.sample_range(middle).first <= row.first ? sample : end) =
        tokens.sample_range(middle).first <= row.first ? middle + 1 : middle;
  }
  std::vector<std::int64_t> starts;
  for (; sample < tokens.samples(); ++sample) {
    const std::uint64_t begin = tokens.sample_range(sample).first;
    if (begin >= row.first + row.ids.size()) break;
    starts.push_back(static_cast<std::int64_t>(begin - row.first));
  }
  return starts;
}

void TokenLoader::fill_row(const Row& row, std::int64_t index, TokenBatch& batch,
                           DocumentEnds& documents) const {
  const std::int64_t length = batch.input_ids.size(1);
  const auto filled = static_cast<std::int64_t>(row.ids.size());
  auto* input = batch.input_ids.data_ptr<std::int64_t>() + index * length;
  auto* target = batch.target_ids.data_ptr<std::int64_t>() + index * length;
  auto* mask = batch.loss_mask.data_ptr<float>() + index * length;
  const auto id_at = [&](std::int64_t t) {
    if (t >= filled) return data_.pad_id;
    const std::int64_t id = row.ids[static_cast<std::size_t>(t)];
    return is_chat() ? without_answer(id) : id;
  };
  const auto counts = [&](std::int64_t t) {
    return t < filled && (!is_chat() || is_answer(row.ids[static_cast<std::size_t>(t)]));
  };
  for (std::int64_t t = 0; t < length; ++t) {
    input[t] = id_at(t);
    target[t] = id_at(t + 1);
    mask[t] = counts(t + 1) ? 1.0F : 0.0F;
  }
  if (options_.pack && options_.document_mask && filled > 0) {
    for (const std::int64_t start : document_starts(row)) {
      mask[start - 1] = 0.0F;
      if (start < length) documents[static_cast<std::size_t>(index)].push_back(start);
    }
    if (filled < length) documents[static_cast<std::size_t>(index)].push_back(filled);
  }
  documents[static_cast<std::size_t>(index)].push_back(length);
  batch.tokens += std::count(mask, mask + length, 1.0F);
}

TokenBatch TokenLoader::batch_at(std::int64_t position) const {
  HALFTONE_CHECK(position >= 0, "[token_loader] expected a position from 0 on, got ", position);
  TokenBatch batch{.epoch = position / batches_per_epoch(),
                   .index = position % batches_per_epoch()};
  const std::int64_t first = batch.index * options_.batch_size;
  const std::int64_t count = std::min(options_.batch_size, rows_ - first);
  const std::int64_t length = options_.seq_len - (options_.pack ? 0 : 1);
  const std::int64_t rows = count * rows_of_pair();

  batch.input_ids = torch::empty({rows, length}, torch::kInt64);
  batch.target_ids = torch::empty({rows, length}, torch::kInt64);
  batch.loss_mask = torch::empty({rows, length});
  DocumentEnds documents(static_cast<std::size_t>(rows));
  for (std::int64_t j = 0; j < rows; ++j) {
    const std::int64_t place = first + j / rows_of_pair();
    const std::int64_t row = row_at(batch.epoch, place) * rows_of_pair() + j % rows_of_pair();
    fill_row(read_row(row), j, batch, documents);
  }
  if (data_.kind == SampleKind::kPreference) batch.pairs = count;
  if (options_.document_mask)
    batch.document_ends = std::make_shared<const DocumentEnds>(std::move(documents));
  return batch;
}

StateDict TokenLoader::state_dict() const {
  StateDict state;
  state.values["position"] = position_;
  state.values["text"] = fmt::format("{:016x}", data_.content_hash);
  state.values["tokenizer"] = fmt::format("{:016x}", data_.tokenizer_hash);
  state.values["special_tokens"] = std::string(data_.reads_special_tokens ? "tokens" : "text");
  state.values["global_batch_size"] = options_.batch_size;  // as older runs call it
  state.values["seq_len"] = options_.seq_len;
  state.values["pack"] = options_.pack;
  if (options_.document_mask) state.values["document_mask"] = true;
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
  check_same(state, now, "global_batch_size", "the batch size differs from the saved run");
  if (state.values.contains("document_mask") != options_.document_mask)
    throw UserError(
        "cannot resume: document_mask differs from the saved run; put it back as it was, or start "
        "a new run with init_from");
  check_same(state, now, "shuffle", "shuffling differs from the saved run");
  check_same(state, now, "seed", "the seed differs from the saved run");
  position_ = saved_data_position(state);
}

}  // namespace halftone
