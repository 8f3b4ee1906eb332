// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/step_replay.h"

#include <memory>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/kernels/linear/compute_context.h"

namespace halftone {

StepReplay next_step(TrainingTask& task, const StateDict& trainer, std::uint64_t seed) {
  task.load_data_state(trainer.extract("data."));
  StepReplay replay{.epoch = task.epochs(),
                    .batch = task.batch_index(),
                    .micro_step = trainer.get<std::int64_t>("micro_step"),
                    .seed = seed,
                    .micro_batches = {{.generators = trainer.extract("rng.")}}};
  task.load_group(1, LossAverage::kTokens);
  return replay;
}

void replay_micro_batch(const StepReplay& replay, std::int64_t i, const MixedPrecision& precision,
                        bool fused_grads, const std::function<void()>& loss) {
  const StateDict& saved = replay.micro_batches.at(static_cast<std::size_t>(i)).generators;
  const GeneratorScope generators(precision.device(), saved);
  const auto region = precision.forward_context(replay.micro_step + i, replay.seed, fused_grads);
  loss();
}

TrainingStep first_micro_batch(TrainingTask& task, StepReplay replay) {
  TrainingModuleBase& module = task.module();
  if (!module.automatic_optimization())
    throw UserError(
        "expected a module whose training_step() returns the loss that is back-propagated, got one "
        "that steps its optimizers itself (automatic_optimization() is false)");
  const auto shared = std::make_shared<StepReplay>(std::move(replay));
  const auto compute = [&task, shared](const MixedPrecision& precision, std::uint64_t draw) {
    // A step that was never computed begins where the generators stand now, each time.
    StateDict& generators = shared->micro_batches.at(0).generators;
    if (generators.tensors.empty()) generators = rng_state(precision.device());
    torch::Tensor loss;
    // Into .grad by themselves only where the caller's context has it so, as training does.
    const bool fused_grads = compute_context().fused_grad_accumulation;
    StepReplay drawn = *shared;
    if (draw > 0) drawn.seed = random_word(drawn.seed, draw);
    replay_micro_batch(drawn, 0, precision, fused_grads,
                       [&] { loss = task.training_step(0, precision.batch_placement()); });
    HALFTONE_CHECK(loss.defined() && loss.numel() == 1,
                   "[trainer] expected a scalar loss from training_step()");
    task.module().take_tokens();
    task.module().logged().take();
    return loss.reshape({});
  };
  return {.network = &module.network(),
          .loss = [compute](const MixedPrecision& precision) { return compute(precision, 0); },
          .redrawn_loss = compute};
}

}  // namespace halftone
