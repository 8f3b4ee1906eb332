// SPDX-License-Identifier: Apache-2.0
// Several texts, multiple-choice questions, weights that are held narrower.
#include "cli/program_fixture.h"

namespace halftone::test::eval_command_test {
namespace {

using nlohmann::json;

json evaluated(const Outcome& outcome) {
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return json::parse(outcome.out);
}

TEST_F(Program, EvalGivesEachSetAndTheTotal) {
  write_text(work() / "second.txt", "some other text, 春眠\nof two lines\n");
  const json first = evaluated(halftone("eval run --data poem.txt --json"));
  const json second = evaluated(halftone("eval run --data second.txt --json"));
  EXPECT_FALSE(first.contains("sets"));
  EXPECT_EQ(first["weights"], "fp32");
  const json both = evaluated(halftone("eval run --data poems=poem.txt --data second.txt --json"));
  ASSERT_EQ(both["sets"].size(), 2U);
  EXPECT_EQ(both["sets"][0]["name"], "poems");
  EXPECT_EQ(both["sets"][1]["name"], "second.txt");
  EXPECT_EQ(both["sets"][0]["loss"], first["loss"]);
  EXPECT_EQ(both["sets"][1]["bits_per_byte"], second["bits_per_byte"]);
  const double tokens = first["tokens"].get<double>() + second["tokens"].get<double>();
  EXPECT_EQ(both["tokens"], tokens);
  EXPECT_NEAR(both["loss"].get<double>(),
              (first["loss"].get<double>() * first["tokens"].get<double>() +
               second["loss"].get<double>() * second["tokens"].get<double>()) /
                  tokens,
              1e-9);
  const Outcome text = halftone("eval run --data poems=poem.txt --data second.txt");
  EXPECT_THAT(text.out, testing::StartsWith("poems          loss "));
  EXPECT_THAT(text.out, HasSubstr("\nsecond.txt     loss "));
  EXPECT_THAT(text.out, HasSubstr("\nloss           "));
}

TEST_F(Program, EvalAnswersQuestions) {
  std::string lines;
  for (int i = 0; i < 8; ++i)
    lines += R"({"question":"q)" + std::to_string(i) +
             R"(","A":"one","B":"two","C":"three","D":"four","answer":")" +
             std::string(1, static_cast<char>('A' + i % 4)) + "\"}\n";
  write_text(work() / "questions.jsonl", lines);
  const json alone = evaluated(halftone("eval run --choices questions.jsonl --json"));
  EXPECT_FALSE(alone.contains("loss"));
  EXPECT_EQ(alone["choices"]["questions"], 8);
  EXPECT_EQ(alone["choices"]["chance"], 0.25);
  for (const char* by : {"letter", "text"}) {
    const double accuracy = alone["choices"][by]["accuracy"].get<double>();
    EXPECT_EQ(accuracy * 8, std::round(accuracy * 8));
    EXPECT_NEAR(alone["choices"][by]["standard_error"].get<double>(),
                std::sqrt(accuracy * (1 - accuracy) / 7), 1e-12);
  }
  const json beside =
      evaluated(halftone("eval run --choices questions.jsonl --data poem.txt --json"));
  EXPECT_TRUE(beside.contains("loss") && beside.contains("choices"));
  EXPECT_THAT(halftone("eval run --choices questions.jsonl").out,
              HasSubstr("chance         25.00 %"));
  write_text(work() / "bad_questions.jsonl", lines + "{\"question\":\"q\"}\n");
  expect_refused({
      {"eval run --choices bad_questions.jsonl", "bad_questions.jsonl, line 9: answer must be"},
      {"eval run --choices nothing.jsonl", "nothing.jsonl"},
      {"eval run --data a=poem.txt --data a=poem.txt", "--data: expected sets of different names"},
      {"eval run --data a=nothing.txt", "nothing.txt"},
      {"eval run --data poem.txt --weights int4", "expected weights in fp32, bf16, fp16 or int8"},
  });
}

TEST_F(Program, EvalComparesWhatWeightsAreHeldIn) {
  const double fp32 = evaluated(halftone("eval run --data poem.txt --json"))["loss"].get<double>();
  for (const std::string weights : {"bf16", "fp16", "int8"}) {
    const Outcome held = halftone("eval run --data poem.txt --json --weights " + weights);
    const json document = evaluated(held);
    EXPECT_EQ(document["weights"], weights);
    EXPECT_EQ(document["precision"], "32-true");
    EXPECT_NEAR(document["loss"].get<double>(), fp32, 0.01) << weights;
    EXPECT_THAT(held.err, HasSubstr("weights in " + weights));
  }
}

}  // namespace
}  // namespace halftone::test::eval_command_test
