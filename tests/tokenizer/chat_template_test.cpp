// SPDX-License-Identifier: Apache-2.0
#include "halftone/tokenizer/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "halftone/core/error.h"
#include "halftone/tokenizer/tokenizer.h"
#include "support/message_of.h"
#include "support/paths.h"

namespace halftone::chat_template_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::vector<ChatMessage> kChat = {
    {"user", "1+1?"}, {"assistant", "2"}, {"user", "sure?"}, {"assistant", "yes"}};

std::vector<std::string> answers_of(const ChatText& chat) {
  std::vector<std::string> answers;
  for (const auto& [begin, end] : chat.answers)
    answers.push_back(chat.text.substr(begin, end - begin));
  return answers;
}

std::string error_of(const ChatTemplate& format, const std::vector<ChatMessage>& messages,
                     ChatPrompt prompt = ChatPrompt::kNone) {
  return test::message_of<UserError>([&] { format.render(messages, prompt); });
}

TEST(ChatTemplate, WritesWhatEachGenerationOfMiniMindWasTaught) {
  const auto begin = std::span(kChat).first(2);
  EXPECT_EQ(ChatTemplate::minimind_v2().render(begin).text,
            "<s>system\n你是 MiniMind，是一个有用的人工智能助手。</s>\n<s>user\n1+1?</s>\n"
            "<s>assistant\n2</s>\n");
  EXPECT_EQ(ChatTemplate::minimind_2504().render(begin).text,
            "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n<|im_start|>user\n1+1?"
            "<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n");
  EXPECT_EQ(ChatTemplate::minimind_2510().render(begin).text,
            ChatTemplate::minimind_2504().render(begin).text);
  EXPECT_EQ(ChatTemplate::minimind_v3().render(begin).text,
            "<|im_start|>user\n1+1?<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n2<|im_end|>\n");
}

TEST(ChatTemplate, EndsWhereTheAssistantBegins) {
  const auto question = std::span(kChat).first(1);
  const auto ends = [&](const ChatTemplate& format, ChatPrompt prompt, const std::string& end) {
    return format.render(question, prompt).text.ends_with("1+1?" + format.eos + "\n" + end);
  };
  constexpr const char* kHeader = "<|im_start|>assistant\n";
  EXPECT_TRUE(ends(ChatTemplate::minimind_v2(), ChatPrompt::kNone, "<s>assistant\n"));
  EXPECT_TRUE(ends(ChatTemplate::minimind_v2(), ChatPrompt::kAnswer, "<s>assistant\n"));
  EXPECT_TRUE(ends(ChatTemplate::minimind_2510(), ChatPrompt::kNone, ""));
  EXPECT_TRUE(ends(ChatTemplate::minimind_2510(), ChatPrompt::kAnswer, kHeader));
  EXPECT_TRUE(ends(ChatTemplate::minimind_v3(), ChatPrompt::kAnswer,
                   std::string(kHeader) + "<think>\n\n</think>\n\n"));
  EXPECT_TRUE(
      ends(ChatTemplate::minimind_v3(), ChatPrompt::kThinking, std::string(kHeader) + "<think>\n"));
  EXPECT_TRUE(ends(ChatTemplate::qwen3(), ChatPrompt::kThinking, kHeader));
  EXPECT_THAT(error_of(ChatTemplate::minimind_2510(), kChat, ChatPrompt::kThinking),
              HasSubstr("no place for thoughts"));
}

