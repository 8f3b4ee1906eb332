// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/profile/profile_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "halftone/core/dtype.h"
#include "halftone/core/text.h"
#include "halftone/diagnostics/profile/profile_tables.h"

namespace halftone {
namespace {

/// Less of a step than this is not worth a line.
constexpr double kLeastShare = 0.002;

std::string shortened(const std::string& text, std::size_t width) {
  return text.size() <= width ? text : text.substr(0, width - 1) + "~";
}

/// Ours without their namespace.
std::string plain_operation(const std::string& operation, std::size_t width) {
  constexpr std::string_view kOurs = "halftone::";
  const bool ours = operation.starts_with(kOurs);
  return shortened(ours ? operation.substr(kOurs.size()) : operation, width);
}

std::string percent(double part, double whole) {
  return whole > 0 ? fmt::format("{:.1f}%", 100 * part / whole) : "";
}

std::string milliseconds(double seconds) { return fmt::format("{:.2f}", 1e3 * seconds); }

const char* phase_word(StepPhase phase) {
  switch (phase) {
    case StepPhase::kForward:
      return "fwd";
    case StepPhase::kRecompute:
      return "re";
    case StepPhase::kBackward:
      return "bwd";
    case StepPhase::kUpdate:
      return "upd";
  }
  return "";
}

/// "wq" of "layers.0.wq"; of a place in a list with the list, "layers.*".
std::string last_name(const std::string& module) {
  if (module.empty()) return "(all)";
  const std::size_t dot = module.rfind('.');
  if (dot == std::string::npos) return module;
  const bool is_place =
      module[dot + 1] == '*' || std::isdigit(static_cast<unsigned char>(module[dot + 1])) != 0;
  const std::size_t list = is_place && dot > 0 ? module.rfind('.', dot - 1) : dot;
  return list == std::string::npos ? module : module.substr(list + 1);
}

std::string module_or_root(const std::string& module) { return module.empty() ? "(root)" : module; }

class ProfileText {
 public:
  ProfileText(const StepProfile& profile, const ProfileTextOptions& options)
      : profile_(profile), options_(options) {}

  std::string write() {
    summary();
    operations();
    modules();
    fp32();
    tensors();
    tensor_cores();
    return std::move(text_);
  }

 private:
  template <class... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    const std::string written = fmt::format(format, std::forward<Args>(args)...);
    const std::size_t end = written.find_last_not_of(' ');
    text_ += written.substr(0, end == std::string::npos ? 0 : end + 1) + "\n";
  }

  std::size_t most(std::size_t rows) const {
    return options_.all ? static_cast<std::size_t>(-1) : rows;
  }
  double step() const { return profile_.recorded_s; }

  void summary() {
    const auto [fastest, slowest] =
        std::minmax_element(profile_.step_s.begin(), profile_.step_s.end());
    line("step       {:.2f} ms unobserved: the median of {} ({:.2f} to {:.2f})",
         1e3 * typical_step_s(profile_), profile_.step_s.size(), 1e3 * *fastest, 1e3 * *slowest);
    line(
        "recorded   {:.2f} ms, {:+.1f}% beside unobserved; the {:.2f} ms that recording took are "
        "not in it",
        1e3 * step(), 100 * observer_share(profile_), 1e3 * profile_.watching_s);
    std::string phases =
        fmt::format("forward {}, backward {}, ", percent(profile_.forward_s, step()),
                    percent(profile_.backward_s, step()));
    if (profile_.recompute_s > 0)
      phases += fmt::format("recomputed {}, ", percent(profile_.recompute_s, step()));
    line("time       {}update {}; {} in no operation", phases, percent(profile_.update_s, step()),
         percent(profile_.outside_s, step()));
    if (!profile_.stepped)
      line("           gradients overflow at every loss scale: the optimizer did nothing");
    matmuls();
    casts();
  }

