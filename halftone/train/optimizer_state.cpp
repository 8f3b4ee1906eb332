// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/optimizer_state.h"

#include <torch/serialize/input-archive.h>
#include <torch/serialize/output-archive.h>

#include <sstream>
#include <string>

#include "halftone/core/error.h"
#include "halftone/optim/adamw.h"

namespace halftone {
namespace {

constexpr const char* kArchive = "archive";

torch::Device device_of(const torch::optim::Optimizer& optimizer) {
  for (const auto& group : optimizer.param_groups())
    if (!group.params().empty()) return group.params().front().device();
  return torch::kCPU;
}

}  // namespace

StateDict optimizer_state(const torch::optim::Optimizer& optimizer) {
  if (const auto* adamw = dynamic_cast<const AdamW*>(&optimizer)) return adamw->state_dict();
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
  if (auto* adamw = dynamic_cast<AdamW*>(&optimizer)) return adamw->load_state_dict(state);
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

}  // namespace halftone
