// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/tensor_loader.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/data/loader_state_impl.h"
#include "halftone/system/hash.h"

namespace halftone {
namespace {

constexpr const char* kTransform = "transform";  // stands in a state only where there is one
// The stream of the loader's seed that transforms draw from: no epoch has this number.
constexpr std::uint64_t kOfTransforms = ~std::uint64_t{0};

std::string describe(const torch::Tensor& tensor) {
  return fmt::format("{}({})", c10::toString(tensor.scalar_type()), fmt::join(tensor.sizes(), ","));
}

void add_tensor(Hasher& hasher, const torch::Tensor& tensor) {
  hasher.update_field(describe(tensor));
  const torch::Tensor plain = tensor.detach().cpu().contiguous();
  hasher.update({static_cast<const char*>(plain.const_data_ptr()), plain.nbytes()});
}

}  // namespace

TensorLoader::TensorLoader(Batch samples, TensorLoaderOptions options)
    : samples_(std::move(samples)), options_(std::move(options)) {
  const auto& [data, target] = std::tie(samples_.data, samples_.target);
  HALFTONE_CHECK(data.defined() && target.defined() && data.dim() >= 1 && target.dim() >= 1,
                 "[tensor_loader] expected data (N, ...) and target (N, ...)");
  HALFTONE_CHECK(data.size(0) == target.size(0) && data.size(0) >= 1,
                 "[tensor_loader] expected as many targets as samples and at least one, got ",
                 data.size(0), " samples and ", target.size(0), " targets");
  HALFTONE_CHECK(options_.batch_size >= 1, "[tensor_loader] expected a batch_size from 1 on, got ",
                 options_.batch_size);
  HALFTONE_CHECK(!options_.drop_last || options_.batch_size <= data.size(0),
                 "[tensor_loader] expected at least one whole batch with drop_last, got ",
                 data.size(0), " samples for a batch_size of ", options_.batch_size);
  HALFTONE_CHECK(options_.num_workers >= 0, "[tensor_loader] expected num_workers from 0 on, got ",
                 options_.num_workers);
}

std::int64_t TensorLoader::batches_per_epoch() const {
  const std::int64_t left_over = options_.drop_last ? 0 : options_.batch_size - 1;
  return (samples() + left_over) / options_.batch_size;
}

torch::Tensor TensorLoader::rows_at(std::int64_t position) const {
  const std::int64_t first = position % batches_per_epoch() * options_.batch_size;
  const std::int64_t last = std::min(first + options_.batch_size, samples());
  torch::Tensor rows = at::arange(first, last, torch::kLong);
  if (!options_.shuffle) return rows;
  const auto epoch = static_cast<std::uint64_t>(position / batches_per_epoch());
  const std::uint64_t seed = random_word(options_.seed, epoch);
  for (std::int64_t i = 0; i < rows.size(0); ++i) {
    std::int64_t& row = rows.data_ptr<std::int64_t>()[i];
    row = static_cast<std::int64_t>(permuted_index(seed, static_cast<std::uint64_t>(row),
                                                   static_cast<std::uint64_t>(samples())));
  }
  return rows;
}

TensorLoader::Batch TensorLoader::batch_at(std::int64_t position) const {
  HALFTONE_CHECK(position >= 0, "[tensor_loader] expected a position from 0 on, got ", position);
  const torch::Tensor rows = rows_at(position);
  const auto pick = [&](const torch::Tensor& all) {
    return all.index_select(0, rows.to(all.device()));
  };
  Batch batch(pick(samples_.data), pick(samples_.target));
  if (!options_.transform) return batch;
  const std::uint64_t stream = random_word(options_.seed, kOfTransforms);
  return options_.transform(std::move(batch),
                            {random_word(stream, static_cast<std::uint64_t>(position))});
}

TensorLoader::Iterator TensorLoader::begin() { return Iterator(*this); }

TensorLoader::Iterator::Iterator(TensorLoader& loader) : loader_(&loader), epoch_(loader.epoch()) {
  ++*this;
}

TensorLoader::Iterator& TensorLoader::Iterator::operator++() {
  if (loader_->epoch() == epoch_)
    batch_ = loader_->next();
  else
    loader_ = nullptr;
  return *this;
}

StateDict TensorLoader::state_dict() const {
  if (!fingerprint_) {
    Hasher hasher;
    add_tensor(hasher, samples_.data);
    add_tensor(hasher, samples_.target);
    fingerprint_ = fmt::format("{:016x}", hasher.digest());
  }
  StateDict state;
  state.values["position"] = position_;
  state.values["data"] = *fingerprint_;
  state.values["batch_size"] = options_.batch_size;
  state.values["shuffle"] = options_.shuffle;
  state.values["seed"] = static_cast<std::int64_t>(options_.seed);
  state.values["drop_last"] = options_.drop_last;
  if (options_.transform) state.values[kTransform] = true;
  return state;
}

void TensorLoader::load_state_dict(const StateDict& state) {
  const StateDict now = state_dict();
  for (const char* name : {"data", "batch_size", "shuffle", "seed", "drop_last"})
    check_same_value(state, now, name);
  if (const bool had = state.values.contains(kTransform),
      has = static_cast<bool>(options_.transform);
      had != has)
    throw UserError(
        fmt::format("cannot resume: the saved run had {} transform, now there is {}; put it back "
                    "as it was, or start a new run",
                    had ? "a" : "no", has ? "one" : "none"));
  position_ = saved_data_position(state);
}

}  // namespace halftone
