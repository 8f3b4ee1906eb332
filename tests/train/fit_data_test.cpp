// SPDX-License-Identifier: Apache-2.0
// What a Trainer takes from loaders of every kind, also used before, shared, and resumed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/data.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/data/data_loader.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/train/network_state.h"
#include "halftone/train/trainer.h"
#include "support/message_of.h"
#include "support/temp_folder.h"

namespace halftone::fit_data_test {
namespace {

using testing::HasSubstr;
using Example = torch::data::Example<>;

/// A line that notes the first value of each batch that it trained on, which tells the batches
/// apart, and counts those that it validated.
class Line : public TrainingModule<> {
 public:
  Line() {
    torch::manual_seed(5);
    layer_ = register_module("layer", torch::nn::Linear(4, 1));
  }
  torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    seen.push_back(batch.data[0][0].item<double>());
    return (layer_(batch.data) - batch.target).square().mean();
  }
  void validation_step(const Batch& batch, std::int64_t /*index*/) override {
    ++validations;
    log("val_loss", (layer_(batch.data) - batch.target).square().mean(),
        static_cast<double>(batch.data.size(0)));
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {{std::make_shared<torch::optim::SGD>(parameters(), 0.01), schedule}};
  }

  std::optional<LrScheduleOptions> schedule;
  std::vector<double> seen;
  std::int64_t validations = 0;

