// SPDX-License-Identifier: Apache-2.0
// How another library's model configuration is read: by a table that says of every key what it does
// here. Other models use the same names of tensors, so a key that the table does not settle is
// refused by name: the model would be computed as another one.
// Private to the .cpp files of this folder.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/system/json_reader_impl.h"

namespace halftone {

struct ForeignKey {
  std::string name;
  /// Takes the value, which is not null, or throws UserError.
  std::function<void(const JsonField&)> read;
  /// Whether a value leaves the computation as it is here; asked before anything is read.
  std::function<bool(const nlohmann::json&)> changes_nothing;
  bool is_required = false;
};

/// A key that sets something of the model. `read` throws UserError for a value that is no good.
ForeignKey reads(std::string name, std::function<void(const JsonField&)> read);
ForeignKey requires_key(std::string name, std::function<void(const JsonField&)> read);
/// A key that changes the computation unless its value is null or one of `values`.
ForeignKey only(std::string name, std::vector<nlohmann::json> values);
ForeignKey only_if(std::string name, std::function<bool(const nlohmann::json&)> changes_nothing);
/// Keys that never change what is computed from given weights.
std::vector<ForeignKey> harmless(const std::vector<std::string>& names);

/// Reads the object `config` by `table`. Throws UserError, which starts with `place`, and names the
/// keys that make it another model than `model` ("a MiniMind ..."), those that are unknown, or one
/// that is missing. null stands for a key that is left out.
void read_foreign_config(const JsonField& config, const std::vector<ForeignKey>& table,
                         std::string_view model, const std::string& place);

}  // namespace halftone
