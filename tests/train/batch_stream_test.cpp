// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/batch_stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/data/token_loader.h"
#include "support/temp_folder.h"

namespace halftone::batch_stream_test {
namespace {

namespace fs = std::filesystem;

static_assert(PrefetchableLoader<TokenLoader>);
static_assert(IndexedLoader<TensorLoader> && !PrefetchableLoader<TensorLoader>,
              "its samples are in memory already");

class TokenStream : public testing::Test {
 protected:
  TokenStream() {
    TokenFileWriter writer(path(), 1000, 1);
    writer.begin_sample();
    for (std::int32_t id = 0; id < 41; ++id) writer.add(std::vector<std::int32_t>{id}, 1);
    writer.finish();
  }
  fs::path path() const { return folder_ / "tokens"; }

  // Ten rows, hence five batches an epoch.
  TokenLoader loader() const {
    return TokenLoader({.tokens = std::make_shared<const TokenFile>(path()), .pad_id = 999},
                       {.batch_size = 2, .seq_len = 4, .seed = 3});
  }

  test::TempFolder folder_;
};

TEST_F(TokenStream, GivesTheLoadersBatchesThroughEpochs) {
  TokenLoader taken = loader();
  const TokenLoader reference = loader();
  BatchStream stream(taken);
  for (std::int64_t position = 0; position < 23; ++position) {
    EXPECT_EQ(stream.epochs(), position / 5);
    EXPECT_EQ(stream.index(), position % 5);
    EXPECT_TRUE(stream.next().input_ids.equal(reference.batch_at(position).input_ids)) << position;
  }
}

TEST_F(TokenStream, ItsStateIsOfTheBatchesThatWereTaken) {
  TokenLoader taken = loader();
  BatchStream stream(taken);
  for (int i = 0; i < 3; ++i) stream.next();
  const StateDict state = stream.state_dict();
  EXPECT_EQ(state.get<std::int64_t>("position"), 3);
  const TokenBatch fourth = stream.next();

  TokenLoader other = loader();
  BatchStream resumed(other);
  resumed.load_state_dict(state);
  EXPECT_TRUE(resumed.next().input_ids.equal(fourth.input_ids));
  stream.load_state_dict(state);  // and backwards, in the midst of a run
  EXPECT_TRUE(stream.next().input_ids.equal(fourth.input_ids));
}

TEST_F(TokenStream, ADataErrorSurfacesWhereTheBatchIsTaken) {
  TokenLoader taken = loader();
  fs::resize_file(path(), 64);
  BatchStream stream(taken);
  for (int again = 0; again < 2; ++again) {
    EXPECT_THROW(stream.next(), SystemError);
    EXPECT_EQ(stream.index(), 0) << "no batch was taken";
  }
}

/// Gives the thread that made each of its five batches.
struct ByThread {
  std::int64_t num_workers() const { return workers; }
  std::int64_t batches_ahead() const { return 1; }
  std::int64_t batches_per_epoch() const { return 5; }
  std::pair<std::int64_t, std::thread::id> batch_at(std::int64_t position) const {
    furthest = std::max<std::int64_t>(furthest, position);
    return {position, std::this_thread::get_id()};
  }
  std::int64_t workers = 0;
  mutable std::atomic<std::int64_t> furthest = 0;
};

TEST(IndexedStream, ALoaderSaysOnHowManyThreadsItsBatchesAreMade) {
  for (const std::int64_t workers : {0, 1, 4}) {
    ByThread loader{workers};
    BatchStream stream(loader);
    for (std::int64_t position = 0; position < 12; ++position) {
      const auto [made, thread] = stream.next();
      EXPECT_EQ(made, position);
      EXPECT_EQ(thread == std::this_thread::get_id(), workers == 0);
      EXPECT_LE(loader.furthest, position + 1 + (workers == 0 ? -1 : workers));
    }
  }
  ByThread wrong{-1};
  EXPECT_THROW(BatchStream stream(wrong), c10::Error);
}

StateDict position_of(std::int64_t epoch, std::int64_t index) {
  StateDict state;
  state.values = {{"epoch", epoch}, {"index", index}};
  return state;
}

/// The numbers 0 to 4, one after the other; counts how many were read.
class Numbers {
 public:
  class Iterator {
   public:
    Iterator(Numbers& numbers, int value) : numbers_(&numbers), value_(value) {}
    int operator*() const {
      ++numbers_->reads;
      return value_;
    }
    Iterator& operator++() {
      ++value_;
      return *this;
    }
    bool operator!=(const Iterator& other) const { return value_ != other.value_; }

   private:
    Numbers* numbers_;
    int value_;
  };

  Iterator begin() { return {*this, 0}; }
  Iterator end() { return {*this, 5}; }

  int reads = 0;
};

struct CountedNumbers : Numbers {
  std::int64_t batches_per_epoch() const { return 5; }
};

constexpr std::int64_t kFarBeyond = 1'000'000'000'000;

TEST(EpochStream, APositionThatTheLoaderCannotHaveIsRefusedAtOnce) {
  CountedNumbers numbers;
  BatchStream stream(numbers);
  for (const std::int64_t index : {std::int64_t{5}, kFarBeyond})
    EXPECT_EQ(test::message_of<UserError>([&] { stream.load_state_dict(position_of(0, index)); }),
              "cannot resume: the saved run was at batch " + std::to_string(index) +
                  " of an epoch, but the data has 5; put the data back as it was, or start anew");
  EXPECT_EQ(numbers.reads, 0);
  stream.load_state_dict(position_of(2, 4));
  EXPECT_EQ(stream.epochs(), 2);
  EXPECT_EQ(stream.next(), 4);
  EXPECT_EQ(stream.epochs(), 3);
}

TEST(EpochStream, ALoaderThatDoesNotTellItsLengthIsReadToItsEndOnly) {
  Numbers numbers;
  BatchStream stream(numbers);
  EXPECT_NE(test::message_of<UserError>([&] {
              stream.load_state_dict(position_of(0, kFarBeyond));
            }).find("but the data has 5"),
            std::string::npos);
  EXPECT_EQ(numbers.reads, 5);
}

TEST(EpochStream, AVectorIsResumedAtItsPosition) {
  std::vector<int> numbers = {0, 1, 2};
  BatchStream stream(numbers);
  stream.load_state_dict(position_of(7, 1));
  EXPECT_EQ(stream.next(), 1);
  EXPECT_EQ(stream.next(), 2);
  EXPECT_EQ(stream.epochs(), 8);
  EXPECT_EQ(stream.next(), 0);
  stream.load_state_dict(position_of(7, 0));
  EXPECT_EQ(stream.next(), 0);
  EXPECT_THROW(stream.load_state_dict(position_of(7, 3)), UserError);
}

TEST(EpochStream, ANegativePositionIsRefused) {
  std::vector<int> numbers = {0, 1, 2};
  BatchStream stream(numbers);
  EXPECT_EQ(test::message_of<UserError>([&] { stream.load_state_dict(position_of(0, -1)); }),
            "cannot resume: expected a saved index of at least 0, got -1; the checkpoint is "
            "damaged, start anew");
  EXPECT_THROW(stream.load_state_dict(position_of(-1, 0)), UserError);
  TensorLoader loader({torch::zeros({4, 1}), torch::zeros({4, 1})}, {.batch_size = 2});
  BatchStream indexed(loader);
  StateDict state = indexed.state_dict();
  state.values["position"] = std::int64_t{-1};
  EXPECT_THROW(indexed.load_state_dict(state), UserError);
}

}  // namespace
}  // namespace halftone::batch_stream_test