TEST(ChatTemplate, SaysWhichPartsAreAnswers) {
  EXPECT_THAT(answers_of(ChatTemplate::minimind_v2().render(kChat)),
              ElementsAre("2</s>", "yes</s>"));
  EXPECT_THAT(answers_of(ChatTemplate::minimind_2510().render(kChat)),
              ElementsAre("2<|im_end|>", "yes<|im_end|>"));
  const std::vector<ChatMessage> thoughtful = {
      {"user", "?"}, {"assistant", "a", "hm"}, {"user", "?"}, {"assistant", "<think>so</think>b"}};
  EXPECT_THAT(
      answers_of(ChatTemplate::minimind_v3().render(thoughtful)),
      ElementsAre("<think>\nhm\n</think>\n\na<|im_end|>", "<think>\nso\n</think>\n\nb<|im_end|>"));
  EXPECT_THAT(answers_of(ChatTemplate::qwen3().render(thoughtful)),
              ElementsAre("a<|im_end|>", "<think>\nso\n</think>\n\nb<|im_end|>"));
  const std::vector<ChatMessage> without_question = {{"assistant", "hello"}, {"user", "hi"}};
  EXPECT_THAT(answers_of(ChatTemplate::minimind_v2().render(without_question)), ElementsAre());
  EXPECT_THAT(answers_of(ChatTemplate::minimind_2510().render(without_question)),
              ElementsAre("hello<|im_end|>"));
}

TEST(ChatTemplate, WritesToolsCallsAndResponses) {
  std::vector<ChatMessage> chat = {
      {"user", "sum?"}, {"assistant", ""}, {"tool", "3"}, {"tool", "4"}};
  chat[0].tools = R"([{"name":"add","z":1.50,"a":["é"]}])";
  chat[1].tool_calls = R"([{"name":"add","arguments":{"b":2,"a":1}},{"function":
                           {"name":"add","arguments":"{}"}}])";
  const std::string text = ChatTemplate::minimind_2510().render(chat).text;
  EXPECT_THAT(text,
              HasSubstr("<tools>\n{\"name\": \"add\", \"z\": 1.5, \"a\": [\"é\"]}\n</tools>"));
  EXPECT_THAT(text,
              HasSubstr("<|im_start|>assistant\n<tool_call>\n{\"name\": \"add\", \"arguments\": "
                        "{\"b\": 2, \"a\": 1}}\n</tool_call>\n<tool_call>\n{\"name\": \"add\", "
                        "\"arguments\": {}}\n</tool_call><|im_end|>\n"));
  EXPECT_THAT(text, testing::EndsWith("<|im_start|>user\n<tool_response>\n3\n</tool_response>\n"
                                      "<tool_response>\n4\n</tool_response><|im_end|>\n"));
}

TEST(ChatTemplate, NamesTheMessageThatDoesNotFit) {
  const ChatTemplate v2 = ChatTemplate::minimind_v2(), chatml = ChatTemplate::minimind_2510();
  EXPECT_EQ(
      error_of(v2, {{"user", "x"}, {"tool", "y"}}),
      "chat message 2: has the role \"tool\"; expected \"user\", \"assistant\", or \"system\" "
      "for the first message");
  EXPECT_THAT(error_of(v2, {{"user", "x"}, {"system", "y"}}), HasSubstr("chat message 2"));
  EXPECT_THAT(error_of(chatml, {{"bot\n", "x"}}), HasSubstr("has the role \"bot\\n\""));
  EXPECT_THAT(error_of(v2, {{"user", "x", {}, "[]"}}), HasSubstr("has tools"));
  EXPECT_THAT(error_of(chatml, {{"user", "x"}, {"user", "x", {}, "[]"}}), HasSubstr("message 2"));
  EXPECT_THAT(error_of(chatml, {{"assistant", "x", "thought"}}), HasSubstr("reasoning_content"));
  EXPECT_THAT(error_of(chatml, {{"user", "x", {}, "[1"}}), HasSubstr("tools: expected JSON"));
  EXPECT_THAT(error_of(chatml, {{"user", "x", {}, "{}"}}), HasSubstr("must be a JSON array"));
  EXPECT_THAT(error_of(chatml, {{"assistant", "x", {}, "", "[1]"}}), HasSubstr("tool call"));
  EXPECT_THAT(error_of(chatml, {{"assistant", "x", {}, "", R"([{"name":"a"}])"}}),
              HasSubstr("tool call"));
  std::string many = "[{";
  for (int i = 0; i < 2000; ++i) many += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":0";
  EXPECT_THAT(error_of(chatml, {{"user", "x", {}, many + "}]"}}), HasSubstr("at most 1000"));
}