 private:
  torch::nn::Linear layer_{nullptr};
};

Example samples(std::int64_t count = 32) {
  torch::Tensor x = torch::arange(count * 4).reshape({count, 4}) / 100.0;
  return {x, x.sum(1, /*keepdim=*/true)};
}

TensorLoader four_batches(bool shuffle = false) {
  return {samples(), {.batch_size = 8, .shuffle = shuffle, .seed = 2}};
}

template <class Sampler = torch::data::samplers::SequentialSampler>
auto torch_loader(std::size_t workers = 0, std::int64_t count = 32) {
  struct Rows : torch::data::datasets::Dataset<Rows> {
    explicit Rows(Example all) : samples(std::move(all)) {}
    Example get(std::size_t index) override {
      const auto row = static_cast<std::int64_t>(index);
      return {samples.data[row], samples.target[row]};
    }
    torch::optional<std::size_t> size() const override { return samples.data.size(0); }
    Example samples;
  };
  return torch::data::make_data_loader<Sampler>(
      Rows(samples(count)).map(torch::data::transforms::Stack<>()),
      torch::data::DataLoaderOptions(8).workers(workers));
}

struct StopAt : Callback {
  explicit StopAt(std::int64_t the_step) : step(the_step) {}
  void on_step_end(Trainer& trainer, const StepMetrics& metrics) override {
    rates.push_back(metrics.lr);
    if (metrics.step == step) trainer.stop();
  }
  std::int64_t step;
  std::vector<double> rates;
};

TEST(FitData, EachFitHasItsEpochs) {
  TensorLoader loader = four_batches();
  Line first, second;
  Trainer({.max_epochs = 3, .accelerator = "cpu"}).fit(first, loader);
  Trainer({.max_epochs = 3, .accelerator = "cpu"}).fit(second, loader);
  EXPECT_EQ(first.seen.size(), 12);
  EXPECT_EQ(second.seen, first.seen);
}

TEST(FitData, ALoopOverTheLoaderTakesNothingAway) {
  TensorLoader loader = four_batches(/*shuffle=*/true);
  Line untouched, module;
  Trainer({.max_epochs = 2, .accelerator = "cpu"}).fit(untouched, loader);
  for (const auto& batch : loader) (void)batch.data.mean();
  loader.next();
  Trainer({.max_epochs = 2, .accelerator = "cpu"}).fit(module, loader);
  EXPECT_EQ(module.seen, untouched.seen);
  EXPECT_EQ(loader.position(), 5) << "the loader is the caller's";
}

TEST(FitData, TrainingDataMayBeValidatedOn) {
  TensorLoader loader = four_batches();
  for (const EpochPart interval : {EpochPart(1.0), EpochPart(1), EpochPart(3)}) {
    Line module;
    Trainer({.max_epochs = 3, .accelerator = "cpu", .val_check_interval = interval})
        .fit(module, loader, loader);
    EXPECT_EQ(module.seen.size(), 12);
    EXPECT_EQ(module.validations, (interval.count() ? 12 / *interval.count() : 3) * 4 + 2)
        << "with two batches that are tried out";
  }
}

TEST(FitData, AValidationIsOnePassWhereverTheLoaderWasLeft) {
  TensorLoader loader = four_batches();
  TensorLoader fresh = four_batches();
  Line module;
  Trainer trainer({.max_steps = 3, .accelerator = "cpu"});
  trainer.fit(module, loader);
  loader.next();
  EXPECT_EQ(trainer.validate(module, loader), trainer.validate(module, fresh));
  EXPECT_EQ(module.validations, 8);
}

TEST(FitData, ALoaderOfLibTorchMayBeUsedAgain) {
  for (const std::size_t workers : {0, 2}) {
    const auto loader = torch_loader(workers);
    Line module;
    Trainer trainer({.max_steps = 6, .accelerator = "cpu"});
    trainer.fit(module, loader);  // ends within the second epoch
    trainer.fit(module, loader);
    EXPECT_EQ(module.seen.size(), 12);
    EXPECT_EQ(std::vector(module.seen.begin(), module.seen.begin() + 6),
              std::vector(module.seen.begin() + 6, module.seen.end()));
    trainer.validate(module, loader);
    EXPECT_EQ(module.validations, 4);
  }
}

TEST(FitData, OnePositionIsNotSharedWithinAnEpoch) {
  const auto loader = torch_loader();
  Line module;
  Trainer({.max_epochs = 2, .accelerator = "cpu"}).fit(module, loader, loader);
  EXPECT_EQ(module.seen.size(), 8);
  EXPECT_EQ(module.validations, 2 + 8);
  Trainer within({.max_epochs = 2, .accelerator = "cpu", .val_check_interval = 3});
  EXPECT_THAT(test::message_of<UserError>([&] { within.fit(module, loader, loader); }),
              HasSubstr("val_check_interval"));
  std::vector<Example> batches = {samples(8), samples(8), samples(8), samples(8)};
  within.fit(module, batches, batches);  // each of its iterators has its own
  EXPECT_EQ(module.seen.size(), 16);
}

TEST(FitData, ASchedulesLengthIsThatOfTheLoadersEpochs) {
  struct Sized {
    std::int64_t batches_per_epoch() const { return std::ssize(batches); }
    auto begin() { return batches.begin(); }
    auto end() { return batches.end(); }
    std::list<Example> batches;
  };
  const auto rates_with = [](auto&& loader) {
    Line module;
    module.schedule = LrScheduleOptions{.kind = Schedule::kLinear};
    const auto watch = std::make_shared<StopAt>(0);
    Trainer({.max_epochs = 2, .accelerator = "cpu", .callbacks = {watch}}).fit(module, loader);
    return watch->rates;
  };
  std::vector<std::string> notes;
  set_log_sink([&](LogLevel, const std::string& message) { notes.push_back(message); });
  const std::vector<double> expected = rates_with(four_batches());
  std::vector<Example> range = {samples(8), samples(8), samples(8), samples(8)};
  EXPECT_EQ(rates_with(range), expected);
  EXPECT_EQ(rates_with(Sized{{range.begin(), range.end()}}), expected);
  EXPECT_THAT(notes, testing::Not(testing::Contains(HasSubstr("count"))));
  EXPECT_EQ(rates_with(torch_loader()), expected);
  EXPECT_EQ(rates_with(torch_loader(2)), expected);
  set_log_sink({});
  EXPECT_THAT(notes, testing::Contains(HasSubstr("an epoch is read to count them")).Times(2));
}

TEST(FitData, CountingChangesNoRandomNumber) {
  const auto seen_with = [](std::optional<LrScheduleOptions> schedule) {
    const auto loader = torch_loader<torch::data::samplers::RandomSampler>();
    Line module;
    module.schedule = schedule;
    torch::manual_seed(3);
    Trainer({.max_epochs = 2, .accelerator = "cpu"}).fit(module, loader);
    return module.seen;
  };
  EXPECT_EQ(seen_with(LrScheduleOptions{.kind = Schedule::kCosine}), seen_with({}));
}

TEST(FitData, AnEmptyLoaderIsSaidToBeEmpty) {
  std::vector<Example> none;
  Line module;
  EXPECT_THAT(
      test::message_of<c10::Error>([&] { Trainer({.accelerator = "cpu"}).fit(module, none); }),
      HasSubstr("expected a loader with batches"));
}

using Trained = std::pair<std::vector<double>, StateDict>;

void expect_equal_bits(const Trained& got, const Trained& expected) {
  EXPECT_EQ(got.first, expected.first);
  for (const auto& [name, tensor] : expected.second.tensors)
    EXPECT_TRUE(tensor.equal(got.second.tensor(name))) << name;
}

/// Trains three epochs in one go, and in two parts; the loaders are made by `make`, that of the
/// second part by `make_again`. Returns what the one go gave.
template <class Make, class MakeAgain>
Trained expect_equal_bits_after_resuming(const Make& make, const MakeAgain& make_again) {
  Trained in_one_go;
  for (const std::int64_t stop_at : {1, 4, 6}) {
    const test::TempFolder folder;
    const auto fit = [&](const char* name, std::int64_t step, bool resume) {
      Line module;
      auto loader = resume ? make_again() : make();
      torch::manual_seed(resume ? 99 : 11);
      Trainer({.max_epochs = 3,
               .accelerator = "cpu",
               .callbacks = {std::make_shared<StopAt>(step)},
               .default_root_dir = folder / name})
          .fit(module, loader, {.resume = resume});
      return Trained(module.seen, network_state(module));
    };
    in_one_go = fit("straight", 0, false);
    Trained parts = fit("parts", stop_at, false);
    const Trained second = fit("parts", 0, true);
    parts.first.insert(parts.first.end(), second.first.begin(), second.first.end());
    expect_equal_bits({parts.first, second.second}, in_one_go);
  }
  return in_one_go;
}
template <class Make>
Trained expect_equal_bits_after_resuming(const Make& make) {
  return expect_equal_bits_after_resuming(make, make);
}

TEST(FitData, ALoaderOfLibTorchThatShufflesIsResumedExactly) {
  expect_equal_bits_after_resuming(
      [] { return torch_loader<torch::data::samplers::RandomSampler>(); });
  expect_equal_bits_after_resuming(
      [] { return torch_loader<torch::data::samplers::RandomSampler>(2); });
}

/// Two members: the least that a loader with positions has.
struct Squares {
  std::int64_t batches_per_epoch() const { return length; }
  Example batch_at(std::int64_t position) const {
    last = std::max<std::int64_t>(last, position);
    const torch::Tensor x = torch::full({2, 4}, static_cast<double>(position * position % 97) / 97);
    return {x, x.sum(1, /*keepdim=*/true)};
  }
  std::int64_t length = 4;
  mutable std::atomic<std::int64_t> last = -1;
};

TEST(FitData, TwoMembersMakeALoaderThatIsResumedExactly) {
  expect_equal_bits_after_resuming([] { return std::make_unique<Squares>(); });
}

/// Rows with noise that is drawn from the sample's seed.
struct NoisyRows {
  std::int64_t size() const { return 32; }
  Example get(std::int64_t index, SampleSeed seed) const {
    const torch::Tensor row = samples().data[index] + 0.01 * torch::rand({4}, seed.generator());
    return {row, row.sum(0, /*keepdim=*/true)};
  }
};

// guide: DataLoader(num_workers)
TEST(FitData, ADataLoaderGivesTheSameBitsWithAnyNumberOfWorkersAndResumed) {
  const auto loader_with = [](std::int64_t workers) {
    return [=] {
      return DataLoader(NoisyRows(), {.batch_size = 6, .seed = 4, .num_workers = workers});
    };
  };
  const Trained one_thread = expect_equal_bits_after_resuming(loader_with(0));
  EXPECT_EQ(one_thread.first.size(), 3U * 6U);
  expect_equal_bits(expect_equal_bits_after_resuming(loader_with(3)), one_thread);
  expect_equal_bits(expect_equal_bits_after_resuming(loader_with(3), loader_with(1)), one_thread);
}

TEST(FitData, ADataLoaderMayBeValidatedOnWithinItsEpoch) {
  const auto fit_with = [](std::int64_t workers) {
    DataLoader loader(NoisyRows(), {.batch_size = 8, .num_workers = workers});
    Line module;
    Trainer({.max_epochs = 3, .accelerator = "cpu", .val_check_interval = 3})
        .fit(module, loader, loader);
    EXPECT_GE(module.validations, 12 / 3 * 4);
    return std::pair(module.seen, module.validations);
  };
  const auto expected = fit_with(0);
  EXPECT_EQ(expected.first.size(), 12);
  EXPECT_EQ(fit_with(3), expected);
}

TEST(FitData, TransformsOfATensorLoaderAreResumedExactly) {
  const auto loader_with = [](std::int64_t workers) {
    return [=] {
      return TensorLoader(samples(), {.batch_size = 8,
                                      .seed = 2,
                                      .transform =
                                          [](Example batch, SampleSeed seed) {
                                            batch.data += torch::rand({4}, seed.generator());
                                            return batch;
                                          },
                                      .num_workers = workers});
    };
  };
  const Trained one_thread = expect_equal_bits_after_resuming(loader_with(0));
  expect_equal_bits(expect_equal_bits_after_resuming(loader_with(2)), one_thread);
}

/// A batch that lists its tensors.
struct Listed {
  torch::Tensor rows, sums;
  auto tensors() { return std::tie(rows, sums); }
};

TEST(FitData, ABatchMayBeAStructThatListsItsTensors) {
  struct Model : TrainingModule<Listed> {
    torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
      EXPECT_EQ(batch.rows.scalar_type(), torch::kBFloat16);
      weights.push_back(batch_weight().loss);
      return (layer(batch.rows) - batch.sums).square().mean();
    }
    std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
      return {{std::make_shared<torch::optim::SGD>(parameters(), 0.01)}};
    }
    torch::nn::Linear layer = register_module("layer", torch::nn::Linear(4, 1));
    std::vector<double> weights;
  };
  struct Rows {
    std::int64_t size() const { return 9; }
    Listed get(std::int64_t index) const {
      return {samples().data[index], samples().target[index]};
    }
  };
  DataLoader loader(Rows(), {.batch_size = 6, .num_workers = 2});
  Model module;
  Trainer({.max_epochs = 1,
           .precision = "bf16-true",
           .accelerator = "cpu",
           .accumulate_grad_batches = 2})
      .fit(module, loader);
  EXPECT_EQ(module.weights, (std::vector<double>{6 / 4.5, 3 / 4.5}));
}

