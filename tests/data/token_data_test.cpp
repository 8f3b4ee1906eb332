// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/random.h"
#include "halftone/data/token_cache.h"
#include "halftone/data/token_file.h"
#include "halftone/system/memory.h"
#include "support/paths.h"
#include "support/temp_folder.h"

namespace halftone::token_data_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<std::int64_t> ids_of(const TokenFile& file, std::uint64_t begin, std::uint64_t end) {
  std::vector<std::int64_t> ids(end - begin);
  file.copy(begin, ids);
  return ids;
}

std::vector<std::int64_t> sample_of(const TokenFile& file, std::uint64_t sample) {
  const auto [begin, end] = file.sample_range(sample);
  return ids_of(file, begin, end);
}

std::vector<fs::path> entries(const fs::path& folder) {
  return {fs::directory_iterator(folder), fs::directory_iterator()};
}

/// Each byte is its own id, 3 above its value; bos 1, eos 2, pad 0.
TokenizerInterface byte_tokenizer() {
  return {.encode =
              [](std::string_view text) {
                std::vector<std::int32_t> ids;
                ids.reserve(text.size());
                for (const char c : text) ids.push_back(static_cast<unsigned char>(c) + 3);
                return ids;
              },
          .vocab_size = 259,
          .bos_id = 1,
          .eos_id = 2,
          .pad_id = 0,
          .identity = "bytes"};
}

TEST(TokenFile, RoundTripsNarrowAndWideIds) {
  const TempFolder folder;
  for (const std::int64_t vocab : {65536, 65537}) {
    const fs::path path = folder / std::to_string(vocab);
    const auto last = static_cast<std::int32_t>(vocab - 1);
    TokenFileWriter writer(path, vocab, 77);
    writer.begin_sample();
    writer.add(std::vector<std::int32_t>{1, last, 0}, 5);
    writer.begin_sample();
    writer.begin_sample();
    writer.add(std::vector<std::int32_t>{7}, 1);
    writer.add(std::vector<std::int32_t>{8}, 2);
    writer.count_special_tokens(2);
    writer.count_special_tokens(3);
    EXPECT_FALSE(fs::exists(path)) << "nothing may stand there before it is whole";
    writer.finish();

    const TokenFile file(path);
    EXPECT_EQ(file.size(), 5U);
    EXPECT_EQ(file.samples(), 3U);
    EXPECT_EQ(file.text_bytes(), 8U);
    EXPECT_EQ(file.special_tokens(), 5U);
    EXPECT_EQ(file.key(), 77U);
    EXPECT_THAT(sample_of(file, 0), ElementsAre(1, last, 0));
    EXPECT_THAT(sample_of(file, 1), IsEmpty());
    EXPECT_THAT(sample_of(file, 2), ElementsAre(7, 8));
    EXPECT_THROW(ids_of(file, 4, 6), c10::Error);
    EXPECT_THROW(file.sample_range(3), c10::Error);
  }
  EXPECT_EQ(entries(folder.path()).size(), 2U);
}

TEST(TokenFile, LeavesNothingBehindWhenUnfinished) {
  const TempFolder folder;
  {
    TokenFileWriter writer(folder / "t", 10, 1);
    EXPECT_THROW(writer.add(std::vector<std::int32_t>{10}, 1), c10::Error);
    EXPECT_THROW(writer.add(std::vector<std::int32_t>{-1}, 1), c10::Error);
  }
  EXPECT_THAT(entries(folder.path()), IsEmpty());
  EXPECT_THAT(message_of<SystemError>([&] { TokenFileWriter(folder / "no/t", 10, 1); }),
              HasSubstr("cannot write"));
}

TEST(TokenFile, RefusesEveryDamage) {
  const TempFolder folder;
  const fs::path path = folder / "t";
  TokenFileWriter writer(path, 300, 1);
  for (std::int32_t sample = 0; sample < 5; ++sample) {
    writer.begin_sample();
    writer.add(std::vector<std::int32_t>{sample, 299, 2}, 1);
  }
  writer.finish();
  const std::string whole = read_text(path);
  const auto expect_refused = [&](const std::string& content) {
    write_text(path, content);
    EXPECT_THAT(message_of<UserError>([&] { TokenFile file(path); }),
                HasSubstr("is not a valid token file"));
  };
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string content = whole;
    content[at] = static_cast<char>(content[at] ^ (1 << random_word(1, at) % 8));
    expect_refused(content);
    expect_refused(whole.substr(0, at));
  }
  expect_refused(whole + '\0');
  EXPECT_THAT(message_of<UserError>([&] { TokenFile file(folder / "no"); }), HasSubstr("No such"));
}

