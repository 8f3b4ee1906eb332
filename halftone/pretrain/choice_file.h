// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace halftone {

inline constexpr std::size_t kChoices = 4;
inline constexpr std::array<const char*, kChoices> kChoiceLetters = {"A", "B", "C", "D"};

struct ChoiceQuestion {
  std::string question;
  std::array<std::string, kChoices> options;  // A, B, C, D
  std::size_t answer = 0;                     // which of them
};

/// The questions of a .jsonl file in C-Eval's form: on each line an object with the texts
/// "question", "A", "B", "C", "D", and "answer", one of the letters; other members are left alone.
/// Throws UserError that names file and line.
std::vector<ChoiceQuestion> read_choices(const std::filesystem::path& path);

}  // namespace halftone
