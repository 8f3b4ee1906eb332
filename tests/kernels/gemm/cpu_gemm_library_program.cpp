// SPDX-License-Identifier: Apache-2.0
// An ordinary LibTorch program that loads libhalftone_cpu_gemm.so:  cpu_gemm_library_program
// LIBRARY MODE With MODE on, 16-bit matmuls must go the other way and nothing else change; else
// nothing at all.
#include <ATen/Functions.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/record_function.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <string_view>

namespace {

std::map<std::string, std::string> dispatch_tables() {
  std::map<std::string, std::string> tables;
  for (const c10::OperatorName& name : c10::Dispatcher::singleton().getAllOpNames()) {
    const auto op = c10::Dispatcher::singleton().findOp(name);
    if (op && op->hasSchema()) tables[c10::toString(name)] = op->dumpComputedTable();
  }
  return tables;
}

int conversions = 0;

void count_conversions() {
  at::addGlobalCallback(at::RecordFunctionCallback(
      [](const at::RecordFunction& call) -> std::unique_ptr<at::ObserverContext> {
        if (std::string_view(call.name()) == "aten::_to_copy") ++conversions;
        return nullptr;
      }));
}

void expect(bool holds, const char* what) {
  if (holds) return;
  std::printf("failed: %s\n", what);
  std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  expect(argc == 3, "two arguments: LIBRARY MODE");
  const bool on = std::string(argv[2]) == "on";
  const auto before = dispatch_tables();
  const at::Tensor a = at::randn({64, 80}).to(at::kBFloat16);
  const at::Tensor b = at::randn({80, 48}).to(at::kBFloat16);
  const at::Tensor narrow = at::mm(a, b);
  const at::Tensor fp32 = at::mm(a.to(at::kFloat), b.to(at::kFloat));

  for (int i = 0; i < 2; ++i) {  // a second time is the same as once
    if (dlopen(argv[1], RTLD_NOW) == nullptr) {
      std::printf("failed: %s\n", dlerror());
      return 1;
    }
  }
  const auto after = dispatch_tables();
  count_conversions();
  const at::Tensor product = at::mm(a, b);
  expect((conversions > 0) == on, "a bf16 matmul is upcast exactly where the library is on");
  expect((after != before) == on, "the dispatcher's tables change exactly where the library is on");
  expect(after.count("halftone::cpu_gemm_paths") == (on ? 1 : 0),
         "the operation that tells the ways");
  if (on) {
    expect(product.equal(fp32.to(at::kBFloat16)), "the fp32 matmul, rounded once");
    expect(after.at("aten::mm") != before.at("aten::mm"), "mm has another kernel");
    expect(after.at("aten::add.Tensor") == before.at("aten::add.Tensor"), "add has its own");
  } else {
    expect(product.equal(narrow), "the same bits as before");
  }
  conversions = 0;
  expect(at::mm(a.to(at::kDouble), b.to(at::kDouble)).defined() && conversions == 2,
         "fp64 matmuls are left alone");
  std::fprintf(stderr, "%s\n", on ? "replaced" : "untouched");
  return 0;
}
