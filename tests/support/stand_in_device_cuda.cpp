// SPDX-License-Identifier: Apache-2.0
// What stand_in_device_cpu.cpp does, for a CUDA build: there is no stand-in, and the waits are a
// GPU's own, of which LibTorch warns when it is asked to.
#include <c10/cuda/CUDAFunctions.h>
#include <c10/util/Exception.h>

#include <memory>

#include "support/stand_in_device.h"

namespace halftone::test {
namespace {

class Warnings final : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override { seen.push_back(warning.msg()); }
  std::vector<std::string> seen;
};

Warnings& warnings() {
  static Warnings instance;
  return instance;
}

std::unique_ptr<c10::WarningUtils::WarningHandlerGuard> guard;

}  // namespace

torch::Device stand_in_device() { TORCH_CHECK(false, "a CUDA build has no stand-in for a GPU"); }

bool has_stand_in() { return false; }

void move_to_stand_in(torch::nn::Module& /*module*/) { stand_in_device(); }

HostWaits::HostWaits() {
  warnings().seen.clear();
  guard = std::make_unique<c10::WarningUtils::WarningHandlerGuard>(&warnings());
  c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_WARN);
}

HostWaits::~HostWaits() {
  c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_DISABLED);
  guard.reset();
}

std::vector<std::string> HostWaits::seen() const { return warnings().seen; }

}  // namespace halftone::test
