// SPDX-License-Identifier: Apache-2.0
#include "cli/doctor_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/utils.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "cli/doctor_text.h"
#include "cli/program.h"
#include "cli/progress.h"
#include "halftone/core/device.h"
#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/kernels/gemm/compute_type.h"
#include "halftone/machine/doctor.h"

namespace halftone::cli {
namespace {

struct DoctorArguments {
  bool json = false;
  bool remeasure = false;
  bool quick = false;
  std::optional<std::int64_t> threads;
};

const char* name_of(MatmulSource source) {
  switch (source) {
    case MatmulSource::kEnvironment:
      return "environment";
    case MatmulSource::kRecord:
      return "record";
    case MatmulSource::kMeasuredNow:
      return "measurement";
  }
  return "";
}

std::string explanation(const DoctorReport& report) {
  const std::string record = matmul_record_path().string();
  switch (report.matmul_source) {
    case MatmulSource::kEnvironment:
      return "set by HALFTONE_MATMUL in the environment; unset it to go by the times";
    case MatmulSource::kRecord:
      return fmt::format(
          "from {}; --remeasure measures again,\n  HALFTONE_MATMUL=upcast (or native, or "
          "bf16.forward=native,...) overrides it",
          record);
    case MatmulSource::kMeasuredNow:
      return fmt::format(
          "measured now, kept in {};\n  HALFTONE_MATMUL=upcast (or native, or "
          "bf16.forward=native,...) overrides it",
          record);
  }
  return "";
}

GemmBackend chosen_way(const DoctorReport& report, const std::string& product) {
  const bool is_native =
      parse_cpu_gemm_config(product + "=native", report.matmuls) == report.matmuls;
  return is_native ? GemmBackend::kNative : GemmBackend::kUpcast;
}

std::string capability_text(int capability) {
  return fmt::format("{}.{}", capability / 10, capability % 10);
}

std::string machine_text(const DoctorReport& report) {
  const Processor& processor = report.processor;
  std::string text = fmt::format(
      "processor  {}, {}, {}\n           {}\n", processor.name.empty() ? "unknown" : processor.name,
      counted(static_cast<std::uint64_t>(processor.cores), "core", "cores"),
      counted(static_cast<std::uint64_t>(processor.threads), "hardware thread", "hardware threads"),
      processor.instruction_sets.empty()
          ? "no known instruction sets"
          : fmt::format("{}", fmt::join(processor.instruction_sets, " ")));
  text += fmt::format("memory     {} free of {}\n", format_bytes(report.memory.available_bytes),
                      format_bytes(report.memory.total_bytes));
  text += fmt::format("cache      {}, {} free\n", report.cache.string(),
                      format_bytes(report.cache_free_bytes));
  text += fmt::format("software   LibTorch {} ({}), own kernels {}, {}\n", report.libtorch_version,
                      report.libtorch_capability, report.kernel_target,
                      counted(static_cast<std::uint64_t>(report.threads), "thread", "threads"));
  for (const int capability : report.cuda_capabilities)
    text += fmt::format("GPU        compute capability {}\n", capability_text(capability));
  if (!built_with_cuda()) text += "GPU        none: built without CUDA\n";
  return text;
}

std::string speed_text(const DoctorReport& report) {
  std::string text = fmt::format(
      "\nspeed      {:.0f} GFLOP/s fp32 multiply-adds at most, {:.1f} GB/s of memory\n\n"
      "one layer's matmuls, forward and backward (1024 x 512 x 1408)\n"
      "  {:<13} {:>9} {:>9} {:>9} {:>14}\n",
      report.peak_fp32_gflops, report.triad_bytes_per_s / 1e9, "precision", "time", "to fp32",
      "GFLOP/s", "of fp32 peak");
  for (const LayerSpeed& layer : report.layers)
    text += fmt::format("  {:<13} {:>6.1f} ms {:>8.2f}x {:>9.0f} {:>13.0f}%\n",
                        fp32_weights_precision(layer.compute), 1e3 * layer.seconds,
                        layer.seconds / report.layers.front().seconds, layer.gflops,
                        100 * layer.gflops / report.peak_fp32_gflops);
  return text;
}

std::string matmul_text(const DoctorReport& report) {
  std::string text =
      fmt::format("\nways of 16-bit matmuls, on one thread\n  {:<32} {:>10} {:>10}   {}\n",
                  "product", "native", "upcast", "taken");
  for (const MatmulTiming& timing : report.matmul_timings)
    text +=
        fmt::format("  {:<32} {:>7.2f} ms {:>7.2f} ms   {}{}\n", timing.product, timing.native_ms,
                    timing.upcast_ms, to_string(chosen_way(report, timing.product)),
                    timing.small ? " (times of a small problem)" : "");
  const LibraryTiming& fp32 = report.fp32_timing;
  text += fmt::format(
      "\nlibraries for fp32 matmuls, on one thread: BLAS {:.2f} ms, oneDNN {}; taken: {}\n",
      fp32.blas_ms,
      fp32.onednn_ms > 0 ? fmt::format("{:.2f} ms", fp32.onednn_ms) : "does not run here",
      to_string(report.matmuls.fp32));
  return text + "  " + explanation(report) + "\n";
}

std::string text_of(const DoctorReport& report) {
  return machine_text(report) + speed_text(report) + costs_text(report) + matmul_text(report) +
         crossings_text(report) + findings_text(report.findings) +
         fmt::format(
             "\nrecommended on this CPU: --precision {}\n  {};\n  'halftone bench --data "
             "PATH' measures whole steps, and what each precision does to the loss\n",
             report.recommendation.precision, report.recommendation.reason);
}

std::string json_of(const DoctorReport& report) {
  using nlohmann::ordered_json;
  ordered_json gpus = ordered_json::array();
  for (const int capability : report.cuda_capabilities)
    gpus.push_back({{"compute_capability", capability_text(capability)}});
  ordered_json layers = ordered_json::array();
  for (const LayerSpeed& layer : report.layers)
    layers.push_back({{"precision", fp32_weights_precision(layer.compute)},
                      {"layer_ms", 1e3 * layer.seconds},
                      {"gflops", layer.gflops}});
  ordered_json products = ordered_json::array();
  for (const MatmulTiming& timing : report.matmul_timings)
    products.push_back({{"product", timing.product},
                        {"native_ms", timing.native_ms},
                        {"upcast_ms", timing.upcast_ms},
                        {"small_problem", timing.small},
                        {"taken", to_string(chosen_way(report, timing.product))}});
  ordered_json fp32 = {{"blas_ms", report.fp32_timing.blas_ms},
                       {"onednn_ms", nullptr},
                       {"taken", to_string(report.matmuls.fp32)}};
  if (report.fp32_timing.onednn_ms > 0) fp32["onednn_ms"] = report.fp32_timing.onednn_ms;
  const ordered_json document = {
      {"halftone", HALFTONE_VERSION},
      {"libtorch", report.libtorch_version},
      {"processor",
       {{"name", report.processor.name},
        {"cores", report.processor.cores},
        {"threads", report.processor.threads},
        {"instruction_sets", report.processor.instruction_sets}}},
      {"memory",
       {{"total_bytes", report.memory.total_bytes},
        {"available_bytes", report.memory.available_bytes}}},
      {"cache", {{"folder", report.cache.string()}, {"free_bytes", report.cache_free_bytes}}},
      {"built_with_cuda", built_with_cuda()},
      {"gpus", std::move(gpus)},
      {"dispatch", {{"libtorch", report.libtorch_capability}, {"halftone", report.kernel_target}}},
      {"threads", report.threads},
      {"speed",
       {{"peak_fp32_gflops", report.peak_fp32_gflops},
        {"memory_bytes_per_s", report.triad_bytes_per_s},
        {"layers", std::move(layers)}}},
      {"matmuls",
       {{"choice", to_string(report.matmuls)},
        {"decided_by", name_of(report.matmul_source)},
        {"record", matmul_record_path().string()},
        {"products", std::move(products)},
        {"fp32", std::move(fp32)}}},
      {"threads_measured", threads_json(report)},
      {"memory_costs", memory_costs_json(report)},
      {"crossings", crossings_json(report)},
      {"findings", findings_json(report.findings)},
      {"recommended",
       {{"precision", report.recommendation.precision}, {"reason", report.recommendation.reason}}}};
  return document.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

void run_doctor(const DoctorArguments& arguments) {
  if (arguments.threads) {
    constexpr std::int64_t kMost = 1024;
    if (*arguments.threads < 1 || *arguments.threads > kMost)
      throw UserError(
          fmt::format("--threads: expected 1 to {}, got {}", kMost, *arguments.threads));
    torch::set_num_threads(static_cast<int>(*arguments.threads));
  }
  StageProgress progress;
  const DoctorReport report =
      examine_machine({.record = arguments.remeasure ? MatmulRecord::kReplace : MatmulRecord::kUse,
                       .crossings = !arguments.quick,
                       .progress = [&](const std::string& stage, double share) {
                         progress.show("measuring " + stage, share);
                       }});
  progress.clear();
  print(arguments.json ? json_of(report) : text_of(report));
}

}  // namespace

void add_doctor_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "doctor",
      "Measure what this machine can do, what costs most on it, and which precision suits it");
  auto arguments = std::make_shared<DoctorArguments>();
  command->add_flag("--json", arguments->json, "One JSON document on stdout");
  command->add_flag("--remeasure", arguments->remeasure,
                    "Measure the ways of 16-bit matmuls again, and keep what comes out");
  command->add_flag("--quick", arguments->quick,
                    "Leave out from which width and how many rows mixed precision pays");
  command->add_option("--threads", arguments->threads, "Threads to measure with [LibTorch's own]")
      ->type_name("N");
  command->footer(
      "Examples:\n"
      "  halftone doctor\n"
      "  halftone doctor --quick\n"
      "  halftone doctor --remeasure --threads 4\n"
      "\n"
      "Takes about six seconds, with --quick two; other programs that compute meanwhile lower "
      "every figure.");
  command->callback([arguments] { run_doctor(*arguments); });
}

}  // namespace halftone::cli
