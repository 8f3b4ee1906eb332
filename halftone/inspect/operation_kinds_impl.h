// SPDX-License-Identifier: Apache-2.0
// What operations do, by their names.
#pragma once

#include <string>
#include <string_view>

namespace halftone {

/// "aten::div_" -> "div".
std::string plain_operation(std::string_view name);

/// Whether the operation writes numbers that it is told: masks are made so.
bool fills_in(std::string_view operation);

/// Whether the operation gives numbers that it reads, as they are: it computes and rounds none.
bool moves_numbers(std::string_view operation);

/// Whether it is a softmax, for which -inf means: not this one.
bool is_softmax(std::string_view operation);

}  // namespace halftone
