// SPDX-License-Identifier: Apache-2.0
#include "halftone/dist/agreement.h"

#include <fmt/format.h>

#include <cstring>
#include <optional>
#include <set>
#include <vector>

#include "halftone/core/error.h"

namespace halftone {
namespace {

using Values = std::map<std::string, std::string>;
constexpr std::size_t kLongestValue = 80;  // bytes of a value that a message shows
constexpr std::size_t kMostGroups = 4;     // different values that a message shows

void append_text(std::string& bytes, const std::string& text) {
  const std::uint64_t length = text.size();
  bytes.append(reinterpret_cast<const char*>(&length), sizeof(length));
  bytes += text;
}

std::string packed(const Values& values) {
  std::string bytes;
  for (const auto& [key, value] : values) {
    append_text(bytes, key);
    append_text(bytes, value);
  }
  return bytes;
}

std::string take_text(const std::string& bytes, std::size_t& at) {
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data() + at, sizeof(length));
  at += sizeof(length) + length;
  return bytes.substr(at - length, length);
}

Values unpacked(const std::string& bytes) {
  Values values;
  for (std::size_t at = 0; at < bytes.size();) {
    std::string key = take_text(bytes, at);
    values[std::move(key)] = take_text(bytes, at);
  }
  return values;
}

std::string shown(const std::optional<std::string>& value) {
  if (!value) return "not set";
  if (value->size() <= kLongestValue) return value->empty() ? "''" : *value;
  return value->substr(0, kLongestValue) + "...";
}

// "process 1", "processes 1, 3 and 4 more"
std::string named_ranks(const std::vector<std::size_t>& ranks) {
  constexpr std::size_t kMost = 4;
  std::string text = ranks.size() == 1 ? "process " : "processes ";
  for (std::size_t i = 0; i < ranks.size() && i < kMost; ++i)
    text += (i == 0 ? "" : ", ") + std::to_string(ranks[i]);
  if (ranks.size() > kMost) text += fmt::format(" and {} more", ranks.size() - kMost);
  return text;
}

// Who has which value, in the order of the first rank that has it.
std::string who_has_what(const std::string& key, const std::vector<Values>& all) {
  std::vector<std::pair<std::optional<std::string>, std::vector<std::size_t>>> groups;
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    const auto found = all[rank].find(key);
    std::optional<std::string> value;
    if (found != all[rank].end()) value = found->second;
    auto group = groups.begin();
    while (group != groups.end() && group->first != value) ++group;
    if (group == groups.end()) group = groups.insert(group, {value, {}});
    group->second.push_back(rank);
  }
  std::string text;
  for (std::size_t i = 0; i < groups.size() && i < kMostGroups; ++i)
    text += fmt::format("{}{} on {}", i == 0 ? "" : ", ", shown(groups[i].first),
                        named_ranks(groups[i].second));
  if (groups.size() > kMostGroups) text += ", ...";
  return text;
}

bool differs(const std::string& key, const std::vector<Values>& all) {
  const auto first = all.front().find(key);
  for (const Values& values : all) {
    const auto found = values.find(key);
    if ((found == values.end()) != (first == all.front().end())) return true;
    if (found != values.end() && found->second != first->second) return true;
  }
  return false;
}

}  // namespace

void check_agreement(ProcessGroup& group, const Values& values) {
  std::vector<Values> all;
  std::set<std::string> keys;
  for (const std::string& bytes : group.all_gather(packed(values))) {
    all.push_back(unpacked(bytes));
    for (const auto& entry : all.back()) keys.insert(entry.first);
  }
  for (const std::string& key : keys) {
    if (differs(key, all))
      throw UserError(fmt::format("the processes differ in {}: {}; start all of them with the same",
                                  key, who_has_what(key, all)));
  }
}

}  // namespace halftone
