// SPDX-License-Identifier: Apache-2.0
// Chats and preferences: read, encoded, and made into rows.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/data/corpus.h"
#include "halftone/data/json_documents.h"
#include "halftone/data/token_cache.h"
#include "halftone/data/token_loader.h"
#include "support/temp_folder.h"

namespace halftone::chat_data_test {
namespace {

using test::message_of;
using test::TempFolder;
using test::write_text;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr auto kChat = SampleKind::kConversation;
constexpr auto kPair = SampleKind::kPreference;

std::vector<Document> documents_in(const std::string& name, const std::string& content,
                                   std::optional<SampleKind> wanted = SampleKind::kText) {
  const TempFolder folder;
  write_text(folder / name, content);
  Corpus corpus({.paths = {folder / name}, .wanted = wanted});
  std::vector<Document> documents;
  for (Document document; corpus.next(document);) documents.push_back(document);
  return documents;
}

std::string error_in(const std::string& name, const std::string& content,
                     std::optional<SampleKind> wanted = SampleKind::kText) {
  return message_of<UserError>([&] { documents_in(name, content, wanted); });
}

std::vector<std::string> words_of(const std::vector<ChatMessage>& messages) {
  std::vector<std::string> words;
  for (const ChatMessage& message : messages)
    words.push_back(message.role + ": " + message.content);
  return words;
}

TEST(ChatData, ReadsTheFormsThatChatsHave) {
  const auto chats = documents_in("a.jsonl",
                                  R"({"conversations": [{"content": "a"}, {"content": "b"}]}
{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "c"}], "id": 3}
{"conversations": [{"from": "human", "value": "d"}, {"from": "gpt", "value": "e"}]}
{"messages": [{"role": "assistant", "content": null, "tool_calls": [{"name": "f", "arguments": {"b": 1, "a": 2}}], "reasoning_content": "r"}], "tools": "[1]"})",
                                  kChat);
  ASSERT_EQ(chats.size(), 4U);
  EXPECT_THAT(words_of(chats[0].messages), ElementsAre("user: a", "assistant: b"));
  EXPECT_THAT(words_of(chats[1].messages), ElementsAre("system: s", "user: c"));
  EXPECT_THAT(words_of(chats[2].messages), ElementsAre("user: d", "assistant: e"));
  EXPECT_THAT(chats[2].place, HasSubstr("a.jsonl:3"));
  const ChatMessage& call = chats[3].messages[0];
  EXPECT_EQ(call.tool_calls, R"([{"name":"f","arguments":{"b":1,"a":2}}])") << "members in order";
  EXPECT_EQ(call.reasoning_content, "r");
  EXPECT_EQ(call.tools, "[1]");
}

TEST(ChatData, ReadsPreferencesWithTheirPrompt) {
  const auto pairs = documents_in(
      "a.jsonl",
      R"({"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "y"}],)"
      R"( "rejected": [{"role": "assistant", "content": "n"}]})",
      kPair);
  ASSERT_EQ(pairs.size(), 1U);
  EXPECT_THAT(words_of(pairs[0].messages), ElementsAre("user: q", "assistant: y"));
  EXPECT_THAT(words_of(pairs[0].rejected), ElementsAre("user: q", "assistant: n"));
}

