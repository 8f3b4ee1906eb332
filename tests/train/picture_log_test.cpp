// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/picture_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/media/png_file.h"
#include "halftone/nn/linear.h"
#include "halftone/train/trainer.h"
#include "halftone/train/weight_averaging.h"
#include "support/temp_folder.h"

namespace halftone::picture_log_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::read_text;
using test::TempFolder;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using torch::Tensor;

/// Decodes eight numbers to a picture of 3 by 4 by 5.
struct Decoder : TrainingModule<> {
  Decoder() {
    torch::manual_seed(1);
    linear = register_module("linear", Linear(8, 60));
    dropout = register_module("dropout", torch::nn::Dropout(0.5));
  }
  Tensor decode(const Tensor& codes) {
    return dropout(linear(codes)).sigmoid().view({-1, 3, 4, 5});
  }
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    return decode(batch.data).to(torch::kFloat).square().mean();
  }
  void validation_step(const Batch& /*batch*/, std::int64_t /*index*/) override {
    log("val_loss", 1.0);
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), 5.0)};
  }
  Linear linear{nullptr};
  torch::nn::Dropout dropout{nullptr};
};

struct Drawing {
  std::shared_ptr<Decoder> module = std::make_shared<Decoder>();
  std::vector<torch::ScalarType> dtypes;  // that `draw` saw
  std::vector<bool> training;
};

PictureLog::Draw drawing(Drawing& run) {
  return [&run](Trainer& /*trainer*/) {
    const Tensor pictures = run.module->decode(torch::randn({6, 8}));
    run.dtypes.push_back(pictures.scalar_type());
    run.training.push_back(run.module->is_training() || pictures.requires_grad());
    return pictures;
  };
}

