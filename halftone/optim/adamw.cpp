// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/adamw.h"

#include <fmt/format.h>
#include <torch/optim/adamw.h>

#include <algorithm>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/kernels/optimizer/adamw.h"
#include "halftone/optim/adamw_buffers.h"

namespace halftone {
namespace {

using NamedTensors = std::vector<std::pair<std::string, torch::Tensor>>;

NamedTensors numbered(const std::vector<torch::Tensor>& parameters) {
  NamedTensors named;
  for (std::size_t i = 0; i < parameters.size(); ++i)
    named.emplace_back(fmt::format("group 0, parameter {}", i), parameters[i]);
  return named;
}

std::vector<torch::Tensor> tensors_of(const NamedTensors& named) {
  std::vector<torch::Tensor> unique;
  for (const auto& [name, tensor] : named) {
    HALFTONE_CHECK(tensor.defined(), "[adamw] the parameter '", name, "' is undefined");
    const auto same = [&t = tensor](const torch::Tensor& other) { return other.is_same(t); };
    if (std::none_of(unique.begin(), unique.end(), same)) unique.push_back(tensor);
  }
  return unique;
}

std::unique_ptr<torch::optim::AdamWOptions> group_options(const AdamWOptions& options) {
  const bool sensible = options.lr >= 0 && options.eps >= 0 && options.weight_decay >= 0 &&
                        options.beta1 >= 0 && options.beta1 < 1 && options.beta2 >= 0 &&
                        options.beta2 < 1;
  HALFTONE_CHECK(sensible,
                 "[adamw] expected lr, eps and weight_decay >= 0 and betas in [0, 1), got lr ",
                 options.lr, ", eps ", options.eps, ", weight_decay ", options.weight_decay,
                 ", betas ", options.beta1, " and ", options.beta2);
  auto group = std::make_unique<torch::optim::AdamWOptions>(options.lr);
  group->betas({options.beta1, options.beta2}).eps(options.eps).weight_decay(options.weight_decay);
  return group;
}

void check_sharing(const AdamWOptions& options) {
  HALFTONE_CHECK(options.bucket_bytes > 0, "[adamw] expected bucket_bytes above 0, got ",
                 options.bucket_bytes);
  HALFTONE_CHECK(!options.shard_weights || options.shard_gradients,
                 "[adamw] expected shard_weights with shard_gradients");
  HALFTONE_CHECK(!options.shard_gradients || (options.shard_over && !options.release_gradients),
                 "[adamw] expected shard_gradients with shard_over and gradients that are kept");
}

}  // namespace

AdamW::AdamW(NamedTensors named_parameters, AdamWOptions options)
    : FusedOptimizer(tensors_of(named_parameters), group_options(options)),
      options_(std::move(options)) {
  const torch::NoGradGuard no_grad;
  check_sharing(options_);
  std::vector<TiedParameter> parameters = tied_parameters(std::move(named_parameters));
  const std::vector<AdamWBufferLayout> layouts = adamw_layout(shapes_of(parameters), options_);
  participation_.resize(parameters.size());
  arena_ = ParameterArena(std::move(parameters), {layouts.begin(), layouts.end()},
                          {.fp32_gradients = options_.fp32_gradients,
                           .sharded_gradients = options_.shard_gradients,
                           .release_gradients = options_.release_gradients,
                           .bucket_bytes = options_.bucket_bytes});
  shards_ = std::make_unique<ArenaShards>(arena_, options_.shard_over);
  parts_ = adamw_parts(arena_, *shards_, layouts, options_.offload);
  for (const AdamWBufferLayout& layout : layouts)
    steps_.push_back(torch::zeros({}, torch::dtype(torch::kLong).device(layout.device)));
}

AdamW::AdamW(std::vector<torch::Tensor> parameters, AdamWOptions options)
    : AdamW(numbered(parameters), std::move(options)) {}

void AdamW::check_in_place() const {
  std::size_t variables = 0;
  for (std::size_t i = 0; i < arena_.size(); ++i) {
    arena_.check_in_place(i);
    variables += arena_.variables(i).size();
  }
  HALFTONE_CHECK(param_groups().size() == 1 && param_groups()[0].params().size() == variables,
                 "[adamw] parameters were added after the optimizer was built: build a new one");
}

void AdamW::zero_grad() { arena_.zero_grad(); }

OptimizerTraits AdamW::traits() const {
  return {.releases_gradients = options_.release_gradients,
          .offloads_states = !options_.offload.empty(),
          .stochastic_rounding = options_.stochastic_rounding,
          .fp32_gradients = options_.fp32_gradients,
          .master = options_.master,
          .moments = options_.moments,
          .shards_states = options_.shard_over != nullptr,
          .shards_gradients = options_.shard_gradients,
          .shards_weights = options_.shard_weights};
}

torch::Tensor AdamW::step(LossClosure closure) {
  torch::Tensor loss;
  if (closure) {
    const torch::AutoGradMode with_grad(true);
    loss = closure();
  }
  step_scaled(torch::ones({}), torch::zeros({}));
  return loss;
}

double AdamW::lr() const { return param_groups()[0].options().get_lr(); }

void AdamW::set_lr(double lr) {
  HALFTONE_CHECK(lr >= 0, "[adamw] expected lr >= 0, got ", lr);
  param_groups()[0].options().set_lr(lr);
}

std::int64_t AdamW::step_count() const {
  return steps_.empty() ? 0 : steps_.front().item<std::int64_t>();
}

AdamWArguments AdamW::arguments_for(std::size_t buffer, const torch::Tensor& gradient_factor,
                                    const torch::Tensor& found_inf) const {
  const torch::Device device = steps_[buffer].device();
  return {.lr = lr(),
          .beta1 = options_.beta1,
          .beta2 = options_.beta2,
          .eps = options_.eps,
          .weight_decay = options_.weight_decay,
          .stochastic_rounding = options_.stochastic_rounding,
          .seed = random_word(options_.seed, buffer),
          .first_index = 0,
          .step = steps_[buffer] + 1,
          .gradient_factor = gradient_factor.to(device, true),
          .found_inf = found_inf.to(device, true)};
}

// One parameter by itself, with the gradient that is in .grad, if there is one.
void AdamW::step_alone(std::size_t index, AdamWArguments arguments) {
  AdamWPart part = part_of_parameter(index);
  if (options_.release_gradients)
    part.tensors.gradients = arena_.loose_gradient(index);
  else if (!arena_.collect_gradient(index))
    return;
  if (!part.tensors.gradients.defined()) return;
  Participation& own = participation_[index];
  own.stepped = true;
  arguments.first_index = part.range.begin;
  if (own.missed_steps.defined()) arguments.step = arguments.step - own.missed_steps;
  adamw_in_chunks_(part.tensors, arguments);
}

void AdamW::step_parameter(std::size_t index, const torch::Tensor& gradient_factor,
                           const torch::Tensor& found_inf) {
  const torch::NoGradGuard no_grad;
  arena_.check_in_place(index);
  step_alone(index, arguments_for(arena_.place(index).buffer, gradient_factor, found_inf));
  if (options_.release_gradients) arena_.drop_gradient(index);
}

void AdamW::finish_step(const torch::Tensor& found_inf) {
  const torch::NoGradGuard no_grad;
  if (!options_.shard_weights) shards_->gather_weights();
  for (std::size_t b = 0; b < steps_.size(); ++b) {
    const torch::Tensor& step = steps_[b];
    const torch::Tensor counted = found_inf.to(step.device(), true).eq(0).reshape({});
    step.add_(counted);
    count_missed(b, counted);
  }
}

// Parameters that have missed the same steps share the count of them, so that those which come
// back together are updated together.
void AdamW::count_missed(std::size_t buffer, const torch::Tensor& counted) {
  std::vector<std::pair<torch::Tensor, torch::Tensor>> renewed;  // before and after
  for (const std::size_t i : arena_.buffers()[buffer].parameters) {
    Participation& own = participation_[i];
    if (std::exchange(own.stepped, false)) continue;
    auto next = std::find_if(renewed.begin(), renewed.end(), [&](const auto& pair) {
      return pair.first.is_same(own.missed_steps);
    });
    if (next == renewed.end()) {
      const torch::Tensor before = own.missed_steps;
      const torch::Tensor after = before.defined() ? before + counted : counted.to(torch::kLong);
      next = renewed.insert(renewed.end(), {before, after});
    }
    own.missed_steps = next->second;
  }
}

void AdamW::step_scaled(const torch::Tensor& gradient_factor, const torch::Tensor& found_inf) {
  const torch::NoGradGuard no_grad;
  check_in_place();
  for (std::size_t b = 0; b < steps_.size(); ++b) {
    const std::vector<std::size_t>& parameters = arena_.buffers()[b].parameters;
    const AdamWArguments arguments = arguments_for(b, gradient_factor, found_inf);
    if (options_.release_gradients) {
      for (const std::size_t i : parameters) step_alone(i, arguments);
      continue;
    }
    for (const std::size_t i : parameters) participation_[i].stepped = arena_.collect_gradient(i);
    for (const Run& run : runs_to_step(b)) step_run(b, run, arguments);
  }
  finish_step(found_inf);
}

void AdamW::step_run(std::size_t buffer, const Run& run, AdamWArguments arguments) {
  if (run.missed_steps.defined()) arguments.step = arguments.step - run.missed_steps;
  for (const AdamWPart& part : parts_) {
    if (part.buffer != buffer) continue;
    const Range range = common(part.range, run.range);
    if (range.begin == range.end) continue;
    arguments.first_index = range.begin;
    adamw_in_chunks_(part_of(part, range).tensors, arguments);
  }
}

GradientStats AdamW::gradient_stats() const {
  return options_.shard_gradients ? shards_->gather_stats() : arena_.stats();
}

AdamWPart AdamW::part_of_parameter(std::size_t index) const {
  const ParameterArena::Place place = arena_.place(index);
  for (const AdamWPart& part : parts_) {
    if (part.buffer != place.buffer) continue;
    const Range range = common(part.range, place.range);
    const bool is_empty = place.range.begin == place.range.end;  // it has states all the same
    const bool is_here =
        part.range.begin <= place.range.begin && place.range.begin <= part.range.end;
    if (range.begin < range.end || (is_empty && is_here)) return part_of(part, range);
  }
  return {.buffer = place.buffer, .range = {place.range.begin, place.range.begin}, .tensors = {}};
}

OptimizerBytes AdamW::bytes() const {
  const auto of = [](const torch::Tensor& t) {
    return t.defined() ? static_cast<std::int64_t>(t.nbytes()) : 0;
  };
  OptimizerBytes bytes;
  for (const ParameterArena::Buffer& buffer : arena_.buffers()) {
    if (!options_.shard_weights) bytes.weights += of(buffer.weights);
    if (!options_.shard_gradients) bytes.gradients += of(buffer.gradients);
  }
  for (const AdamWPart& part : parts_) {
    const AdamWTensors& t = part.tensors;
    if (options_.shard_weights) bytes.weights += of(t.weights);
    if (options_.shard_gradients) bytes.gradients += of(t.gradients);
    bytes.moments +=
        of(t.exp_avg) + of(t.exp_avg_sq) + of(t.exp_avg_scale) + of(t.exp_avg_sq_scale);
    bytes.master += of(t.master_low);
  }
  if (!options_.offload.empty()) bytes.disk = bytes.moments + bytes.master;
  return bytes;
}

// The stretches of a buffer that are updated alike; all of it in the common case.
std::vector<AdamW::Run> AdamW::runs_to_step(std::size_t buffer) const {
  const std::vector<std::size_t>& parameters = arena_.buffers()[buffer].parameters;
  std::vector<Run> runs;
  for (std::size_t k = 0; k < parameters.size(); ++k) {
    const Participation& own = participation_[parameters[k]];
    const std::int64_t begin = arena_.place(parameters[k]).range.begin;
    const std::int64_t end = k + 1 == parameters.size()
                                 ? arena_.buffers()[buffer].weights.numel()
                                 : arena_.place(parameters[k + 1]).range.begin;
    if (!own.stepped || end == begin) continue;
    if (!runs.empty() && runs.back().range.end == begin &&
        runs.back().missed_steps.is_same(own.missed_steps)) {
      runs.back().range.end = end;
    } else {
      runs.push_back({{begin, end}, own.missed_steps});
    }
  }
  return runs;
}

}  // namespace halftone