TEST(ChatData, ReadsArraysOfObjects) {
  const auto texts = documents_in("a.json",
                                  " \n[ {\"text\": \"a],\\\"\\\\\"},\n\n{\"text\":\"b\", \"x\": "
                                  "[1, {\"y\": 2}]}\n,{\"text\": \"\"} ]\n");
  ASSERT_EQ(texts.size(), 3U);
  EXPECT_EQ(texts[0].text, "a],\"\\");
  EXPECT_EQ(texts[1].text, "b");
  EXPECT_EQ(texts[2].text, "");
  EXPECT_THAT(error_in("a.json", "[]"), HasSubstr("no text found"));
  EXPECT_THAT(error_in("a.json", "[{\"text\": \"a\"},\n\n{\"text\": 1}]"),
              HasSubstr("a.json:3 has a \"text\" that is a JSON number"));
  EXPECT_THAT(error_in("a.json", "[{\"text\": \"a\"}"), HasSubstr("does not end"));
  EXPECT_THAT(error_in("a.json", "[{\"text\": \"a\""), HasSubstr("does not end"));
  EXPECT_THAT(error_in("a.json", "[{\"text\": \"a\"},"), HasSubstr("ends within the array"));
  EXPECT_THAT(error_in("a.json", "[{\"text\": \"a\"}] x"), HasSubstr("goes on behind the array"));
  EXPECT_THAT(error_in("a.json", "[{\"text\": \"a\"} {}]"), HasSubstr("syntax error"));
  EXPECT_THAT(error_in("a.json", "[,{\"text\": \"a\"}]"), HasSubstr("syntax error"));
}

TEST(ChatData, NamesFileLineAndTaskOfDataThatDoesNotFit) {
  const std::string chat = R"({"messages": [{"role": "user", "content": "q"}]})";
  EXPECT_THAT(error_in("a.jsonl", "\n" + chat),
              AllOf(HasSubstr("a.jsonl:2 is a chat"), HasSubstr("set task to sft")));
  EXPECT_THAT(error_in("a.jsonl", chat, kPair),
              AllOf(HasSubstr("the task is dpo"), HasSubstr("set task to sft")));
  EXPECT_THAT(error_in("a.jsonl", "{\"text\": \"x\"}", kChat),
              AllOf(HasSubstr("a.jsonl:1 is text"), HasSubstr("set task to pretrain")));
  EXPECT_THAT(error_in("a.txt", "x", kChat),
              AllOf(HasSubstr("a.txt is text"), HasSubstr("set task to pretrain")));
  EXPECT_THAT(error_in("a.jsonl", R"({"chosen": [], "rejected": []})", kChat),
              HasSubstr("set task to dpo"));
  EXPECT_THAT(error_in("a.jsonl", "{}", kChat),
              AllOf(HasSubstr("a.jsonl:1"), HasSubstr("{\"conversations\": [{")));
  for (const char* messages :
       {"1", "[]", "[1]", "[{}]", "[{\"role\": \"user\"}]", "[{\"role\": 1, \"content\": \"\"}]",
        "[{\"content\": [1]}]", "[{\"content\": \"\", \"tools\": 1}]"})
    EXPECT_THAT(error_in("a.jsonl", std::string("{\"messages\": ") + messages + "}", kChat),
                AllOf(HasSubstr("a.jsonl:1: messages"), HasSubstr("expected messages such as")))
        << messages;
}

TEST(ChatData, NeverCrashesOnDamagedChats) {
  const std::string whole =
      R"([{"conversations": [{"role": "user", "content": "q\"\\"}, {"role": "assistant", "content": "a", "tool_calls": [{"name": "n"}]}], "tools": [[]]}, {"chosen": [{"content": "x"}], "rejected": [{"content": "y"}]}])";
  std::mt19937 random(3);
  int read = 0;
  for (int i = 0; i < 1500; ++i) {
    std::string text = whole;
    for (auto n = 1 + random() % 3; n > 0; --n) {
      const std::size_t at = random() % text.size();
      if (random() % 2 == 0)
        text.erase(at, 1 + random() % 4);
      else
        text[at] = "{}[]\",:\\ 1"[random() % 10];
    }
    try {
      read += documents_in(i % 2 == 0 ? "a.json" : "a.jsonl", text, std::nullopt).empty() ? 0 : 1;
    } catch (const UserError&) {
    }
  }
  EXPECT_GT(read, 0);
}

