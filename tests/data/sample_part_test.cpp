// SPDX-License-Identifier: Apache-2.0
// Documents that are held out of a corpus: which ones, and that no part sees another's.
#include "halftone/data/sample_part.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/data/corpus.h"
#include "halftone/data/token_cache.h"
#include "support/temp_folder.h"

namespace halftone::sample_part_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::TempFolder;
using test::write_text;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using Side = SamplePart::Side;

SamplePart part(Side side, double share = 0.3, std::uint64_t seed = 42) {
  return {.side = side, .share = share, .seed = seed};
}

std::vector<std::uint64_t> indexes_in(const SamplePart& part, std::uint64_t count) {
  std::vector<std::uint64_t> found;
  for (std::uint64_t i = 0; i < count; ++i)
    if (part.has(i)) found.push_back(i);
  return found;
}

TEST(SamplePart, EverySampleIsInOnePart) {
  for (const double share : {0.01, 0.3, 0.99}) {
    const SamplePart held = part(Side::kHeldOut, share), others = part(Side::kOthers, share);
    for (std::uint64_t i = 0; i < 2'000; ++i) EXPECT_NE(held.has(i), others.has(i)) << i;
  }
  EXPECT_EQ(indexes_in({}, 100).size(), 100U);
}

TEST(SamplePart, HoldsOutTheShare) {
  constexpr std::uint64_t kCount = 100'000;
  for (const double share : {0.01, 0.1, 0.5}) {
    const auto held = static_cast<double>(indexes_in(part(Side::kHeldOut, share), kCount).size());
    const double spread = std::sqrt(kCount * share * (1 - share));
    EXPECT_NEAR(held, kCount * share, 4 * spread) << share;
  }
}

// A run that is resumed years later must find the same ones.
TEST(SamplePart, IsAFunctionOfTheSeed) {
  EXPECT_THAT(indexes_in(part(Side::kHeldOut, 0.1), 60), ElementsAre(27, 29, 44, 52));
  EXPECT_NE(indexes_in(part(Side::kHeldOut, 0.1, 43), 60),
            indexes_in(part(Side::kHeldOut, 0.1, 42), 60));
}

/// 30 documents in files of each kind, "document 0" to "document 29".
class PartsOfACorpus : public testing::Test {
 protected:
  PartsOfACorpus() {
    fs::create_directory(folder_ / "text");
    std::string lines, fortunes;
    for (int i = 0; i < 15; ++i) lines += R"({"text": "document )" + std::to_string(i) + "\"}\n";
    for (int i = 15; i < 29; ++i) fortunes += "document " + std::to_string(i) + "\n%\n";
    write_text(folder_ / "text/a.jsonl", lines);
    write_text(folder_ / "text/b", fortunes);
    write_text(folder_ / "text/c.txt", "document 29");
  }

  Corpus corpus(const SamplePart& part = {}) const {
    return Corpus({.paths = {folder_ / "text"}, .part = part});
  }
  static std::vector<std::string> texts_of(Corpus corpus) {
    std::vector<std::string> texts;
    for (Document document; corpus.next(document);) texts.push_back(document.text);
    return texts;
  }

  TempFolder folder_;
};

TEST_F(PartsOfACorpus, AreDisjointAndTogetherAllOfItInOrder) {
  const std::vector<std::string> held = texts_of(corpus(part(Side::kHeldOut)));
  const std::vector<std::string> others = texts_of(corpus(part(Side::kOthers)));
  const std::vector<std::string> all = texts_of(corpus());
  ASSERT_EQ(all.size(), 30U);
  std::vector<std::string> both;
  std::size_t next_held = 0, next_other = 0;
  for (const std::string& text : all)
    if (next_held < held.size() && held[next_held] == text)
      both.push_back(held[next_held++]);
    else if (next_other < others.size() && others[next_other] == text)
      both.push_back(others[next_other++]);
  EXPECT_EQ(both, all);
  EXPECT_EQ(held.size() + others.size(), 30U);
  for (const std::uint64_t i : indexes_in(part(Side::kHeldOut), 30))
    EXPECT_THAT(held, testing::Contains("document " + std::to_string(i)));
}

TEST_F(PartsOfACorpus, AreTheSameFromTheStartAgain) {
  Corpus held = corpus(part(Side::kHeldOut));
  std::vector<std::string> first, second;
  for (Document document; held.next(document);) first.push_back(document.text);
  held.rewind();
  for (Document document; held.next(document);) second.push_back(document.text);
  EXPECT_EQ(first, second);
  EXPECT_EQ(held.bytes_read(), held.bytes());
  EXPECT_EQ(texts_of(corpus(part(Side::kOthers)).other_part(part(Side::kHeldOut))), first);
}

