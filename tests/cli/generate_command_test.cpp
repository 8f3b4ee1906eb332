// SPDX-License-Identifier: Apache-2.0
// Prompts from a file, conversations, and what weights are held in.
#include "cli/program_fixture.h"

namespace halftone::test::generate_command_test {
namespace {

using nlohmann::json;

std::vector<json> lines_of(const std::string& text) {
  std::vector<json> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(json::parse(line));
  return lines;
}

TEST_F(Program, GeneratesForEachPromptOfAFileWhatItGeneratesForItAlone) {
  write_text(work() / "prompts.txt", "spring\n\n春\nsleep 1\n");
  const std::string options = " --greedy --max-new-tokens 7 ";
  std::string blocks;
  std::vector<std::string> alone;
  for (const std::string prompt : {"spring", "春", "'sleep 1'"}) {
    const Outcome one = halftone("generate run --prompt " + prompt + options);
    ASSERT_EQ(one.code, 0) << one.err;
    blocks += (blocks.empty() ? "" : "\n") + one.out;
    alone.push_back(one.out);
  }
  for (const std::string batch : {"1", "2", "20"}) {
    const Outcome all =
        halftone("generate run --prompts prompts.txt --batch-size " + batch + options);
    EXPECT_EQ(all.code, 0) << all.err;
    EXPECT_EQ(all.out, blocks) << batch;
  }
  write_text(work() / "prompts.jsonl", "{\"prompt\": \"spring\"}\n{\"prompt\": \"春\"}\n");
  const Outcome documents = halftone("generate run --prompts prompts.jsonl --json" + options);
  const std::vector<json> lines = lines_of(documents.out);
  ASSERT_EQ(lines.size(), 2U) << documents.err;
  EXPECT_EQ(lines[1]["prompt"], "春");
  EXPECT_EQ("春" + lines[1]["text"].get<std::string>() + "\n", alone[1]);
  EXPECT_EQ(lines[1]["tokens"], 7);
  EXPECT_EQ(lines[1]["end"], "length");
}

TEST_F(Program, ConversesOnStandardInput) {
  write_text(work() / "chat.txt", "hello\n\nmore\n/quit\nnever\n");
  const std::string options = " --chat --greedy --max-new-tokens 5 ";
  const Outcome first = halftone("generate run --prompt hello" + options);
  ASSERT_EQ(first.code, 0) << first.err;
  const Outcome talk = halftone("generate run" + options + "< chat.txt");
  EXPECT_EQ(talk.code, 0) << talk.err;
  EXPECT_THAT(talk.out, testing::StartsWith(first.out));
  const std::vector<json> lines =
      lines_of(halftone("generate run --json" + options + "< chat.txt").out);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0]["prompt"], "hello");
  EXPECT_EQ(lines[0]["text"].get<std::string>() + "\n", first.out);
  EXPECT_EQ(lines[1]["prompt"], "more");
  EXPECT_EQ(lines[0]["text"].get<std::string>() + "\n" + lines[1]["text"].get<std::string>() + "\n",
            talk.out);
  const Outcome other = halftone("generate run --system 'be brief' --prompt hello" + options);
  EXPECT_EQ(other.code, 0);
  EXPECT_EQ(halftone("generate run" + options).out, "") << "nothing was asked";
  write_text(work() / "broken.txt", "hello\nna\xEFve\n");
  const Outcome broken = halftone("generate run" + options + "< broken.txt");
  EXPECT_EQ(broken.code, 2);
  EXPECT_THAT(broken.err, HasSubstr("standard input, line 2 is not UTF-8: byte 2"));
}

TEST_F(Program, SaysWhatWeightsAreHeldInWhereItIsNotTheRuns) {
  const std::string options = " --prompt spring --greedy --max-new-tokens 4 ";
  const Outcome own = halftone("generate run --precision 32-true" + options);
  const Outcome fp32 = halftone("generate run --weights fp32" + options);
  EXPECT_EQ(fp32.out, own.out);
  for (const std::string weights : {"bf16", "fp16", "int8"}) {
    const Outcome held = halftone("generate run --weights " + weights + options);
    EXPECT_EQ(held.code, 0) << held.err;
    EXPECT_THAT(held.err, HasSubstr("halftone: note: weights in " + weights + ", "));
    EXPECT_THAT(held.err, HasSubstr("; computed in 32-true"));
    const Outcome batch =
        halftone("generate run --greedy --max-new-tokens 4 --prompts one.txt --weights " + weights,
                 "echo spring > one.txt");
    EXPECT_EQ(batch.out, held.out) << weights;
  }
}

TEST_F(Program, RefusesFlagsOfGenerateThatDoNotGoTogether) {
  write_text(work() / "bad_prompts.jsonl", "{\"prompt\": \"a\"}\n{\"text\": \"a\"}\n");
  write_text(work() / "no_prompts.txt", "\n\n");
  expect_refused({
      {"generate run --weights int4", "expected weights in fp32, bf16, fp16 or int8, got 'int4'"},
      {"generate run --weights fp16 --precision bf16-mixed",
       "--weights fp16: precision bf16-mixed holds or rounds its weights otherwise"},
      {"generate run --system a", "--system is for --chat"},
      {"generate run --batch-size 3", "--batch-size is for --prompts FILE"},
      {"generate run --batch-size 0 --prompts poem.txt", "--batch-size: expected a positive"},
      {"generate run --prompt a --prompts poem.txt", "--prompt and --prompts: expected one"},
      {"generate run --prompts nothing.txt", "nothing.txt"},
      {"generate run --prompts latin1.txt", "latin1.txt is not UTF-8"},
      {"generate run --prompts no_prompts.txt", "no_prompts.txt: expected at least one line"},
      {"generate run --prompts bad_prompts.jsonl",
       "bad_prompts.jsonl, line 2: prompt must be a string"},
  });
}

}  // namespace
}  // namespace halftone::test::generate_command_test
