// SPDX-License-Identifier: Apache-2.0
#include "halftone/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/text.h"
#include "halftone/tokenizer/pre_tokenizer.h"
#include "halftone/tokenizer/tokenizer_json.h"
#include "halftone/tokenizer/unfinished_utf8_impl.h"
#include "support/message_of.h"
#include "support/paths.h"

namespace halftone::tokenizer_test {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using Ids = std::vector<std::int32_t>;

constexpr SpecialTokenParsing kText = SpecialTokenParsing::kText;
constexpr SpecialTokenParsing kTokens = SpecialTokenParsing::kTokens;

const std::filesystem::path kFolder = std::filesystem::path(test::kGoldenDir) / "tokenizer";

json golden(const std::string& name) {
  std::ifstream file(kFolder / name);
  return json::parse(file);
}

const Tokenizer& sample() {
  static const Tokenizer tokenizer = Tokenizer::load(kFolder);
  return tokenizer;
}

Tokenizer with_patch(const json& patch, const std::string& config = "") {
  json document = golden("tokenizer.json");
  document.merge_patch(patch);
  return Tokenizer::from_json(document.dump(), config, "patched.json");
}

std::string error_of(const json& patch, const std::string& config = "") {
  return test::message_of<UserError>([&] { with_patch(patch, config); });
}

// Valid UTF-8 of all lengths, with spaces and special tokens in it.
std::string random_text(std::mt19937& random) {
  const std::vector<std::string> parts = {
      "a", "Zb",      " ",      "  ",   "\n", "\t",     "1", "'s", "é",   "明",   "月光", "，",
      "👍", "e\u0301", "\u3000", "\x01", "!?", "\u00A0", "<", "𝒳",  "<s>", "</s>", "<unk>"};
  std::string text;
  for (auto n = random() % 40; n > 0; --n) text += parts[random() % parts.size()];
  return text;
}

TEST(Tokenizer, EncodesAsTheReferenceDoes) {
  for (const json& item : golden("encodings.json")) {
    const std::string text = item["text"];
    EXPECT_EQ(sample().encode(text, kTokens), item["ids"].get<Ids>()) << text;
    EXPECT_EQ(sample().decode(sample().encode(text, kTokens)), text);
  }
}

TEST(Tokenizer, FollowsEverySettingAsTheReferenceDoes) {
  for (const json& variant : golden("variants.json")) {
    const Tokenizer tokenizer = with_patch(variant["patch"]);
    for (const json& item : variant["cases"])
      EXPECT_EQ(tokenizer.encode(item["text"].get<std::string>(), kTokens), item["ids"].get<Ids>())
          << variant["name"] << ": " << item["text"];
  }
}

TEST(Tokenizer, CutsLinesIntoWordsAsTheReferenceDoes) {
  for (const json& item : golden("words.json")) {
    const WordRule rule = item["rule"] == "qwen2" ? WordRule::kQwen2 : WordRule::kLlama3;
    const std::string text = item["text"];
    std::vector<std::string> words;
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = word_end(text, begin, rule);
      words.push_back(text.substr(begin, end - begin));
      begin = end;
    }
    EXPECT_EQ(words, item["words"].get<std::vector<std::string>>()) << item;
  }
}

TEST(Tokenizer, DecodesAsTheReferenceDoes) {
  for (const json& item : golden("decodings.json"))
    EXPECT_EQ(sample().decode(item["ids"].get<Ids>(), item["skip"]), item["text"]) << item["ids"];
}

TEST(Tokenizer, DecodingGivesBackWhatWasEncoded) {
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    const std::string text = random_text(random);
    EXPECT_EQ(sample().decode(sample().encode(text)), text);
    EXPECT_EQ(sample().decode(sample().encode(text, kTokens)), text);
  }
}

