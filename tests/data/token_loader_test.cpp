// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/token_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "support/temp_folder.h"

namespace halftone::token_loader_test {
namespace {

using test::message_of;
using test::TempFolder;
using testing::ElementsAre;
using testing::HasSubstr;

using Row = std::vector<std::int64_t>;

constexpr std::int64_t kPad = 0;
constexpr std::int64_t kBos = 1;
constexpr std::int64_t kEos = 2;

TokenizedData data_of(const std::vector<Row>& samples) {
  const TempFolder folder;
  TokenFileWriter writer(folder / "t", 100'000, 1);
  for (const Row& sample : samples) {
    writer.begin_sample();
    writer.add(std::vector<std::int32_t>(sample.begin(), sample.end()), sample.size());
  }
  writer.finish();
  return {.tokens = std::make_shared<const TokenFile>(folder / "t"),
          .content_hash = 11,
          .tokenizer_hash = 22,
          .pad_id = kPad};
}

/// `count` samples bos, content, eos of 2 to 13 ids; every content id stands once in all.
std::vector<Row> samples(std::size_t count) {
  std::vector<Row> result;
  std::int64_t next = 10;
  for (std::size_t i = 0; i < count; ++i) {
    Row sample = {kBos};
    for (std::uint64_t n = random_word(5, i) % 12; n > 0; --n) sample.push_back(next++);
    sample.push_back(kEos);
    result.push_back(sample);
  }
  return result;
}

Row row_of(const torch::Tensor& matrix, std::int64_t row) {
  const torch::Tensor line = matrix[row].to(torch::kInt64).contiguous();
  return {line.data_ptr<std::int64_t>(), line.data_ptr<std::int64_t>() + line.numel()};
}

// input, target and mask of every row of a batch
std::vector<std::vector<Row>> rows_of(const TokenBatch& batch) {
  std::vector<std::vector<Row>> rows;
  for (std::int64_t row = 0; row < batch.input_ids.size(0); ++row)
    rows.push_back({row_of(batch.input_ids, row), row_of(batch.target_ids, row),
                    row_of(batch.loss_mask, row)});
  return rows;
}

TEST(TokenLoader, PadsByPositionUnpacked) {
  const TokenLoader loader(
      data_of({{kBos, 7, 8, kEos}, {kBos, 7, kPad, 9, 10, 11, kEos}, {kBos, kEos}}),
      {.batch_size = 3, .seq_len = 5, .pack = false, .shuffle = false});
  const TokenBatch batch = loader.batch_at(0);
  EXPECT_THAT(
      rows_of(batch),
      ElementsAre(ElementsAre(Row{kBos, 7, 8, kEos}, Row{7, 8, kEos, kPad}, Row{1, 1, 1, 0}),
                  ElementsAre(Row{kBos, 7, kPad, 9}, Row{7, kPad, 9, 10}, Row{1, 1, 1, 1}),
                  ElementsAre(Row{kBos, kEos, 0, 0}, Row{kEos, 0, 0, 0}, Row{1, 0, 0, 0})));
  EXPECT_EQ(batch.tokens, 8) << "an id of the sample that equals pad is a target";
  EXPECT_EQ(batch.input_ids.dtype(), torch::kInt64);
  EXPECT_EQ(batch.loss_mask.dtype(), torch::kFloat32);
  EXPECT_TRUE(batch.input_ids.is_contiguous() && batch.target_ids.is_contiguous());
}

TEST(TokenLoader, PacksWithoutWaste) {
  const TokenLoader loader(data_of({{kBos, 7, 8, kEos}, {kBos, 9, kEos}}),
                           {.batch_size = 2, .seq_len = 4, .shuffle = false});
  EXPECT_THAT(
      rows_of(loader.batch_at(0)),
      ElementsAre(ElementsAre(Row{kBos, 7, 8, kEos}, Row{7, 8, kEos, kBos}, Row{1, 1, 1, 1}),
                  ElementsAre(Row{kBos, 9, kEos, 0}, Row{9, kEos, 0, 0}, Row{1, 1, 0, 0})));
}

TEST(TokenLoader, PredictsEachIdOnceWhenPacked) {
  const std::vector<Row> all = samples(37);
  Row ids;
  for (const Row& sample : all) ids.insert(ids.end(), sample.begin(), sample.end());
  for (const std::int64_t seq_len : {1, 2, 7, 16, 1000}) {
    const TokenLoader loader(data_of(all), {.batch_size = 4, .seq_len = seq_len, .seed = 3});
    std::multiset<std::int64_t> predicted;
    std::int64_t tokens = 0;
    for (std::int64_t i = 0; i < loader.batches_per_epoch(); ++i) {
      const TokenBatch batch = loader.batch_at(i);
      EXPECT_EQ(batch.tokens, batch.loss_mask.sum().item<std::int64_t>());
      tokens += batch.tokens;
      for (const auto& row : rows_of(batch))
        for (std::size_t t = 0; t < row[1].size(); ++t)
          if (row[2][t] == 1) predicted.insert(row[1][t]);
    }
    EXPECT_EQ(predicted, std::multiset<std::int64_t>(ids.begin() + 1, ids.end())) << seq_len;
    EXPECT_EQ(tokens, static_cast<std::int64_t>(ids.size()) - 1);
  }
}

TEST(TokenLoader, KeepsEosOfATokenizerThatPadsWithIt) {
  TokenizedData data = data_of({{kBos, 7, kEos}});
  data.pad_id = kEos;
  const TokenLoader loader(data, {.seq_len = 5, .pack = false});
  EXPECT_THAT(rows_of(loader.batch_at(0)),
              ElementsAre(ElementsAre(Row{kBos, 7, kEos, kEos}, Row{7, kEos, kEos, kEos},
                                      Row{1, 1, 0, 0})));
}

// Rows of one epoch in order.
std::vector<std::vector<Row>> epoch_of(const TokenLoader& loader, std::int64_t epoch) {
  std::vector<std::vector<Row>> rows;
  for (std::int64_t i = 0; i < loader.batches_per_epoch(); ++i) {
    const TokenBatch batch = loader.batch_at(epoch * loader.batches_per_epoch() + i);
    EXPECT_EQ(batch.epoch, epoch);
    EXPECT_EQ(batch.index, i);
    for (auto& row : rows_of(batch)) rows.push_back(row);
  }
  return rows;
}

TEST(TokenLoader, ShufflesEachEpochAnewByTheSeed) {
  const TokenizedData data = data_of(samples(50));
  const TokenLoaderOptions options = {.batch_size = 8, .seq_len = 14, .pack = false, .seed = 1};
  const TokenLoader loader(data, options);
  EXPECT_EQ(loader.batches_per_epoch(), 7);
  auto first = epoch_of(loader, 0);
  auto second = epoch_of(loader, 1);
  EXPECT_EQ(first, epoch_of(TokenLoader(data, options), 0));
  EXPECT_NE(first, second);
  auto reseeded_options = options;
  reseeded_options.seed = 2;
  EXPECT_NE(first, epoch_of(TokenLoader(data, reseeded_options), 0));
  auto ordered_options = options;
  ordered_options.shuffle = false;
  auto ordered = epoch_of(TokenLoader(data, ordered_options), 3);
  EXPECT_NE(first, ordered);
  EXPECT_EQ(ordered.size(), 50U);
  for (auto* rows : {&first, &second, &ordered}) std::sort(rows->begin(), rows->end());
  EXPECT_EQ(first, ordered);
  EXPECT_EQ(second, ordered);
}

TEST(TokenLoader, GoesOnWhereItWasSaved) {
  const TokenizedData data = data_of(samples(20));
  const TokenLoaderOptions options = {.batch_size = 3, .seq_len = 8, .seed = 9};
  TokenLoader loader(data, options);
  for (int i = 0; i < 30; ++i) loader.next();
  TokenLoader resumed(data, options);
  resumed.load_state_dict(loader.state_dict());
  EXPECT_EQ(resumed.position(), 30);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(rows_of(resumed.next()), rows_of(loader.next()));
}

TEST(TokenLoader, RefusesToResumeOnOtherDataOrOptions) {
  const TokenizedData data = data_of(samples(20));
  const TokenLoaderOptions options = {.batch_size = 4, .seq_len = 8};
  const StateDict saved = TokenLoader(data, options).state_dict();
  const auto error_with = [&](const TokenizedData& other_data, const TokenLoaderOptions& other) {
    return message_of<UserError>([&] { TokenLoader(other_data, other).load_state_dict(saved); });
  };
  TokenizedData other_text = data;
  other_text.content_hash = 12;
  EXPECT_THAT(error_with(other_text, options), HasSubstr("the data is not what"));
  TokenizedData other_tokenizer = data;
  other_tokenizer.tokenizer_hash = 12;
  EXPECT_THAT(error_with(other_tokenizer, options), HasSubstr("the tokenizer is not"));
  TokenizedData other_parsing = data;
  other_parsing.reads_special_tokens = true;
  EXPECT_THAT(error_with(other_parsing, options),
              HasSubstr("(saved special_tokens text, now tokens)"));
  EXPECT_THAT(error_with(data, {.batch_size = 4, .seq_len = 9}),
              HasSubstr("the sequence length differs from the saved run (saved seq_len 8, now 9)"));
  EXPECT_THAT(error_with(data, {.batch_size = 5, .seq_len = 8}), HasSubstr("the batch size"));
  EXPECT_THAT(error_with(data, {.batch_size = 4, .seq_len = 8, .pack = false}),
              HasSubstr("packing differs"));
  EXPECT_THAT(error_with(data, {.batch_size = 4, .seq_len = 8, .shuffle = false}),
              HasSubstr("shuffling differs"));
  EXPECT_THAT(error_with(data, {.batch_size = 4, .seq_len = 8, .seed = 1}),
              HasSubstr("the seed differs"));
}

TEST(TokenLoader, ResumesARunFromBeforeTheChoiceWhereTheTextSpellsNoMarks) {
  const auto resume = [](std::uint64_t special_tokens) {
    const TempFolder folder;
    TokenFileWriter writer(folder / "t", 10, 1);
    writer.begin_sample();
    writer.add(std::vector<std::int32_t>{1, 5, 6, 2}, 2);
    writer.count_special_tokens(special_tokens);
    writer.finish();
    TokenLoader loader({.tokens = std::make_shared<const TokenFile>(folder / "t")}, {.seq_len = 2});
    StateDict old = loader.state_dict();
    old.values.erase("special_tokens");
    old.values["position"] = std::int64_t{3};
    loader.load_state_dict(old);
    return loader.position();
  };
  EXPECT_EQ(resume(0), 3);
  EXPECT_THAT(message_of<UserError>([&] { resume(7); }), HasSubstr("read 7 special tokens"));
}

TEST(TokenBatch, JoinedWeighsTheRowsOfEachPart) {
  const auto part = [](const torch::Tensor& mask, std::int64_t first) {
    return TokenBatch{
        .input_ids = torch::arange(first, first + mask.numel()).view_as(mask),
        .target_ids = torch::arange(first + 1, first + 1 + mask.numel()).view_as(mask),
        .loss_mask = mask,
        .tokens = mask.sum().item<std::int64_t>(),
        .index = first};
  };
  const torch::Tensor full = torch::ones({2, 3}), some = torch::tensor({{1.0F, 0.0F, 1.0F}});
  const TokenBatch whole = TokenBatch::joined(
      std::vector<TokenBatch>{part(some, 40), part(full, 50), part(torch::zeros({1, 3}), 60)},
      std::vector{3.0, 1.0, 1.0});
  EXPECT_TRUE(whole.loss_mask.equal(torch::cat({some * 3, full, torch::zeros({1, 3})})));
  EXPECT_EQ(whole.tokens, 8);
  EXPECT_EQ(whole.index, 40);
  EXPECT_TRUE(whole.input_ids.flatten().equal(
      torch::cat({torch::arange(40, 43), torch::arange(50, 56), torch::arange(60, 63)})));
  EXPECT_TRUE(whole.target_ids.equal(whole.input_ids + 1));
  EXPECT_EQ(whole.samples(), 4);
  EXPECT_THROW(TokenBatch::joined({}, {}), c10::Error);
  EXPECT_THROW(TokenBatch::joined(std::vector<TokenBatch>{part(some, 40)}, {}), c10::Error);
}

TEST(TokenLoader, RefusesADamagedState) {
  TokenLoader loader(data_of(samples(3)), {.seq_len = 8});
  for (const auto& [name, value] : loader.state_dict().values) {
    if (name == "special_tokens") continue;  // older runs lack it
    StateDict state = loader.state_dict();
    state.values.erase(name);
    EXPECT_THAT(message_of<UserError>([&] { loader.load_state_dict(state); }), HasSubstr(name));
  }
  StateDict state = loader.state_dict();
  state.values["position"] = std::int64_t{-1};
  EXPECT_THAT(message_of<UserError>([&] { loader.load_state_dict(state); }), HasSubstr("is -1"));
}

TEST(TokenLoader, RefusesSizesThatAreTooSmall) {
  const TokenizedData data = data_of(samples(3));
  EXPECT_THAT(message_of<UserError>([&] { TokenLoader(data, {.batch_size = 0}); }),
              HasSubstr("batch-size must be at least 1, got 0"));
  EXPECT_THAT(message_of<UserError>([&] { TokenLoader(data, {.seq_len = 0}); }),
              HasSubstr("seq-len must be at least 1 with packing, got 0"));
  EXPECT_THAT(message_of<UserError>([&] { TokenLoader(data, {.seq_len = 1, .pack = false}); }),
              HasSubstr("seq-len must be at least 2 without packing, got 1"));
  EXPECT_THROW(TokenLoader(data, {}).batch_at(-1), c10::Error);
}

TEST(TokenLoader, IsSafeToReadFromSeveralThreads) {
  const TokenLoader loader(data_of(samples(40)), {.batch_size = 4, .seq_len = 8, .seed = 9});
  std::vector<std::vector<std::vector<Row>>> seen(4);
  std::vector<std::thread> threads;
  for (auto& mine : seen)
    threads.emplace_back([&mine, &loader] {
      for (std::int64_t i = 0; i < 20; ++i)
        for (auto& row : rows_of(loader.batch_at(i))) mine.push_back(row);
    });
  for (std::thread& thread : threads) thread.join();
  for (const auto& other : seen) EXPECT_EQ(other, seen[0]);
}

}  // namespace
}  // namespace halftone::token_loader_test
