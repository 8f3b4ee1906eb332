// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include "halftone/diagnostics/compare/compare.h"

namespace halftone {

/// The document of to_json(). Numbers that are not finite are null in its text.
nlohmann::ordered_json json_of(const Comparison& comparison);

/// One tensor of it.
nlohmann::ordered_json json_of(const TensorComparison& tensor);

/// The text of a document; what is no UTF-8 is replaced.
std::string json_text(const nlohmann::ordered_json& document);

}  // namespace halftone
