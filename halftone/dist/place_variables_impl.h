// SPDX-License-Identifier: Apache-2.0
// The variables of launchers, checked as they are read.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>

#include "halftone/dist/process_place.h"

namespace halftone {

inline constexpr std::uint16_t kStorePort = 29500;  // torchrun's, too
inline constexpr std::int64_t kMaxProcesses = 1'000'000;

class PlaceVariables {
 public:
  explicit PlaceVariables(const Environment& environment) : environment_(environment) {}

  /// The value of a variable; an empty one counts as not set.
  std::optional<std::string> text(const std::string& name) const;
  bool has(const std::string& name) const { return text(name).has_value(); }
  /// The value of `name`, which must be set because `other` is.
  std::string text_beside(const std::string& name, const std::string& other) const;

  struct Range {
    std::int64_t first = 0, last = std::numeric_limits<std::int64_t>::max();
  };
  std::optional<std::int64_t> number(const std::string& name, Range range) const;
  std::int64_t number_beside(const std::string& name, const std::string& other, Range range) const;

  /// Rank and size; the rank must be less than the size.
  void read_rank(ProcessPlace& place, const std::string& rank, const std::string& size) const;
  /// The same among the processes of a host, where both are set.
  void read_local_rank(ProcessPlace& place, const std::string& rank, const std::string& size) const;

 private:
  const Environment& environment_;
};

/// A step of Slurm's: rank and size, and address and port unless MASTER_ADDR and MASTER_PORT name
/// them.
ProcessPlace slurm_place(const PlaceVariables& variables);

/// "node[003-005,010],gpu7" begins with node003. Nothing where the brackets are not in order.
std::optional<std::string> first_host(const std::string& node_list);
/// Tasks of node `node` (from 0) in "4(x2),3". Nothing where the text is not of this form.
std::optional<std::int64_t> tasks_of_node(const std::string& tasks_per_node, std::int64_t node);

}  // namespace halftone
