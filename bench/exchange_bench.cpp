// SPDX-License-Identifier: Apache-2.0
// What the exchange of processes costs that train together, on the network between them: the
// alpha-beta model of its messages, and one exchange of a model's gradients and weights, measured
// beside what `halftone plan` would predict from the model.
//
//   exchange_bench PRESET [ROUNDS]
//
// Each process is started with the variables of torchrun or `halftone launch`; bench/exchange.py
// starts two. Nothing computes meanwhile. The first prints one JSON object: seconds of the best
// round.
#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <iostream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "halftone/core/stopwatch.h"
#include "halftone/dist/join_process_group.h"
#include "halftone/machine/machine_settings.h"
#include "halftone/models/model_config.h"
#include "halftone/optim/adamw.h"
#include "halftone/optim/gradient_reducer.h"
#include "halftone/plan/exchange_time.h"
#include "halftone/system/memory.h"

namespace {

using halftone::AdamW;
using halftone::AdamWShare;
using halftone::ProcessGroup;

std::vector<std::pair<std::string, torch::Tensor>> parameters_of(
    const halftone::ModelConfig& model) {
  std::vector<std::pair<std::string, torch::Tensor>> parameters;
  for (const halftone::NamedShape& shape : parameter_shapes(model))
    parameters.emplace_back(shape.name, torch::zeros(shape.sizes).set_requires_grad(true));
  return parameters;
}

void wait_for_all(ProcessGroup& group) { group.all_gather(std::string("here")); }

template <class Work>
double best_seconds(ProcessGroup& group, int rounds, const Work& work) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i <= rounds; ++i) {
    wait_for_all(group);
    const double seconds = halftone::seconds_of_call(work);
    if (i > 0) best = std::min(best, seconds);  // 0 warms up
  }
  return best;
}

struct Measured {
  double gradients = 0;
  double weights = 0;  // 0: they are not shared
};

Measured measure(const std::shared_ptr<ProcessGroup>& group, const halftone::ModelConfig& model,
                 const AdamWShare& share, int rounds) {
  halftone::AdamWOptions options;
  if (share.states) options.shard_over = group;
  options.shard_gradients = share.gradients;
  AdamW optimizer(parameters_of(model), options);
  halftone::GradientReducer reducer({&optimizer.arena()}, *group, share.transport);
  if (share.gradients) reducer.keep_own_pieces();
  Measured measured;
  measured.gradients = best_seconds(*group, rounds, [&] { reducer.finish(); });
  if (!share.states) return measured;
  const halftone::ArenaShards shards(optimizer.arena(), group);
  measured.weights = best_seconds(*group, rounds, [&] { shards.gather_weights(); });
  return measured;
}

/// As the plan does, on the network that is measured.
double predict(const halftone::ModelConfig& model, const AdamWShare& share,
               const halftone::HostShare& host, const halftone::NetworkSpeed& network) {
  std::vector<halftone::ParameterShape> shapes;
  for (const halftone::NamedShape& shape : parameter_shapes(model))
    shapes.push_back({.sizes = shape.sizes});
  const halftone::AdamWShareBytes bytes = adamw_share_bytes(shapes, {}, share).front();
  return exchange_seconds(share, bytes, measure_exchange_speed(share, host, network), {}).all;
}

void run(const std::string& preset, int rounds) {
  torch::set_num_threads(1);
  const halftone::ProcessPlace place = halftone::find_process_place();
  const std::shared_ptr<ProcessGroup> group = join_process_group(place);
  const halftone::ModelConfig model = halftone::preset_config(preset);
  const halftone::NetworkSpeed network = network_speed(*group);
  const halftone::HostShare host{
      .processes = group->size(), .threads = 1, .cores = usable_cpus(halftone::machine_settings())};
  nlohmann::ordered_json document = {{"model", preset},
                                     {"processes", group->size()},
                                     {"latency_s", network.latency_s},
                                     {"bytes_per_s", network.bytes_per_s},
                                     {"exchanges", nlohmann::ordered_json::array()}};
  for (const char* shard : {"none", "optimizer", "gradients"}) {
    const std::string name = shard;
    const AdamWShare share{
        .processes = group->size(), .states = name != "none", .gradients = name == "gradients"};
    const Measured measured = measure(group, model, share, rounds);
    double predicted = 0;
    on_process_zero(group.get(), [&] { predicted = predict(model, share, host, network); });
    document["exchanges"].push_back({{"shard", name},
                                     {"gradients_s", measured.gradients},
                                     {"weights_s", measured.weights},
                                     {"predicted_s", predicted}});
  }
  if (place.rank == 0) std::cout << document.dump() << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 && argc != 3) {
    std::cerr << "usage: exchange_bench PRESET [ROUNDS], in each of several processes\n";
    return 2;
  }
  halftone::keep_freed_memory();
  try {
    run(argv[1], argc == 3 ? std::stoi(argv[2]) : 10);
  } catch (const std::exception& error) {
    std::cerr << "exchange_bench: " << error.what() << '\n';
    return 1;
  }
}