  void matmuls() {
    const double seconds = matmul_s(profile_), flops = flops_of(profile_);
    if (flops <= 0) return;
    line("matmuls    {} of the step, {:.1f} GFLOP at {:.0f} GFLOP/s; the whole step {:.0f} GFLOP/s",
         percent(seconds, step()), 1e-9 * flops, 1e-9 * flops / seconds, 1e-9 * flops / step());
    std::string peaks;
    for (const auto& [dtype, rate] : profile_.peaks.flops_per_s)
      peaks += fmt::format("{}{} {:.0f} GFLOP/s", peaks.empty() ? "" : ", ", word_of(dtype),
                           1e-9 * rate);
    if (!peaks.empty())
      line("peaks      {}, memory {:.1f} GB/s: measured now", peaks,
           1e-9 * profile_.peaks.bytes_per_s);
  }

  static std::string word_of(torch::ScalarType dtype) {
    return dtype == torch::kChar ? "int8" : dtype_name(dtype);
  }

  void casts() {
    double calls = 0, seconds = 0, bytes = 0;
    for (const OperationCost& one : profile_.operations)
      if (one.is_cast) {
        calls += one.calls;
        seconds += one.self_s;
        bytes += one.bytes;
      }
    if (calls > 0)
      line("casts      {} of the step, {:.2f} ms, {} moved", percent(seconds, step()),
           1e3 * seconds, format_bytes(static_cast<std::uint64_t>(bytes)));
  }

  void operations() {
    line("\n{:<28} {:<3} {:<14} {:>6} {:>8} {:>6} {:>8} {:>7} {:>5} {:>6}", "operation", "in",
         "dtypes", "calls", "self ms", "share", "total", "GFLOP/s", "peak", "GB/s");
    std::size_t rows = 0;
    double left_out = 0;
    for (const OperationCost& one : by_operation(profile_)) {
      if (rows >= most(options_.rows) || (!options_.all && one.self_s < kLeastShare * step())) {
        left_out += one.self_s;
        continue;
      }
      ++rows;
      operation(one);
    }
    if (left_out > 0)
      line("{:<28} {:<3} {:<14} {:>6} {:>8} {:>6}", "(others: --all)", "", "", "",
           milliseconds(left_out), percent(left_out, step()));
    line("{:<28} {:<3} {:<14} {:>6} {:>8} {:>6}", "(in no operation)", "", "", "",
         milliseconds(profile_.outside_s), percent(profile_.outside_s, step()));
  }

  void operation(const OperationCost& one) {
    const bool multiplies = one.flops > 0 && one.self_s > 0;
    const double share = peak_share(one, profile_.peaks);
    const std::string dtypes =
        one.inputs.empty() && one.outputs.empty() ? "" : one.inputs + ">" + one.outputs;
    line("{:<28} {:<3} {:<14} {:>6.0f} {:>8} {:>6} {:>8} {:>7} {:>5} {:>6}",
         plain_operation(one.operation, 28), phase_word(one.phase), shortened(dtypes, 14),
         one.calls, milliseconds(one.self_s), percent(one.self_s, step()),
         milliseconds(one.total_s),
         multiplies ? fmt::format("{:.0f}", 1e-9 * one.flops / one.self_s) : "",
         share > 0 ? fmt::format("{:.0f}%", 100 * share) : "",
         one.bytes > 0 && one.self_s > 0 ? fmt::format("{:.1f}", 1e-9 * one.bytes / one.self_s)
                                         : "");
  }

  void modules() {
    const std::vector<ModuleCost> tree = by_module(profile_, !options_.all);
    if (tree.size() < 2) return;
    line("\n{:<36} {:>8} {:>6} {:>8} {:>8} {:>8} {:>8} {:>7}", "module", "ms", "share", "forward",
         "backward", "casts", "in fp32", "GFLOP/s");
    for (const ModuleCost& one : tree) {
      if (!options_.all && one.total_s < kLeastShare * step()) continue;
      line("{:<36} {:>8} {:>6} {:>8} {:>8} {:>8} {:>8} {:>7}",
           shortened(std::string(2 * one.depth, ' ') + last_name(one.module), 36),
           milliseconds(one.total_s), percent(one.total_s, step()), milliseconds(one.forward_s),
           milliseconds(one.backward_s), one.cast_s > 0 ? milliseconds(one.cast_s) : "",
           one.fp32_s > 0 ? milliseconds(one.fp32_s) : "",
           one.flops > 0 ? fmt::format("{:.0f}", 1e-9 * one.flops / one.total_s) : "");
    }
  }

