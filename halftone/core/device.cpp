// SPDX-License-Identifier: Apache-2.0
#include "halftone/core/device.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>

#include "halftone/core/error.h"

namespace halftone {
namespace {

// The N of "cuda:N", 0 of "cuda".
std::optional<int> cuda_index(std::string_view name) {
  constexpr std::string_view kCuda = "cuda";
  if (!name.starts_with(kCuda)) return std::nullopt;
  name.remove_prefix(kCuda.size());
  if (name.empty()) return 0;
  if (name.front() != ':') return std::nullopt;
  int index = 0;
  const char* end = name.data() + name.size();
  const auto [stopped, error] = std::from_chars(name.data() + 1, end, index);
  if (error != std::errc() || stopped != end || index < 0) return std::nullopt;
  return index;
}

}  // namespace

torch::Device resolve_device(const std::string& name) {
  if (name == "cpu") return torch::kCPU;
  const int count = cuda_device_count();
  if (name == "auto") return count > 0 ? torch::Device(torch::kCUDA, 0) : torch::kCPU;
  const std::optional<int> index = cuda_index(name);
  if (!index)
    throw UserError(
        fmt::format("device is '{}'; expected auto, cpu, cuda or cuda:N with N from 0", name));
  if (!built_with_cuda())
    throw UserError(
        fmt::format("device is '{}', but halftone was built without CUDA; build it "
                    "with -DHALFTONE_CUDA=ON, or set device to cpu",
                    name));
  if (count == 0)
    throw UserError(
        fmt::format("device is '{}', but this machine has no usable CUDA device; check "
                    "the driver with nvidia-smi, or set device to cpu",
                    name));
  if (*index >= count)
    throw UserError(fmt::format("device is '{}', but this machine has {} CUDA device{}, cuda:0{}",
                                name, count, count == 1 ? "" : "s",
                                count == 1 ? "" : fmt::format(" to cuda:{}", count - 1)));
  return {torch::kCUDA, static_cast<c10::DeviceIndex>(*index)};
}

torch::Tensor to_device(const torch::Tensor& tensor, const torch::Device& device,
                        std::optional<torch::ScalarType> dtype) {
  const torch::ScalarType type = dtype.value_or(tensor.scalar_type());
  const bool pins = tensor.is_cpu() && !device.is_cpu() && tensor.layout() == torch::kStrided;
  return pins ? tensor.pin_memory().to(device, type, /*non_blocking=*/true)
              : tensor.to(device, type);
}

}  // namespace halftone
