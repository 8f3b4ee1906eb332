// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/profile/profile_tables.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <tuple>
#include <utility>

#include "halftone/diagnostics/profile/module_ranges_impl.h"
#include "halftone/inspect/site.h"

namespace halftone {
namespace {

template <class Row, class Member>
void sort_by(std::vector<Row>& rows, Member member) {
  std::stable_sort(rows.begin(), rows.end(),
                   [&](const Row& a, const Row& b) { return a.*member > b.*member; });
}

void add_costs(OperationCost& sum, const OperationCost& one) {
  sum.calls += one.calls;
  sum.self_s += one.self_s;
  sum.total_s += one.total_s;
  sum.flops += one.flops;
  sum.bytes += one.bytes;
  if (sum.fp32_reason.empty()) sum.fp32_reason = one.fp32_reason;
  for (const MatmulShape& shape : one.matmuls)
    if (std::find(sum.matmuls.begin(), sum.matmuls.end(), shape) == sum.matmuls.end())
      sum.matmuls.push_back(shape);
}

void add_costs(ModuleCost& sum, const OperationCost& one) {
  sum.calls += one.calls;
  sum.total_s += one.self_s;
  sum.flops += one.flops;
  sum.bytes += one.bytes;
  if (one.is_cast) sum.cast_s += one.self_s;
  if (!one.fp32_reason.empty()) sum.fp32_s += one.self_s;
  switch (one.phase) {
    case StepPhase::kForward:
      sum.forward_s += one.self_s;
      break;
    case StepPhase::kRecompute:
    case StepPhase::kBackward:
      sum.backward_s += one.self_s;
      break;
    case StepPhase::kUpdate:
      sum.update_s += one.self_s;
      break;
  }
}

using ModuleRows = std::map<std::string, ModuleCost>;
using Children = std::map<std::string, std::vector<std::string>>;

void add_tree(const std::string& path, const ModuleRows& rows, const Children& children,
              std::vector<ModuleCost>& tree) {
  tree.push_back(rows.at(path));
  const auto below = children.find(path);
  if (below == children.end()) return;
  std::vector<std::string> sorted = below->second;
  std::stable_sort(sorted.begin(), sorted.end(), [&](const std::string& a, const std::string& b) {
    return rows.at(a).total_s > rows.at(b).total_s;
  });
  for (const std::string& child : sorted) add_tree(child, rows, children, tree);
}

/// "a.*.b" has the levels "a.*" and "a.*.b".
std::vector<std::string> levels_of(const std::string& path) {
  std::vector<std::string> levels{""};
  for (std::string& level : module_levels(path)) levels.push_back(std::move(level));
  return levels;
}

}  // namespace

std::vector<OperationCost> by_operation(const StepProfile& profile) {
  std::map<std::tuple<std::string, StepPhase, std::string, std::string>, OperationCost> rows;
  for (const OperationCost& one : profile.operations) {
    const auto [row, is_new] =
        rows.try_emplace({one.operation, one.phase, one.inputs, one.outputs}, one);
    if (is_new)
      row->second.module.clear();
    else
      add_costs(row->second, one);
  }
  std::vector<OperationCost> all;
  for (auto& [key, row] : rows) all.push_back(std::move(row));
  sort_by(all, &OperationCost::self_s);
  return all;
}

std::vector<ModuleCost> by_module(const StepProfile& profile, bool merges_places) {
  ModuleRows rows;
  Children children;
  for (const OperationCost& one : profile.operations) {
    const std::vector<std::string> levels = levels_of(one.module);
    std::string parent;
    for (std::size_t depth = 0; depth < levels.size(); ++depth) {
      const std::string name = merges_places ? without_places(levels[depth]) : levels[depth];
      const auto [row, is_new] = rows.try_emplace(name);
      if (is_new) {
        row->second.module = name;
        row->second.depth = depth;
        if (depth > 0) children[parent].push_back(name);
      }
      add_costs(row->second, one);
      if (depth + 1 == levels.size()) row->second.self_s += one.self_s;
      parent = name;
    }
  }
  std::vector<ModuleCost> tree;
  if (!rows.empty()) add_tree("", rows, children, tree);
  return tree;
}

std::vector<Fp32Cost> fp32_operations(const StepProfile& profile) {
  std::map<std::tuple<std::string, std::string, std::string, StepPhase>, Fp32Cost> rows;
  for (const OperationCost& one : profile.operations) {
    if (one.fp32_reason.empty()) continue;
    const std::string module = without_places(one.module);
    Fp32Cost& row = rows[{one.fp32_reason, module, one.operation, one.phase}];
    row.reason = one.fp32_reason;
    row.module = module;
    row.operation = one.operation;
    row.phase = one.phase;
    row.calls += one.calls;
    row.self_s += one.self_s;
  }
  std::vector<Fp32Cost> all;
  for (auto& [key, row] : rows) all.push_back(std::move(row));
  sort_by(all, &Fp32Cost::self_s);
  return all;
}

std::vector<ShapeUse> matmul_shapes(const StepProfile& profile) {
  std::map<MatmulShape, ShapeUse> uses;
  for (const OperationCost& one : profile.operations)
    for (const MatmulShape& shape : one.matmuls) {
      MatmulShape wanted = shape;
      if (one.is_upcast) wanted.dtype = profile.compute_dtype;
      const auto [use, is_new] = uses.try_emplace(wanted);
      if (is_new)
        use->second = {.shape = wanted,
                       .module = without_places(one.module),
                       .operation = one.operation,
                       .remedy = tensor_core_remedy(wanted)};
      use->second.flops += one.flops / static_cast<double>(one.matmuls.size());
    }
  std::vector<ShapeUse> all;
  for (auto& [shape, use] : uses) all.push_back(std::move(use));
  sort_by(all, &ShapeUse::flops);
  return all;
}

std::vector<Fp32Tensors> merged_fp32_tensors(const StepProfile& profile) {
  std::map<std::tuple<MemoryKind, std::string, std::string>, Fp32Tensors> rows;
  for (const Fp32Tensors& one : profile.fp32_tensors) {
    const std::string module = without_places(one.module);
    const auto [row, is_new] = rows.try_emplace({one.kind, module, one.operation}, one);
    row->second.module = module;
    if (!is_new) row->second.bytes += one.bytes;
  }
  std::vector<Fp32Tensors> all;
  for (auto& [key, row] : rows) all.push_back(std::move(row));
  sort_by(all, &Fp32Tensors::bytes);
  return all;
}

double cast_s(const StepProfile& profile) {
  double sum = 0;
  for (const OperationCost& one : profile.operations)
    if (one.is_cast) sum += one.self_s;
  return sum;
}

double matmul_s(const StepProfile& profile) {
  double sum = 0;
  for (const OperationCost& one : profile.operations)
    if (one.flops > 0) sum += one.self_s;
  return sum;
}

double flops_of(const StepProfile& profile) {
  double sum = 0;
  for (const OperationCost& one : profile.operations) sum += one.flops;
  return sum;
}

double peak_share(const OperationCost& cost, const MachinePeaks& peaks) {
  if (cost.matmuls.empty() || cost.self_s <= 0) return 0;
  const auto peak = peaks.flops_per_s.find(cost.matmuls.front().dtype);
  return peak == peaks.flops_per_s.end() ? 0 : cost.flops / cost.self_s / peak->second;
}

}  // namespace halftone
