// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <regex>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/random.h"
#include "halftone/core/text.h"
#include "halftone/data/document_reader.h"
#include "halftone/data/line_reader.h"
#include "support/paths.h"
#include "support/temp_folder.h"

namespace halftone::corpus_test {
namespace {

using test::message_of;
using test::TempFolder;
using test::write_text;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<Document> documents_of(Corpus& corpus) {
  std::vector<Document> result;
  for (Document document; corpus.next(document);) result.push_back(document);
  return result;
}

std::vector<std::string> texts_of(const CorpusOptions& options) {
  Corpus corpus(options);
  std::vector<std::string> result;
  for (const Document& document : documents_of(corpus)) {
    EXPECT_TRUE(document.begins && document.ends) << "a short sample must come in one document";
    result.push_back(document.text);
  }
  return result;
}

/// The texts that a file with this name and content gives.
std::vector<std::string> texts_in(const std::string& name, const std::string& content,
                                  CorpusOptions options = {}) {
  const TempFolder folder;
  write_text(folder / name, content);
  options.paths = {folder / name};
  return texts_of(options);
}

std::string error_in(const std::string& name, const std::string& content) {
  return message_of<UserError>([&] { texts_in(name, content); });
}

TEST(Corpus, APlainTextIsOneSampleAsItStands) {
  EXPECT_THAT(texts_in("a.txt", "  one\r\n\ntwo\n\n"), ElementsAre("  one\r\n\ntwo\n\n"));
  EXPECT_THAT(texts_in("a.txt", "no line break"), ElementsAre("no line break"));
}

TEST(Corpus, SplitsParagraphsWhereAsked) {
  EXPECT_THAT(
      texts_in("a.txt", "\n  one\nmore\n\n \t\ntwo\r\n\r\nthree", {.split_paragraphs = true}),
      ElementsAre("  one\nmore", "two", "three"));
}

TEST(Corpus, LeavesOutAByteOrderMark) {
  EXPECT_THAT(texts_in("a.txt", "\xEF\xBB\xBFtext"), ElementsAre("text"));
  EXPECT_THAT(texts_in("a.jsonl", "\xEF\xBB\xBF{\"text\": \"x\"}"), ElementsAre("x"));
}

TEST(Corpus, DividesFortunesAtPercentLines) {
  EXPECT_THAT(texts_in("poems", "one\n  two\n%\n\n  three \n\n%\r\n%\n \n%\nfour 5%\n%x\n%"),
              ElementsAre("one\n  two", "  three", "four 5%\n%x"));
}

TEST(Corpus, TakesTerminalCodesOutOfFortunes) {
  EXPECT_THAT(texts_in("poems", "\x1B[32m《感遇》\x1B[m\n\x1B[;\x1B[34;1mby\x1B[;m x\n%\n"),
              ElementsAre("《感遇》\nby x"));
  EXPECT_THAT(texts_in("poems", "whole ____\b\b\b\bBODY!\n%\n诗\bx\n"),
              ElementsAre("whole BODY!", "x"));
}

TEST(StripTerminalCodes, SurvivesBrokenOnes) {
  EXPECT_EQ(strip_terminal_codes("a\x1B"), "a");
  EXPECT_EQ(strip_terminal_codes("a\x1B["), "a");
  EXPECT_EQ(strip_terminal_codes("a\x1B[12"), "a");
  EXPECT_EQ(strip_terminal_codes("a\x1B[3\nb"), "a\nb");
  EXPECT_EQ(strip_terminal_codes("\b\b诗\b\bx"), "x");
  EXPECT_EQ(strip_terminal_codes("a\n\bb"), "a\nb");
}

TEST(Corpus, AMarkupFileIsNoFortuneFile) {
  EXPECT_THAT(texts_in("a.tex", "a\n%\nb"), ElementsAre("a\n%\nb"));
  EXPECT_THAT(texts_in("a.txt", "a\n%\nb"), ElementsAre("a", "b"));
}

TEST(Corpus, ReadsTextsOfJsonLines) {
  EXPECT_THAT(texts_in("a.jsonl",
                       "{\"text\": \"a\\n\\u8bd7 \"}\n\n{\"id\": 1, \"text\": \"\"}\r\n"
                       "{\"text\":\"end\"}"),
              ElementsAre("a\n诗 ", "", "end"));
}

TEST(Corpus, NamesTheLineOfBadJson) {
  EXPECT_THAT(error_in("a.jsonl", "{\"text\": \"a\"}\n{\"text\": }\n"),
              AllOf(HasSubstr("a.jsonl:2: expected JSON, found a syntax error at byte 10"),
                    HasSubstr("one object such as {\"text\": \"...\"} on each line")));
  EXPECT_THAT(error_in("a.json", "[1]"), HasSubstr("a.json:1 is a JSON number"));
  EXPECT_THAT(error_in("a.jsonl", "[1]"),
              AllOf(HasSubstr("a.jsonl:1 is a JSON array"), HasSubstr("jq -c '.[]'")));
  EXPECT_THAT(error_in("a.jsonl", "{\"txt\": \"a\"}"), HasSubstr("a.jsonl:1 has no \"text\""));
  EXPECT_THAT(error_in("a.jsonl", "{\"text\": 3}"), HasSubstr("\"text\" that is a JSON number"));
  EXPECT_THAT(error_in("a.jsonl", "{\"text\": 1e999}"),
              HasSubstr("a.jsonl:1: text must be a number below 1.8e308"));
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  EXPECT_THAT(error_in("a.jsonl", "{\"text\": \"a\", \"n\": " + deep + "}"),
              HasSubstr("a.jsonl:1: expected JSON nested at most 64 deep, found more in n[0]"));
  EXPECT_THAT(error_in("a.jsonl", "{\"text\": \"\\ud800\"}"), HasSubstr("syntax error"));
  EXPECT_THAT(error_in("a.jsonl", "\n{\"conversations\": []}"),
              AllOf(HasSubstr("a.jsonl:2 is a chat"), HasSubstr("{\"text\": \"...\"}")));
}

TEST(Corpus, RefusesALineOfJsonBeyondAllMeasure) {
  const TempFolder folder{std::filesystem::path(test::kBuildDir)};
  write_text(folder / "a.jsonl",
             "\n{\"text\": \"" + std::string(std::size_t{65} << 20U, 'x') + "\"}\n");
  EXPECT_THAT(message_of<UserError>([&] { texts_of({.paths = {folder / "a.jsonl"}}); }),
              HasSubstr("a.jsonl:2 is longer than 64 MiB"));
}

TEST(Corpus, NamesTheByteThatIsNotUtf8) {
  EXPECT_THAT(error_in("a.txt", "\xEF\xBB\xBF one\ntw\xFFo"),
              AllOf(HasSubstr("a.txt is not UTF-8: byte 0xFF at offset 10 (line 2)"),
                    HasSubstr("set invalid_utf8 to replace")));
  EXPECT_THAT(error_in("a.txt", std::string(600'000, 'x') + "\xE8\xAF"), HasSubstr("600000"));
  EXPECT_THAT(error_in("a.jsonl", "{\"text\": \"\xC0\x80\"}"), HasSubstr("offset 10 (line 1)"));
  EXPECT_THAT(error_in("poems", "a\n%\n\x80"), HasSubstr("offset 4 (line 3)"));
}

TEST(Corpus, ReplacesWhatIsNotUtf8WhenTold) {
  EXPECT_THAT(texts_in("a.txt", "a\xFFz", {.replace_invalid_utf8 = true}),
              ElementsAre("a\xEF\xBF\xBDz"));
  EXPECT_THAT(texts_in("a.jsonl", "{\"text\": \"\xE8\xAF\"}", {.replace_invalid_utf8 = true}),
              ElementsAre("\xEF\xBF\xBD"));
}

TEST(Corpus, RefusesFilesThatAreNotText) {
  using namespace std::string_literals;
  EXPECT_THAT(error_in("a.png", "\x89PNG\0"s),
              HasSubstr("a.png is binary (it holds a zero byte), expected UTF-8 text"));
  EXPECT_THAT(error_in("a.gz", "\x1F\x8B\x08xx"s),
              HasSubstr("compressed, expected UTF-8 text or .jsonl; unpack"));
  EXPECT_THAT(error_in("a.txt", "\xFF\xFEx\0"s),
              HasSubstr("UTF-16, expected UTF-8 text or .jsonl; convert"));
}

TEST(Corpus, RefusesPathsThatGiveNoText) {
  const TempFolder folder;
  EXPECT_THAT(message_of<UserError>([] { Corpus({}); }), HasSubstr("no data given"));
  EXPECT_THAT(message_of<UserError>([&] { Corpus({.paths = {folder / "no"}}); }),
              AllOf(HasSubstr((folder / "no").string()), HasSubstr("does not exist")));
  EXPECT_THAT(message_of<UserError>([&] { Corpus({.paths = {folder.path()}}); }),
              HasSubstr("holds no text files"));
  EXPECT_THAT(message_of<UserError>([&] { Corpus({.paths = {"/dev/null"}}); }),
              HasSubstr("neither a file nor a folder"));
  EXPECT_THAT(error_in("a.txt", ""), HasSubstr("no text found in"));
  EXPECT_THAT(error_in("a.txt", " \n\n"), HasSubstr("no text found in"));
  EXPECT_THAT(error_in("poems", "%\n%\n"), HasSubstr("no text found in"));
}

/// Collects the messages while it lives.
struct SaidMessages {
  SaidMessages() {
    set_log_sink([this](LogLevel level, const std::string& message) {
      (level == LogLevel::kWarning ? warnings : notes).push_back(message);
    });
  }
  ~SaidMessages() { set_log_sink({}); }
  SaidMessages(const SaidMessages&) = delete;
  SaidMessages& operator=(const SaidMessages&) = delete;
  std::vector<std::string> warnings;
  std::vector<std::string> notes;
};

std::vector<std::string> names_in(const std::filesystem::path& folder,
                                  const std::vector<std::filesystem::path>& paths) {
  std::vector<std::string> names;
  const Corpus corpus({.paths = paths});
  for (const CorpusFile& file : corpus.files())
    names.push_back(file.path.lexically_relative(folder).string());
  return names;
}

TEST(Corpus, TakesAFolderInOrderAndOnce) {
  const TempFolder folder;
  std::filesystem::create_directories(folder / "b/.git");
  for (const char* name : {"z.txt", "a", "b/c.jsonl", "b/.git/x", ".hidden", "a.dat", "copyright"})
    write_text(folder / name, name);
  write_text(folder / "a.u8", "a copy");
  write_text(folder / "lone.u8", "no copy");
  std::filesystem::create_symlink("z.txt", folder / "link.txt");
  write_text(folder / "lone.dat", "a text of its own");
  std::filesystem::create_directory_symlink("..", folder / "b/up");

  const SaidMessages said;
  EXPECT_THAT(names_in(folder.path(), {folder.path(), folder / "a"}),
              ElementsAre("a", "b/c.jsonl", "link.txt", "lone.dat", "lone.u8"));
  EXPECT_THAT(said.warnings,
              ElementsAre(AllOf(HasSubstr("left out 7 of 12 files in"), HasSubstr("2 hidden ("),
                                HasSubstr("3 index, alias or copyright of fortunes (a.dat, ...)"),
                                HasSubstr("1 link to a folder that holds this one (b/up)"),
                                HasSubstr("1 read already (z.txt)")),
                          AllOf(HasSubstr((folder / "a").string()), HasSubstr("is named twice"))));
}

TEST(Corpus, FollowsLinksToFoldersAndSaysWhatItCannotRead) {
  const TempFolder folder;
  const TempFolder elsewhere;
  for (const char* name : {"data/part1.txt", "data/b/c.txt"}) {
    std::filesystem::create_directories((folder / name).parent_path());
    write_text(folder / name, name);
  }
  write_text(elsewhere / "part2.txt", "part2");
  const std::filesystem::path data = folder / "data";
  std::filesystem::create_directory_symlink(elsewhere.path(), data / "more");
  std::filesystem::create_directory_symlink(elsewhere.path(), data / "again");
  std::filesystem::create_directory_symlink(folder.path(), data / "up");
  std::filesystem::create_directory_symlink(data, elsewhere / "cycle");
  std::filesystem::create_symlink("/nowhere/part3.txt", data / "part3.txt");
  ASSERT_EQ(::mkfifo((data / "pipe").c_str(), 0600), 0);

  const SaidMessages said;
  EXPECT_THAT(names_in(data, {data}), ElementsAre("again/part2.txt", "b/c.txt", "part1.txt"));
  EXPECT_THAT(
      said.warnings,
      ElementsAre(AllOf(
          HasSubstr("left out 5 of 8 files"), HasSubstr("1 folder that is read already (more)"),
          HasSubstr("1 link to nothing (part3.txt)"), HasSubstr("1 neither file nor folder (pipe)"),
          HasSubstr("2 link to a folder that holds this one"))));
}

TEST(Corpus, SaysThatAFolderIsNamedTwice) {
  const TempFolder folder;
  write_text(folder / "a.txt", "text");
  const SaidMessages said;
  EXPECT_THAT(names_in(folder.path(), {folder.path(), folder.path()}), ElementsAre("a.txt"));
  EXPECT_THAT(said.warnings, ElementsAre(HasSubstr("1 read already (a.txt)")));
}

TEST(Corpus, OnlyNotesWhatNobodyMeansAsText) {
  const TempFolder folder;
  for (const char* name : {"a", "a.dat", ".hidden"}) write_text(folder / name, "text");
  write_text(folder / "empty", "");
  const SaidMessages said;
  EXPECT_THAT(names_in(folder.path(), {folder.path()}), ElementsAre("a", "empty"));
  EXPECT_THAT(said.warnings, IsEmpty());
  EXPECT_THAT(said.notes, ElementsAre(AllOf(HasSubstr("left out 3 of 4"), HasSubstr("1 empty"))));
}

TEST(Corpus, RefusesTablesAndDocumentsAndNamesTheRemedy) {
  EXPECT_THAT(error_in("a's.csv", "text\nfoo\n"),
              AllOf(HasSubstr("is a table (.csv), expected UTF-8 text or .jsonl"),
                    HasSubstr("python3 -c 'import csv"), HasSubstr("a'\\''s.csv.jsonl'")));
  EXPECT_THAT(error_in("A.TSV", "x"), HasSubstr("a table (.tsv)"));
  EXPECT_THAT(error_in("a.parquet", "PAR1"), HasSubstr("pandas.read_parquet"));
  EXPECT_THAT(error_in("a.arrow", "x"), HasSubstr("a table (.arrow)"));
  EXPECT_THAT(error_in("a.pdf", "%PDF-1.4\n%\n"), HasSubstr("a document (.pdf)"));

  const TempFolder folder;
  write_text(folder / "a.txt", "text");
  write_text(folder / "b.csv", "text\nfoo\n");
  write_text(folder / "c.csv", "text\nfoo\n");
  const SaidMessages said;
  EXPECT_THAT(names_in(folder.path(), {folder.path()}), ElementsAre("a.txt"));
  EXPECT_THAT(said.warnings, ElementsAre(HasSubstr("2 a table (.csv) (b.csv, ...)")));
}

// The remedy is a command that works as it stands.
TEST(Corpus, NamesACommandThatTurnsATableIntoText) {
  const TempFolder folder;
  write_text(folder / "it's a.csv", "id,text\n1,\"one, 诗\"\n2,two\n");
  const std::string message =
      message_of<UserError>([&] { Corpus({.paths = {folder / "it's a.csv"}}); });
  const std::size_t at = message.find("python3 -c");
  ASSERT_NE(at, std::string::npos);
  ASSERT_EQ(std::system(message.substr(at).c_str()), 0);
  EXPECT_THAT(texts_of({.paths = {folder / "it's a.csv.jsonl"}}), ElementsAre("one, 诗", "two"));
}

TEST(Corpus, LeavesBinaryFilesOfAFolderOutWithAWarning) {
  const TempFolder folder;
  write_text(folder / "a.txt", "text");
  write_text(folder / "b.png", std::string("\x89PNG\0\0", 6));
  std::vector<std::string> said;
  set_log_sink([&](LogLevel level, const std::string& message) {
    if (level == LogLevel::kWarning) said.push_back(message);
  });
  EXPECT_EQ(Corpus({.paths = {folder.path()}}).files().size(), 1U);
  set_log_sink({});
  EXPECT_THAT(said, ElementsAre(AllOf(HasSubstr("left out 1 of 2"), HasSubstr("b.png"))));
}

TEST(Corpus, GivesTheSameAgainAfterRewind) {
  const TempFolder folder;
  write_text(folder / "a", "one\n%\ntwo\n");
  write_text(folder / "b.txt", "three");
  Corpus corpus({.paths = {folder.path()}});
  EXPECT_EQ(corpus.bytes(), 15U);
  Document document;
  ASSERT_TRUE(corpus.next(document));
  corpus.rewind();
  EXPECT_EQ(corpus.bytes_read(), 0U);
  EXPECT_EQ(documents_of(corpus).size(), 3U);
  EXPECT_EQ(corpus.bytes_read(), corpus.bytes());
  EXPECT_FALSE(corpus.next(document));
}

TEST(Corpus, HashFollowsTheContentNotThePlace) {
  const TempFolder first;
  const TempFolder second;
  write_text(first / "a", "one\n%\ntwo");
  write_text(second / "z", "one\n%\ntwo");
  const auto hash = [](const std::filesystem::path& path) {
    return Corpus({.paths = {path}}).content_hash();
  };
  const std::uint64_t before = hash(first.path());
  EXPECT_EQ(before, hash(second / "z"));
  write_text(first / "a", "one\n%\ntwO");
  EXPECT_NE(before, hash(first.path()));
  write_text(first / "a", "one\n%\ntwo");
  write_text(first / "b", "more");
  EXPECT_NE(before, hash(first.path()));
}

// GPT-2's pre-tokeniser for ASCII.
std::vector<std::string> pre_tokens(const std::string& text) {
  static const std::regex pattern(
      R"('s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+)");
  return {std::sregex_token_iterator(text.begin(), text.end(), pattern), {}};
}

std::string random_prose(std::size_t bytes) {
  const std::vector<std::string> parts = {"word", " ",  "\n", "\n\n", "\n\n\n", " it's", "42",
                                          "\t",   ", ", "  ", "\n ",  "x",      " end.", "\r\n"};
  std::string text;
  for (std::uint64_t i = 0; text.size() < bytes; ++i)
    text += parts[random_word(7, i) % parts.size()];
  return text;
}

TEST(Corpus, CutsALongTextWhereThePreTokeniserDoes) {
  const TempFolder folder;
  const std::string text = random_prose(3 << 18U);
  write_text(folder / "long.txt", text);
  Corpus corpus({.paths = {folder / "long.txt"}});
  const std::vector<Document> documents = documents_of(corpus);
  ASSERT_GT(documents.size(), 2U);
  std::string joined;
  std::vector<std::string> tokens;
  for (std::size_t i = 0; i < documents.size(); ++i) {
    EXPECT_EQ(documents[i].begins, i == 0);
    EXPECT_EQ(documents[i].ends, i + 1 == documents.size());
    joined += documents[i].text;
    for (const std::string& token : pre_tokens(documents[i].text)) tokens.push_back(token);
  }
  EXPECT_EQ(joined, text);
  EXPECT_EQ(tokens, pre_tokens(text));
}

TEST(Corpus, CutsATextWithoutLineBreaksInConstantMemory) {
  const TempFolder folder;
  std::string text;
  for (int i = 0; i < 700'000; ++i) text += "诗";  // 2.1 MB, no space, no line break
  write_text(folder / "long.txt", text);
  Corpus corpus({.paths = {folder / "long.txt"}});
  std::string joined;
  for (const Document& document : documents_of(corpus)) {
    EXPECT_LE(document.text.size(), std::size_t{2} << 20U);
    joined += document.text;
  }
  EXPECT_EQ(joined, text);
}

TEST(LineReader, CutsLongLinesAtSpacesAndCharacters) {
  const TempFolder folder;
  write_text(folder / "a", "aaaaaa bbb\n诗诗诗诗x\n");
  LineReader reader(folder / "a", {.max_line_bytes = 8});
  std::vector<std::string> lines;
  for (std::string line; reader.next(line);) lines.push_back(line);
  EXPECT_THAT(lines, ElementsAre("aaaaaa", " bbb\n", "诗诗", "诗诗x\n"));
  EXPECT_EQ(reader.line_number(), 2U);
}

// Whatever stands in a file, reading ends in documents of valid UTF-8, then true, or in a
// UserError.
bool reads(const std::filesystem::path& path, bool replace) {
  try {
    Corpus corpus({.paths = {path}, .split_paragraphs = replace, .replace_invalid_utf8 = replace});
    for (const Document& document : documents_of(corpus)) {
      EXPECT_LT(document.text.size(), 1U << 20U);
      EXPECT_FALSE(find_invalid_utf8(document.text)) << document.text;
    }
    return true;
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr(path.filename().string()));
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return false;
  }
}

std::string mutated(std::string content, std::uint64_t seed) {
  const std::uint64_t edits = random_word(1, seed) % 4 + 1;
  for (std::uint64_t edit = 0; edit < edits && !content.empty(); ++edit) {
    const std::uint64_t word = random_word(seed + 2, edit);
    const std::size_t at = word % content.size();
    const auto any = static_cast<char>(word >> 40U);
    const char byte = edit % 2 == 0 ? content[(word >> 40U) % content.size()] : any;
    switch (word >> 32U & 3U) {
      case 0:
        content[at] = byte;
        break;
      case 1:
        content.insert(at, 1, byte);
        break;
      case 2:
        content.erase(at, 1);
        break;
      default:
        content.resize(at + 1);
    }
  }
  return content;
}

/// How many of `rounds` mutations of a file are read, with invalid UTF-8 replaced or not.
int read_mutations(const std::string& name, const std::string& content, bool replace) {
  constexpr std::uint64_t kRounds = 400;
  const TempFolder folder;
  int accepted = 0;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    write_text(folder / name, mutated(content, round));
    accepted += reads(folder / name, replace) ? 1 : 0;
  }
  return accepted;
}

TEST(Corpus, MutatedFilesAreReadOrRefused) {
  const std::string jsonl =
      "{\"text\": \"a poem of 春, a\\u8bd7\", \"n\": [1, {\"b\": null}]}\n{\"text\": \"\"}\n";
  const std::string fortune = "\x1B[32m诗\x1B[m\n%\n__\b\bab\n\n%\nlast\r\n%\r\n";
  // A letter of the text may change, a brace may not; any text is a fortune if it is UTF-8.
  for (const bool replace : {false, true}) {
    const int lines = read_mutations("a.jsonl", jsonl, replace);
    EXPECT_GT(lines, 10);
    EXPECT_LT(lines, 200);
  }
  const int strict = read_mutations("poems", fortune, false);
  const int repaired = read_mutations("poems", fortune, true);
  EXPECT_GT(strict, 100);
  EXPECT_GT(repaired, strict);
  EXPECT_LT(repaired, 400);  // a zero byte is no text
}

}  // namespace
}  // namespace halftone::corpus_test