TEST(ChatTemplate, RecognisesWhatItWrites) {
  for (ChatTemplate format :
       {ChatTemplate::minimind_v2(), ChatTemplate::minimind_2510(), ChatTemplate::qwen2()}) {
    format.default_system = "It's \"plain\"\n\\o/ EOS";
    const auto found = recognise_chat_template(format.jinja(), format.bos, format.eos);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->jinja(), format.jinja());
    EXPECT_EQ(found->default_system, format.default_system);
  }
  const auto thinking =
      recognise_chat_template(ChatTemplate::minimind_v3().jinja(), "<|im_start|>", "<|im_end|>");
  ASSERT_TRUE(thinking);
  EXPECT_EQ(thinking->thinking, ChatThinking::kAlways);
  const std::string changed = ChatTemplate::minimind_v2().jinja() + "{{ 'more' }}";
  EXPECT_FALSE(recognise_chat_template(changed, "<s>", "</s>"));
  EXPECT_FALSE(
      recognise_chat_template(ChatTemplate::minimind_v2().jinja(), "<|im_start|>", "</s>"));
  EXPECT_FALSE(recognise_chat_template("", "<s>", "</s>"));
}

TEST(ChatTemplate, WritesLlama3sHeaders) {
  const ChatTemplate format = ChatTemplate::llama3();
  const std::vector<ChatMessage> chat{
      {"system", " short\u3000"}, {"user", "\n春\x1F"}, {"assistant", "\tyes \n"}};
  const ChatText written = format.render(chat, ChatPrompt::kAnswer);
  const std::string answer = "yes<|eot_id|>";
  EXPECT_EQ(written.text,
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nshort<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\n春<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n" +
                answer + "<|start_header_id|>assistant<|end_header_id|>\n\n");
  ASSERT_EQ(written.answers.size(), 1U);
  const auto [begin, end] = written.answers[0];
  EXPECT_EQ(written.text.substr(begin, end - begin), answer);
  EXPECT_EQ(format.render({}, ChatPrompt::kAnswer).text,
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
  const auto found = recognise_chat_template(format.jinja(), "<|begin_of_text|>", "<|eot_id|>");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->jinja(), format.jinja());
  EXPECT_EQ(found->render(chat).text, format.render(chat).text);
  EXPECT_THAT(test::message_of<UserError>([&] {
                format.render(std::vector<ChatMessage>{{"tool", "1"}});
              }),
              testing::HasSubstr("has the role \"tool\""));
}

TEST(ChatTemplate, QuotesArgumentsThatAreATextForQwen2) {
  const std::vector<ChatMessage> chat{
      {"user", "q"}, {"assistant", "", {}, "", R"([{"name": "f", "arguments": "{\"x\": 1}"}])"}};
  EXPECT_THAT(ChatTemplate::qwen2().render(chat).text,
              testing::HasSubstr(R"("arguments": "{\"x\": 1}"})"));
  EXPECT_THAT(ChatTemplate::qwen3().render(chat).text,
              testing::HasSubstr(R"("arguments": {"x": 1}})"));
}

TEST(ChatTemplate, TakesMarksThatSpellTheNamesOfMarks) {
  ChatTemplate format = ChatTemplate::minimind_v2();
  format.bos = "<BOS or EOS>";
  format.eos = "<EOS>";
  format.default_system = "BOS";
  EXPECT_THAT(format.jinja(), testing::HasSubstr("'<BOS or EOS>system\\nBOS<EOS>\\n'"));
  const auto found = recognise_chat_template(format.jinja(), format.bos, format.eos);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->default_system, "BOS");
}

