// SPDX-License-Identifier: Apache-2.0
// Byte-level vocabularies write every byte as one printable character: bytes that are printable in
// Latin-1 stand for themselves, the 68 others are U+0100, U+0101, ... in order of their value. A
// space is written as U+0120.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace halftone {

/// The character of `byte`, in UTF-8.
const std::string& byte_character(std::uint8_t byte);

/// `bytes` written in the alphabet.
std::string to_byte_alphabet(std::string_view bytes);

/// The bytes that `token` stands for, or nothing when one of its characters is not in the alphabet.
std::optional<std::string> from_byte_alphabet(std::string_view token);

}  // namespace halftone
