// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/matmul_probe.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/arange.h>
#include <fmt/format.h>
#include <torch/version.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "halftone/core/error.h"
#include "halftone/core/paths.h"
#include "halftone/kernels/gemm16.h"

namespace halftone {
namespace {

using torch::ScalarType;
using torch::Tensor;

constexpr std::int64_t kTokens = 128;
constexpr std::int64_t kIn = 512;
constexpr std::int64_t kOut = 704;
constexpr int kRounds = 8;
/// How much faster the native way must be to replace the other: wide enough that two runs on a busy
/// machine agree.
constexpr double kNativeGain = 1.25;
/// A way this much slower on a small problem is not tried on the real one.
constexpr double kHopeless = 4.0;

/// Processor time of this thread: what other programs take does not count.
double seconds_of(const std::function<void()>& work) {
  const auto now = [] {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  };
  const double start = now();
  work();
  return now() - start;
}

Tensor filled(std::vector<std::int64_t> shape, ScalarType dtype) {
  const std::int64_t count = c10::multiply_integers(shape);
  return at::arange(count, torch::kFloat).mul_(0.37).sin_().view(shape).to(dtype);
}

struct Operands {
  Tensor a;
  Tensor b;
  ScalarType out;
};

std::array<Operands, 3> directions_of(ScalarType dtype, std::int64_t shrink) {
  const Tensor x = filled({kTokens / shrink, kIn / shrink}, dtype);
  const Tensor w = filled({kOut / shrink, kIn / shrink}, dtype);
  const Tensor g = filled({kTokens / shrink, kOut / shrink}, dtype);
  return {{{x, w.t(), dtype}, {g, w, dtype}, {g.t(), x, torch::kFloat}}};
}

using Work = std::function<void(MatmulPath)>;

/// Best time of each way, rounds interleaved so that a disturbance meets all of them.
std::array<double, 2> best_times(const Work& work, int rounds) {
  std::array<double, 2> best{};
  best.fill(std::numeric_limits<double>::infinity());
  for (int round = 0; round <= rounds; ++round) {
    for (std::size_t i = 0; i < best.size(); ++i) {
      const double time = seconds_of([&] { work(static_cast<MatmulPath>(i)); });
      if (round > 0) best[i] = std::min(best[i], time);  // round 0 builds the kernels
    }
  }
  return best;
}

MatmulPath faster(const Work& small, const Work& real) {
  constexpr auto kNative = static_cast<std::size_t>(MatmulPath::kNative);
  constexpr auto kWidened = static_cast<std::size_t>(MatmulPath::kWidened);
  const std::array<double, 2> first = best_times(small, 2);
  if (first[kNative] > kHopeless * first[kWidened]) return MatmulPath::kWidened;
  const std::array<double, 2> best = best_times(real, kRounds);
  return best[kNative] * kNativeGain < best[kWidened] ? MatmulPath::kNative : MatmulPath::kWidened;
}

MatmulPath faster_gemm(const Operands& small, const Operands& real) {
  const auto work = [](const Operands& operands) {
    return [operands](MatmulPath path) { gemm16(operands.a, operands.b, operands.out, path); };
  };
  return faster(work(small), work(real));
}

Work attention_work(ScalarType dtype, std::int64_t steps) {
  const std::array<Tensor, 4> inputs{
      filled({1, 8, steps, 64}, dtype), filled({1, 8, steps, 64}, dtype),
      filled({1, 8, steps, 64}, dtype), filled({1, 8, steps, 64}, dtype)};
  return [inputs, dtype](MatmulPath path) {
    const ScalarType inner = path == MatmulPath::kNative ? dtype : torch::kFloat;
    const Tensor q = inputs[0].to(inner), k = inputs[1].to(inner), v = inputs[2].to(inner);
    const auto [out, lse] =
        at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, /*is_causal=*/true);
    out.to(dtype);
    const auto grads = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        inputs[3].to(inner), q, k, v, out, lse, 0.0, /*is_causal=*/true);
    std::get<0>(grads).to(dtype);
    std::get<1>(grads).to(dtype);
    std::get<2>(grads).to(dtype);
  };
}

MatmulPaths measure(ScalarType dtype) {
  const auto small = directions_of(dtype, 4);
  const auto real = directions_of(dtype, 1);
  return {.forward = faster_gemm(small[0], real[0]),
          .input_gradient = faster_gemm(small[1], real[1]),
          .weight_gradient = faster_gemm(small[2], real[2]),
          .attention = faster(attention_work(dtype, 32), attention_work(dtype, 128))};
}

std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  std::string text;
  for (std::string line; std::getline(file, line) && !line.empty();) {
    const std::string_view key = std::string_view(line).substr(0, line.find('\t'));
    if (key == "model name" || key == "cpu family" || key == "model" || key == "stepping")
      text += line.substr(line.find(':') + 1);
    // The same name can stand for machines whose hypervisors pass on different instructions.
    if (key == "flags") text += fmt::format(" flags {:x}", std::hash<std::string>{}(line));
  }
  return text;
}

std::string conditions() {
  std::string text = fmt::format("{}; {}; LibTorch {}; {} threads", processor(),
                                 at::get_cpu_capability(), TORCH_VERSION, at::get_num_threads());
  for (const char* name : {"ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA",
                           "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR", "MKL_DEBUG_CPU_TYPE"}) {
    const char* value = std::getenv(name);
    if (value != nullptr) text += fmt::format("; {}={}", name, value);
  }
  return text;
}

std::filesystem::path record_path() { return cache_folder() / "matmul.json"; }

nlohmann::json read_record() {
  std::ifstream file(record_path());
  nlohmann::json record = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  return record.is_object() ? record : nlohmann::json::object();
}

std::optional<MatmulChoice> recorded(const std::string& key) {
  const nlohmann::json record = read_record();
  const auto found = record.find(key);
  if (found == record.end() || !found->is_string()) return std::nullopt;
  try {
    return parse_matmul_choice(found->get<std::string>());
  } catch (const UserError&) {
    return std::nullopt;
  }
}

void write_record(const std::string& key, const MatmulChoice& choice) {
  const std::filesystem::path path = record_path();
  std::error_code error;
  std::filesystem::create_directories(path.parent_path(), error);
  nlohmann::json record = read_record();
  record[key] = to_string(choice);
  const std::filesystem::path temporary = path.string() + fmt::format(".{}", getpid());
  std::ofstream(temporary) << record.dump(2) << '\n';
  std::filesystem::rename(temporary, path, error);
  if (error) std::filesystem::remove(temporary, error);
}

}  // namespace

MatmulChoice measure_matmul_paths() {
  const torch::NoGradGuard no_grad;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  MatmulChoice choice;
  // Inside a parallel region every library works on the calling thread alone, whose processor time
  // tells the ways apart even where other programs use the machine. The other thread only waits.
#pragma omp parallel num_threads(2)
  {
#pragma omp master
    choice = {.bf16 = measure(torch::kBFloat16), .fp16 = measure(torch::kHalf)};
  }
  return choice;
}

MatmulChoice measured_matmul_paths() {
  const std::string key = conditions();
  if (const std::optional<MatmulChoice> known = recorded(key)) return *known;
  const MatmulChoice choice = measure_matmul_paths();
  write_record(key, choice);
  return choice;
}

}  // namespace halftone
