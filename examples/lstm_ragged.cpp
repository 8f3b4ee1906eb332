// SPDX-License-Identifier: Apache-2.0
// A language model of characters over sequences of all lengths: the sayings of Debian's `fortunes`,
// padded batch by batch, with a mean over the characters that are there.
//
//   lstm_ragged [flags of run_options.h]
#include <halftone/core/error.h>
#include <halftone/data/data_loader.h>
#include <halftone/data/datasets.h>
#include <halftone/nn/linear.h>
#include <halftone/nn/loss.h>
#include <halftone/optim/adamw.h>
#include <halftone/train/trainer.h>
#include <halftone/train/training_module.h>
#include <torch/nn/modules/embedding.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "run_options.h"

namespace {

using torch::Tensor;

constexpr std::int64_t kCharacters = 128;  // ASCII; its 0 stands before and behind each saying
constexpr std::size_t kLongest = 100;
constexpr std::int64_t kWidth = 128;

Tensor as_tensor(const std::string& text) {
  std::vector<std::int64_t> codes = {0};
  for (const char c : text) codes.push_back(c > 0 ? c : '?');
  return torch::tensor(codes);
}

/// Sayings of at most kLongest characters, each (length + 2) int64. A line "%" ends each.
std::vector<Tensor> read_sayings(const std::filesystem::path& folder,
                                 const std::vector<std::string>& names) {
  std::vector<Tensor> sayings;
  for (const std::string& name : names) {
    if (name.find('.') != std::string::npos || name == "copyright") continue;  // index files
    std::ifstream file(folder / name);
    std::string saying;
    for (std::string line; std::getline(file, line);) {
      if (line != "%") {
        saying += line + '\n';
        continue;
      }
      if (!saying.empty() && saying.size() <= kLongest)
        sayings.push_back(torch::cat({as_tensor(saying), torch::zeros(1, torch::kLong)}));
      saying.clear();
    }
  }
  return sayings;
}

/// An LSTM (Hochreiter and Schmidhuber 1997) whose matmuls are halftone::Linear: so that it follows
/// every precision, int8 and fp8 too, which torch::nn::LSTM does not know.
class LstmImpl : public torch::nn::Module {
 public:
  struct State {
    Tensor hidden;  // (batch, width) of the dtype of the matmuls
    Tensor cell;    // fp32: sums over all of the time
  };

  explicit LstmImpl(std::int64_t width)
      : input_(register_module("input", halftone::Linear(width, 4 * width))),
        recurrent_(register_module("recurrent", halftone::Linear(width, 4 * width))),
        // Open forget gates at first, so that gradients come through (Jozefowicz et al. 2015).
        bias_(register_parameter("bias", torch::ones(4 * width))) {}

  /// x (batch, time, width) -> the same; goes on from `state`, if it has one, and moves it.
  Tensor forward(const Tensor& x, State& state) {
    const Tensor inputs = input_(x) + bias_;  // of all times at once: one large matmul
    std::vector<Tensor> outputs;
    for (const Tensor& at_time : inputs.unbind(1)) {
      const Tensor gates = state.hidden.defined() ? at_time + recurrent_(state.hidden) : at_time;
      const auto parts = gates.chunk(4, 1);
      const Tensor fresh = parts[0].sigmoid() * parts[1].tanh();
      state.cell =
          state.cell.defined() ? parts[2].sigmoid() * state.cell + fresh : fresh.to(torch::kFloat);
      state.hidden = parts[3].sigmoid() * state.cell.tanh().to(gates.scalar_type());
      outputs.push_back(state.hidden);
    }
    return torch::stack(outputs, 1);
  }

 private:
  halftone::Linear input_;
  halftone::Linear recurrent_;
  Tensor bias_;
};
TORCH_MODULE(Lstm);

/// A batch: padded (batch, time), and mask (batch, time), true where there is a character.
class LanguageModel : public halftone::TrainingModule<halftone::PaddedSequences> {
 public:
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    LstmImpl::State state;
    const Tensor seen = batch.padded.slice(1, 0, -1);
    return halftone::masked_cross_entropy(scores(seen, state).flatten(0, 1),
                                          batch.padded.slice(1, 1).flatten(),
                                          batch.mask.slice(1, 1).flatten());
  }

