// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/data_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/data/datasets/base.h>
#include <torch/data/datasets/map.h>
#include <torch/data/transforms/lambda.h>
#include <torch/data/transforms/stack.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <memory>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/data/record_file.h"
#include "halftone/data/tensor_loader.h"
#include "support/message_of.h"

namespace halftone::data_loader_test {
namespace {

using Example = torch::data::Example<>;
using test::message_of;
using testing::ElementsAre;
using testing::HasSubstr;
using Rows = std::vector<std::int64_t>;

// Sample i is the row (i, i), its target 10 i.
struct Numbered {
  std::int64_t size() const { return count; }
  Example get(std::int64_t index) const {
    return {torch::full({2}, static_cast<double>(index)), torch::tensor(10 * index)};
  }
  std::int64_t count = 0;
};

// The same, with noise on the second column.
struct Noisy {
  std::int64_t size() const { return count; }
  Example get(std::int64_t index, SampleSeed seed) const {
    torch::Tensor row = torch::full({2}, static_cast<double>(index));
    row[1] += torch::rand({}, seed.generator());
    return {row, torch::tensor(seed.uniform(0))};
  }
  std::int64_t count = 0;
};

Rows rows_of(const Example& batch) {
  const torch::Tensor rows = batch.data.select(1, 0).to(torch::kLong).contiguous();
  return {rows.data_ptr<std::int64_t>(), rows.data_ptr<std::int64_t>() + rows.numel()};
}

template <class Loader>
std::vector<Rows> epoch_of(Loader& loader) {
  std::vector<Rows> batches;
  for (auto& batch : loader) batches.push_back(rows_of(batch));
  return batches;
}

Rows joined(const std::vector<Rows>& batches) {
  Rows all;
  for (const Rows& rows : batches) all.insert(all.end(), rows.begin(), rows.end());
  return all;
}

TEST(DataLoader, StacksTheSamplesOfABatch) {
  const DataLoader loader(Numbered{7}, {.batch_size = 3, .shuffle = false});
  EXPECT_EQ(loader.batches_per_epoch(), 3);
  const Example batch = loader.batch_at(1);
  EXPECT_TRUE(batch.data.equal(torch::tensor({{3.F, 3.F}, {4.F, 4.F}, {5.F, 5.F}})));
  EXPECT_TRUE(batch.target.equal(torch::tensor({30, 40, 50})));
  EXPECT_THAT(rows_of(loader.batch_at(5)), ElementsAre(6)) << "the last of the second epoch";
}

TEST(DataLoader, TakesEverySampleOnceInTheOrderOfATensorLoader) {
  for (const std::int64_t samples : {1, 2, 5, 64})
    for (const std::int64_t batch_size : {1, 2, 5, 64, 1000}) {
      DataLoader loader(Numbered{samples}, {.batch_size = batch_size, .seed = 3});
      const torch::Tensor index = torch::arange(samples);
      TensorLoader reference({index.to(torch::kFloat).unsqueeze(1), index},
                             {.batch_size = batch_size, .seed = 3});
      for (int epoch = 0; epoch < 2; ++epoch) {
        const Rows rows = joined(epoch_of(loader));
        EXPECT_EQ(rows, joined(epoch_of(reference)));
        EXPECT_EQ(std::set(rows.begin(), rows.end()).size(), static_cast<std::size_t>(samples));
      }
    }
}

TEST(DataLoader, DropsAnIncompleteLastBatch) {
  DataLoader loader(Numbered{7}, {.batch_size = 3, .shuffle = false, .drop_last = true});
  EXPECT_THAT(epoch_of(loader), ElementsAre(Rows{0, 1, 2}, Rows{3, 4, 5}));
  DataLoader whole(Numbered{6}, {.batch_size = 3, .shuffle = false, .drop_last = true});
  EXPECT_EQ(whole.batches_per_epoch(), 2);
}

TEST(DataLoader, AnyNumberOfWorkersGivesTheSameBits) {
  std::vector<torch::Tensor> expected;
  for (const std::int64_t workers : {0, 1, 3, 8}) {
    DataLoader loader(Noisy{23}, {.batch_size = 4, .seed = 6, .num_workers = workers});
    std::vector<torch::Tensor> got;
    for (int epoch = 0; epoch < 3; ++epoch)
      for (auto& batch : loader) got.push_back(batch.data);
    if (expected.empty()) expected = got;
    ASSERT_EQ(got.size(), 18U);
    for (std::size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(got[i].equal(expected[i])) << workers;
  }
}

TEST(DataLoader, SeedsOfSamplesAreOfTheEpochAndNotOfTheBatchSize) {
  const auto noise_of = [](std::int64_t batch_size, std::uint64_t seed, int epochs = 1) {
    DataLoader loader(Noisy{24}, {.batch_size = batch_size, .seed = seed, .num_workers = 0});
    std::vector<double> noise;
    for (int epoch = 0; epoch < epochs; ++epoch)
      for (auto& batch : loader)
        for (std::int64_t i = 0; i < batch.target.size(0); ++i)
          noise.push_back(batch.target[i].item<double>());
    return noise;
  };
  const std::vector<double> both = noise_of(4, 1, 2);
  EXPECT_EQ(std::set(both.begin(), both.end()).size(), 48U) << "another in each epoch";
  EXPECT_EQ(std::vector(both.begin(), both.begin() + 24), noise_of(6, 1));
  EXPECT_NE(noise_of(4, 1), noise_of(4, 2));
  const double mean = std::accumulate(both.begin(), both.end(), 0.0) / 48;
  EXPECT_NEAR(mean, 0.5, 4 * 0.289 / std::sqrt(48.0));
}

TEST(DataLoader, ASampleThatIsDrawnTwiceHasTwoSeeds) {
  DataLoader loader(Noisy{1}, {.batch_size = 50, .sampler = WeightedSampler({1.0}, 50)});
  const torch::Tensor noise = loader.next().target;
  EXPECT_EQ(std::get<0>(at::_unique(noise)).size(0), 50);
}

TEST(DataLoader, TakesTheOrderOfASampler) {
  DataLoader loader(Numbered{10}, {.batch_size = 2, .sampler = SubsetSampler({7, 3, 5}, false)});
  EXPECT_THAT(epoch_of(loader), ElementsAre(Rows{7, 3}, Rows{5}));
  struct Wrong : SequentialSampler {
    std::int64_t index_at(std::int64_t, const SampledEpoch&) const { return 10; }
  };
  const DataLoader wrong(Numbered{10}, {.sampler = Wrong()});
  EXPECT_THAT(message_of<c10::Error>([&] { wrong.batch_at(0); }),
              HasSubstr("indices to be from 0 to 9, got 10 at place 0"));
}

// LibTorch's data sets, whose get() is not const: it must never run twice at once.
struct OneAtATime : torch::data::datasets::Dataset<OneAtATime> {
  explicit OneAtATime(std::shared_ptr<std::atomic<int>> the_inside, bool knows = true)
      : inside(std::move(the_inside)), knows_size(knows) {}
  Example get(std::size_t index) override {
    if (++*inside > 1) throw std::logic_error("two threads are in get()");
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    --*inside;
    return Numbered{16}.get(static_cast<std::int64_t>(index));
  }
  torch::optional<std::size_t> size() const override {
    return knows_size ? torch::optional<std::size_t>(16) : torch::nullopt;
  }
  std::shared_ptr<std::atomic<int>> inside;
  bool knows_size;
};

TEST(DataLoader, ReadsLibTorchsDataSetsOneThreadAtATime) {
  const OneAtATime data(std::make_shared<std::atomic<int>>(0));
  const DataLoaderOptions options{.batch_size = 4, .shuffle = false, .num_workers = 4};
  DataLoader loader(data, options);
  EXPECT_EQ(joined(epoch_of(loader)).size(), 16U);
  DataLoader shared(std::make_shared<OneAtATime>(data), options);
  EXPECT_EQ(joined(epoch_of(shared)).size(), 16U);
  EXPECT_THAT(message_of<c10::Error>([&] { DataLoader(OneAtATime(data.inside, false), options); }),
              HasSubstr("whose size() is known"));
}

TEST(DataLoader, TakesLibTorchsTransforms) {
  const OneAtATime data(std::make_shared<std::atomic<int>>(0));
  const DataLoaderOptions options{.batch_size = 4, .shuffle = false, .num_workers = 3};
  DataLoader stacked(OneAtATime(data).map(torch::data::transforms::Stack<>()), options);
  static_assert(std::is_same_v<decltype(stacked)::Batch, Example>);
  EXPECT_THAT(rows_of(stacked.batch_at(2)), ElementsAre(8, 9, 10, 11));
  const auto negate = torch::data::transforms::Lambda<Example>(
      [](Example one) { return Example(-one.data, one.target); });
  DataLoader mapped(OneAtATime(data).map(negate), options);
  EXPECT_THAT(rows_of(mapped.batch_at(1)), ElementsAre(-4, -5, -6, -7));
}

TEST(DataLoader, TakesAVectorAndWhatAPointerPointsTo) {
  const std::vector<Example> samples = {Numbered{9}.get(4), Numbered{9}.get(2)};
  DataLoader of_vector(samples, {.batch_size = 2, .shuffle = false});
  EXPECT_THAT(rows_of(of_vector.next()), ElementsAre(4, 2));
  DataLoader of_pointer(std::make_shared<const Numbered>(Numbered{3}),
                        {.batch_size = 3, .shuffle = false});
  EXPECT_THAT(rows_of(of_pointer.next()), ElementsAre(0, 1, 2));
}

TEST(DataLoader, JoinsSamplesAsItIsTold) {
  struct Words {
    std::int64_t size() const { return 4; }
    torch::Tensor get(std::int64_t index) const { return torch::arange(index + 1); }
  };
  DataLoader padded(Words(), {.batch_size = 4, .shuffle = false},
                    [](const std::vector<torch::Tensor>& words) { return pad_sequences(words); });
  EXPECT_EQ(padded.next().mask.sum().item<int>(), 1 + 2 + 3 + 4);
  EXPECT_THAT(message_of<UserError>([] { DataLoader(Words(), {.batch_size = 4}).next(); }),
              HasSubstr("cannot stack the samples of a batch"));

  const auto mixed = [](std::vector<Example> samples, SampleSeed seed) {
    Example batch = default_collate(std::move(samples));
    return std::pair(batch.data, seed.uniform(0));
  };
  DataLoader first(Numbered{8}, {.batch_size = 2, .seed = 4}, mixed);
  DataLoader second(Numbered{8}, {.batch_size = 2, .seed = 4, .num_workers = 3}, mixed);
  std::set<double> seeds;
  for (int epoch = 0; epoch < 2; ++epoch)
    for (auto& [data, seed] : second) {
      const auto expected = first.next();
      EXPECT_TRUE(data.equal(expected.first));
      EXPECT_EQ(seed, expected.second);
      seeds.insert(seed);
    }
  EXPECT_EQ(seeds.size(), 8U);
}

TEST(DataLoader, GoesOnWhereALoopWasLeft) {
  for (const std::int64_t workers : {0, 3}) {
    const DataLoaderOptions options{.batch_size = 4, .seed = 5, .num_workers = workers};
    DataLoader loader(Numbered{20}, options), undisturbed(Numbered{20}, options);
    const std::vector<Rows> expected = epoch_of(undisturbed);
    std::vector<Rows> got;
    for (auto& batch : loader) {
      got.push_back(rows_of(batch));
      if (got.size() == 2) break;
    }
    EXPECT_EQ(loader.position(), 2) << "what was handed out is done";
    for (auto& batch : loader) got.push_back(rows_of(batch));
    EXPECT_EQ(got, expected);
    EXPECT_EQ(loader.epoch(), 1);
    EXPECT_EQ(epoch_of(loader), epoch_of(undisturbed));
  }
}

TEST(DataLoader, AnErrorComesWithItsBatch) {
  struct Broken : Numbered {
    Example get(std::int64_t index) const {
      if (index == 9) throw std::runtime_error("sample nine");
      return Numbered::get(index);
    }
  };
  for (const std::int64_t workers : {0, 1, 3}) {
    DataLoader loader(Broken{{16}}, {.batch_size = 4, .shuffle = false, .num_workers = workers});
    Rows seen;
    EXPECT_EQ(message_of<std::runtime_error>([&] {
                for (auto& batch : loader) seen.push_back(rows_of(batch).front());
              }),
              "sample nine");
    EXPECT_THAT(seen, ElementsAre(0, 4));
    EXPECT_EQ(loader.position(), 2);
  }
}

TEST(DataLoader, ResumesBitForBit) {
  const DataLoaderOptions options{.batch_size = 4, .seed = 7, .num_workers = 2};
  DataLoader loader(Noisy{30}, options);
  for (int i = 0; i < 11; ++i) loader.next();
  DataLoaderOptions other_workers = options;
  other_workers.num_workers = 0;
  DataLoader resumed(Noisy{30}, other_workers);
  resumed.load_state_dict(loader.state_dict());
  EXPECT_EQ(resumed.position(), 11);
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(resumed.next().data.equal(loader.next().data));
}

struct Printed : Numbered {
  std::string fingerprint() const { return print; }
  std::string print;
};

TEST(DataLoader, RefusesTheStateOfSomethingElse) {
  const DataLoaderOptions options{.batch_size = 4, .seed = 7};
  const auto refused = [&](auto loader, const StateDict& state) {
    return message_of<UserError>([&] { loader.load_state_dict(state); });
  };
  const StateDict state = DataLoader(Numbered{30}, options).state_dict();
  EXPECT_THAT(refused(DataLoader(Numbered{31}, options), state),
              HasSubstr("samples differs from the saved run (saved 30, now 31)"));
  const auto with = [&](DataLoaderOptions changed) {
    return refused(DataLoader(Numbered{30}, std::move(changed)), state);
  };
  EXPECT_THAT(with({.batch_size = 5, .seed = 7}), HasSubstr("batch_size differs"));
  EXPECT_THAT(with({.batch_size = 4, .shuffle = false, .seed = 7}),
              HasSubstr("sampler differs from the saved run (saved shuffled, now sequential)"));
  EXPECT_THAT(with({.batch_size = 4, .seed = 8}), HasSubstr("seed differs"));
  EXPECT_THAT(with({.batch_size = 4, .seed = 7, .drop_last = true}),
              HasSubstr("drop_last differs"));
  EXPECT_THAT(with({.batch_size = 4, .seed = 7, .sampler = SubsetSampler({1, 2, 3})}),
              HasSubstr("sampler differs"));

  const StateDict printed = DataLoader(Printed{{30}, "a"}, options).state_dict();
  EXPECT_THAT(refused(DataLoader(Printed{{30}, "b"}, options), printed),
              HasSubstr("data differs from the saved run (saved a, now b)"));
  EXPECT_THAT(refused(DataLoader(Numbered{30}, options), printed),
              HasSubstr("had data a, now it has none"));
  EXPECT_THAT(refused(DataLoader(Printed{{30}, "a"}, options), state), HasSubstr("no 'data'"));
}

TEST(DataLoader, RefusesADamagedState) {
  DataLoader loader(Numbered{30}, {.batch_size = 4});
  for (const auto& [name, value] : loader.state_dict().values) {
    StateDict state = loader.state_dict();
    state.values.erase(name);
    EXPECT_THAT(message_of<UserError>([&] { loader.load_state_dict(state); }), HasSubstr(name));
  }
  StateDict state = loader.state_dict();
  state.values["position"] = std::int64_t{-1};
  EXPECT_THAT(message_of<UserError>([&] { loader.load_state_dict(state); }),
              HasSubstr("the saved data position is -1"));
}

TEST(DataLoader, RefusesWhatCannotBeBatched) {
  const auto refused = [](std::int64_t samples, DataLoaderOptions options) {
    return message_of<c10::Error>([&] { DataLoader(Numbered{samples}, std::move(options)); });
  };
  EXPECT_THAT(refused(0, {}), HasSubstr("at least one sample, got 0"));
  EXPECT_THAT(refused(4, {.batch_size = 0}), HasSubstr("batch_size from 1 on, got 0"));
  EXPECT_THAT(refused(4, {.num_workers = -1}), HasSubstr("num_workers from 0 on, got -1"));
  EXPECT_THAT(refused(4, {.batches_ahead = 0}), HasSubstr("batches_ahead from 1 on, got 0"));
  EXPECT_THAT(refused(4, {.batch_size = 5, .drop_last = true}),
              HasSubstr("got 4 samples for a batch_size of 5"));
  EXPECT_THAT(
      message_of<UserError>([] { DataLoader(Numbered{4}, {.sampler = SubsetSampler({4})}); }),
      HasSubstr("below the number of samples, 4, got 4"));
  EXPECT_THROW(DataLoader(Numbered{4}).batch_at(-1), c10::Error);
}

}  // namespace
}  // namespace halftone::data_loader_test