// Whatever text spells, none of its ids is special, and skipping special tokens loses nothing.
TEST(Tokenizer, ReadsMarksInTextAsText) {
  std::mt19937 random(7);
  for (int i = 0; i < 2000; ++i) {
    const std::string text = random_text(random);
    const Ids ids = sample().encode(text);
    EXPECT_EQ(sample().decode(ids, /*skip_special_tokens=*/true), text);
    EXPECT_TRUE(std::none_of(ids.begin(), ids.end(), [](std::int32_t id) {
      return sample().is_special(id);
    })) << text;
  }
  EXPECT_EQ(sample().encode("<s>"), sample().encode("<s>", kText));
  EXPECT_EQ(sample().encode("<s>", kTokens), Ids{1});
}

TEST(Tokenizer, CountsTheSpecialTokensThatATextSpells) {
  EXPECT_EQ(sample().count_special_tokens("a <s>b</s> <unk> c"), 3U);
  EXPECT_EQ(sample().count_special_tokens("<s"), 0U);
  EXPECT_EQ(sample().count_special_tokens("<<s>><s></s</s>"), 3U);
}

// A vocabulary of letters in which merges make the special token "ab", and a word is "ab" as well.
Tokenizer letters(bool ignore_merges, const std::string& config = "") {
  const json document = json::parse(R"({
      "added_tokens": [{"id": 3, "content": "ab", "special": true},
                       {"id": 5, "content": "<tool>", "special": false}],
      "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
      "decoder": {"type": "ByteLevel"},
      "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4},
                "merges": ["a b", "b c"]}})");
  json patched = document;
  patched["model"]["ignore_merges"] = ignore_merges;
  return Tokenizer::from_json(patched.dump(), config, "letters.json");
}

TEST(Tokenizer, NeverMergesTextIntoASpecialToken) {
  set_log_sink([](LogLevel, const std::string&) {});  // not every byte has a token
  for (const bool ignore_merges : {false, true}) {
    EXPECT_EQ(letters(ignore_merges).encode("abc"), (Ids{0, 4}));
    EXPECT_EQ(letters(ignore_merges).encode("ab"), (Ids{0, 1}));
    EXPECT_EQ(letters(ignore_merges).encode("ab", kTokens), Ids{3});
    EXPECT_EQ(letters(ignore_merges).encode("a<tool>b"), (Ids{0, 5, 1})) << "not special";
  }
  set_log_sink({});
}

TEST(Tokenizer, TakesTheTokensOfTheRolesForSpecial) {
  set_log_sink([](LogLevel, const std::string&) {});
  const Tokenizer tokenizer = letters(false, R"({"eos_token": "<tool>", "bos_token": "ab"})");
  EXPECT_TRUE(tokenizer.is_special(5));
  EXPECT_EQ(tokenizer.encode("a<tool>b", kTokens), (Ids{0, 5, 1}));
  EXPECT_EQ(tokenizer.encode("ba<tool>b").size(), 3U) << "bytes without a token are left out";
  EXPECT_EQ(tokenizer.count_special_tokens("a<tool>bab"), 2U);
  set_log_sink({});
}

TEST(Tokenizer, KeepsBytesThatAreNotUtf8) {
  std::mt19937 random(2);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes;
    for (auto n = random() % 20; n > 0; --n) bytes += static_cast<char>(random() % 256);
    const Ids ids = sample().encode(bytes);
    EXPECT_EQ(sample().decode_bytes(ids), bytes);
    EXPECT_EQ(sample().decode(ids), replace_invalid_utf8(bytes));
  }
}

TEST(Tokenizer, SpecialTokensSeparateTexts) {
  std::mt19937 random(3);
  for (int i = 0; i < 500; ++i) {
    const std::string a = random_text(random);
    const std::string b = random_text(random);
    Ids joined = sample().encode(a, kTokens);
    joined.push_back(static_cast<std::int32_t>(sample().special_tokens().eos));
    for (const std::int32_t id : sample().encode(b, kTokens)) joined.push_back(id);
    EXPECT_EQ(sample().encode(a + "</s>" + b, kTokens), joined);
  }
}

