// SPDX-License-Identifier: Apache-2.0
// A module joined to its data, with the type of the batches hidden: what the loop works on.
#pragma once

#include <torch/types.h>

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <sstream>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "halftone/core/process_group.h"
#include "halftone/core/state_dict.h"
#include "halftone/train/batch_placement.h"
#include "halftone/train/batch_stream.h"
#include "halftone/train/epoch_part.h"
#include "halftone/train/mixed_precision.h"
#include "halftone/train/sharded_weights.h"
#include "halftone/train/training_module.h"

namespace halftone {

class TrainingTask {
 public:
  virtual ~TrainingTask() = default;
  virtual TrainingModuleBase& module() = 0;

  /// Shares the data with other processes, from its begin on: batch n is that of process n modulo
  /// their number. REQUIRES that none was taken, and that `group` outlives it.
  virtual void share(ProcessGroup& group) = 0;

  /// Takes the batches of the next update from the data: `most`, or what is left of the epoch, and
  /// weighs them. Returns how many, at least 1. Of several processes each takes as many; some may
  /// have none for the last, whose loss_weight() is 0 then.
  virtual std::int64_t load_group(std::int64_t most, LossAverage average) = 0;
  /// What batch `i` counts in the loss of the update: relative to the mean over the batches of all
  /// processes, 1 where all count alike. That of one of weight 0 is not computed.
  virtual double loss_weight(std::int64_t i) const = 0;
  /// Makes batch 0, and the only one, of all those of the group. Its loss is the mean of theirs.
  virtual void join_group() = 0;
  /// Whether it can.
  virtual bool joins_batches() const = 0;
  /// Tells the module what batch `i` of the group counts.
  virtual void announce(std::int64_t i) = 0;
  /// The loss of batch `i` of the group, computed where `place` says.
  virtual torch::Tensor training_step(std::int64_t i, const BatchPlacement& place) = 0;

  /// Rows that the batches of the last group gave to a matmul; 0 where it is not known.
  virtual std::int64_t rows_per_batch() const = 0;

