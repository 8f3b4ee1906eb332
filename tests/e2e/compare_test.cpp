// SPDX-License-Identifier: Apache-2.0
// `halftone compare` as a person meets it: what it says of formats and loss scales that are known
// to hold or to fail, of a run at several checkpoints, and of mistakes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "halftone/system/process.h"
#include "support/paths.h"
#include "support/temp_folder.h"

namespace halftone::compare_test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

/// A model of two narrow blocks, rows of text for it, and a run of six steps in 16-mixed with three
/// checkpoints.
class Compare : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    place_ = std::make_unique<test::TempFolder>();
    std::string text;
    for (int i = 0; i < 1200; ++i)
      text += "geese " + std::to_string(i * i) + " fly south over the river in spring\n";
    test::write_text(*place_ / "text.txt", text);
    EXPECT_EQ(halftone({"tokenizer", "train", "--data", text_file(), "--vocab-size", "280", "--out",
                        *place_ / "tokenizer"})
                  .exit_code,
              0);
    std::vector<std::string> words = model();
    for (const char* word : {"--precision", "16-mixed", "--batch-size", "2", "--max-steps", "6",
                             "--save-every", "2", "--keep-checkpoints", "3", "--scaler.init-scale",
                             "4096", "--scaler.growth-interval", "4"})
      words.emplace_back(word);
    words.insert(words.begin(), "train");
    words.insert(words.end(), {"--out", run_folder()});
    const ProcessResult trained = halftone(words);
    EXPECT_EQ(trained.exit_code, 0) << trained.output;
  }
  static void TearDownTestSuite() { place_.reset(); }

  static std::string text_file() { return *place_ / "text.txt"; }
  static std::string run_folder() { return *place_ / "run"; }
  static std::vector<std::string> model() {
    return {"--data",          text_file(), "--tokenizer",      *place_ / "tokenizer",
            "--preset",        "tiny",      "--seq-len",        "128",
            "--model.dim",     "64",        "--model.n-layers", "2",
            "--model.n-heads", "4"};
  }

  static ProcessResult halftone(const std::vector<std::string>& words) {
    std::vector<std::string> argv{std::string(test::kBuildDir) + "/halftone"};
    argv.insert(argv.end(), words.begin(), words.end());
    return run_process(argv);
  }
  static ProcessResult compare(std::vector<std::string> words) {
    words.insert(words.begin(), "compare");
    return halftone(words);
  }

  /// The document about the first step of a new run.
  static json document(const std::vector<std::string>& flags) {
    std::vector<std::string> words = model();
    words.insert(words.end(), {"--batch-size", "32", "--json"});
    words.insert(words.end(), flags.begin(), flags.end());
    return parsed(compare(words));
  }
  static json document_of_run(const std::vector<std::string>& flags) {
    std::vector<std::string> words{run_folder(), "--json"};
    words.insert(words.end(), flags.begin(), flags.end());
    return parsed(compare(words));
  }
  /// Notes come on stderr, which run_process() adds to the output: the document is one line.
  static json parsed(const ProcessResult& result) {
    EXPECT_EQ(result.exit_code, 0) << result.output;
    std::istringstream lines(result.output);
    for (std::string line; std::getline(lines, line);)
      if (line.starts_with('{')) return json::parse(line);
    ADD_FAILURE() << result.output;
    return {};
  }

  static inline std::unique_ptr<test::TempFolder> place_;
};

std::vector<json> tensors_of(const json& document) {
  std::vector<json> all;
  for (const char* kind : {"gradients", "activations", "activation_gradients"})
    all.insert(all.end(), document.at(kind).begin(), document.at(kind).end());
  return all;
}

double largest(const json& tensors, const char* key) {
  double most = 0;
  for (const json& tensor : tensors)
    most = std::max(most, tensor.at(key).is_null() ? INFINITY : tensor.at(key).get<double>());
  return most;
}

