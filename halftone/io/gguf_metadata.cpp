// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <array>
#include <limits>
#include <type_traits>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/io/gguf.h"
#include "halftone/io/q8_0.h"
#include "halftone/system/json_reader_impl.h"

namespace halftone {
namespace {

[[noreturn]] void refuse_gguf_value(const std::string& key, const char* expected, bool is_there) {
  throw UserError(fmt::format("the metadata {} {}, expected {}; the file is for another program",
                              quoted_json(key), is_there ? "is of another type" : "is missing",
                              expected));
}

template <class T>
constexpr bool kIsInteger = std::is_integral_v<T> && !std::is_same_v<T, bool>;

template <class T>
std::int64_t as_int64(const std::string& key, T number) {
  if constexpr (std::is_same_v<T, std::uint64_t>) {
    if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      throw UserError(
          fmt::format("the metadata {} is {}, which is too large", quoted_json(key), number));
  }
  return static_cast<std::int64_t>(number);
}

template <class T>
const T& held(const GgufMetadata& metadata, const std::string& key, const char* expected) {
  const auto found = metadata.values().find(key);
  const bool is_there = found != metadata.values().end();
  const T* value = is_there ? std::get_if<T>(&found->second) : nullptr;
  if (value == nullptr) refuse_gguf_value(key, expected, is_there);
  return *value;
}

const GgufValue& any(const GgufMetadata& metadata, const std::string& key, const char* expected) {
  const auto found = metadata.values().find(key);
  if (found == metadata.values().end()) refuse_gguf_value(key, expected, false);
  return found->second;
}

}  // namespace

std::int64_t GgufMetadata::integer(const std::string& key) const {
  constexpr const char* kExpected = "an integer";
  return std::visit(
      [&](const auto& value) -> std::int64_t {
        using T = std::decay_t<decltype(value)>;
        if constexpr (kIsInteger<T>) return as_int64(key, value);
        refuse_gguf_value(key, kExpected, true);
      },
      any(*this, key, kExpected));
}

double GgufMetadata::number(const std::string& key) const {
  constexpr const char* kExpected = "a number";
  return std::visit(
      [&](const auto& value) -> double {
        using T = std::decay_t<decltype(value)>;
        if constexpr (kIsInteger<T> || std::is_floating_point_v<T>)
          return static_cast<double>(value);
        refuse_gguf_value(key, kExpected, true);
      },
      any(*this, key, kExpected));
}

bool GgufMetadata::boolean(const std::string& key) const {
  return held<bool>(*this, key, "true or false");
}

const std::string& GgufMetadata::text(const std::string& key) const {
  return held<std::string>(*this, key, "a string");
}

const std::vector<std::string>& GgufMetadata::texts(const std::string& key) const {
  constexpr const char* kExpected = "an array of strings";
  const auto* values =
      std::get_if<std::vector<std::string>>(&held<GgufArray>(*this, key, kExpected));
  if (values == nullptr) refuse_gguf_value(key, kExpected, true);
  return *values;
}

std::vector<std::int64_t> GgufMetadata::integers(const std::string& key) const {
  constexpr const char* kExpected = "an array of integers";
  std::vector<std::int64_t> result;
  std::visit(
      [&](const auto& values) {
        using T = std::decay_t<decltype(values)>;
        if constexpr (!std::is_same_v<T, std::monostate>) {
          if constexpr (kIsInteger<typename T::value_type>) {
            result.reserve(values.size());
            for (const auto value : values) result.push_back(as_int64(key, value));
            return;
          }
        }
        refuse_gguf_value(key, kExpected, true);
      },
      held<GgufArray>(*this, key, kExpected));
  return result;
}

std::string_view gguf_type_name(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return "F32";
    case GgufType::kF16:
      return "F16";
    case GgufType::kQ8_0:
      return "Q8_0";
    case GgufType::kBF16:
      return "BF16";
  }
  HALFTONE_CHECK(false, "[gguf] there is no type ", static_cast<std::uint32_t>(type));
}

std::uint64_t gguf_bytes(GgufType type, std::uint64_t count) {
  if (type == GgufType::kQ8_0) return count / kQ8BlockSize * kQ8BlockBytes;
  return count * (type == GgufType::kF32 ? 4 : 2);
}

}  // namespace halftone