TEST(Tokenizer, MergesLongWordsAsItMergesShortOnes) {
  // Merging is local, so what a long word repeats is encoded alike in its middle.
  const std::string piece = "word";
  const Ids short_word = sample().encode(piece + piece + piece);
  std::string text;
  for (int i = 0; i < 30000; ++i) text += piece;
  const Ids ids = sample().encode(text);
  EXPECT_EQ(sample().decode(ids), text);
  EXPECT_TRUE(std::equal(short_word.begin(), short_word.begin() + 2, ids.begin()));
}

TEST(Tokenizer, ServesManyThreads) {
  const std::string text = random_text(*std::make_unique<std::mt19937>(4));
  const Ids expected = sample().encode(text);
  std::vector<int> equal(4);
  std::vector<std::thread> threads;
  for (int& result : equal)
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) result += sample().encode(text) == expected ? 1 : 0;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(equal, testing::Each(200));
}

TEST(Tokenizer, KnowsItsTokens) {
  EXPECT_EQ(sample().vocab_size(), 700);
  EXPECT_EQ(sample().token_to_id("</s>"), 2);
  EXPECT_EQ(sample().id_to_token(1), "<s>");
  EXPECT_EQ(sample().token_to_id("no such token"), std::nullopt);
  EXPECT_EQ(sample().id_to_token(700), std::nullopt);
  EXPECT_EQ(sample().id_to_token(-1), std::nullopt);
  EXPECT_TRUE(sample().is_special(0));
  EXPECT_FALSE(sample().is_special(3));
  EXPECT_EQ(sample().decode(Ids{-5, 1, 100000}), "<s>");
}

TEST(Tokenizer, TakesRolesFromTheConfigElseFromMiniMindsNames) {
  EXPECT_EQ(sample().special_tokens().bos, 1);
  EXPECT_EQ(sample().special_tokens().eos, 2);
  EXPECT_EQ(sample().special_tokens().pad, 0);
  const Tokenizer configured =
      with_patch(json::object(),
                 R"({"bos_token": "</s>", "eos_token": {"content": "<s>"}, "pad_token": null})");
  EXPECT_EQ(configured.special_tokens().bos, 2);
  EXPECT_EQ(configured.special_tokens().eos, 1);
  EXPECT_EQ(configured.special_tokens().pad, 0);
  EXPECT_THAT(error_of(json::object(), R"({"bos_token": "<|nope|>"})"), HasSubstr("<|nope|>"));
  EXPECT_THAT(error_of(json::object(), R"({"bos_token": 7})"), HasSubstr("bos_token"));
}

TEST(Tokenizer, SavesWhatLoadsTheSame) {
  const std::filesystem::path folder =
      std::filesystem::path(testing::TempDir()) / "saved_tokenizer";
  std::filesystem::remove_all(folder);
  sample().save(folder);
  const Tokenizer loaded = Tokenizer::load(folder);
  EXPECT_EQ(loaded.json(), sample().json());
  EXPECT_EQ(loaded.special_tokens().eos, 2);
  EXPECT_EQ(Tokenizer::load(folder / "tokenizer.json").vocab_size(), 700);
  std::ifstream config(folder / "tokenizer_config.json");
  EXPECT_EQ(json::parse(config)["added_tokens_decoder"]["1"]["content"], "<s>");
  std::filesystem::remove_all(folder);
  EXPECT_THROW(Tokenizer::load(folder), UserError);
}

