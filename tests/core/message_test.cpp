// SPDX-License-Identifier: Apache-2.0
#include "halftone/core/message.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <stdexcept>

#include "halftone/core/error.h"

namespace halftone::message_test {
namespace {

TEST(ErrorText, LeavesOutTheStackOfLibTorch) {
  try {
    TORCH_CHECK(false, "[unit] expected 1, got 2");
  } catch (const std::exception& error) {
    EXPECT_EQ(error_text(error), "[unit] expected 1, got 2");
    EXPECT_NE(std::string(error.what()), error_text(error)) << "what() has the stack";
  }
  EXPECT_EQ(error_text(std::runtime_error("disk")), "disk");
  EXPECT_EQ(error_text(UserError("path")), "path");
}

TEST(ShellQuoted, LeavesPlainWordsAlone) {
  for (const char* word : {"runs/poems", "a-b_c.1", "/data/诗", "x=1,y:2@3%4+5"})
    EXPECT_EQ(shell_quoted(word), word);
}

// A shell is asked what the quoted word is.
TEST(ShellQuoted, GivesAShellTheSameWordBack) {
  for (const std::string word :
       {"", "a b", "it's", "''", "$HOME `id` \"x\" \\", "a\nb", "*?[~#&;|<>()!"}) {
    const std::string command = "printf %s " + shell_quoted(word);
    const std::unique_ptr<FILE, int (*)(FILE*)> shell(popen(command.c_str(), "r"), pclose);
    ASSERT_NE(shell, nullptr);
    std::string said;
    for (int c = std::fgetc(shell.get()); c != EOF; c = std::fgetc(shell.get()))
      said += static_cast<char>(c);
    EXPECT_EQ(said, word) << command;
  }
}

}  // namespace
}  // namespace halftone::message_test
