// SPDX-License-Identifier: Apache-2.0
#include <ATen/CPUFunctions.h>
#include <ATen/Functions.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/kernels/gemm/fast_cpu_gemms.h"
#include "support/gemm_config_scope.h"
#include "support/message_of.h"
#include "support/paths.h"

namespace halftone::fast_cpu_gemms_registration_test {
namespace {

using test::conversions_in;
using test::GemmConfigScope;
using testing::HasSubstr;
using torch::ScalarType;
using torch::Tensor;

/// Which kernel every operation of the process has under every dispatch key.
std::map<std::string, std::string> dispatch_tables() {
  std::map<std::string, std::string> tables;
  for (const c10::OperatorName& name : c10::Dispatcher::singleton().getAllOpNames()) {
    const auto op = c10::Dispatcher::singleton().findOp(name);
    if (op && op->hasSchema()) tables[c10::toString(name)] = op->dumpComputedTable();
  }
  return tables;
}

/// As LibTorch has them: nothing has been replaced before main().
const std::map<std::string, std::string> tables_before = dispatch_tables();

Tensor wide(const Tensor& tensor) { return tensor.to(torch::kDouble); }

double relative_error(const Tensor& actual, const Tensor& exact) {
  return ((wide(actual) - exact).norm() / exact.norm()).item<double>();
}

class FastCpuGemmsElsewhere : public test::FastCpuGemmsTest {};

INSTANTIATE_TEST_SUITE_P(Ways, FastCpuGemmsElsewhere, testing::Values("native", "upcast"),
                         [](const auto& instance) { return instance.param; });

TEST_P(FastCpuGemmsElsewhere, OtherDtypesHaveLibTorchsBits) {
  for (const ScalarType dtype : {torch::kFloat, torch::kDouble, torch::kInt, torch::kLong,
                                 torch::kComplexFloat, torch::kComplexDouble}) {
    const Tensor a = (at::randn({33, 40}) * 10).to(dtype);
    const Tensor b = (at::randn({40, 21}) * 10).to(dtype);
    const Tensor self = (at::randn({33, 21}) * 10).to(dtype);
    EXPECT_EQ(conversions_in([&] { at::mm(a, b); }), 0);
    EXPECT_TRUE(at::mm(a, b).equal(at::cpu::mm(a, b)));
    EXPECT_TRUE(at::addmm(self, a, b, 2, 3).equal(at::cpu::addmm(self, a, b, 2, 3)));
    EXPECT_TRUE(self.clone().addmm_(a, b).equal(at::cpu::addmm(self, a, b)));
    EXPECT_TRUE(at::bmm(a.unsqueeze(0), b.unsqueeze(0))
                    .equal(at::cpu::bmm(a.unsqueeze(0), b.unsqueeze(0))));
  }
}

TEST_P(FastCpuGemmsElsewhere, SparseMatricesAreMultipliedAsBefore) {
  const Tensor dense = at::randn({40, 40}) * (at::rand({40, 40}) > 0.7);
  const Tensor b = at::randn({40, 21});
  const Tensor expected = wide(dense).mm(wide(b));
  EXPECT_LT(relative_error(at::mm(dense.to_sparse(), b), expected), 1e-6);
  EXPECT_LT(relative_error(at::mm(dense.to_sparse_csr(), b), expected), 1e-6);
}

/// Which dispatch keys of which operations have another kernel than LibTorch's.
std::vector<std::string> changes() {
  std::vector<std::string> changed;
  for (const auto& [name, table] : dispatch_tables()) {
    const auto before = tables_before.find(name);
    if (before == tables_before.end() || before->second == table) continue;
    std::istringstream now(table), then(before->second);
    for (std::string a, b; std::getline(now, a) && std::getline(then, b);)
      if (a != b) changed.push_back(name + " " + a.substr(0, a.find(':')));
  }
  return changed;
}

TEST(FastCpuGemmsRegistration, ChangesTheseKernelsOfTheCpuAndNothingElse) {
  ASSERT_TRUE(use_fast_cpu_gemms());
  const std::vector<std::string> expected = {
      "aten::_addmm_activation CPU",
      "aten::_addmm_activation.out CPU",
      "aten::_convolution CPU",
      "aten::_scaled_dot_product_flash_attention_for_cpu CPU",
      "aten::_scaled_dot_product_flash_attention_for_cpu_backward CPU",
      "aten::addmm CPU",
      "aten::addmm.out CPU",
      "aten::addmm_ CPU",
      "aten::baddbmm CPU",
      "aten::baddbmm.out CPU",
      "aten::baddbmm_ CPU",
      "aten::bmm CPU",
      "aten::bmm.out CPU",
      "aten::convolution_backward CPU",
      "aten::mkldnn_rnn_layer CPU",
      "aten::mkldnn_rnn_layer_backward CPU",
      "aten::mm CPU",
      "aten::mm.out CPU"};
  EXPECT_THAT(changes(), testing::UnorderedElementsAreArray(expected));
}

TEST(FastCpuGemmsRegistration, AskingAgainOrFromManyThreadsChangesNothing) {
  ASSERT_TRUE(use_fast_cpu_gemms());
  const auto tables = dispatch_tables();
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back([] { EXPECT_TRUE(use_fast_cpu_gemms()); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(dispatch_tables(), tables);
}

TEST(FastCpuGemmsRegistration, TheLibraryBesideItChangesNothing) {
  ASSERT_TRUE(use_fast_cpu_gemms());
  const auto tables = dispatch_tables();
  const std::string library = std::string(test::kBuildDir) + "/libhalftone_cpu_gemm.so";
  for (int i = 0; i < 2; ++i) {
    void* const handle = dlopen(library.c_str(), RTLD_NOW);
    ASSERT_NE(handle, nullptr) << dlerror();
    EXPECT_EQ(dispatch_tables(), tables);
    EXPECT_EQ(dlclose(handle), 0);
  }
  EXPECT_EQ(dispatch_tables(), tables);
  const GemmConfigScope scope("upcast");
  EXPECT_GT(conversions_in([] {
              const Tensor a = at::ones({32, 32}, torch::kHalf);
              at::mm(a, a);
            }),
            0);
}

TEST(FastCpuGemmsRegistration, TheVariableIsOnOffOrAll) {
  setenv("HALFTONE_CPU_GEMM", "fast", 1);
  EXPECT_THAT(test::message_of<UserError>([] { use_fast_cpu_gemms(); }),
              HasSubstr("HALFTONE_CPU_GEMM: expected on, off or all, got 'fast'"));
  setenv("HALFTONE_CPU_GEMM", "off", 1);
  EXPECT_FALSE(use_fast_cpu_gemms());
  setenv("HALFTONE_CPU_GEMM", "all", 1);
  EXPECT_TRUE(use_fast_cpu_gemms());
  setenv("HALFTONE_CPU_GEMM", "on", 1);
  EXPECT_TRUE(use_fast_cpu_gemms());
  unsetenv("HALFTONE_CPU_GEMM");
}

}  // namespace
}  // namespace halftone::fast_cpu_gemms_registration_test