TEST_F(PartsOfACorpus, KeepALongDocumentTogether) {
  std::string text;
  for (int i = 0; text.size() < 800'000; ++i) text += "line " + std::to_string(i) + "\n";
  for (int i = 0; i < 8; ++i) write_text(folder_ / ("text/long" + std::to_string(i)), text);
  std::size_t bytes = 0;
  for (const Side side : {Side::kHeldOut, Side::kOthers}) {
    Corpus some = corpus(part(side));
    bool is_inside = false;
    for (Document document; some.next(document); is_inside = !document.ends) {
      EXPECT_EQ(document.begins, !is_inside);
      if (document.text.size() > 100) bytes += document.text.size();
    }
    EXPECT_FALSE(is_inside);
  }
  EXPECT_EQ(bytes, 8 * text.size());
}

TEST_F(PartsOfACorpus, HaveIdentitiesOfTheirOwn) {
  std::set<std::uint64_t> hashes = {corpus().content_hash()};
  std::set<std::string> stamps = {*corpus().stamp(0)};
  for (const Side side : {Side::kHeldOut, Side::kOthers})
    for (const double share : {0.3, 0.31})
      for (const std::uint64_t seed : {42, 43}) {
        hashes.insert(corpus(part(side, share, seed)).content_hash());
        stamps.insert(*corpus(part(side, share, seed)).stamp(0));
      }
  EXPECT_EQ(hashes.size(), 9U);
  EXPECT_EQ(stamps.size(), 9U);
}

TEST_F(PartsOfACorpus, AreNotMixedByTheCache) {
  const TokenizerInterface letters{
      .encode = [](std::string_view text) { return std::vector<std::int32_t>(text.size(), 3); },
      .vocab_size = 4,
      .bos_id = 1,
      .eos_id = 2,
      .identity = "letters"};
  const std::size_t held = indexes_in(part(Side::kHeldOut), 30).size();
  for (const double settled : {0.0, 2.0})
    for (int again = 0; again < 2; ++again) {
      const auto samples = [&](const SamplePart& some) {
        Corpus text = corpus(some);
        return tokenize_corpus(text, letters, {.folder = folder_ / "cache", .settled = settled})
            .tokens->samples();
      };
      EXPECT_EQ(samples({}), 30U);
      EXPECT_EQ(samples(part(Side::kHeldOut)), held);
      EXPECT_EQ(samples(part(Side::kOthers)), 30 - held);
    }
}

TEST_F(PartsOfACorpus, WithoutADocumentAreRefused) {
  const auto refusal = [](Corpus corpus) {
    Document document;
    return message_of<UserError>([&] { corpus.next(document); });
  };
  EXPECT_THAT(
      refusal(corpus(part(Side::kHeldOut, 1e-9))),
      AllOf(HasSubstr("the data has 30 documents, of which a val_split of 1e-09 leaves none "
                      "for validation; raise it"),
            HasSubstr("name text of its own with val_data"),
            HasSubstr("with pack = false each paragraph is")));
  EXPECT_THAT(refusal(corpus(part(Side::kOthers, 1 - 1e-9))),
              HasSubstr("leaves none for training; lower it"));
  const Side empty = part(Side::kHeldOut).has(0) ? Side::kOthers : Side::kHeldOut;
  EXPECT_THAT(
      refusal(Corpus({.paths = {folder_ / "text/c.txt"}, .part = part(empty)})),
      HasSubstr("the data has 1 document, which val_split can't divide; name text of its own"));
  EXPECT_THAT(refusal(Corpus({.paths = {folder_ / "text/b"}, .part = part(Side::kHeldOut, 1e-9)})),
              AllOf(HasSubstr("the data has 14 documents"), Not(HasSubstr("paragraph"))));
}

TEST_F(PartsOfACorpus, SayOnceWhatAFolderHoldsBesideThem) {
  write_text(folder_ / "text/d.pdf", "%PDF-1.4");
  std::vector<std::string> messages;
  set_log_sink([&](LogLevel, const std::string& message) { messages.push_back(message); });
  const std::vector<std::string> held =
      texts_of(corpus(part(Side::kOthers)).other_part(part(Side::kHeldOut)));
  set_log_sink({});
  EXPECT_THAT(messages, ElementsAre(HasSubstr("d.pdf")));
  EXPECT_EQ(held, texts_of(corpus(part(Side::kHeldOut))));
}

}  // namespace
}  // namespace halftone::sample_part_test
