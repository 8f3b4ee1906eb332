// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/optimizer_state.h"

#include <torch/serialize/input-archive.h>
#include <torch/serialize/output-archive.h>

#include <sstream>
#include <string>

#include "halftone/core/error.h"
#include "halftone/optim/fused_optimizer.h"

namespace halftone {
namespace {

constexpr const char* kArchive = "archive";

// Each once: a fused optimizer counts tied weights as one.
std::vector<torch::Tensor> parameters_in(const torch::optim::Optimizer& optimizer) {
  if (const FusedOptimizer* const fused = as_fused(optimizer)) {
    std::vector<torch::Tensor> parameters;
    for (std::size_t i = 0; i < fused->parameter_names().size(); ++i)
      parameters.push_back(fused->parameter(i));
    return parameters;
  }
  return parameters_of(optimizer);
}

torch::Device device_of(const torch::optim::Optimizer& optimizer) {
  for (const auto& group : optimizer.param_groups())
    if (!group.params().empty()) return group.params().front().device();
  return torch::kCPU;
}

}  // namespace

StateDict optimizer_state(const torch::optim::Optimizer& optimizer) {
  if (const FusedOptimizer* const fused = as_fused(optimizer)) return fused->state_dict();
  torch::serialize::OutputArchive archive;
  optimizer.save(archive);
  std::ostringstream stream;
  archive.save_to(stream);
  const std::string bytes = stream.str();
  StateDict state;
  state.tensors[kArchive] = torch::empty({static_cast<std::int64_t>(bytes.size())}, torch::kUInt8);
  std::copy(bytes.begin(), bytes.end(), state.tensors[kArchive].data_ptr<std::uint8_t>());
  return state;
}

void load_optimizer_state(torch::optim::Optimizer& optimizer, const StateDict& state) {
  if (FusedOptimizer* const fused = as_fused(optimizer)) return fused->load_state_dict(state);
  const torch::Tensor bytes = state.tensor(kArchive).contiguous();
  std::istringstream stream(std::string(static_cast<const char*>(bytes.const_data_ptr()),
                                        static_cast<std::size_t>(bytes.numel())));
  try {
    torch::serialize::InputArchive archive;
    archive.load_from(stream, device_of(optimizer));
    optimizer.load(archive);
  } catch (const c10::Error& error) {
    throw UserError(std::string("the saved optimizer does not fit this one: ") +
                    error.what_without_backtrace() +
                    "; resume with the optimizer and the model that the run began with");
  }
}

std::vector<torch::Tensor> parameters_of(const torch::optim::Optimizer& optimizer) {
  std::vector<torch::Tensor> parameters;
  for (const auto& group : optimizer.param_groups())
    parameters.insert(parameters.end(), group.params().begin(), group.params().end());
  return parameters;
}

std::vector<torch::Tensor> gradients_of(const torch::optim::Optimizer& optimizer) {
  const FusedOptimizer* const fused = as_fused(optimizer);
  const std::vector<torch::Tensor> parameters = parameters_in(optimizer);
  std::vector<torch::Tensor> gradients(parameters.size());
  for (std::size_t i = 0; i < parameters.size(); ++i)
    if (fused == nullptr || fused->arena().has_gradient(i)) gradients[i] = parameters[i].grad();
  return gradients;
}

void zero_grad(torch::optim::Optimizer& optimizer) {
  if (FusedOptimizer* const fused = as_fused(optimizer))
    fused->zero_grad();
  else
    optimizer.zero_grad();
}

StateDict gradient_state(const torch::optim::Optimizer& optimizer) {
  StateDict state;
  const std::vector<torch::Tensor> gradients = gradients_of(optimizer);
  for (std::size_t i = 0; i < gradients.size(); ++i)
    if (gradients[i].defined()) state.tensors[std::to_string(i)] = gradients[i];
  return state;
}

void load_gradient_state(torch::optim::Optimizer& optimizer, const StateDict& state) {
  const torch::NoGradGuard no_grad;
  zero_grad(optimizer);
  std::vector<torch::Tensor> parameters = parameters_in(optimizer);
  std::size_t loaded = 0;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const std::string number = std::to_string(i);
    if (!state.tensors.contains(number)) continue;
    const torch::Tensor saved = state.tensor(number);
    if (saved.sizes() != parameters[i].sizes()) break;
    if (parameters[i].grad().defined())
      parameters[i].mutable_grad().copy_(saved);
    else
      parameters[i].mutable_grad() = saved.to(parameters[i].device()).clone();
    ++loaded;
  }
  if (loaded != state.tensors.size())
    throw UserError(
        "the saved gradients do not fit this optimizer's parameters; resume with the optimizer and "
        "the model that the run began with");
}

}  // namespace halftone