void fit(Drawing& run, TrainerOptions options, bool resume = false) {
  TensorLoader train({torch::ones({24, 8}), torch::zeros({24})}, {.batch_size = 4, .seed = 1});
  TensorLoader validation({torch::ones({4, 8}), torch::zeros({4})}, {.batch_size = 4});
  options.accelerator = "cpu";
  Trainer(options).fit(run.module, train, validation, {.resume = resume});
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& file : fs::directory_iterator(folder))
    names.push_back(file.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(PictureLog, WritesGridsThatTheReportShows) {
  const TempFolder folder;
  Drawing run;
  fit(run,
      {.max_epochs = 1,
       .precision = "bf16-mixed",
       .callbacks = {std::make_shared<PictureLog>(
           drawing(run), PictureLogOptions{.name = "samples", .every_n_steps = 1, .columns = 3})},
       .default_root_dir = folder / "run"});
  const fs::path pictures = RunPaths{folder / "run"}.pictures() / "samples";
  EXPECT_EQ(names_in(pictures).size(), 6U);
  EXPECT_EQ(names_in(pictures).back(), "step-00000006.png");
  // Two lines of three pictures, with 2 pixels between them.
  EXPECT_EQ(read_png(pictures / "step-00000006.png").sizes(),
            (std::vector<std::int64_t>{3, 2 * 4 + 2, 3 * 5 + 2 * 2}));
  EXPECT_THAT(run.dtypes, testing::Each(torch::kBFloat16));
  EXPECT_THAT(run.training, testing::Each(false));
  EXPECT_TRUE(run.module->is_training());
  const std::string page = read_text(folder / "run" / "report.html");
  EXPECT_THAT(page, HasSubstr("samples after step 6"));
  EXPECT_THAT(page, HasSubstr("samples after step 3"));
  EXPECT_THAT(page, Not(HasSubstr("samples after step 2\"")));  // the newest four
  EXPECT_THAT(page, HasSubstr("src=\"data:image/png;base64,iVBORw0KGgo"));
}

// The same random numbers each time, and none of the training's.
TEST(PictureLog, ChangesNoBitOfTheTrainingAndDrawsTheSameCodes) {
  const TempFolder folder;
  const auto weights = [&](const char* name, bool draws) {
    Drawing run;
    TrainerOptions options{.max_epochs = 1, .default_root_dir = folder / name};
    if (draws)
      options.callbacks = {
          std::make_shared<PictureLog>(drawing(run), PictureLogOptions{.every_n_steps = 2})};
    torch::manual_seed(3);
    fit(run, options);
    return run.module->linear->weight.detach().clone();
  };
  EXPECT_TRUE(weights("with", true).equal(weights("without", false)));
  Drawing run;
  std::vector<Tensor> codes;
  fit(run, {.max_epochs = 1,
            .callbacks = {std::make_shared<PictureLog>(
                [&](Trainer& /*trainer*/) {
                  codes.push_back(torch::randn({1, 1, 2, 2}));
                  return codes.back();
                },
                PictureLogOptions{.every_n_steps = 3, .seed = 5})},
            .default_root_dir = folder / "codes"});
  ASSERT_EQ(codes.size(), 2U);
  EXPECT_TRUE(codes[0].equal(codes[1]));
}

TEST(PictureLog, DrawsTheAverageBeforeAnEma) {
  const TempFolder folder;
  Drawing run;
  std::vector<Tensor> drawn;
  const auto ema = std::make_shared<Ema>(EmaOptions{.decay = 0.9});
  const auto log = std::make_shared<PictureLog>([&](Trainer& /*trainer*/) {
    drawn.push_back((run.module->linear->weight - ema->averages().at("linear.weight")).abs().max());
    return torch::zeros({1, 1, 2, 2});
  });
  fit(run, {.max_epochs = 2, .callbacks = {log, ema}, .default_root_dir = folder / "run"});
  ASSERT_EQ(drawn.size(), 2U);
  for (const Tensor& apart : drawn) EXPECT_EQ(apart.item<double>(), 0.0);
  EXPECT_THAT(names_in(folder / "run" / "pictures" / "samples"),
              ElementsAre("step-00000006.png", "step-00000012.png"));
}

TEST(PictureLog, WithoutARunNothingIsDrawn) {
  Drawing run;
  fit(run, {.max_epochs = 1, .callbacks = {std::make_shared<PictureLog>(drawing(run))}});
  EXPECT_TRUE(run.dtypes.empty());
}

TEST(PictureLog, ANewRunRemovesThePicturesOfTheOld) {
  const TempFolder folder;
  for (const bool replaces : {false, true}) {
    Drawing run;
    fit(run, {.max_epochs = replaces ? 1 : 2,
              .callbacks = {std::make_shared<PictureLog>(drawing(run))},
              .default_root_dir = folder / "run",
              .overwrite = replaces});
  }
  EXPECT_THAT(names_in(folder / "run" / "pictures" / "samples"), ElementsAre("step-00000006.png"));
}

TEST(PictureLog, OtherFilesInItsFoldersAreNoPictures) {
  const TempFolder folder;
  const RunPaths run{folder / "run"};
  EXPECT_TRUE(newest_pictures(run, 4).empty());
  fs::create_directories(run.pictures() / "b");
  fs::create_directories(run.pictures() / "a");
  for (const char* name : {"a/step-00000002.png", "a/step-00000010.png", "a/step-1x.png", "a/notes",
                           "b/step-99999999999999999999.png", "b/step-7.png", "step-3.png"})
    std::ofstream(run.pictures() / name) << "?";
  std::vector<std::string> found;
  for (const LoggedPicture& picture : newest_pictures(run, 4))
    found.push_back(picture.name + " " + std::to_string(picture.step));
  EXPECT_THAT(found, ElementsAre("a 2", "a 10", "b 7"));
  EXPECT_EQ(newest_pictures(run, 1).size(), 2U);
}

TEST(PictureLog, RefusesNamesThatAreNoFolders) {
  const auto draw = [](Trainer& /*trainer*/) { return torch::zeros({1, 1, 2, 2}); };
  for (const char* name : {"", "..", "a/b", "a b"})
    EXPECT_THAT(message_of<UserError>([&] { PictureLog(draw, {.name = name}); }),
                HasSubstr("letters, digits"));
  EXPECT_THROW(PictureLog(draw, {.every_n_steps = -1}), UserError);
  EXPECT_THROW(PictureLog({}, {}), UserError);
}

}  // namespace
}  // namespace halftone::picture_log_test