TEST(TokenFile, StaysReadableWhenDeletedAndTellsWhenItShrinks) {
  const TempFolder folder;
  TokenFileWriter writer(folder / "t", 10, 1);
  writer.begin_sample();
  writer.add(std::vector<std::int32_t>{4, 5}, 1);
  writer.finish();
  const TokenFile shrinking(folder / "t");
  const TokenFile deleted(folder / "t");
  fs::resize_file(folder / "t", 64);
  EXPECT_THAT(message_of<SystemError>([&] { ids_of(shrinking, 0, 2); }),
              HasSubstr("ended at byte 64 while"));
  fs::remove(folder / "t");
  EXPECT_EQ(deleted.size(), 2U);
}

TEST(TokenizeCorpus, PutsEachSampleBetweenBosAndEos) {
  const TempFolder folder;
  write_text(folder / "a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"\"}\n{\"text\": \"bc\"}");
  Corpus corpus({.paths = {folder / "a.jsonl"}});
  const TokenizedData data =
      tokenize_corpus(corpus, byte_tokenizer(), {.folder = folder / "cache"});
  EXPECT_FALSE(data.reads_special_tokens);
  ASSERT_EQ(data.tokens->samples(), 3U);
  EXPECT_THAT(sample_of(*data.tokens, 0), ElementsAre(1, 'a' + 3, 2));
  EXPECT_THAT(sample_of(*data.tokens, 1), ElementsAre(1, 2));
  EXPECT_THAT(sample_of(*data.tokens, 2), ElementsAre(1, 'b' + 3, 'c' + 3, 2));
  EXPECT_EQ(data.tokens->text_bytes(), 3U);
}

/// The same, but "<", ">" and "?" in a text are read as bos, eos and pad.
TokenizerInterface byte_tokenizer_with_marks() {
  TokenizerInterface tokenizer = byte_tokenizer();
  const auto encode = tokenizer.encode;
  tokenizer.encode = [encode](std::string_view text) {
    std::vector<std::int32_t> ids = encode(text);
    for (std::size_t i = 0; i < ids.size(); ++i)
      if (const std::size_t mark = std::string_view("?<>").find(text[i]); mark < 3)
        ids[i] = static_cast<std::int32_t>(mark);
    return ids;
  };
  tokenizer.count_special_tokens = [](std::string_view text) {
    return std::count_if(text.begin(), text.end(),
                         [](char c) { return c == '<' || c == '>' || c == '?'; });
  };
  tokenizer.reads_special_tokens = true;
  return tokenizer;
}

