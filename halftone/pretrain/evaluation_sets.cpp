// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/evaluation_sets.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numbers>
#include <set>
#include <system_error>

#include "halftone/core/error.h"

namespace halftone {
namespace {

TextSet parse_text_set(const std::string& text) {
  std::error_code ignored;
  const std::size_t equals = text.find('=');
  const bool is_named = equals != std::string::npos && equals > 0 && equals + 1 < text.size() &&
                        !std::filesystem::exists(text, ignored);
  const std::string path = is_named ? text.substr(equals + 1) : text;
  return {.name = is_named ? text.substr(0, equals) : text,
          .path = std::filesystem::absolute(path).lexically_normal().string(),
          .is_named = is_named};
}

}  // namespace

std::vector<TextSet> parse_text_sets(const std::vector<std::string>& texts) {
  std::vector<TextSet> sets;
  std::set<std::string> names;
  for (const std::string& text : texts) {
    sets.push_back(parse_text_set(text));
    if (!names.insert(sets.back().name).second)
      throw UserError(fmt::format(
          "--data: expected sets of different names, got '{}' twice; name them NAME=PATH",
          sets.back().name));
  }
  return sets;
}

EvalResult total_of(const std::vector<EvalResult>& sets) {
  HALFTONE_CHECK(!sets.empty(), "[evaluation_sets] expected at least one set");
  if (sets.size() == 1) return sets.front();
  EvalResult total;
  double nats = 0;
  for (const EvalResult& set : sets) {
    nats += set.loss * static_cast<double>(set.tokens);
    total.tokens += set.tokens;
    total.bytes += set.bytes;
    total.seconds += set.seconds;
  }
  total.loss = nats / static_cast<double>(total.tokens);
  total.perplexity = std::min(std::exp(total.loss), std::numeric_limits<double>::max());
  total.bits_per_byte = nats / std::numbers::ln2 / static_cast<double>(total.bytes);
  return total;
}

}  // namespace halftone
