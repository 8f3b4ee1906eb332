// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace halftone {

/// "1F44B-1F3FB" of UTF-8 text. REQUIRES that it is valid.
std::string code_of_text(std::string_view text);
/// `text` without variation selectors (U+FE0F).
std::string without_selectors(std::string_view text);
bool has_skin_tone(std::string_view text);

/// The code of the form that `text` is derived from: without tones of skin, hair and signs of
/// gender, with men and women as persons, families and couples of any members as one.
std::string family_of_text(std::string_view text);

}  // namespace halftone
