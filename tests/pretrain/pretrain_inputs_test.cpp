// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/pretrain_inputs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/pretrain/config_schema.h"
#include "support/temp_folder.h"

namespace halftone::pretrain_inputs_test {
namespace {

using test::message_of;
using test::TempFolder;
using test::write_text;
using testing::HasSubstr;

class PreparePretraining : public testing::Test {
 protected:
  PreparePretraining() {
    write_text(folder_ / "text.txt", "a text that nobody should have to read\n");
    config = resolve_config({});
    config.data = {folder_ / "text.txt"};
    config.device = "cpu";
  }

  /// Of a preparation that is refused before the text is read.
  std::string early_error() const {
    std::vector<std::string> stages;
    const std::string error = message_of<UserError>([&] {
      prepare_pretraining(config, std::nullopt,
                          [&](const std::string& stage, double) { stages.push_back(stage); });
    });
    EXPECT_THAT(stages, testing::IsEmpty());
    return error;
  }

  TrainConfig config;

 private:
  TempFolder folder_;
};

TEST_F(PreparePretraining, RefusesPatternsThatMatchNoModuleBeforeItReadsTheText) {
  config.keep_fp32 = {"layers.0.attenton"};
  EXPECT_THAT(early_error(), HasSubstr("'layers.0.attenton' matches no module's path; did you mean "
                                       "'layers.0.attention'?"));
  config.keep_fp32 = {"experts"};
  EXPECT_THAT(early_error(), HasSubstr("'experts' matches no module's path"));
}

TEST_F(PreparePretraining, RefusesARunThatWillNotFitBeforeItReadsTheText) {
  config.memory_budget = "1MiB";
  const std::string will_not_fit = "or set memory_budget to unlimited";
  EXPECT_THAT(early_error(), HasSubstr(will_not_fit));
  config.model.vocab_size = 6400;
  EXPECT_THAT(early_error(), HasSubstr(will_not_fit));
  config.keep_fp32 = {"type:RmsNorm", "^layers\\.0\\.", "^tok_embeddings$"};
  EXPECT_THAT(early_error(), HasSubstr(will_not_fit)) << "the patterns are right";
  config.model.use_moe = true;
  config.keep_fp32 = {"experts\\.3", "gate"};
  EXPECT_THAT(early_error(), HasSubstr(will_not_fit)) << "the patterns are right";
}

}  // namespace
}  // namespace halftone::pretrain_inputs_test
