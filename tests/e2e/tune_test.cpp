// SPDX-License-Identifier: Apache-2.0
// `halftone tune`, and a `halftone train` of the configuration that it writes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/built_program.h"
#include "support/temp_folder.h"

namespace halftone::tune_test {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

class Tune : public testing::Test {
 protected:
  Tune() {
    std::string text;
    for (int i = 0; i < 1500; ++i)
      text += "Line " + std::to_string(i) + ": " + std::to_string(i * i % 97) + " geese, 春江.\n";
    test::write_text(folder_ / "text.txt", text);
  }

  /// Runs the program; its streams are then in `out` and `err`. Returns its exit code.
  int run(const std::vector<std::string>& arguments) const {
    return test::wait_for_program(test::start_program(arguments, folder_ / "out", folder_ / "err"))
        .code;
  }
  std::string out() const { return test::read_text(folder_ / "out"); }
  std::string err() const { return test::read_text(folder_ / "err"); }

  std::vector<std::string> with_model(std::vector<std::string> words,
                                      const std::vector<std::string>& more = {}) const {
    for (const std::string& word : std::vector<std::string>{
             "--preset", "tiny", "--model.dim", "64", "--model.n-layers", "2", "--data",
             folder_ / "text.txt", "--tokenizer-vocab-size", "300", "--batch-size", "4",
             "--seq-len", "48", "--threads", "2", "--device", "cpu"})
      words.push_back(word);
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  const test::TempFolder folder_;
};

// No CPU multiplies fp8, so other formats are faster in every layer.
TEST_F(Tune, WritesAConfigurationThatTrains) {
  ASSERT_EQ(run(with_model({"tune"}, {"--precision", "fp8-mixed", "--loss-increase", "0.5",
                                      "--json", "--out-config", folder_ / "tuned.toml"})),
            0)
      << err();
  const json document = json::parse(out());
  EXPECT_EQ(document.at("precision"), "fp8-mixed");
  EXPECT_EQ(document.at("layers").size(), 2U * 4U + 1U);
  for (const json& layers : document.at("layers")) {
    EXPECT_TRUE(layers.at("measured").get<bool>());
    EXPECT_GT(layers.at("layer_s").get<double>(), 0);
    for (const json& format : layers.at("formats"))
      EXPECT_LT(format.at("layer_s").get<double>(), layers.at("layer_s").get<double>());
  }
  ASSERT_FALSE(document.at("layer_precision").empty()) << document.at("verdict");
  EXPECT_LE(document.at("chosen").at("gradient_error").get<double>(),
            document.at("gradient_error_bound").get<double>());
  EXPECT_GT(document.at("line").size(), 1U);
  const json& validation = document.at("validation");
  ASSERT_TRUE(validation.is_object()) << document.at("no_validation");
  EXPECT_GE(validation.at("steps").get<int>(), 4);
  EXPECT_LE(validation.at("loss").get<double>() - validation.at("reference_loss").get<double>(),
            0.5);

  ASSERT_EQ(run({"train", folder_ / "tuned.toml", "--max-steps", "3", "--out", folder_ / "run"}), 0)
      << err();
  EXPECT_THAT(err(), HasSubstr("layers with a format of their own"));
  const std::string saved = test::read_text(folder_ / "run/config.toml");
  for (const json& text : document.at("layer_precision"))
    EXPECT_THAT(saved, HasSubstr(text.dump()));
  ASSERT_EQ(run({"train", "--resume", folder_ / "run", "--max-steps", "5"}), 0) << err();

  // A run can be tuned as well; its own formats of layers are left aside.
  ASSERT_EQ(run({"tune", folder_ / "run", "--max-time", "30s", "--loss-increase", "0.5"}), 0)
      << err();
  EXPECT_THAT(out(), HasSubstr("/run, step 5"));
  EXPECT_THAT(out(), HasSubstr("\nchoice     "));
  EXPECT_THAT(out(), HasSubstr("\ngoal       validation loss within 0.5 at 0.75 of fp8-mixed's"));
}

TEST_F(Tune, SaysWhatIsWrongInOneLine) {
  EXPECT_EQ(run(with_model({"tune"}, {"--precision", "32-true"})), 2);
  EXPECT_THAT(err(), HasSubstr("lowered from a mixed precision, but precision is 32-true"));
  EXPECT_EQ(run(with_model({"tune"}, {"--error", "0"})), 2);
  EXPECT_THAT(err(), HasSubstr("--error: expected a positive number"));
  EXPECT_EQ(run(with_model({"tune"}, {"--precision", "auto"})), 2);
  EXPECT_THAT(err(), HasSubstr("got auto; name one that ends in -mixed"));
  EXPECT_EQ(run(with_model({"tune"}, {"--out-config", folder_ / "none/a.toml"})), 2);
  EXPECT_THAT(err(), HasSubstr("--out-config: there is no folder"));
  EXPECT_EQ(run(with_model({"train"}, {"--layer-precision", "router=int8"})), 2);
  EXPECT_THAT(err(), HasSubstr("layer_precision: 'router' matches no module's path"));
}

TEST_F(Tune, AutoNamesThePrecisionThatItTook) {
  ASSERT_EQ(run(with_model({"train"}, {"--precision", "auto", "--max-steps", "2", "--out",
                                       folder_ / "auto", "--resume", "auto"})),
            0)
      << err();
  EXPECT_THAT(err(), HasSubstr("halftone: note: precision auto: "));
  EXPECT_THAT(test::read_text(folder_ / "auto/config.toml"),
              Not(HasSubstr("precision = \"auto\"")));
  ASSERT_EQ(run(with_model({"train"}, {"--precision", "auto", "--max-steps", "4", "--out",
                                       folder_ / "auto", "--resume", "auto"})),
            0)
      << err();
  EXPECT_THAT(err(), Not(HasSubstr("precision auto:")));
}

}  // namespace
}  // namespace halftone::tune_test