  // The loss is a mean over these, so a batch of long sayings counts for more than one of short
  // ones: in val_loss, and in the step of several batches (accumulate_grad_batches).
  double loss_weight(const Batch& batch) const override {
    return batch.mask.slice(1, 1).sum().item<double>();
  }
  // validation_step() is training_step() logged as "val_loss", unless told otherwise.

  /// Goes on with each beginning, however long: (batch, kLongest) characters.
  Tensor predict_step(const Batch& beginnings, std::int64_t /*index*/) override {
    const std::int64_t given = beginnings.padded.size(1);
    LstmImpl::State state;
    Tensor next = beginnings.padded.select(1, 0);
    std::vector<Tensor> text;
    for (std::int64_t t = 1; t <= static_cast<std::int64_t>(kLongest); ++t) {
      const Tensor last = scores(next.unsqueeze(1), state).select(1, 0).to(torch::kFloat);
      next = torch::multinomial((last / 0.7).softmax(1), 1).squeeze(1);
      if (t < given)
        next = torch::where(beginnings.mask.select(1, t), beginnings.padded.select(1, t), next);
      text.push_back(next);
    }
    return torch::stack(text, 1);
  }

  std::vector<halftone::OptimizerSetup> configure_optimizers(
      const halftone::OptimizerContext& context) override {
    // The rate is halved when an epoch brought nothing for val_loss.
    return {
        {std::make_shared<halftone::AdamW>(named_parameters().pairs(), context.adamw({.lr = 4e-3})),
         halftone::PlateauLr{.monitor = "val_loss", .factor = 0.5, .patience = 0}}};
  }

 private:
  Tensor scores(const Tensor& characters, LstmImpl::State& state) {
    return head_(lstm_(embedding_(characters), state));
  }

  torch::nn::Embedding embedding_ =
      register_module("embedding", torch::nn::Embedding(kCharacters, kWidth));
  Lstm lstm_ = register_module("lstm", Lstm(kWidth));
  halftone::Linear head_ = register_module("head", halftone::Linear(kWidth, kCharacters));
};

void print_saying(const Tensor& codes) {
  std::string text;
  for (std::int64_t i = 0; i < codes.size(0) && codes[i].item<std::int64_t>() != 0; ++i)
    text += static_cast<char>(codes[i].item<std::int64_t>());
  std::printf("%s\n%%\n", text.c_str());
}

void train(const RunOptions& options) {
  const halftone::FetchedData fetched = halftone::fetch_dataset("fortunes");
  std::vector<Tensor> sayings = read_sayings(fetched.folder, fetched.files);
  const auto pad = [](std::vector<Tensor> some) { return halftone::pad_sequences(some); };
  // Every tenth is for validation.
  std::vector<Tensor> kept;
  std::vector<Tensor> seen;
  for (std::size_t i = 0; i < sayings.size(); ++i)
    (i % 10 == 0 ? kept : seen).push_back(sayings[i]);
  seen.resize(std::min(seen.size(), static_cast<std::size_t>(options.limit)));
  kept.resize(std::min(seen.size(), kept.size()));
  halftone::DataLoader loader(seen, {.batch_size = 32, .seed = 1}, pad);
  halftone::DataLoader validation(kept, {.batch_size = 64, .shuffle = false}, pad);

  torch::manual_seed(1);
  LanguageModel model;
  halftone::Trainer trainer({.max_epochs = options.epochs,
                             .max_steps = options.steps,
                             .precision = options.precision,
                             .gradient_clip_val = 1.0,
                             .callbacks = {std::make_shared<PrintValidation>(),
                                           std::make_shared<StopAt>(options.stop_at)},
                             .default_root_dir = options.out});
  trainer.fit(model, loader, validation, {.resume = options.resume});

  const std::vector<Tensor> beginnings = {as_tensor(""), as_tensor("Love "), as_tensor("The best"),
                                          as_tensor("You will ")};
  halftone::DataLoader prompts(beginnings, {.batch_size = 4, .shuffle = false}, pad);
  const Tensor said = trainer.predict(model, prompts, {.ckpt_path = "last"}).front();
  for (const Tensor& saying : said.unbind()) print_saying(saying);
}

}  // namespace

int main(int argc, char** argv) {
  return run_program(
      [&] { train(parse_run_options(argc, argv, {.out = "runs/lstm_ragged", .epochs = 5})); });
}