/// Bytes as ids from 3 on; a chat is 1, its role's first letter, the content and 2 for each turn.
TokenizerInterface byte_tokenizer() {
  const auto encode = [](std::string_view text) {
    std::vector<std::int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c) + 3);
    return ids;
  };
  return {.encode = encode,
          .vocab_size = 259,
          .bos_id = 1,
          .eos_id = 2,
          .pad_id = 0,
          .identity = "bytes",
          .encode_chat =
              [encode](std::span<const ChatMessage> messages) {
                ChatIds chat;
                const auto add = [&](std::int32_t id, bool is_answer) {
                  chat.ids.push_back(id);
                  chat.is_answer.push_back(is_answer ? 1 : 0);
                };
                for (const ChatMessage& message : messages) {
                  if (message.role == "bad") throw UserError("chat message 1: bad");
                  const bool is_answer = message.role == "assistant";
                  add(1, false);
                  for (const std::int32_t id : encode(message.content)) add(id, is_answer);
                  add(2, is_answer);
                }
                return chat;
              },
          .chat_identity = "turns"};
}

TokenizedData tokenized(const std::string& jsonl, std::optional<SampleKind> wanted) {
  const TempFolder folder;
  write_text(folder / "a.jsonl", jsonl);
  Corpus corpus({.paths = {folder / "a.jsonl"}, .wanted = wanted});
  return tokenize_corpus(corpus, byte_tokenizer(), {.folder = folder / "cache"});
}

std::string chat_line(const std::string& question, const std::string& answer) {
  return R"({"conversations": [{"content": ")" + question + R"("}, {"content": ")" + answer +
         "\"}]}\n";
}

/// The targets that count, as the bytes that they stand for; '$' for the end mark.
std::vector<std::string> learned(const TokenBatch& batch) {
  std::vector<std::string> rows;
  for (std::int64_t row = 0; row < batch.input_ids.size(0); ++row) {
    rows.emplace_back();
    for (std::int64_t t = 0; t < batch.input_ids.size(1); ++t) {
      if (batch.loss_mask[row][t].item<float>() == 0.0F) continue;
      const auto id = batch.target_ids[row][t].item<std::int64_t>();
      rows.back() += id == 2 ? '$' : static_cast<char>(id - 3);
    }
  }
  return rows;
}

TEST(ChatData, RowsCountTheAnswersAlone) {
  const TokenizedData data = tokenized(chat_line("q", "yes") + chat_line("??", "n"), kChat);
  EXPECT_EQ(data.kind, kChat);
  const TokenLoader rows(data, {.batch_size = 2, .seq_len = 12, .pack = false, .shuffle = false});
  const TokenBatch batch = rows.batch_at(0);
  EXPECT_THAT(learned(batch), ElementsAre("yes$", "n$"));
  EXPECT_EQ(batch.tokens, 6);
  EXPECT_EQ(batch.input_ids[0][3].item<std::int64_t>(), 1) << "the header predicts the answer";
  EXPECT_EQ(batch.loss_mask[0][3].item<float>(), 1.0F);
  const TokenLoader packed(data, {.seq_len = 20, .shuffle = false});
  EXPECT_THAT(learned(packed.batch_at(0)), ElementsAre("yes$n$"));
}

TEST(ChatData, AnyKindIsThatOfTheFirstSample) {
  EXPECT_EQ(tokenized(chat_line("q", "a"), std::nullopt).kind, kChat);
  EXPECT_EQ(tokenized("{\"text\": \"a\"}\n", std::nullopt).kind, SampleKind::kText);
  EXPECT_THAT(message_of<UserError>(
                  [&] { tokenized("{\"text\": \"a\"}\n" + chat_line("q", "a"), std::nullopt); }),
              HasSubstr("a.jsonl:2 is a chat"));
}

TEST(ChatData, NamesThePlaceOfAChatThatTheTokenizerRefuses) {
  EXPECT_THAT(message_of<UserError>([&] {
                tokenized(chat_line("q", "a") + R"({"messages": [{"role": "bad", "content": ""}]})",
                          kChat);
              }),
              HasSubstr("a.jsonl:2: chat message 1: bad"));
}