TEST(FitData, AValidationReadsNoBatchBeyondItsPass) {
  Squares loader;
  Line module;
  Trainer({.accelerator = "cpu"}).validate(module, loader);
  EXPECT_EQ(module.validations, 4);
  EXPECT_EQ(loader.last, 3);
}

TEST(FitData, OtherDataIsNotResumedOn) {
  const auto resume_with = [](auto&& first, auto&& second) {
    const test::TempFolder folder;
    const auto fit = [&](auto& loader, bool resume) {
      Line module;
      Trainer({.max_epochs = 2,
               .accelerator = "cpu",
               .callbacks = {std::make_shared<StopAt>(resume ? 0 : 3)},
               .default_root_dir = folder / "run"})
          .fit(module, loader, {.resume = resume});
    };
    fit(first, false);
    return test::message_of<UserError>([&] { fit(second, true); });
  };
  Squares four, five{.length = 5};
  EXPECT_THAT(resume_with(four, five), HasSubstr("had 4 batches, now it has 5"));
  TensorLoader other(samples(24), {.batch_size = 8, .shuffle = false});
  EXPECT_THAT(resume_with(four_batches(), other), HasSubstr("cannot resume: data differs"));
  EXPECT_THAT(resume_with(DataLoader(NoisyRows(), {.batch_size = 8}),
                          DataLoader(NoisyRows(), {.batch_size = 4})),
              HasSubstr("batch_size differs from the saved run (saved 8, now 4)"));
  EXPECT_THAT(resume_with(torch_loader(), torch_loader(0, 16)),
              HasSubstr("was at batch 3 of an epoch, but the data has 2"));
}

}  // namespace
}  // namespace halftone::fit_data_test
