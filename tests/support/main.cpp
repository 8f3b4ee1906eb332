// SPDX-License-Identifier: Apache-2.0
// Shared main(): --file=a_test runs the cases of a_test.cpp alone. *_CUDA cases are left out where
// there is no GPU.
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>

namespace {

// GoogleTest's filter for the cases of a file, empty if it has none.
std::string cases_of_file(std::string_view name) {
  std::string filter;
  const testing::UnitTest& tests = *testing::UnitTest::GetInstance();
  for (int i = 0; i < tests.total_test_suite_count(); ++i) {
    const testing::TestSuite& suite = *tests.GetTestSuite(i);
    for (int j = 0; j < suite.total_test_count(); ++j) {
      const testing::TestInfo& test = *suite.GetTestInfo(j);
      if (std::filesystem::path(test.file()).stem() == name) {
        filter += (filter.empty() ? "" : ":") + std::string(suite.name()) + "." + test.name();
      }
    }
  }
  return filter;
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  constexpr std::string_view kFile = "--file=";
  if (argc > 1) {
    const std::string_view argument = argv[1];
    const std::string cases =
        argument.starts_with(kFile) ? cases_of_file(argument.substr(kFile.size())) : "";
    if (cases.empty()) {
      std::fprintf(stderr, "%s: expected --file=NAME_test with a file of this program, got '%s'\n",
                   argv[0], argv[1]);
      return 2;
    }
    testing::GTEST_FLAG(filter) = cases;
  }
  if (!torch::cuda::is_available()) {
    const std::string filter = testing::GTEST_FLAG(filter);
    testing::GTEST_FLAG(filter) =
        filter + (filter.find('-') == std::string::npos ? "-" : ":") + "*_CUDA";
  }
  return RUN_ALL_TESTS();
}
