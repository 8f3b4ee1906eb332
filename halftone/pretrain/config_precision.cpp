// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/config_precision.h"

#include "halftone/pretrain/config_schema.h"

namespace halftone {

PrecisionPolicy policy_of(const TrainConfig& config) {
  return config.precision == kAutoPrecision ? PrecisionPolicy{.name = kAutoPrecision}
                                            : parse_precision(config.precision);
}

std::vector<std::string> keys_given_up_for(const std::string& precision) {
  const PrecisionPolicy policy = parse_precision(precision);
  std::vector<std::string> keys{"layer_precision"};
  if (!policy.loss_scaling) keys.emplace_back("loss_scale");
  if (!policy.is_mixed()) keys.emplace_back("keep_fp32");
  return keys;
}

TrainConfig in_precision(TrainConfig config, const std::string& precision) {
  if (precision == config.precision) return config;
  for (const std::string& key : keys_given_up_for(precision)) {
    const ConfigField& field = config_field(key, "precision");
    field.set(config, field.get(TrainConfig()));
  }
  config.precision = precision;
  return config;
}

}  // namespace halftone
