// SPDX-License-Identifier: Apache-2.0
// The part of Python's pickle format, protocol 2, that torch.save writes. A pickle is a program
// that builds objects; here nothing is imported, called or run. What it would import must stand in
// a list, and what it would call is kept as a note of the call.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

namespace halftone {

enum class PickleKind {
  kNone,
  kBool,          // integer
  kInteger,       // integer
  kFloat,         // number
  kText,          // text: a str, or the bytes of a str of Python 2
  kTuple,         // items
  kList,          // items
  kDict,          // items: key, value, key, value, ... in the order in which they were set
  kGlobal,        // text: "module.name", which is in the list
  kCall,          // items: a kGlobal and the kTuple of its arguments
  kPersistentId,  // items: one object, which tells what lies outside the pickle
};

struct PickleObject {
  PickleKind kind = PickleKind::kNone;
  std::int64_t integer = 0;
  double number = 0;
  std::string text;
  std::vector<const PickleObject*> items;

  /// The value of a text key in a dict, the last if it was set twice; nothing when there is none.
  const PickleObject* find(std::string_view key) const;
  bool is_call_of(std::string_view global) const;
};

/// The objects of a pickle. They may refer to each other in a circle, and nest without a limit.
class Pickle {
 public:
  const PickleObject& root() const { return *root_; }

 private:
  friend class PickleReader;
  std::deque<PickleObject> objects_;  // flat, so that nothing recurses when they go
  const PickleObject* root_ = nullptr;
};

/// Reads a pickle that may be a stranger's. `source` stands in errors, such as "'a.pth': its
/// data.pkl". Throws UserError that names the place for what is damaged, nested too deeply or of
/// another protocol, and for a name that is not in the list. The memory it takes is a multiple of
/// the pickle's size.
Pickle read_pickle(std::string_view bytes, const std::string& source);

/// Largest pickle that is worth reading, in bytes.
inline constexpr std::uint64_t kMaxPickleBytes = std::uint64_t{64} << 20U;

}  // namespace halftone