TEST(Tokenizer, ReadsTheChatTemplateFromAFileOfItsOwn) {
  const std::filesystem::path folder =
      std::filesystem::path(testing::TempDir()) / "tokenizer_with_template";
  sample().save(folder);
  ChatTemplate chat;
  chat.default_system = "another";
  const auto write = [&](const std::string& text) {
    std::ofstream(folder / "chat_template.jinja", std::ios::binary) << text;
  };
  write(chat.jinja() + "\n");
  const Tokenizer loaded = Tokenizer::load(folder);
  EXPECT_EQ(loaded.chat_template().default_system, "another");
  EXPECT_EQ(json::parse(loaded.config_json())["chat_template"], chat.jinja() + "\n");
  EXPECT_EQ(loaded.special_tokens().eos, 2);
  std::filesystem::remove(folder / "tokenizer_config.json");
  EXPECT_EQ(Tokenizer::load(folder).chat_template().default_system, "another");
  write("\xFF");
  EXPECT_THAT(test::message_of<UserError>([&] { Tokenizer::load(folder); }), HasSubstr("UTF-8"));
  std::filesystem::remove_all(folder);
}

TEST(Tokenizer, NamesTheFieldThatItCannotUse) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {R"({"model": {"type": "WordPiece"}})", "model.type must be BPE"},
      {R"({"model": {"byte_fallback": true}})", "model.byte_fallback"},
      {R"({"model": {"dropout": 0.1}})", "model.dropout"},
      {R"({"model": {"end_of_word_suffix": "</w>"}})", "model.end_of_word_suffix"},
      {R"({"model": {"vocab": null}})", "model.vocab"},
      {R"({"model": {"vocab": {"a": -1}}})", "model.vocab.a"},
      {R"({"model": {"vocab": {"a": 4000000000}}})", "model.vocab.a"},
      {R"({"model": {"vocab": {"a": 5}}})", "must differ from every other"},
      {R"({"model": {"merges": [["x", "nope"]]}})", "model.merges[0]"},
      {R"({"model": {"merges": ["a b c"]}})", "model.merges[0]"},
      {R"({"model": {"merges": 5}})", "model.merges"},
      {R"({"normalizer": {"type": "NFKC"}})", "normalizer"},
      {R"({"truncation": {"max_length": 5}})", "truncation"},
      {R"({"pre_tokenizer": {"type": "Whitespace"}})", "pre_tokenizer"},
      {R"({"decoder": {"type": "WordPiece"}})", "decoder"},
      {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}})", "pretokenizers"},
      {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
          {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Isolated"},
          {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]}})",
       "pattern.Regex must be that of Qwen2 or Llama 3"},
      {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
          {"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Removed"},
          {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]}})",
       "behavior must be Isolated"},
      {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
          {"type": "Digits"}, {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]}})",
       "must be of type Split"},
      {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
          {"type": "Split"}, {"type": "ByteLevel", "add_prefix_space": false}]}})",
       "use_regex false"},
      {R"({"post_processor": {"type": "BertProcessing"}})", "post_processor"},
      {R"({"added_tokens": [{"id": 0, "content": "x"}]})", "\"x\""},
      {R"({"added_tokens": [{"id": 9, "content": "<s>"}]})", "model.vocab"},
      {R"({"added_tokens": [{"id": 800, "content": "x", "lstrip": true}]})", "lstrip"},
      {R"({"added_tokens": [{"id": 800, "content": ""}]})", "added_tokens[0].content"},
  };
  for (const auto& [patch, message] : cases)
    EXPECT_THAT(error_of(json::parse(patch)),
                testing::AllOf(HasSubstr("patched.json"), HasSubstr(message)));
}

TEST(Tokenizer, NamesFileAndFieldOfWhatNoReaderCanHold) {
  const auto error = [](const std::string& document, const std::string& config) {
    return test::message_of<UserError>([&] { Tokenizer::from_json(document, config, "t.json"); });
  };
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  EXPECT_EQ(error(R"({"added_tokens": [{"id": 1e999}]})", ""),
            "t.json: added_tokens[0].id must be a number below 1.8e308, but it is larger; the file "
            "may be damaged or cut off");
  EXPECT_THAT(error("{\"model\": " + deep + "}", ""), HasSubstr("found more in model[0]"));
  EXPECT_THAT(error(sample().json(), "{\"bos_token\": 1e999}"), HasSubstr("bos_token must be"));
  EXPECT_THAT(error(sample().json(), "{\"chat_template\": " + deep + "}"),
              HasSubstr("found more in chat_template[0]"));
}

