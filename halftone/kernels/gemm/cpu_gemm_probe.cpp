// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/cpu_gemm_probe.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
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
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "halftone/core/dtype.h"
#include "halftone/core/error.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/gemm/fast_cpu_gemms.h"
#include "halftone/kernels/gemm/gemm32.h"
#include "halftone/kernels/gemm/gemm_half.h"
#include "halftone/system/paths.h"
#include "halftone/system/processor.h"

namespace halftone {
namespace {

using torch::ScalarType;
using torch::Tensor;

constexpr std::int64_t kTokens = 128;
constexpr std::int64_t kIn = 512;
constexpr std::int64_t kOut = 704;
constexpr int kRounds = 8;
constexpr std::size_t kProducts = 8;  // that measure() times, of both dtypes
/// How much faster the native way must be to replace the other: wide enough that two runs on a busy
/// machine agree.
constexpr double kNativeGain = 1.25;
/// Of a small problem, which takes so little time that an empty cache shows in it.
constexpr int kSmallRounds = 8;
/// A way this much slower on a small problem is not tried on the real one. There the native way has
/// been seen 4.5 times slower, by what it does before each matmul, that was twice as fast on the
/// real one.
constexpr double kHopeless = 6.0;
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

Tensor filled(const std::vector<std::int64_t>& shape, ScalarType dtype) {
  const std::int64_t count = c10::multiply_integers(shape);
  return at::arange(count, torch::kFloat).mul_(0.37).sin_().view(shape).to(dtype);
}

struct Operands {
  Tensor a;
  Tensor b;
  ScalarType out;
};

std::array<Operands, 3> directions_of(ScalarType dtype, std::int64_t shrink,
                                      std::int64_t tokens = kTokens) {
  const Tensor x = filled({tokens / shrink, kIn / shrink}, dtype);
  const Tensor w = filled({kOut / shrink, kIn / shrink}, dtype);
  const Tensor g = filled({tokens / shrink, kOut / shrink}, dtype);
  return {{{x, w.t(), dtype}, {g, w, dtype}, {g.t(), x, torch::kFloat}}};
}

using Work = std::function<void(GemmBackend)>;

/// Best time of each of two ways, rounds interleaved so that a disturbance meets both.
template <class Way>
std::array<double, 2> best_times(const std::function<void(Way)>& work, int rounds) {
  std::array<double, 2> best{};
  best.fill(std::numeric_limits<double>::infinity());
  for (int round = 0; round <= rounds; ++round) {
    for (std::size_t i = 0; i < best.size(); ++i) {
      const double time = seconds_of([&] { work(static_cast<Way>(i)); });
      if (round > 0) best[i] = std::min(best[i], time);  // round 0 builds the kernels
    }
  }
  return best;
}

constexpr double kMilliseconds = 1e3;

MatmulTiming time_ways(const Work& small, const Work& real) {
  constexpr auto kNative = static_cast<std::size_t>(GemmBackend::kNative);
  constexpr auto kUpcast = static_cast<std::size_t>(GemmBackend::kUpcast);
  const auto timing = [](const std::array<double, 2>& seconds, bool is_small) {
    return MatmulTiming{.native_ms = kMilliseconds * seconds[kNative],
                        .upcast_ms = kMilliseconds * seconds[kUpcast],
                        .small = is_small};
  };
  const std::array<double, 2> first = best_times(small, kSmallRounds);
  if (first[kNative] > kHopeless * first[kUpcast]) return timing(first, true);
  return timing(best_times(real, kRounds), false);
}

GemmBackend faster_way(const MatmulTiming& timing) {
  return timing.native_ms * kNativeGain < timing.upcast_ms ? GemmBackend::kNative
                                                           : GemmBackend::kUpcast;
}

MatmulTiming time_gemm(const Operands& small, const Operands& real, GemmLibrary fp32) {
  const auto work = [fp32](const Operands& operands) {
    return [operands, fp32](GemmBackend path) {
      gemm_half(operands.a, operands.b, operands.out, path, fp32);
    };
  };
  return time_ways(work(small), work(real));
}

Work attention_work(ScalarType dtype, std::int64_t steps) {
  const std::array<Tensor, 4> inputs{
      filled({1, 8, steps, 64}, dtype), filled({1, 8, steps, 64}, dtype),
      filled({1, 8, steps, 64}, dtype), filled({1, 8, steps, 64}, dtype)};
  return [inputs, dtype](GemmBackend path) {
    const ScalarType inner = path == GemmBackend::kNative ? dtype : torch::kFloat;
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

LibraryTiming time_libraries() {
  // The libraries differ by a tenth, which takes larger matmuls to show above the noise.
  const auto directions = directions_of(torch::kFloat, 1, 4 * kTokens);
  std::vector<Tensor> results;
  results.reserve(directions.size());
  for (const Operands& operands : directions)
    results.push_back(at::empty({operands.a.size(0), operands.b.size(1)}, torch::kFloat));
  const std::function<void(GemmLibrary)> work = [&](GemmLibrary library) {
    if (library == GemmLibrary::kOneDnn && !has_onednn_gemm32()) return;
    for (std::size_t i = 0; i < directions.size(); ++i)
      gemm32_out(results[i], directions[i].a, directions[i].b, library);
  };
  const std::array<double, 2> seconds = best_times(work, kRounds);
  const double onednn = seconds[static_cast<std::size_t>(GemmLibrary::kOneDnn)];
  return {.blas_ms = kMilliseconds * seconds[static_cast<std::size_t>(GemmLibrary::kBlas)],
          .onednn_ms = has_onednn_gemm32() ? kMilliseconds * onednn : 0.0};
}

GemmLibrary faster_library(const LibraryTiming& timing) {
  const bool onednn = timing.onednn_ms > 0.0 && timing.onednn_ms < timing.blas_ms;
  return onednn ? GemmLibrary::kOneDnn : GemmLibrary::kBlas;
}

GemmBackends measure(ScalarType dtype, GemmLibrary fp32, std::vector<MatmulTiming>& timings) {
  const auto small = directions_of(dtype, 4);
  const auto real = directions_of(dtype, 1);
  const auto faster = [&](const char* direction, MatmulTiming timing) {
    timing.product = fmt::format("{}.{}", dtype_name(dtype), direction);
    timings.push_back(std::move(timing));
    return faster_way(timings.back());
  };
  GemmBackends paths{
      .forward = faster("forward", time_gemm(small[0], real[0], fp32)),
      .input_gradient = faster("input_gradient", time_gemm(small[1], real[1], fp32)),
      .weight_gradient = faster("weight_gradient", time_gemm(small[2], real[2], fp32))};
  if (has_native_attention(dtype))
    paths.attention =
        faster("attention", time_ways(attention_work(dtype, 32), attention_work(dtype, 128)));
  // A convolution goes the way of the matmul that it amounts to: the same instructions decide. It
  // is not measured, because oneDNN's gradient by the weight waits for threads that a measurement
  // on one thread does not have.
  paths.convolution = paths.forward;
  paths.convolution_input_gradient = paths.input_gradient;
  paths.convolution_weight_gradient = paths.weight_gradient;
  return paths;
}

std::string conditions() {
  std::string text = fmt::format("{}; {}; LibTorch {}; {} threads", this_processor().signature,
                                 at::get_cpu_capability(), TORCH_VERSION, at::get_num_threads());
  for (const char* name : {"ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA",
                           "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR", "MKL_DEBUG_CPU_TYPE"}) {
    const char* value = std::getenv(name);
    if (value != nullptr) text += fmt::format("; {}={}", name, value);
  }
  return text;
}

// An empty object where there is no record, or a bad one. system/json_reader_impl.h has limits,
// too, but needs libraries that libhalftone_cpu_gemm must do without.
nlohmann::json read_record() {
  constexpr std::size_t kMostBytes = std::size_t{1} << 20U;
  constexpr int kMostDepth = 8;  // what is nested deeper is left out: dump() recurses
  std::ifstream file(matmul_record_path());
  std::string text(kMostBytes + 1, '\0');
  file.read(text.data(), std::ssize(text));
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > kMostBytes) return nlohmann::json::object();
  const auto is_near = [](int depth, nlohmann::json::parse_event_t, const nlohmann::json&) {
    return depth < kMostDepth;
  };
  nlohmann::json record = nlohmann::json::parse(text, is_near, /*allow_exceptions=*/false);
  return record.is_object() ? record : nlohmann::json::object();
}

/// A choice stands under its conditions, as text, and the times that led to it under this.
std::string timings_key(const std::string& key) { return key + "; times"; }
std::string libraries_key(const std::string& key) { return key + "; fp32 times"; }

std::optional<MatmulMeasurement> recorded(const std::string& key) {
  const nlohmann::json record = read_record();
  try {
    const nlohmann::json& libraries = record.at(libraries_key(key));
    MatmulMeasurement known{
        .choice = parse_cpu_gemm_config(record.at(key).get<std::string>()),
        .fp32 = {.blas_ms = libraries.at("blas_ms"), .onednn_ms = libraries.at("onednn_ms")},
        .recorded = true};
    for (const nlohmann::json& timing : record.at(timings_key(key)))
      known.timings.push_back({.product = timing.at("product"),
                               .native_ms = timing.at("native_ms"),
                               .upcast_ms = timing.at("upcast_ms"),
                               .small = timing.at("small")});
    // A record that lacks matmuls is measured again.
    if (known.timings.size() != kProducts) return std::nullopt;
    return known;
  } catch (const UserError&) {
    return std::nullopt;
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

void write_record(const std::string& key, const MatmulMeasurement& measurement) {
  const std::filesystem::path path = matmul_record_path();
  std::error_code error;
  std::filesystem::create_directories(path.parent_path(), error);
  nlohmann::json timings = nlohmann::json::array();
  for (const MatmulTiming& timing : measurement.timings)
    timings.push_back({{"product", timing.product},
                       {"native_ms", timing.native_ms},
                       {"upcast_ms", timing.upcast_ms},
                       {"small", timing.small}});
  nlohmann::json record = read_record();
  record[key] = to_string(measurement.choice);
  record[timings_key(key)] = std::move(timings);
  record[libraries_key(key)] = {{"blas_ms", measurement.fp32.blas_ms},
                                {"onednn_ms", measurement.fp32.onednn_ms}};
  const std::filesystem::path temporary = path.string() + fmt::format(".{}", getpid());
  std::ofstream(temporary) << record.dump(2) << '\n';
  std::filesystem::rename(temporary, path, error);
  if (error) std::filesystem::remove(temporary, error);
}

}  // namespace

std::filesystem::path matmul_record_path() { return cache_folder() / "matmul.json"; }

MatmulMeasurement measure_matmul_paths() {
  const torch::NoGradGuard no_grad;
  const OriginalCpuGemms original;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  MatmulMeasurement measurement;
  // Inside a parallel region every library works on the calling thread alone, whose processor time
  // tells the ways apart even where other programs use the machine. The other thread only waits.
#pragma omp parallel num_threads(2)
  {
#pragma omp master
    {
      measurement.fp32 = time_libraries();
      const GemmLibrary fp32 = faster_library(measurement.fp32);
      measurement.choice = {.bf16 = measure(torch::kBFloat16, fp32, measurement.timings),
                            .fp16 = measure(torch::kHalf, fp32, measurement.timings),
                            .fp32 = fp32};
    }
  }
  return measurement;
}

MatmulMeasurement measured_cpu_gemm_config(MatmulRecord record) {
  const std::string key = conditions();
  if (record == MatmulRecord::kUse)
    if (std::optional<MatmulMeasurement> known = recorded(key)) return *std::move(known);
  MatmulMeasurement measurement = measure_matmul_paths();
  write_record(key, measurement);
  return measurement;
}

}  // namespace halftone
