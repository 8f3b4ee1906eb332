// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "support/paths.h"

namespace halftone::test {

/// The cases of `key` in lightning.json: what Lightning does (make_lightning_golden.py).
inline const nlohmann::json& lightning_golden(const std::string& key) {
  static const nlohmann::json file = [] {
    std::ifstream stream(std::string(kGoldenDir) + "/lightning.json");
    return nlohmann::json::parse(stream);
  }();
  return file.at(key);
}

}  // namespace halftone::test
