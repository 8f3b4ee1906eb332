// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "halftone/pretrain/plan_request.h"

namespace halftone::cli {

struct PlannedRun {
  const TrainConfig& config;
  const PlanRequest& request;
  const RunPlan& plan;
};

/// What plan has found, for people.
std::string planned_run_text(const PlannedRun& run);

/// The same as one JSON document (docs/formats.md).
std::string planned_run_json(const PlannedRun& run);

}  // namespace halftone::cli