TEST_F(Compare, Fp32IsEqualToItself) {
  const json found = document({"--precision", "32-true"});
  EXPECT_EQ(found["judgement"]["verdict"], "safe");
  EXPECT_EQ(found["loss"], found["reference_loss"]);
  EXPECT_EQ(found["precision"], "32-true");
  EXPECT_EQ(found["gradients"].size(), 20U);  // embedding, norm, and 9 of each block
  for (const json& tensor : tensors_of(found)) {
    EXPECT_EQ(tensor["relative_error"], 0.0) << tensor["name"];
    EXPECT_NEAR(tensor["cosine"].get<double>(), 1.0, 1e-12) << tensor["name"];
    EXPECT_EQ(tensor["verdict"], "fine") << tensor["name"];
  }
}

TEST_F(Compare, Fp16NeedsALossScaleThatItNames) {
  const json found = document({"--precision", "16-mixed", "--loss-scale", "1"});
  const json& judgement = found["judgement"];
  EXPECT_EQ(found["loss_scale"], 1.0);
  EXPECT_EQ(judgement["verdict"], "change_scale") << judgement;
  EXPECT_TRUE(judgement["verified"]);
  EXPECT_GT(judgement["least_scale"], 1.0);
  EXPECT_GT(judgement["most_scale"], judgement["least_scale"]);
  EXPECT_THAT(judgement["config"], HasSubstr("loss_scale = "));
  EXPECT_GT(largest(found["activation_gradients"], "flushed_share"), 0.005);
  EXPECT_GT(largest(found["activation_gradients"], "flush_if_stored_share"), 0.005);
  EXPECT_LT(largest(found["activations"], "flushed_share"), 1e-4);
  EXPECT_EQ(largest(found["gradients"], "overflowed_share"), 0.0);
}

TEST_F(Compare, TheScaleThatItNamesHolds) {
  for (const char* scale : {"65536", "4096"}) {
    const json found = document({"--precision", "16-mixed", "--loss-scale", scale});
    EXPECT_EQ(found["judgement"]["verdict"], "safe") << scale << found["judgement"];
    EXPECT_EQ(found["loss_scale"], std::stod(scale));
  }
}

TEST_F(Compare, AScaleThatIsTooLargeOverflows) {
  const json found = document({"--precision", "16-mixed", "--loss-scale", "1e12"});
  EXPECT_EQ(found["judgement"]["verdict"], "change_scale");
  EXPECT_LT(found["judgement"]["most_scale"], 1e12);
  EXPECT_GT(largest(found["gradients"], "overflowed_share"), 0.9);
  EXPECT_GT(largest(found["activation_gradients"], "overflow_if_stored_share"), 0.9);
  EXPECT_EQ(largest(found["activations"], "overflowed_share"), 0.0);
}

TEST_F(Compare, Bf16NeedsNoScale) {
  const json found = document({});
  EXPECT_EQ(found["precision"], "bf16-mixed");
  EXPECT_EQ(found["format"], "bf16");
  EXPECT_EQ(found["judgement"]["verdict"], "safe") << found["judgement"];
  EXPECT_TRUE(found["judgement"]["least_scale"].is_null());
  EXPECT_GT(largest(found["gradients"], "relative_error"), 1e-4);
  for (const json& tensor : tensors_of(found)) EXPECT_EQ(tensor["what_if"].size(), 5U);
}

TEST_F(Compare, LooksAtTheStepAfterAnyCheckpointOfARun) {
  const json newest = document_of_run({"--what-if", "none"});
  EXPECT_EQ(newest["precision"], "16-mixed");
  EXPECT_EQ(newest["loss_scale"], 8192.0);  // it has grown once, after four steps
  EXPECT_EQ(newest["judgement"]["verdict"], "safe") << newest["judgement"];
  EXPECT_TRUE(newest["gradients"][0]["what_if"].empty());
  const json second = document_of_run({"--step", "2", "--what-if", "fp16,fp16"});
  EXPECT_EQ(second["loss_scale"], 4096.0);
  EXPECT_NE(second["reference_loss"], newest["reference_loss"]);
  EXPECT_EQ(second["gradients"][0]["what_if"].size(), 1U);
  const json other = document_of_run({"--step", "2", "--precision", "bf16-mixed"});
  EXPECT_EQ(other["reference_loss"], second["reference_loss"]);
  EXPECT_EQ(other["loss_scale"], 1.0);
}