TEST(TokenizeCorpus, AddsNoSecondMarkBesideOneThatTheSampleBrings) {
  const TempFolder folder;
  std::string lines;
  for (const char* text : {"<a>", "a", "<", ">", "", "a>", "<a", "<<?>>", "<>a"})
    lines += std::string("{\"text\": \"") + text + "\"}\n";
  write_text(folder / "a.jsonl", lines);
  Corpus corpus({.paths = {folder / "a.jsonl"}});
  const TokenizedData data =
      tokenize_corpus(corpus, byte_tokenizer_with_marks(), {.folder = folder / "cache"});
  constexpr std::int64_t kA = 'a' + 3;
  const std::vector<std::vector<std::int64_t>> expected = {
      {1, kA, 2}, {1, kA, 2}, {1, 2},          {1, 2},       {1, 2},
      {1, kA, 2}, {1, kA, 2}, {1, 1, 0, 2, 2}, {1, 2, kA, 2}};
  ASSERT_EQ(data.tokens->samples(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_EQ(sample_of(*data.tokens, i), expected[i]) << "sample " << i;
  EXPECT_EQ(data.tokens->special_tokens(), 13U);
  EXPECT_TRUE(data.reads_special_tokens);
}

TEST(TokenizeCorpus, LooksForItsOwnMarksAtTheEndsOfALongSampleOnly) {
  const TempFolder folder;
  std::string text = "<";
  for (int i = 0; text.size() < 800'000; ++i) text += "line " + std::to_string(i) + ">\n<";
  write_text(folder / "a.txt", text + ">");
  Corpus corpus({.paths = {folder / "a.txt"}});
  const TokenizedData data =
      tokenize_corpus(corpus, byte_tokenizer_with_marks(), {.folder = folder / "cache"});
  EXPECT_EQ(data.tokens->samples(), 1U);
  EXPECT_EQ(data.tokens->size(), text.size() + 1);
}

TEST(TokenizeCorpus, ALongTextIsOneSample) {
  const TempFolder folder;
  std::string text;
  for (int i = 0; text.size() < 800'000; ++i) text += "line " + std::to_string(i) + "\n";
  write_text(folder / "a.txt", text);
  Corpus corpus({.paths = {folder / "a.txt"}});
  std::vector<std::uint64_t> done;
  const TokenizedData data = tokenize_corpus(
      corpus, byte_tokenizer(), {.folder = folder / "cache", .progress = [&](auto now, auto total) {
                                   EXPECT_EQ(total, text.size());
                                   done.push_back(now);
                                 }});
  EXPECT_EQ(data.tokens->samples(), 1U);
  const std::vector<std::int64_t> ids = sample_of(*data.tokens, 0);
  ASSERT_EQ(ids.size(), text.size() + 2);
  EXPECT_EQ(ids.front(), 1);
  EXPECT_EQ(ids.back(), 2);
  EXPECT_TRUE(std::equal(text.begin(), text.end(), ids.begin() + 1,
                         [](char c, std::int64_t id) { return c + 3 == id; }));
  EXPECT_GT(done.size(), 2U);
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
  EXPECT_EQ(done.back(), text.size());
}

class CachedTokens : public testing::Test {
 protected:
  CachedTokens() { write_text(folder_ / "a.txt", "text"); }

  TokenizedData tokenize(TokenizerInterface tokenizer = byte_tokenizer()) {
    const auto encode = tokenizer.encode;
    tokenizer.encode = [this, encode](std::string_view text) {
      ++encoded_;
      return encode(text);
    };
    Corpus corpus({.paths = {folder_ / "a.txt"}});
    return tokenize_corpus(corpus, tokenizer, {.folder = cache()});
  }
  fs::path cache() const { return folder_ / "cache"; }

  TempFolder folder_;
  int encoded_ = 0;
};

TEST_F(CachedTokens, AreTakenForTheSameTextAndTokenizer) {
  const TokenizedData first = tokenize();
  const TokenizedData second = tokenize();
  EXPECT_EQ(encoded_, 1);
  EXPECT_EQ(first.content_hash, second.content_hash);
  EXPECT_EQ(sample_of(*first.tokens, 0), sample_of(*second.tokens, 0));
}

TEST_F(CachedTokens, RememberTheMarksAndHowTheyWereRead) {
  write_text(folder_ / "a.txt", "<text>");
  TokenizerInterface as_text = byte_tokenizer_with_marks();
  as_text.encode = byte_tokenizer().encode;
  as_text.reads_special_tokens = false;
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(tokenize(as_text).tokens->size(), 8U);
    EXPECT_EQ(tokenize(byte_tokenizer_with_marks()).tokens->size(), 6U);
    EXPECT_EQ(tokenize(as_text).tokens->special_tokens(), 2U);
  }
  EXPECT_EQ(encoded_, 2);
}

TEST_F(CachedTokens, AreMadeForOtherTextOrTokenizer) {
  tokenize();
  TokenizerInterface other = byte_tokenizer();
  other.identity = "other";
  tokenize(other);
  EXPECT_EQ(encoded_, 2);
  other.eos_id = 3;
  EXPECT_EQ(sample_of(*tokenize(other).tokens, 0).back(), 3);
  write_text(folder_ / "a.txt", "texT");
  tokenize();
  EXPECT_EQ(encoded_, 4);
}

TEST_F(CachedTokens, AreMadeAgainWhenDamaged) {
  tokenize();
  const std::vector<fs::path> files = entries(cache());
  ASSERT_EQ(files.size(), 1U);
  const std::string whole = read_text(files[0]);
  write_text(files[0], whole.substr(0, whole.size() - 1));
  std::vector<std::string> said;
  set_log_sink([&](LogLevel, const std::string& message) { said.push_back(message); });
  EXPECT_EQ(tokenize().tokens->size(), 6U);
  set_log_sink({});
  EXPECT_THAT(said, ElementsAre(HasSubstr("building the cached tokens again")));
  EXPECT_EQ(read_text(files[0]), whole);
}

/// Bytes that this process has asked the system to read, mapped files left out.
std::uint64_t bytes_read() {
  std::ifstream io("/proc/self/io");
  std::string key;
  std::uint64_t bytes = 0;
  io >> key >> bytes;
  EXPECT_EQ(key, "rchar:");
  return bytes;
}

TEST(TokenizeCorpus, KnowsFilesThatItHasReadByTheirStamp) {
  constexpr std::size_t kBytes = std::size_t{8} << 20U;
  const TempFolder folder;
  std::string text(kBytes, 'x');
  write_text(folder / "a.txt", text);
  const auto tokenize = [&](double settled = 0.0) {
    Corpus corpus({.paths = {folder / "a.txt"}});
    return tokenize_corpus(corpus, byte_tokenizer(),
                           {.folder = folder / "cache", .settled = settled});
  };
  const TokenizedData first = tokenize();
  const std::uint64_t before = bytes_read();
  EXPECT_EQ(tokenize().content_hash, first.content_hash);
  EXPECT_LT(bytes_read() - before, kBytes / 2) << "the head of the file tells its kind";

  const std::uint64_t recent = bytes_read();
  EXPECT_EQ(tokenize(3600.0).content_hash, first.content_hash);
  EXPECT_GT(bytes_read() - recent, kBytes) << "what has just changed is read";

  for (const fs::path& path : entries(folder / "cache"))
    if (path.extension() == ".text") write_text(path, "0123456789abcdef 0\n");
  EXPECT_EQ(tokenize().content_hash, first.content_hash) << "a damaged note is not believed";

  text.back() = 'y';
  write_text(folder / "a.txt", text);
  const TokenizedData changed = tokenize();
  EXPECT_NE(changed.content_hash, first.content_hash);
  EXPECT_EQ(ids_of(*changed.tokens, kBytes, kBytes + 1).front(), 'y' + 3);
}

TEST_F(CachedTokens, GoElsewhereWhereTheCacheCannotBeWritten) {
  write_text(cache(), "a file where the folder should be");
  std::vector<std::string> said;
  set_log_sink([&](LogLevel, const std::string& message) { said.push_back(message); });
  const TokenizedData data = tokenize();
  set_log_sink({});
  EXPECT_THAT(said, ElementsAre(HasSubstr("cannot write the cache")));
  EXPECT_EQ(data.tokens->size(), 6U);
  EXPECT_THAT(sample_of(*data.tokens, 0), testing::SizeIs(6));
}

TEST_F(CachedTokens, BadTextLeavesNothingBehind) {
  write_text(folder_ / "a.txt", "te\xFFt");
  EXPECT_THAT(message_of<UserError>([&] { tokenize(); }), HasSubstr("offset 2"));
  EXPECT_THAT(entries(cache()), IsEmpty());
}

// A file size limit stands for a full disk: write() fails in the same way.
TEST(TokenizeCorpus, SaysWhenTheDiskIsFull) {
  const TempFolder folder;
  write_text(folder / "a.txt", std::string(1 << 20, 'x'));
  Corpus corpus({.paths = {folder / "a.txt"}});
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 100'000, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message = message_of<SystemError>(
      [&] { tokenize_corpus(corpus, byte_tokenizer(), {.folder = folder / "cache"}); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(message, HasSubstr("cannot write"));
  EXPECT_THAT(message, HasSubstr("XDG_CACHE_HOME"));
  EXPECT_THAT(entries(folder / "cache"), IsEmpty());
}

void write_large_corpus(const fs::path& folder, std::size_t bytes) {
  std::ofstream text(folder / "a.txt", std::ios::binary);
  std::ofstream jsonl(folder / "b.jsonl", std::ios::binary);
  std::ofstream fortunes(folder / "c", std::ios::binary);
  for (std::size_t at = 0; at < bytes / 3; at += 64) {
    text << "some sixty four bytes of plain text that go on and on, for ever\n";
    jsonl << R"({"text": "some sixty four bytes of JSON lines that go on ever."})" << '\n';
    fortunes << "some sixty four bytes of a fortune cookie, and then a per cent\n%\n";
  }
}

TEST(TokenizeCorpus, NeedsNoMemoryForALargeCorpus) {
  constexpr std::size_t kBytes = std::size_t{96} << 20U;
  constexpr std::uint64_t kBound = std::uint64_t{24} << 20U;
  const TempFolder folder{fs::path(test::kBuildDir)};
  fs::create_directory(folder / "text");
  write_large_corpus(folder / "text", kBytes);
  const std::uint64_t before = peak_resident_bytes();
  Corpus corpus({.paths = {folder / "text"}});
  ASSERT_GT(corpus.bytes(), kBytes);
  const TokenizedData data =
      tokenize_corpus(corpus, byte_tokenizer(), {.folder = folder / "cache"});
  std::vector<std::int64_t> row(512);
  for (std::uint64_t at = 0; at + 512 < data.tokens->size(); at += 4096) data.tokens->copy(at, row);
  EXPECT_LT(peak_resident_bytes() - before, kBound);
  EXPECT_GT(data.tokens->samples(), 1'000'000U);
}

}  // namespace
}  // namespace halftone::token_data_test
