// SPDX-License-Identifier: Apache-2.0
// The precision of a configuration, and what changes with it.
#pragma once

#include <string>
#include <vector>

#include "halftone/precision/policy.h"
#include "halftone/pretrain/train_config.h"

namespace halftone {

/// The policy of config.precision. That of 32-true stands in for one that is not chosen yet. Throws
/// UserError for an unknown name.
PrecisionPolicy policy_of(const TrainConfig& config);

/// The keys that a configuration of another precision gives up for `precision`: loss_scale unless
/// it scales losses, keep_fp32 unless it is mixed, and layer_precision, whose formats were chosen
/// beside the other precision. Throws UserError for an unknown name.
std::vector<std::string> keys_given_up_for(const std::string& precision);

/// `config` in `precision`, with the keys that it gives up for it at their defaults; as it is where
/// that is its own. Throws UserError for an unknown name.
TrainConfig in_precision(TrainConfig config, const std::string& precision);

}  // namespace halftone