TEST(ChatTemplate, GrowsNoMoreThanItsMarks) {
  ChatTemplate format = ChatTemplate::minimind_v2();
  const std::string wide(20'000, ' ');
  format.bos = format.eos = format.default_system = wide;
  const std::string once = format.jinja();
  for (const char* name : {"EOS", "DEFAULT", "\3"}) {
    format.bos.clear();
    while (format.bos.size() < wide.size()) format.bos += name;
    EXPECT_LT(format.jinja().size(), 2 * once.size()) << name;
  }
}

Tokenizer sample(const ChatTemplate& format) {
  const auto folder = std::filesystem::path(test::kGoldenDir) / "tokenizer";
  std::stringstream text;
  text << std::ifstream(folder / "tokenizer.json").rdbuf();
  ChatTemplate with_marks = format;
  with_marks.bos = "<s>";
  with_marks.eos = "</s>";
  const nlohmann::json config = {{"chat_template", with_marks.jinja()}};
  return Tokenizer::from_json(text.str(), config.dump(), "sample");
}

// The first id to be learned is the one that the header's last id predicts, the last one the end
// mark.
TEST(ChatTemplate, MarksTheIdsOfAnswersExactly) {
  for (const ChatTemplate& format :
       {ChatTemplate::minimind_v2(), ChatTemplate::minimind_2510(), ChatTemplate::minimind_v3()}) {
    const Tokenizer tokenizer = sample(format);
    const ChatIds chat = tokenizer.encode_conversation(kChat);
    ASSERT_EQ(chat.ids.size(), chat.is_answer.size());
    std::vector<std::string> learned;
    for (std::size_t i = 0; i < chat.ids.size(); ++i) {
      if (chat.is_answer[i] == 0) continue;
      if (i == 0 || chat.is_answer[i - 1] == 0) learned.emplace_back();
      learned.back() += tokenizer.decode(std::span(chat.ids).subspan(i, 1));
    }
    const ChatText text = tokenizer.chat_template().render(kChat);
    EXPECT_EQ(learned, answers_of(text));
    EXPECT_EQ(tokenizer.decode(chat.ids), text.text);
    // A prompt and the answer to it are the whole.
    const auto prompt = tokenizer.encode_chat(
        std::span(kChat).first(3),
        format.thinking == ChatThinking::kNone ? ChatPrompt::kAnswer : ChatPrompt::kThinking);
    EXPECT_TRUE(std::equal(prompt.begin(), prompt.end(), chat.ids.begin()));
  }
}

TEST(ChatTemplate, MarksAnswersOfAnyText) {
  const Tokenizer tokenizer = sample(ChatTemplate::minimind_v2());
  const std::vector<std::string> parts = {"\n",   " ",   "a",           "明月",
                                          "</s>", "<s>", "assistant\n", "\t"};
  std::mt19937 random(5);
  for (int i = 0; i < 500; ++i) {
    std::string said;
    for (auto n = random() % 6; n > 0; --n) said += parts[random() % parts.size()];
    const ChatIds chat = tokenizer.encode_conversation(
        std::vector<ChatMessage>{{"user", said}, {"assistant", said}});
    std::string learned;
    std::size_t begins = 0;
    for (std::size_t at = 0; at < chat.ids.size(); ++at) {
      if (chat.is_answer[at] == 0) continue;
      begins += chat.is_answer[at - 1] == 0 ? 1 : 0;
      learned += tokenizer.decode_bytes(std::span(chat.ids).subspan(at, 1));
    }
    EXPECT_EQ(begins, 1U);
    // Breaks at its beginning may belong to the header's last id.
    EXPECT_TRUE((said + "</s>").ends_with(learned)) << said;
    const std::string lost = (said + "</s>").substr(0, said.size() + 4 - learned.size());
    EXPECT_EQ(lost.find_first_not_of(" \n\t"), std::string::npos) << said;
  }
}

}  // namespace
}  // namespace halftone::chat_template_test