TEST_F(Compare, SaysTheVerdictFirstAndWritesThePage) {
  const std::string page = *place_ / "compare.html";
  const ProcessResult result = compare({run_folder(), "--step", "4", "--html", page});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.output, testing::StartsWith("16-mixed is safe on this step.\n"));
  EXPECT_THAT(result.output, HasSubstr("step         " + run_folder() + ", step 4\n"));
  EXPECT_THAT(result.output, HasSubstr("precision    16-mixed against 32-true, loss scale 2¹"));
  EXPECT_THAT(result.output, HasSubstr("the 12 worst (--all for all of them)"));
  EXPECT_THAT(result.output, HasSubstr("page         " + page + "\n"));
  const std::string text = test::read_text(page);
  EXPECT_THAT(text, HasSubstr("<h1>" + run_folder() + ", step 4</h1>"));
  EXPECT_THAT(text, HasSubstr("</html>"));
  const auto rows = [](const std::string& output) {
    return std::count(output.begin(), output.end(), '\n');
  };
  EXPECT_GT(rows(compare({run_folder(), "--all"}).output), rows(result.output) + 20);
}

TEST_F(Compare, ReadsAConfigurationFile) {
  test::write_text(*place_ / "small.toml",
                   "preset = \"tiny\"\nprecision = \"16-mixed\"\n"
                   "loss_scale = 128\nbatch_size = 2\nseq_len = 64\n");
  std::vector<std::string> words{
      *place_ / "small.toml", "--data", text_file(),        "--tokenizer",
      *place_ / "tokenizer",  "--json", "--model.n-layers", "1"};
  EXPECT_EQ(parsed(compare(words))["loss_scale"], 128.0);
  words.insert(words.end(), {"--precision", "bf16-mixed"});  // the file's scale does not go with it
  EXPECT_EQ(parsed(compare(words))["loss_scale"], 1.0);
  test::write_text(*place_ / "fp32.toml", "preset = \"tiny\"\nprecision = \"32-true\"\n");
  words = {*place_ / "fp32.toml", "--data", text_file(),        "--tokenizer",
           *place_ / "tokenizer", "--json", "--model.n-layers", "1",
           "--batch-size",        "1"};
  EXPECT_EQ(parsed(compare(words))["precision"], "bf16-mixed");  // not the reference itself
}

TEST_F(Compare, RefusesMistakesInOneLine) {
  const std::string text = text_file();
  struct Mistake {
    std::vector<std::string> words;
    std::string error;
  };
  for (const auto& [words, error] : std::vector<Mistake>{
           {{}, "nothing to compute a step on"},
           {{"--data", text, "--against", "fp32"}, "--against: "},
           {{"--data", text, "--precision", "16-mixd"}, "did you mean '16-mixed'?"},
           {{"--data", text, "--what-if", "fp16,fp7"}, "--what-if: expected a number format"},
           {{"--data", text, "--html", *place_ / "none/page.html"}, "--html: there is no folder"},
           {{"--data", text, "--html", place_->path()}, "--html: expected a file"},
           {{"--data", text, "--loss-scale", "0", "--precision", "16-mixed"}, "--loss-scale"},
           {{"--data", text, "--loss-scale", "8"}, "a loss scale goes with"},
           {{"--data", text, "--step", "2"}, "--step: expected RUN"},
           {{text}, "was not expected: RUN is the folder of a run"},
           {{"tiny"}, "a preset goes with --preset tiny"},
           {{*place_ / "tokenizer"}, "is not a run directory"},
           {{run_folder(), "--step", "3"}, "has no checkpoint of step 3; it has those of 2, 4, 6"},
           {{run_folder(), "--preset", "tiny"}, "--preset is for a new run"},
           {{run_folder(), "--model.dim", "32"}, "--model.dim is for a new run"},
           {{run_folder(), "--bogus"}, "there is no flag --bogus"}}) {
    const ProcessResult result = compare(words);
    EXPECT_EQ(result.exit_code, 2) << error << '\n' << result.output;
    EXPECT_THAT(result.output, testing::StartsWith("halftone: error: "));
    EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 1) << result.output;
    EXPECT_THAT(result.output, HasSubstr(error));
  }
}

}  // namespace
}  // namespace halftone::compare_test
