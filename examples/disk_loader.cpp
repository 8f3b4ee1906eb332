// SPDX-License-Identifier: Apache-2.0
// Data that stays on the disk: a loader of your own for the Trainer, which reads batches ahead
// while a step runs, and a run that is stopped and resumed with the same bits.
//
//   disk_loader [--data FILE] [--out RUN] [--epochs N] [--stop-at STEP] [--resume]
//
// FILE is made where there is none: 20,000 records of 16 inputs and a target, fp32.
#include <fcntl.h>
#include <halftone/core/error.h>
#include <halftone/core/message.h>
#include <halftone/core/random.h>
#include <halftone/core/state_dict.h>
#include <halftone/train/trainer.h>
#include <halftone/train/training_module.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adam.h>
#include <torch/utils.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr std::int64_t kInputs = 16;
constexpr std::int64_t kFields = kInputs + 1;  // and the target
constexpr std::int64_t kRecordBytes = kFields * static_cast<std::int64_t>(sizeof(float));

struct Options {
  std::string data = "records.f32";
  std::string out = "runs/disk";
  std::int64_t epochs = 3;
  std::int64_t stop_at = 0;  // 0: at the end
  bool resume = false;
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    if (flag == "--resume")
      options.resume = true;
    else if (flag == "--data" && ++i < argc)
      options.data = value;
    else if (flag == "--out" && ++i < argc)
      options.out = value;
    else if (flag == "--epochs" && ++i < argc)
      options.epochs = std::stoll(value);
    else if (flag == "--stop-at" && ++i < argc)
      options.stop_at = std::stoll(value);
    else
      throw halftone::UserError("expected --data, --out, --epochs, --stop-at or --resume, got " +
                                flag);
  }
  return options;
}

void make_records(const std::string& path) {
  torch::manual_seed(1);
  const torch::Tensor inputs = torch::randn({20'000, kInputs});
  const torch::Tensor target = inputs.sin().sum(1, /*keepdim=*/true);
  const torch::Tensor records = torch::cat({inputs, target}, 1).contiguous();
  std::ofstream file(path, std::ios::binary);
  file.write(static_cast<const char*>(records.const_data_ptr()),
             static_cast<std::streamsize>(records.nbytes()));
  if (!file.flush()) throw halftone::SystemError("can't write " + path);
}

// A loader of your own has two members. batch_at() makes the batch of any position, counted over
// all epochs, out of nothing but the position: so batches can be made ahead on another thread, and
// a run can go on anywhere.
class DiskLoader {
 public:
  using Batch = torch::data::Example<>;

  DiskLoader(const std::string& path, std::int64_t batch_size, std::uint64_t seed)
      : file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)), batch_size_(batch_size), seed_(seed) {
    if (file_ < 0) throw halftone::UserError("can't read " + path);
    records_ = static_cast<std::int64_t>(std::filesystem::file_size(path)) / kRecordBytes;
  }
  ~DiskLoader() { ::close(file_); }
  DiskLoader(const DiskLoader&) = delete;
  DiskLoader& operator=(const DiskLoader&) = delete;

  std::int64_t batches_per_epoch() const { return (records_ + batch_size_ - 1) / batch_size_; }

  Batch batch_at(std::int64_t position) const {
    const auto epoch = static_cast<std::uint64_t>(position / batches_per_epoch());
    const std::int64_t first = position % batches_per_epoch() * batch_size_;
    const std::int64_t count = std::min(batch_size_, records_ - first);
    const std::uint64_t order = halftone::random_word(seed_, epoch);  // another in each epoch
    torch::Tensor rows = torch::empty({count, kFields});
    for (std::int64_t i = 0; i < count; ++i)
      read(halftone::permuted_index(order, static_cast<std::uint64_t>(first + i),
                                    static_cast<std::uint64_t>(records_)),
           rows.data_ptr<float>() + i * kFields);
    return {rows.narrow(1, 0, kInputs), rows.narrow(1, kInputs, 1)};
  }

  // Two more members, if you like: what the batches depend on, which a resumed run must find again.
  halftone::StateDict state_dict() const {
    halftone::StateDict state;
    state.values = {{"records", records_},
                    {"batch_size", batch_size_},
                    {"seed", static_cast<std::int64_t>(seed_)}};
    return state;
  }
  void load_state_dict(const halftone::StateDict& saved) {
    for (const auto& [name, value] : state_dict().values)
      if (saved.get<std::int64_t>(name) != std::get<std::int64_t>(value))
        throw halftone::UserError("can't resume: the saved run had other " + name);
  }

 private:
  // pread() has no position that threads would share.
  void read(std::uint64_t record, float* into) const {
    const auto at = static_cast<off_t>(record) * kRecordBytes;
    if (::pread(file_, into, kRecordBytes, at) != kRecordBytes)
      throw halftone::SystemError("can't read record " + std::to_string(record));
  }

  int file_;
  std::int64_t records_ = 0;
  std::int64_t batch_size_;
  std::uint64_t seed_;
};

class Regression : public halftone::TrainingModule<> {
 public:
  torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    return (out_(hidden_(batch.data).tanh()) - batch.target).square().mean();
  }
  std::vector<halftone::OptimizerSetup> configure_optimizers(
      const halftone::OptimizerContext& /*context*/) override {
    return {{std::make_shared<torch::optim::Adam>(parameters(), 1e-2),
             halftone::LrScheduleOptions{.kind = halftone::Schedule::kCosine}}};
  }

 private:
  torch::nn::Linear hidden_ = register_module("hidden", torch::nn::Linear(kInputs, 32));
  torch::nn::Linear out_ = register_module("out", torch::nn::Linear(32, 1));
};

struct StopAt : halftone::Callback {
  explicit StopAt(std::int64_t the_step) : step(the_step) {}
  void on_step_end(halftone::Trainer& trainer, const halftone::StepMetrics& metrics) override {
    if (metrics.step == step) trainer.stop();
  }
  std::int64_t step;
};

void train(const Options& options) {
  if (!std::filesystem::exists(options.data)) make_records(options.data);
  DiskLoader loader(options.data, /*batch_size=*/64, /*seed=*/1);
  torch::manual_seed(1);
  Regression model;
  halftone::Trainer trainer({.max_epochs = options.epochs,
                             .precision = "bf16-mixed",
                             .callbacks = {std::make_shared<StopAt>(options.stop_at)},
                             .default_root_dir = options.out});
  trainer.fit(model, loader, {.resume = options.resume});
  std::printf("loss of all records %.9g\n", trainer.validate(model, loader).at("val_loss"));
}

}  // namespace

int main(int argc, char** argv) {
  torch::set_num_threads(1);  // a model this small only waits for a second thread
  try {
    train(parse(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", halftone::error_text(error).c_str());
    return 1;
  }
  return 0;
}