TEST(ChatData, LeavesOutRowsWithoutAnAnswer) {
  std::string lines;
  for (int i = 0; i < 20; ++i)
    lines +=
        chat_line(i % 3 == 0 ? "a long question that has no end" : "q", std::to_string(i % 10));
  const TokenizedData data = tokenized(lines, kChat);
  for (const bool shuffle : {false, true}) {
    const TokenLoader rows(data,
                           {.batch_size = 3, .seq_len = 10, .pack = false, .shuffle = shuffle});
    EXPECT_EQ(rows.rows_left_out(), 7);
    EXPECT_EQ(rows.rows(), 13);
    std::multiset<std::string> seen;
    for (std::int64_t i = 0; i < rows.batches_per_epoch(); ++i)
      for (const std::string& row : learned(rows.batch_at(i))) seen.insert(row);
    std::multiset<std::string> expected;
    for (int i = 0; i < 20; ++i)
      if (i % 3 != 0) expected.insert(std::to_string(i % 10) + "$");
    EXPECT_EQ(seen, expected);
  }
  EXPECT_THAT(message_of<UserError>(
                  [&] { TokenLoader(data, {.batch_size = 1, .seq_len = 3, .pack = false}); }),
              AllOf(HasSubstr("none of the 20 chats"), HasSubstr("raise seq_len")));
}

TEST(ChatData, PairsStandInTurn) {
  const std::string pair =
      R"({"chosen": [{"content": "q"}, {"content": "good"}], "rejected": [{"content": "q"}, {"content": "bad"}]})";
  const std::string endless =
      R"({"chosen": [{"content": "q"}, {"content": "a"}], "rejected": [{"content": "a very long question"}, {"content": "b"}]})";
  const TokenizedData data = tokenized(pair + "\n" + endless + "\n" + pair + "\n", kPair);
  const TokenLoader rows(data, {.batch_size = 2, .seq_len = 12, .pack = false, .shuffle = false});
  EXPECT_EQ(rows.rows(), 2);
  EXPECT_EQ(rows.rows_left_out(), 1);
  const TokenBatch batch = rows.batch_at(0);
  EXPECT_THAT(learned(batch), ElementsAre("good$", "bad$", "good$", "bad$"));
  EXPECT_EQ(batch.pairs, 2);
  EXPECT_THAT(message_of<UserError>([&] { TokenLoader(data, {.seq_len = 12}); }),
              HasSubstr("pack to false"));
}

TEST(ChatData, SaysWhereDocumentsEnd) {
  const TokenizedData data = tokenized(
      "{\"text\": \"abc\"}\n{\"text\": \"\"}\n{\"text\": \"defgh\"}\n", SampleKind::kText);
  // 1 a b c 2 | 1 2 | 1 d e f g h 2
  const TokenLoader rows(data,
                         {.batch_size = 2, .seq_len = 8, .shuffle = false, .document_mask = true});
  const TokenBatch batch = rows.batch_at(0);
  ASSERT_NE(batch.document_ends, nullptr);
  EXPECT_THAT((*batch.document_ends)[0], ElementsAre(5, 7, 8));
  EXPECT_THAT((*batch.document_ends)[1], ElementsAre(6, 8)) << "padding is a document of its own";
  EXPECT_THAT(learned(batch), ElementsAre("abc$$d", "efgh$"));
  const std::vector<TokenBatch> parts = {batch, batch};
  EXPECT_EQ(TokenBatch::joined(parts, std::vector<double>{1.0, 1.0}).document_ends->size(), 4U);
  EXPECT_EQ(TokenLoader(data, {.seq_len = 8}).batch_at(0).document_ends, nullptr);
}

TEST(ChatData, ResumesOnlyWithTheSameDocumentMask) {
  const TokenizedData data = tokenized("{\"text\": \"abc\"}\n", SampleKind::kText);
  TokenLoader with(data, {.seq_len = 8, .document_mask = true});
  TokenLoader without(data, {.seq_len = 8});
  EXPECT_THAT(message_of<UserError>([&] { without.load_state_dict(with.state_dict()); }),
              HasSubstr("document_mask"));
  EXPECT_THAT(message_of<UserError>([&] { with.load_state_dict(without.state_dict()); }),
              HasSubstr("document_mask"));
  with.load_state_dict(with.state_dict());
}

}  // namespace
}  // namespace halftone::chat_data_test