TEST(Tokenizer, TakesAByteLevelInASequence) {
  const Tokenizer tokenizer = with_patch(json::parse(
      R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": false}]}})"));
  EXPECT_EQ(tokenizer.encode("some text's"), sample().encode("some text's"));
}

// Qwen's tokenizer_config.json: no token for the beginning, and ChatML's marks for turns.
TEST(Tokenizer, TakesWhatSeparatesDocumentsWhereAFileHasNoBeginning) {
  json added = json::array();
  for (const char* mark : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"})
    added.push_back({{"id", 700 + added.size()}, {"content", mark}, {"special", true}});
  const json config = {{"bos_token", nullptr},
                       {"eos_token", "<|endoftext|>"},
                       {"pad_token", "<|endoftext|>"},
                       {"chat_template", ChatTemplate::qwen2().jinja()}};
  const Tokenizer tokenizer = with_patch({{"added_tokens", added}}, config.dump());
  EXPECT_EQ(tokenizer.special_tokens().bos, 700);
  EXPECT_EQ(tokenizer.special_tokens().eos, 700);
  EXPECT_EQ(tokenizer.chat_template().bos, "<|im_start|>");
  EXPECT_EQ(tokenizer.chat_template().eos, "<|im_end|>");
}

TEST(Tokenizer, ComposesTextWhereItsFileSaysSo) {
  const std::string loose = "e\u0301 明\xFF", composed = "\u00e9 明\xFF";
  const Tokenizer tokenizer = with_patch({{"normalizer", {{"type", "NFC"}}}});
  EXPECT_EQ(tokenizer.normalized(loose), composed);
  EXPECT_EQ(tokenizer.encode(loose), sample().encode(composed));
  EXPECT_EQ(sample().normalized(loose), loose);
}

TEST(Tokenizer, WritesAgainHowTextIsSplit) {
  for (const char* name : {"qwen2", "llama3"}) {
    for (const json& variant : golden("variants.json")) {
      if (variant["name"] != name) continue;
      const TokenizerSpec spec =
          parse_tokenizer_json(with_patch(variant["patch"]).json(), "patched.json");
      const Tokenizer again = Tokenizer::from_json(write_tokenizer_json(spec), "", "again.json");
      for (const json& item : variant["cases"])
        EXPECT_EQ(again.encode(item["text"].get<std::string>(), kTokens), item["ids"].get<Ids>());
    }
  }
}

TEST(Tokenizer, WritesMiniMindsChatFormat) {
  const std::vector<ChatMessage> messages = {
      {"user", "你好"}, {"assistant", "hi"}, {"user", "why?"}};
  EXPECT_EQ(sample().decode(sample().encode_chat(messages)),
            "<s>system\n你是 MiniMind，是一个有用的人工智能助手。</s>\n<s>user\n你好</s>\n"
            "<s>assistant\nhi</s>\n<s>user\nwhy?</s>\n<s>assistant\n");
  const std::vector<ChatMessage> with_system = {{"system", "Be brief"}, {"user", "?"}};
  EXPECT_EQ(sample().decode(sample().encode_chat(with_system)),
            "<s>system\nBe brief</s>\n<s>user\n?</s>\n<s>assistant\n");
  const std::vector<ChatMessage> wrong = {{"tool", "x"}};
  EXPECT_THROW(sample().encode_chat(wrong), UserError);
}

TEST(Tokenizer, ReadsOnlyTheMarksOfTheTemplateInAChat) {
  const ChatTemplate chat;
  std::mt19937 random(8);
  for (int i = 0; i < 300; ++i) {
    std::string said = random_text(random);
    const std::vector<ChatMessage> messages = {{"user", said}, {"assistant", said}};
    const Ids ids = sample().encode_chat(messages);
    const std::string text = chat.render(messages).text;
    EXPECT_EQ(sample().decode(ids), text);
    EXPECT_EQ(std::count_if(ids.begin(), ids.end(),
                            [](std::int32_t id) { return sample().is_special(id); }),
              6)
        << "three begin and three end marks of the template: " << text;
    if (sample().count_special_tokens(said) == 0) {
      EXPECT_EQ(ids, sample().encode(text, kTokens));
    }
  }
}

TEST(Tokenizer, ReadsTheDefaultSystemTextOutOfTheTemplate) {
  const ChatTemplate chat{.bos = "<s>", .eos = "</s>", .default_system = "It's \"plain\"\n\\o/"};
  const json config = {{"chat_template", chat.jinja()}};
  const std::vector<ChatMessage> messages = {{"user", "?"}};
  const Tokenizer tokenizer = with_patch(json::object(), config.dump());
  EXPECT_EQ(tokenizer.decode(tokenizer.encode_chat(messages)), chat.render(messages).text);
  const json foreign = {{"chat_template", "{% if tools %}{% endif %}"}};
  EXPECT_THROW(with_patch(json::object(), foreign.dump()).encode_chat(messages), UserError);
}

TEST(StreamDecoder, PiecesTogetherAreTheWholeText) {
  std::mt19937 random(5);
  for (int i = 0; i < 500; ++i) {
    Ids ids = sample().encode(random_text(random));
    for (auto n = random() % 8; n > 0; --n)
      ids.insert(ids.begin() + static_cast<std::ptrdiff_t>(random() % (ids.size() + 1)),
                 static_cast<std::int32_t>(random() % 259));
    StreamDecoder stream(sample(), false);
    std::string text;
    for (const std::int32_t id : ids) {
      const std::string piece = stream.push(id);
      EXPECT_EQ(find_invalid_utf8(piece), std::nullopt);
      text += piece;
    }
    EXPECT_EQ(text + stream.flush(), sample().decode(ids));
  }
}

TEST(StreamDecoder, LooksAtNoByteBeforeItsText) {
  const std::string_view moon = "月";  // of which one and two bytes would begin the same character
  EXPECT_EQ(unfinished_utf8(moon), 0U);
  EXPECT_EQ(unfinished_utf8(moon.substr(0, 2)), 2U);
  EXPECT_EQ(unfinished_utf8(moon.substr(0, 1)), 1U);
  EXPECT_EQ(unfinished_utf8(moon.substr(1, 1)), 0U);
  const std::string_view thumb = "👍";
  EXPECT_EQ(unfinished_utf8(thumb.substr(0, 3)), 3U);
  EXPECT_EQ(unfinished_utf8(thumb.substr(1, 2)), 0U);
  EXPECT_EQ(unfinished_utf8(thumb.substr(2, 1)), 0U);
  EXPECT_EQ(unfinished_utf8(""), 0U);
}

TEST(StreamDecoder, HoldsBackAnUnfinishedCharacter) {
  const Ids bytes = sample().encode("\xE2\x80\xA9");
  ASSERT_EQ(bytes.size(), 3);
  StreamDecoder stream(sample());
  EXPECT_EQ(stream.push(bytes[0]), "");
  EXPECT_EQ(stream.push(bytes[1]), "");
  EXPECT_EQ(stream.push(bytes[2]), "\xE2\x80\xA9");
  EXPECT_EQ(stream.push(2), "");  // </s> is left out
  EXPECT_EQ(stream.push(bytes[0]), "");
  EXPECT_EQ(stream.flush(), "\uFFFD");
}

}  // namespace
}  // namespace halftone::tokenizer_test
