// SPDX-License-Identifier: Apache-2.0
// Parts of what `halftone doctor` prints: what threads and memory cost, from where on mixed
// precision pays, and what to do first.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "halftone/machine/doctor.h"

namespace halftone::cli {

std::string costs_text(const DoctorReport& report);
/// Empty where they were not measured.
std::string crossings_text(const DoctorReport& report);
std::string findings_text(const std::vector<Finding>& findings);

nlohmann::ordered_json threads_json(const DoctorReport& report);
nlohmann::ordered_json memory_costs_json(const DoctorReport& report);
/// null where they were not measured.
nlohmann::ordered_json crossings_json(const DoctorReport& report);
nlohmann::ordered_json findings_json(const std::vector<Finding>& findings);

}  // namespace halftone::cli
