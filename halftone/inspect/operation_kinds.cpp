// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <set>

#include "halftone/inspect/operation_kinds_impl.h"

namespace halftone {
namespace {

using PlainNames = std::set<std::string_view>;

}  // namespace

std::string plain_operation(std::string_view name) {
  name.remove_prefix(std::min(name.size(), name.rfind(':') + 1));
  while (name.ends_with('_')) name.remove_suffix(1);
  return std::string(name);
}

bool fills_in(std::string_view operation) {
  static const PlainNames names = {
      "full",    "full_like",     "new_full",        "fill",  "masked_fill", "index_fill",
      "scatter", "scalar_tensor", "constant_pad_nd", "where", "lift_fresh"};
  return names.contains(plain_operation(operation));
}

bool moves_numbers(std::string_view operation) {
  static const PlainNames names = {"clone",        "detach",        "cat",        "stack", "index",
                                   "index_select", "masked_select", "gather",     "take",  "repeat",
                                   "flip",         "roll",          "unfold_copy"};
  return names.contains(plain_operation(operation));
}

bool is_softmax(std::string_view operation) {
  static const PlainNames names = {"softmax",
                                   "_softmax",
                                   "log_softmax",
                                   "_log_softmax",
                                   "_safe_softmax",
                                   "logsumexp",
                                   "scaled_dot_product_attention",
                                   "_scaled_dot_product_attention_math",
                                   "_scaled_dot_product_flash_attention_for_cpu"};
  return names.contains(plain_operation(operation));
}

}  // namespace halftone
