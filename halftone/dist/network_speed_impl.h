// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>

#include "halftone/dist/network_speed.h"

namespace halftone {

/// Bytes of the two messages from which a speed is had.
inline constexpr std::int64_t kSmallMessage = 64, kLargeMessage = std::int64_t{4} << 20U;

/// Of two all_to_all operations with messages of these sizes.
NetworkSpeed fitted_speed(std::int64_t processes, double small_s, double large_s);

/// An all_to_all that has come to its end when it returns.
using TimedExchange = std::function<void(const torch::Tensor& received, const torch::Tensor& sent)>;

/// Of `exchange` among so many processes, measured.
NetworkSpeed measured_speed(std::int64_t processes, const TimedExchange& exchange);

}  // namespace halftone
