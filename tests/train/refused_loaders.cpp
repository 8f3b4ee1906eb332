// SPDX-License-Identifier: Apache-2.0
// Must not compile: refused_loaders_test.py looks for what the compiler says of each fit().
#include <torch/data/example.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "halftone/core/state_dict.h"
#include "halftone/train/trainer.h"

namespace halftone {

using Example = torch::data::Example<>;

struct Model : TrainingModule<> {
  torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override;
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override;
};

struct NoTrainingModule : torch::nn::Module {};

struct OldLoader {
  Example next();
  std::int64_t position() const;
};
struct LengthlessLoader {
  Example batch_at(std::int64_t position) const;
};
struct ChangingLoader {
  Example batch_at(std::int64_t position);
  std::int64_t batches_per_epoch() const;
};
struct ForgetfulLoader {
  Example batch_at(std::int64_t position) const;
  std::int64_t batches_per_epoch() const;
  StateDict state_dict() const;
};

void refuse(Trainer& trainer, Model& model, std::vector<Example>& batches) {
  NoTrainingModule plain;
  trainer.fit(plain, batches);
  OldLoader old;
  trainer.fit(model, old);
  LengthlessLoader lengthless;
  trainer.fit(model, lengthless);
  ChangingLoader changing;
  trainer.validate(model, changing);
  ForgetfulLoader forgetful;
  trainer.fit(model, batches, forgetful);
  std::vector<std::vector<int>> numbers;
  trainer.test(model, numbers);
}

}  // namespace halftone