  /// Of the group's first batch, in its epoch, among those of one process.
  virtual std::int64_t group_index() const = 0;
  /// Of the next batch, in its epoch, among those of one process.
  virtual std::int64_t batch_index() const = 0;
  virtual std::int64_t epochs() const = 0;  // completed
  /// Those of one process. Nothing where the loader does not tell, until an epoch has ended.
  virtual std::optional<std::int64_t> batches_per_epoch() const = 0;
  /// Reads an epoch's batches to count them, where batches_per_epoch() has nothing; before the
  /// first load_group().
  virtual void count_batches() = 0;
  virtual StateDict data_state() const = 0;
  virtual void load_data_state(const StateDict& state) = 0;
};

/// How many batches of each loader an evaluation takes: part of them, and no more than a number.
struct EvaluationLimit {
  EpochPart part;
  std::optional<std::int64_t> most;
};

/// What processes share in an evaluation.
struct EvaluationShare {
  ProcessGroup* processes = nullptr;                  // the batches; null: nothing
  std::shared_ptr<ShardedWeights> weights = nullptr;  // where each keeps a part of them
};

class EvaluationTask {
 public:
  virtual ~EvaluationTask() = default;
  virtual TrainingModuleBase& module() = 0;
  /// Has run() take the batches of this process alone, as in TrainingTask.
  virtual void share(ProcessGroup& group) = 0;
  /// Runs the step of every batch of the data, once, as far as `limit` says. The steps are in the
  /// region of `precision`; what loads the data and the hooks between are not. `weights`: where
  /// processes keep a part of them each; else null.
  virtual void run(const MixedPrecision& precision, const EvaluationLimit& limit,
                   ShardedWeights* weights) = 0;
};

/// `holder` itself, or what it points to: shared_ptr, unique_ptr, ModuleHolder.
template <class Holder>
auto& pointee(Holder& holder) {
  if constexpr (requires { holder.operator->(); })
    return *holder;
  else
    return holder;
}

template <class Holder>
using Pointee = std::remove_reference_t<decltype(pointee(std::declval<Holder&>()))>;

/// Several loaders of one validation, test or prediction, or pointers to them, one after the other:
///   trainer.fit(module, train, halftone::Loaders(news, poems))
/// The names of what the steps log then end in "/dataloader_idx_0" and so on. They must outlive it.
template <class... Each>
struct Loaders {
  template <class... Holders>
  explicit Loaders(Holders&... holders) : loaders(pointee(holders)...) {}
  std::tuple<Each&...> loaders;
};
template <class... Holders>
Loaders(Holders&...) -> Loaders<Pointee<Holders>...>;

template <class Loader>
inline constexpr bool kIsLoaders = false;
template <class... Each>
inline constexpr bool kIsLoaders<Loaders<Each...>> = true;

/// Calls `act(loader, i)` for each of `loader`'s loaders, or for it alone.
template <class Loader, class Act>
void for_each_loader(Loader& loader, const Act& act) {
  if constexpr (kIsLoaders<std::remove_const_t<Loader>>)
    std::apply(
        [&](auto&... each) {
          std::size_t i = 0;
          (act(each, i++), ...);
        },
        loader.loaders);
  else
    act(loader, std::size_t{0});
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

/// One whose rows carry weights, as Batch's do: the mean loss of several can be had from one, in
/// which what part i counts weighs weights[i] times.
template <class Batch>
concept JoinableBatch = requires(std::span<const Batch> parts, std::span<const double> weights) {
  { Batch::joined(parts, weights) } -> std::convertible_to<Batch>;
};

/// Compiles for a module and a loader that go together, and else names what one of them lacks.
template <class Module, class Loader>
consteval void require_module_and_loader() {
  static_assert(std::derived_from<Module, TrainingModuleBase>,
                "expected a module that derives from halftone::TrainingModule<Batch>");
  using Source = std::remove_const_t<Loader>;
  constexpr bool kHasBatchAt = requires(Source & loader) { loader.batch_at(std::int64_t{}); };
  constexpr bool kHasConstBatchAt = requires(const Source& loader) {
    loader.batch_at(std::int64_t{});
  };
  static_assert(
      !kHasBatchAt || kHasConstBatchAt,
      "this loader's batch_at(std::int64_t position) must be const: it may run on another "
      "thread, and its batch depends on the position alone");
  static_assert(!kHasConstBatchAt || IndexedLoader<Source>,
                "this loader has batch_at(), but lacks `std::int64_t batches_per_epoch() const`");
  static_assert(kHasBatchAt || IndexedLoader<Source> || EpochLoader<Source>,
                "this loader lacks `Batch batch_at(std::int64_t position) const` and "
                "`std::int64_t batches_per_epoch() const`, or instead begin() and end() over the "
                "batches of an epoch");
  constexpr bool kSaves = requires(const Source& loader) { loader.state_dict(); };
  constexpr bool kLoads = requires(Source & loader, const StateDict& state) {
    loader.load_state_dict(state);
  };
  static_assert(!IndexedLoader<Source> || kSaves == kLoads,
                "this loader has only one of `halftone::StateDict state_dict() const` and "
                "`void load_state_dict(const halftone::StateDict&)`");
  if constexpr (std::derived_from<Module, TrainingModuleBase> &&
                (IndexedLoader<Loader> || EpochLoader<Loader>))
    static_assert(std::is_convertible_v<decltype(std::declval<BatchStream<Loader>&>().next()),
                                        typename Module::Batch>,
                  "this loader's batches are of another type than the module's: derive the module "
                  "from halftone::TrainingModule<type of the loader's batches>");
}

/// The same for one loader or several.
template <class Module, class Loader>
struct RequireEach {
  static consteval void check() { require_module_and_loader<Module, Loader>(); }
};
template <class Module, class... Each>
struct RequireEach<Module, Loaders<Each...>> {
  static consteval void check() { (require_module_and_loader<Module, Each>(), ...); }
};
template <class Module, class Loader>
consteval void require_module_and_loaders() {
  RequireEach<Module, std::remove_const_t<Loader>>::check();
}

template <class Module, class Loader>
class ModuleTrainingTask final : public TrainingTask {
 public:
  /// `limit`: how many batches an epoch has, of those of the loader; `repeats`: the same ones in
  /// each epoch.
  ModuleTrainingTask(Module& module, Loader& loader, const EpochPart& limit = {},
                     bool repeats = false)
      : module_(module), stream_(loader) {
    if (limit.is_all() && !repeats) return;
    const std::int64_t batches =
        limit.is_all() && !stream_.batches_per_epoch()
            ? std::numeric_limits<std::int64_t>::max()
            : limit.batches(stream_.batches_per_epoch(), "limit_train_batches");
    HALFTONE_CHECK(batches > 0, "[trainer] expected limit_train_batches of at least one batch");
    stream_.limit(batches, repeats);
  }

  TrainingModuleBase& module() override { return module_; }

  void share(ProcessGroup& group) override {
    processes_ = &group;
    stream_.share({.rank = group.rank(), .processes = group.size()});
  }

  std::int64_t load_group(std::int64_t most, LossAverage average) override {
    group_.clear();
    first_index_ = batch_index();
    std::int64_t turns = 0;
    do {
      if (auto batch = stream_.next_turn()) group_.push_back(std::move(*batch));
      ++turns;
    } while (turns < most && stream_.index() != 0);
    average_ = average;
    weigh_group(turns);
    return turns;
  }
  double loss_weight(std::int64_t i) const override {
    return weights_[static_cast<std::size_t>(i)].loss;
  }

  bool joins_batches() const override { return JoinableBatch<LoadedBatch>; }
  void join_group() override {
    if constexpr (JoinableBatch<LoadedBatch>) {
      if (group_.size() == 1) return;
      leave_out_weightless();
      const std::vector<double> weights = weights_to_join();
      group_ = {LoadedBatch::joined(std::span<const LoadedBatch>(group_), weights)};
      weights_ = {BatchWeight()};
    }
  }

  void announce(std::int64_t i) override {
    module_.set_batch_weight(weights_[static_cast<std::size_t>(i)]);
  }
  torch::Tensor training_step(std::int64_t i, const BatchPlacement& place) override {
    const auto& batch = group_[static_cast<std::size_t>(i)];
    announce(i);
    return module_.training_step(placed<typename Module::Batch>(batch, place), first_index_ + i);
  }

  std::int64_t rows_per_batch() const override {
    return group_.empty() ? 0 : rows_of(group_.front());
  }
  std::int64_t group_index() const override { return first_index_; }
  std::int64_t batch_index() const override { return per_process(stream_.index()); }
  std::int64_t epochs() const override { return stream_.epochs(); }
  std::optional<std::int64_t> batches_per_epoch() const override {
    const std::optional<std::int64_t> all = stream_.batches_per_epoch();
    return all ? std::optional(per_process(*all)) : std::nullopt;
  }
  void count_batches() override { stream_.count_batches(); }
  StateDict data_state() const override { return stream_.state_dict(); }
  void load_data_state(const StateDict& state) override { stream_.load_state_dict(state); }

 private:
  using LoadedBatch = std::remove_cvref_t<decltype(std::declval<BatchStream<Loader>&>().next())>;

  std::int64_t per_process(std::int64_t batches) const {
    const std::int64_t processes = processes_ == nullptr ? 1 : processes_->size();
    return (batches + processes - 1) / processes;
  }

  // One batch is its own mean: it is not asked what it counts.
  void weigh_group(std::int64_t turns) {
    if (processes_ != nullptr) {
      weights_ = shared_weights(*processes_, batch_counts(), turns);
      return;
    }
    weights_.assign(group_.size(), {});
    if (average_ == LossAverage::kMicroBatches || group_.size() == 1) return;
    weights_ = relative_weights(counts(), samples());
  }
  std::vector<BatchCount> batch_counts() const {
    const bool alike = average_ == LossAverage::kMicroBatches;
    const std::vector<double> losses = alike ? std::vector(group_.size(), 1.0) : counts();
    const std::vector<double> sizes = alike ? losses : samples();
    std::vector<BatchCount> found;
    for (std::size_t i = 0; i < losses.size(); ++i) found.push_back({losses[i], sizes[i]});
    return found;
  }
  std::vector<double> samples() const {
    std::vector<double> found;
    for (const LoadedBatch& batch : group_)
      found.push_back(static_cast<double>(sample_count(batch)));
    return found;
  }
  std::vector<double> counts() const {
    std::vector<double> found;
    for (const LoadedBatch& batch : group_) found.push_back(module_.loss_weight(batch));
    return found;
  }

  // As FitLoop does with batches that it takes one by one.
  void leave_out_weightless() {
    std::vector<LoadedBatch> kept;
    for (std::size_t i = 0; i < group_.size(); ++i)
      if (weights_[i].loss > 0.0) kept.push_back(std::move(group_[i]));
    group_ = std::move(kept);
  }
  // For the mean over all samples, or so that each batch counts like the largest.
  std::vector<double> weights_to_join() const {
    if (average_ == LossAverage::kTokens) return std::vector<double>(group_.size(), 1.0);
    std::vector<double> weights = counts();
    const double most = *std::max_element(weights.begin(), weights.end());
    for (double& weight : weights) weight = weight == 0.0 ? 1.0 : most / weight;
    return weights;
  }

  Module& module_;
  BatchStream<Loader> stream_;
  ProcessGroup* processes_ = nullptr;  // that share the data, if others do
  std::vector<LoadedBatch> group_;
  std::vector<BatchWeight> weights_;  // of the group's batches, and of those that are missing
  LossAverage average_ = LossAverage::kTokens;
  std::int64_t first_index_ = 0;
};

enum class EvaluationKind { kValidation, kTest, kPredict };

template <class Module, class Loader>
class ModuleEvaluationTask final : public EvaluationTask {
 public:
  ModuleEvaluationTask(Module& module, Loader& loader, EvaluationKind kind)
      : module_(module), loader_(loader), kind_(kind) {}

  TrainingModuleBase& module() override { return module_; }

  void share(ProcessGroup& group) override {
    share_ = {.rank = group.rank(), .processes = group.size()};
  }

  void run(const MixedPrecision& precision, const EvaluationLimit& limit,
           ShardedWeights* weights) override {
    predictions_.clear();
    for_each_loader(loader_, [&](auto& loader, std::size_t i) {
      module_.set_dataloader(i, kIsLoaders<std::remove_const_t<Loader>>);
      std::ostringstream kind;  // of this module: a callback may evaluate another
      kind << name() << ' ' << i << ' ' << static_cast<const void*>(&module_);
      run_loader(loader, precision, limit,
                 [&](bool computes, const std::function<void()>& compute) {
                   if (weights != nullptr)
                     weights->pass(kind.str(), computes, compute);
                   else if (computes)
                     compute();
                 });
      if (kind_ == EvaluationKind::kValidation) module_.on_validation_loader_end();
      if (kind_ == EvaluationKind::kTest) module_.on_test_loader_end();
    });
    module_.set_dataloader(0, false);
  }

  /// Of the last run(), on the CPU.
  std::vector<typename Module::Prediction> take_predictions() { return std::move(predictions_); }

 private:
  template <class One, class InPass>
  void run_loader(One& loader, const MixedPrecision& precision, const EvaluationLimit& limit,
                  const InPass& in_pass) {
    BatchStream<One> stream(loader, /*epochs=*/1);
    stream.share(share_);
    std::int64_t most = limit.most.value_or(std::numeric_limits<std::int64_t>::max());
    if (!limit.part.is_all())
      most = std::min(most, limit.part.batches(stream.batches_per_epoch(), name()));
    if (most < std::numeric_limits<std::int64_t>::max())
      stream.limit(std::max<std::int64_t>(most, 1), /*repeats=*/false);
    for (std::int64_t index = 0; most > 0 && stream.epochs() == 0; ++index) {
      const auto batch = stream.next_turn();
      in_pass(batch.has_value(),
              [&] { step(*batch, index * share_.processes + share_.rank, precision); });
    }
  }

  template <class Loaded>
  void step(const Loaded& loaded, std::int64_t index, const MixedPrecision& precision) {
    module_.set_batch_weight({.loss = module_.loss_weight(loaded),
                              .samples = static_cast<double>(sample_count(loaded))});
    const auto batch = placed<typename Module::Batch>(loaded, precision.batch_placement());
    const ForwardContext region = precision.forward_context();
    if (kind_ == EvaluationKind::kValidation)
      module_.validation_step(batch, index);
    else if (kind_ == EvaluationKind::kTest)
      module_.test_step(batch, index);
    else
      predictions_.push_back(placed<typename Module::Prediction>(module_.predict_step(batch, index),
                                                                 {torch::kCPU, std::nullopt}));
  }

  const char* name() const {
    if (kind_ == EvaluationKind::kValidation) return "limit_val_batches";
    return kind_ == EvaluationKind::kTest ? "limit_test_batches" : "limit_predict_batches";
  }

  Module& module_;
  Loader& loader_;
  EvaluationKind kind_;
  BatchShare share_;
  std::vector<typename Module::Prediction> predictions_;
};

}  // namespace halftone
