// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/tensor_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <thread>
#include <vector>

#include "halftone/core/error.h"
#include "support/temp_folder.h"

namespace halftone::tensor_loader_test {
namespace {

using test::message_of;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

using Rows = std::vector<std::int64_t>;

// Sample i is the row (i, i), its target 10 i.
TensorLoader loader_of(std::int64_t samples, TensorLoaderOptions options) {
  const torch::Tensor index = torch::arange(samples, torch::kLong);
  return {{index.to(torch::kFloat).unsqueeze(1).expand({-1, 2}), index * 10}, options};
}

// The samples of a batch, when data and targets belong together.
Rows rows_of(const TensorLoader::Batch& batch) {
  const torch::Tensor first = batch.data.select(1, 0).to(torch::kLong);
  EXPECT_TRUE(batch.data.select(1, 1).to(torch::kLong).equal(first));
  EXPECT_TRUE(batch.target.equal(first * 10));
  const torch::Tensor plain = first.contiguous();
  return {plain.data_ptr<std::int64_t>(), plain.data_ptr<std::int64_t>() + plain.numel()};
}

std::vector<Rows> epoch_of(TensorLoader& loader) {
  std::vector<Rows> batches;
  for (auto& batch : loader) batches.push_back(rows_of(batch));
  return batches;
}

Rows joined(const std::vector<Rows>& batches) {
  Rows all;
  for (const Rows& rows : batches) all.insert(all.end(), rows.begin(), rows.end());
  return all;
}

Rows up_to(std::int64_t count) {
  Rows rows(static_cast<std::size_t>(count));
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

TEST(TensorLoader, KeepsTheOrderWithoutShuffling) {
  TensorLoader loader = loader_of(7, {.batch_size = 3, .shuffle = false});
  EXPECT_EQ(loader.batches_per_epoch(), 3);
  for (int epoch = 0; epoch < 2; ++epoch)
    EXPECT_THAT(epoch_of(loader), ElementsAre(Rows{0, 1, 2}, Rows{3, 4, 5}, Rows{6}));
  EXPECT_EQ(loader.position(), 6);
  EXPECT_EQ(loader.epoch(), 2);
}

TEST(TensorLoader, ShufflesEachEpochAnew) {
  TensorLoader loader = loader_of(50, {.batch_size = 8, .seed = 1});
  const Rows first = joined(epoch_of(loader));
  const Rows second = joined(epoch_of(loader));
  EXPECT_NE(first, up_to(50));
  EXPECT_NE(first, second);
  for (Rows rows : {first, second}) {
    std::sort(rows.begin(), rows.end());
    EXPECT_EQ(rows, up_to(50));  // every sample once
  }
  TensorLoader same = loader_of(50, {.batch_size = 8, .seed = 1});
  EXPECT_EQ(joined(epoch_of(same)), first);
  TensorLoader other = loader_of(50, {.batch_size = 8, .seed = 2});
  EXPECT_NE(joined(epoch_of(other)), first);
  // The order is that of the seed, whatever the batch size.
  TensorLoader larger = loader_of(50, {.batch_size = 50, .seed = 1});
  EXPECT_EQ(joined(epoch_of(larger)), first);
}

TEST(TensorLoader, DropsAnIncompleteLastBatch) {
  TensorLoader loader = loader_of(7, {.batch_size = 3, .shuffle = false, .drop_last = true});
  EXPECT_THAT(epoch_of(loader), ElementsAre(Rows{0, 1, 2}, Rows{3, 4, 5}));
  TensorLoader whole = loader_of(6, {.batch_size = 3, .shuffle = false, .drop_last = true});
  EXPECT_THAT(epoch_of(whole), ElementsAre(Rows{0, 1, 2}, Rows{3, 4, 5}));
  TensorLoader shuffled = loader_of(7, {.batch_size = 3, .drop_last = true});
  EXPECT_THAT(joined(epoch_of(shuffled)), SizeIs(6));
}

TEST(TensorLoader, TakesBatchesOfEverySize) {
  for (const std::int64_t samples : {1, 2, 5, 64})
    for (const std::int64_t batch_size : {1, 2, 5, 64, 1000}) {
      TensorLoader loader = loader_of(samples, {.batch_size = batch_size, .seed = 3});
      Rows rows = joined(epoch_of(loader));
      EXPECT_EQ(loader.position(), loader.batches_per_epoch());
      std::sort(rows.begin(), rows.end());
      EXPECT_EQ(rows, up_to(samples)) << batch_size;
    }
}

TEST(TensorLoader, GoesOnWhereALoopWasLeft) {
  TensorLoader loader = loader_of(20, {.batch_size = 4, .seed = 5});
  TensorLoader undisturbed = loader_of(20, {.batch_size = 4, .seed = 5});
  const std::vector<Rows> expected = epoch_of(undisturbed);
  std::vector<Rows> got;
  for (auto& batch : loader) {
    got.push_back(rows_of(batch));
    if (got.size() == 2) break;
  }
  EXPECT_EQ(loader.position(), 2);  // what was handed out is done
  for (auto& batch : loader) got.push_back(rows_of(batch));
  EXPECT_EQ(got, expected);
  EXPECT_EQ(epoch_of(loader), epoch_of(undisturbed));
}

TEST(TensorLoader, GivesTheSameBatchByPosition) {
  TensorLoader loader = loader_of(23, {.batch_size = 4, .seed = 6});
  std::vector<Rows> batches(18);
  std::vector<std::thread> threads;
  for (std::int64_t i = 0; i < 18; ++i)
    threads.emplace_back(
        [&, i] { batches[static_cast<std::size_t>(i)] = rows_of(loader.batch_at(i)); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(loader.position(), 0);
  for (const Rows& rows : batches) EXPECT_EQ(rows_of(loader.next()), rows);
}

TEST(TensorLoader, GivesTensorsOfItsOwn) {
  const torch::Tensor data = torch::zeros({4, 2});
  for (const bool shuffle : {false, true}) {
    TensorLoader loader({data, torch::zeros({4})}, {.batch_size = 4, .shuffle = shuffle});
    loader.next().data.fill_(1);
    EXPECT_EQ(data.sum().item<float>(), 0);
  }
}

TEST(TensorLoader, KeepsDtypesAndShapes) {
  TensorLoader loader(
      {torch::zeros({5, 1, 3, 2}, torch::kByte), torch::zeros({5, 4}, torch::kHalf)},
      {.batch_size = 2});
  const TensorLoader::Batch batch = loader.next();
  EXPECT_EQ(batch.data.sizes(), at::IntArrayRef({2, 1, 3, 2}));
  EXPECT_EQ(batch.data.scalar_type(), torch::kByte);
  EXPECT_EQ(batch.target.sizes(), at::IntArrayRef({2, 4}));
  EXPECT_EQ(batch.target.scalar_type(), torch::kHalf);
}

TEST(TensorLoader, ResumesBitForBit) {
  TensorLoader loader = loader_of(30, {.batch_size = 4, .seed = 7});
  for (int i = 0; i < 11; ++i) loader.next();
  const StateDict state = loader.state_dict();
  TensorLoader resumed = loader_of(30, {.batch_size = 4, .seed = 7});
  resumed.load_state_dict(state);
  EXPECT_EQ(resumed.position(), 11);
  EXPECT_EQ(resumed.epoch(), 1);
  EXPECT_EQ(epoch_of(resumed), epoch_of(loader));
  EXPECT_EQ(epoch_of(resumed), epoch_of(loader));
}

TEST(TensorLoader, RefusesTheStateOfSomethingElse) {
  const TensorLoaderOptions options = {.batch_size = 4, .seed = 7};
  const StateDict state = loader_of(30, options).state_dict();
  const auto refused = [&](TensorLoader loader) {
    return message_of<UserError>([&] { loader.load_state_dict(state); });
  };
  EXPECT_THAT(refused(loader_of(31, options)), HasSubstr("data differs from the saved run"));
  const torch::Tensor index = torch::arange(30, torch::kLong);
  torch::Tensor changed = index.to(torch::kFloat).unsqueeze(1).expand({-1, 2}).clone();
  changed[29][1] += 1;
  EXPECT_THAT(refused({{changed, index * 10}, options}), HasSubstr("data differs"));
  EXPECT_THAT(refused(loader_of(30, {.batch_size = 5, .seed = 7})),
              HasSubstr("batch_size differs from the saved run (saved 4, now 5); put it back"));
  EXPECT_THAT(refused(loader_of(30, {.batch_size = 4, .shuffle = false, .seed = 7})),
              HasSubstr("shuffle differs from the saved run (saved true, now false)"));
  EXPECT_THAT(refused(loader_of(30, {.batch_size = 4, .seed = 8})),
              HasSubstr("seed differs from the saved run (saved 7, now 8)"));
  EXPECT_THAT(refused(loader_of(30, {.batch_size = 4, .seed = 7, .drop_last = true})),
              HasSubstr("drop_last differs"));
}

TEST(TensorLoader, TransformsABatchByItsSeed) {
  const auto options = [](std::uint64_t seed) {
    return TensorLoaderOptions{.batch_size = 4,
                               .seed = seed,
                               .transform = [](TensorLoader::Batch batch, SampleSeed of_batch) {
                                 batch.data += torch::rand({2}, of_batch.generator());
                                 return batch;
                               }};
  };
  TensorLoader loader = loader_of(8, options(1));
  const TensorLoader plain = loader_of(8, {.batch_size = 4, .seed = 1});
  std::vector<torch::Tensor> noise;
  for (std::int64_t position = 0; position < 4; ++position) {
    const TensorLoader::Batch batch = loader.batch_at(position);
    EXPECT_TRUE(batch.target.equal(plain.batch_at(position).target));
    EXPECT_TRUE(batch.data.equal(loader.batch_at(position).data)) << "whenever it is asked";
    noise.push_back(batch.data - plain.batch_at(position).data);
    for (std::size_t i = 0; i + 1 < noise.size(); ++i)
      EXPECT_FALSE(noise[i].allclose(noise.back())) << "another at each position";
  }
  EXPECT_FALSE(loader_of(8, options(2)).batch_at(0).data.equal(loader.batch_at(0).data));

  loader.next();
  TensorLoader resumed = loader_of(8, options(1));
  resumed.load_state_dict(loader.state_dict());
  EXPECT_TRUE(resumed.next().data.equal(loader.next().data));
}

TEST(TensorLoader, ATransformThatComesOrGoesIsRefused) {
  TensorLoader plain = loader_of(8, {.batch_size = 4});
  TensorLoader transformed = loader_of(
      8,
      {.batch_size = 4, .transform = [](TensorLoader::Batch batch, SampleSeed) { return batch; }});
  EXPECT_THAT(message_of<UserError>([&] { plain.load_state_dict(transformed.state_dict()); }),
              HasSubstr("the saved run had a transform, now there is none"));
  EXPECT_THAT(message_of<UserError>([&] { transformed.load_state_dict(plain.state_dict()); }),
              HasSubstr("the saved run had no transform, now there is one"));
}

TEST(TensorLoader, RefusesADamagedState) {
  TensorLoader loader = loader_of(30, {.batch_size = 4});
  loader.next();
  for (const char* name : {"position", "data", "batch_size", "shuffle", "seed", "drop_last"}) {
    StateDict state = loader.state_dict();
    state.values.erase(name);
    EXPECT_THAT(message_of<UserError>([&] { loader.load_state_dict(state); }), HasSubstr(name));
  }
  StateDict state = loader.state_dict();
  state.values["position"] = std::int64_t{-1};
  EXPECT_THAT(message_of<UserError>([&] { loader.load_state_dict(state); }),
              HasSubstr("the saved data position is -1"));
  EXPECT_EQ(loader.position(), 1);
}

TEST(TensorLoader, RefusesWhatCannotBeBatched) {
  const auto refused = [](const torch::Tensor& data, const torch::Tensor& target,
                          TensorLoaderOptions options) {
    return message_of<c10::Error>([&] { TensorLoader({data, target}, options); });
  };
  const torch::Tensor four = torch::zeros({4, 2});
  EXPECT_THAT(refused(four, torch::zeros({3}), {}), HasSubstr("got 4 samples and 3 targets"));
  EXPECT_THAT(refused(torch::zeros({0, 2}), torch::zeros({0}), {}), HasSubstr("at least one"));
  EXPECT_THAT(refused(four, torch::Tensor(), {}), HasSubstr("expected data (N, ...)"));
  EXPECT_THAT(refused(four, torch::tensor(1), {}), HasSubstr("expected data (N, ...)"));
  EXPECT_THAT(refused(four, four, {.batch_size = 0}), HasSubstr("batch_size from 1 on, got 0"));
  EXPECT_THAT(refused(four, four, {.num_workers = -1}), HasSubstr("num_workers from 0 on"));
  EXPECT_THAT(refused(four, four, {.batch_size = 5, .drop_last = true}),
              HasSubstr("got 4 samples for a batch_size of 5"));
}

}  // namespace
}  // namespace halftone::tensor_loader_test