  /// Reasons, the costliest first, each with the operations that have it.
  void fp32() {
    const std::vector<Fp32Cost> all = fp32_operations(profile_);
    if (all.empty()) return;
    std::map<std::string, double> by_reason;
    double seconds = 0;
    for (const Fp32Cost& one : all) {
      by_reason[one.reason] += one.self_s;
      seconds += one.self_s;
    }
    line("\nin fp32 under {}: {} of the step", profile_.precision, percent(seconds, step()));
    std::vector<std::pair<std::string, double>> reasons(by_reason.begin(), by_reason.end());
    std::stable_sort(reasons.begin(), reasons.end(),
                     [](const auto& a, const auto& b) { return a.second > b.second; });
    for (const auto& [reason, cost] : reasons)
      if (options_.all || cost >= kLeastShare * step()) fp32_reason(all, reason, cost);
  }

  void fp32_reason(const std::vector<Fp32Cost>& all, const std::string& reason, double cost) {
    constexpr std::size_t kRows = 3;
    line("{:>8} ms {:>6}  {}", milliseconds(cost), percent(cost, step()), reason);
    std::size_t rows = 0;
    for (const Fp32Cost& one : all) {
      if (one.reason != reason || ++rows > most(kRows)) continue;
      line("{:>20} ms {:<3} {:<28} {}", milliseconds(one.self_s), phase_word(one.phase),
           plain_operation(one.operation, 28), shortened(module_or_root(one.module), 40));
    }
  }

  /// Kinds, the largest first, each with its remedy and its places.
  void tensors() {
    const std::vector<Fp32Tensors> all = merged_fp32_tensors(profile_);
    std::map<MemoryKind, double> by_kind;
    for (const Fp32Tensors& one : all) by_kind[one.kind] += one.bytes;
    if (by_kind.empty()) return;
    line("\nfp32 in memory ({} of all dtypes wait for the backward pass)",
         bytes_text(profile_.activation_bytes));
    std::vector<std::pair<MemoryKind, double>> kinds(by_kind.begin(), by_kind.end());
    std::stable_sort(kinds.begin(), kinds.end(),
                     [](const auto& a, const auto& b) { return a.second > b.second; });
    for (const auto& [kind, bytes] : kinds) tensors_of(all, kind, bytes);
  }

  void tensors_of(const std::vector<Fp32Tensors>& all, MemoryKind kind, double bytes) {
    constexpr std::size_t kRows = 3;
    const auto is_one = [&](const Fp32Tensors& one) { return one.kind == kind; };
    line("{:>11} {}: {}", bytes_text(bytes), to_string(kind),
         std::find_if(all.begin(), all.end(), is_one)->remedy);
    std::size_t rows = 0;
    for (const Fp32Tensors& one : all) {
      if (!is_one(one) || (one.module.empty() && one.operation.empty())) continue;
      if (++rows > most(kRows)) break;
      line("{:>23} {}{}", bytes_text(one.bytes), shortened(module_or_root(one.module), 40),
           one.operation.empty() ? "" : ": " + plain_operation(one.operation, 32));
    }
  }

  static std::string bytes_text(double bytes) {
    return format_bytes(static_cast<std::uint64_t>(bytes));
  }

  void tensor_cores() {
    constexpr std::size_t kRows = 8;
    const std::vector<ShapeUse> all = matmul_shapes(profile_);
    const auto eligible = std::count_if(all.begin(), all.end(),
                                        [](const ShapeUse& use) { return use.remedy.empty(); });
    if (all.empty()) return;
    line(
        "\nTensor Cores, by shape and dtype alone (no GPU was asked): {} of {} matmul shapes are "
        "eligible",
        eligible, all.size());
    std::size_t rows = 0;
    for (const ShapeUse& use : all) {
      if (use.remedy.empty() || ++rows > most(kRows)) continue;
      line("  {:<32} {:<26} {}", to_string(use.shape), shortened(module_or_root(use.module), 26),
           use.remedy);
    }
    if (rows > most(kRows)) line("  and {} more: --all", rows - kRows);
  }

  const StepProfile& profile_;
  const ProfileTextOptions& options_;
  std::string text_;
};

}  // namespace

std::string to_text(const StepProfile& profile, const ProfileTextOptions& options) {
  return ProfileText(profile, options).write();
}

}  // namespace halftone
