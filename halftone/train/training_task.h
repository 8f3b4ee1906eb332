// SPDX-License-Identifier: Apache-2.0
// A module joined to its data, with the type of the batches hidden: what the loop works on.
#pragma once

#include <torch/types.h>

#include <concepts>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "halftone/core/state_dict.h"
#include "halftone/train/batch_stream.h"
#include "halftone/train/training_module.h"

namespace halftone {

class TrainingTask {
 public:
  virtual ~TrainingTask() = default;
  virtual TrainingModuleBase& module() = 0;

  /// Takes the batches of the next update from the data: `most`, or what is left of the epoch.
  /// Returns how many, at least 1.
  virtual std::int64_t load_group(std::int64_t most) = 0;
  /// Makes batch 0, and the only one, of all those of the group. Its loss is the mean of theirs.
  virtual void join_group() = 0;
  /// Whether it can.
  virtual bool joins_batches() const = 0;
  /// The loss of batch `i` of the group, computed on `device`.
  virtual torch::Tensor training_step(std::int64_t i, const torch::Device& device) = 0;

  /// Rows that the batches of the last group gave to a matrix product; 0 where it is not known.
  virtual std::int64_t rows_per_batch() const = 0;

  /// Of the next batch, in its epoch.
  virtual std::int64_t batch_index() const = 0;
  virtual std::int64_t epochs() const = 0;  // completed
  /// Nothing where the loader does not tell, until an epoch has ended.
  virtual std::optional<std::int64_t> batches_per_epoch() const = 0;
  virtual StateDict data_state() const = 0;
  virtual void load_data_state(const StateDict& state) = 0;
};

class EvaluationTask {
 public:
  virtual ~EvaluationTask() = default;
  virtual TrainingModuleBase& module() = 0;
  /// Runs the step of every batch of the data, once.
  virtual void run(const torch::Device& device) = 0;
};

/// `holder` itself, or what it points to: shared_ptr, unique_ptr, ModuleHolder.
template <class Holder>
auto& pointee(Holder& holder) {
  if constexpr (requires { holder.operator->(); })
    return *holder;
  else
    return holder;
}

template <class Batch>
std::int64_t rows_of(const Batch& batch) {
  if constexpr (requires { batch.rows(); })
    return batch.rows();
  else if constexpr (requires { batch.data.size(0); })
    return batch.data.size(0);
  else
    return 0;
}

/// One whose rows carry weights, as Batch's do: the mean loss of several can be had from one.
template <class Batch>
concept JoinableBatch = requires(std::span<const Batch> parts) {
  { Batch::joined(parts) } -> std::convertible_to<Batch>;
};

template <class Module, class Loader>
class ModuleTrainingTask final : public TrainingTask {
 public:
  ModuleTrainingTask(Module& module, Loader& loader) : module_(module), stream_(loader) {}

  TrainingModuleBase& module() override { return module_; }

  std::int64_t load_group(std::int64_t most) override {
    group_.clear();
    first_index_ = stream_.index();
    do group_.push_back(stream_.next());
    while (std::ssize(group_) < most && stream_.index() != 0);
    return std::ssize(group_);
  }

  bool joins_batches() const override { return JoinableBatch<LoadedBatch>; }
  void join_group() override {
    if constexpr (JoinableBatch<LoadedBatch>)
      if (group_.size() > 1) group_ = {LoadedBatch::joined(std::span<const LoadedBatch>(group_))};
  }

  torch::Tensor training_step(std::int64_t i, const torch::Device& device) override {
    const auto& batch = group_[static_cast<std::size_t>(i)];
    return module_.training_step(to_device<typename Module::Batch>(batch, device),
                                 first_index_ + i);
  }

  std::int64_t rows_per_batch() const override {
    return group_.empty() ? 0 : rows_of(group_.front());
  }
  std::int64_t batch_index() const override { return stream_.index(); }
  std::int64_t epochs() const override { return stream_.epochs(); }
  std::optional<std::int64_t> batches_per_epoch() const override {
    return stream_.batches_per_epoch();
  }
  StateDict data_state() const override { return stream_.state_dict(); }
  void load_data_state(const StateDict& state) override { stream_.load_state_dict(state); }

 private:
  using LoadedBatch = std::remove_cvref_t<decltype(std::declval<BatchStream<Loader>&>().next())>;

  Module& module_;
  BatchStream<Loader> stream_;
  std::vector<LoadedBatch> group_;
  std::int64_t first_index_ = 0;
};

enum class EvaluationKind { kValidation, kTest };

template <class Module, class Loader>
class ModuleEvaluationTask final : public EvaluationTask {
 public:
  ModuleEvaluationTask(Module& module, Loader& loader, EvaluationKind kind)
      : module_(module), loader_(loader), kind_(kind) {}

  TrainingModuleBase& module() override { return module_; }

  void run(const torch::Device& device) override {
    BatchStream<Loader> stream(loader_);
    std::int64_t index = 0;
    const std::int64_t epoch = stream.epochs();
    do {
      const auto batch = to_device<typename Module::Batch>(stream.next(), device);
      if (kind_ == EvaluationKind::kValidation)
        module_.validation_step(batch, index++);
      else
        module_.test_step(batch, index++);
    } while (stream.epochs() == epoch);
  }

 private:
  Module& module_;
  Loader& loader_;
  EvaluationKind kind_;
};

}  // namespace halftone
