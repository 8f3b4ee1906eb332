// SPDX-License-Identifier: Apache-2.0
#include "halftone/run/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <system_error>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/message.h"
#include "halftone/io/safetensors.h"
#include "halftone/run/checkpoint_retention_impl.h"
#include "halftone/run/verified_files_impl.h"
#include "halftone/system/atomic_file.h"
#include "halftone/system/hash.h"
#include "halftone/system/json_reader_impl.h"

namespace halftone {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr int kFormat = 1;
constexpr std::string_view kFolderPrefix = "step-";
constexpr const char* kModelFile = "model.safetensors";
constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr std::string_view kShardPrefix = "optimizer-";
constexpr const char* kTrainerFile = "trainer.json";
constexpr const char* kNotFinite = "f64";
constexpr const char* kChecksum = "xxh64";
constexpr std::uint64_t kMaxTrainerBytes = std::uint64_t{64} << 20U;

enum class Part { kAll, kModel };

std::optional<std::int64_t> step_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  if (!name.starts_with(kFolderPrefix)) return std::nullopt;
  std::int64_t step = -1;
  const char* const end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kFolderPrefix.size(), end, step);
  if (error != std::errc() || stop != end || step < 0) return std::nullopt;
  return step;
}

json to_json(const StateDict::Value& value) {
  if (const auto* number = std::get_if<double>(&value); number && !std::isfinite(*number))
    return {{kNotFinite, fmt::format("{}", *number)}};  // "nan", "inf", "-inf"
  return std::visit([](const auto& plain) { return json(plain); }, value);
}

json to_json(const std::map<std::string, StateDict::Value>& values) {
  json object = json::object();
  for (const auto& [name, value] : values) object[name] = to_json(value);
  return object;
}

StateDict::Value from_json(const JsonField& field) {
  const json& value = field.value();
  if (value.is_boolean()) return field.as_bool();
  if (value.is_number_integer()) return field.as_integer();
  if (value.is_number_float()) return field.as_number();
  if (value.is_string()) return field.as_string();
  const std::string text = field[kNotFinite].as_string();
  if (text == "nan") return std::numeric_limits<double>::quiet_NaN();
  if (text == "inf") return std::numeric_limits<double>::infinity();
  if (text == "-inf") return -std::numeric_limits<double>::infinity();
  field.fail("must be nan, inf or -inf");
}

void read_values(const JsonField& part, StateDict& state) {
  part.for_each_member([&](const std::string& name, const JsonField& field) {
    state.values[name] = from_json(field);
  });
}

std::string hex(std::uint64_t hash) { return fmt::format("{:016x}", hash); }

json write_tensors(const fs::path& path, const std::map<std::string, torch::Tensor>& tensors) {
  AtomicFile file(path);
  save_safetensors(file, tensors, {{"format", "pt"}});  // the key that Python's loaders look for
  file.commit();
  return {{"bytes", file.bytes()}, {kChecksum, hex(file.checksum())}};
}

JsonDocument read_trainer(const fs::path& path) {
  JsonDocument trainer = read_json_file(path, {.max_bytes = kMaxTrainerBytes});
  const std::string checksum = trainer.root()[kChecksum].as_string();
  trainer.value.erase(kChecksum);
  if (hex(hash_bytes(trainer.value.dump())) != checksum)
    throw UserError(fmt::format("'{}' is damaged: its checksum is wrong", path.string()));
  return trainer;
}

void check_file(const fs::path& path, const JsonField& expected) {
  const auto bytes = static_cast<std::uint64_t>(expected["bytes"].as_integer(0));
  if (const std::uint64_t found = File::open_regular(path).size(); found != bytes)
    throw UserError(
        fmt::format("'{}' is damaged: expected {} bytes, found {}", path.string(), bytes, found));
  if (hex(file_checksum(path)) != expected[kChecksum].as_string())
    throw UserError(fmt::format("'{}' is damaged: its checksum is not the one in {}", path.string(),
                                kTrainerFile));
  note_verified(path);
}

/// The optimizer's own, and those of other processes.
std::vector<std::string> optimizer_files(const JsonField& files) {
  std::vector<std::string> names{kOptimizerFile};
  files.for_each_member([&](const std::string& name, const JsonField& /*file*/) {
    if (name.starts_with(kShardPrefix)) names.push_back(name);
  });
  return names;
}

Checkpoint read_checkpoint(const fs::path& folder, Part part) {
  const JsonDocument document = read_trainer(folder / kTrainerFile);
  const JsonField trainer = document.root();
  if (const std::int64_t format = trainer["format"].as_integer(); format != kFormat)
    throw UserError(fmt::format("'{}' has format {}, this version reads {}",
                                (folder / kTrainerFile).string(), format, kFormat));
  Checkpoint checkpoint{.step = trainer["step"].as_integer(0)};
  const JsonField files = trainer["files"];
  check_file(folder / kModelFile, files[kModelFile]);
  checkpoint.model = open_safetensors(folder / kModelFile);
  checkpoint.model.values.clear();
  if (part == Part::kAll) {
    StateDict both;
    for (const std::string& name : optimizer_files(files)) {
      check_file(folder / name, files[name]);
      both.insert("", open_safetensors(folder / name));
    }
    checkpoint.optimizer = both.extract("optimizer.");
    checkpoint.trainer = both.extract("trainer.");
    checkpoint.trainer.read_all();
    read_values(trainer["optimizer"], checkpoint.optimizer);
  }
  read_values(trainer["model"], checkpoint.model);
  read_values(trainer["trainer"], checkpoint.trainer);
  return checkpoint;
}

Checkpoint load_latest(const fs::path& run_dir, Part part) {
  std::vector<std::int64_t> steps = checkpoint_steps(run_dir);
  std::reverse(steps.begin(), steps.end());
  std::string first_defect;
  for (const std::int64_t step : steps) {
    try {
      Checkpoint checkpoint = read_checkpoint(checkpoint_folder(run_dir, step), part);
      if (!first_defect.empty())
        log_warning(fmt::format("{}; going back to the checkpoint of step {}", first_defect, step));
      return checkpoint;
    } catch (const std::runtime_error& error) {  // a bad disk's SystemError too
      if (first_defect.empty()) first_defect = error.what();
    }
  }
  if (steps.empty())
    throw UserError(fmt::format(
        "'{}' has no checkpoint; expected folders such as checkpoints/step-00000100 in it",
        run_dir.string()));
  throw UserError(
      fmt::format("'{}' has no checkpoint that is whole: {}", run_dir.string(), first_defect));
}

/// Whether load_latest() would take it. Files that were read, or written, before and have not
/// changed are not read again.
bool is_whole(const fs::path& folder) try {
  const JsonDocument document = read_trainer(folder / kTrainerFile);
  const JsonField trainer = document.root();
  std::vector<std::string> names = optimizer_files(trainer["files"]);
  names.emplace_back(kModelFile);
  for (const std::string& name : names)
    if (!is_verified(folder / name)) check_file(folder / name, trainer["files"][name]);
  return trainer["format"].as_integer() == kFormat;
} catch (const std::runtime_error&) {
  return false;
}

/// What the optimizer's file of a process holds that has no trainer's state.
std::map<std::string, torch::Tensor> optimizer_tensors(const Checkpoint& checkpoint) {
  StateDict own;
  own.insert("optimizer.", {.tensors = checkpoint.optimizer.tensors});
  return own.tensors;
}

/// A checkpoint that becomes one with commit().
class CheckpointWriter {
 public:
  CheckpointWriter(const fs::path& run_dir, const Checkpoint& checkpoint,
                   const KeepCheckpoints& keep)
      : folder_(checkpoint_folder(run_dir, checkpoint.step)),
        checkpoint_(checkpoint),
        retention_(run_dir, checkpoint.step, keep, is_whole) {
    HALFTONE_CHECK(checkpoint.step >= 0, "[save_checkpoint] expected a step of 0 or more, got ",
                   checkpoint.step);
    remove_leftovers(run_dir / "checkpoints");
    retention_.make_room();
    written_.emplace(folder_);
  }

  const fs::path& staging() const { return written_->staging(); }

  json write_own() const {
    StateDict both;
    both.insert("", {.tensors = optimizer_tensors(checkpoint_)});
    both.insert("trainer.", {.tensors = checkpoint_.trainer.tensors});
    return {{kModelFile, write_tensors(staging() / kModelFile, checkpoint_.model.tensors)},
            {kOptimizerFile, write_tensors(staging() / kOptimizerFile, both.tensors)}};
  }

  void commit(const json& files) {
    json trainer = {{"format", kFormat},
                    {"step", checkpoint_.step},
                    {"files", files},
                    {"model", to_json(checkpoint_.model.values)},
                    {"optimizer", to_json(checkpoint_.optimizer.values)},
                    {"trainer", to_json(checkpoint_.trainer.values)}};
    trainer[kChecksum] = hex(hash_bytes(trainer.dump()));
    write_file_atomically(staging() / kTrainerFile, trainer.dump(2) + "\n");
    written_->commit();
    for (const auto& [name, file] : files.items()) note_verified(folder_ / name);
    retention_.prune();
  }

 private:
  fs::path folder_;
  const Checkpoint& checkpoint_;
  CheckpointRetention retention_;
  std::optional<AtomicFolder> written_;
};

/// What `write` says of the files of each process, as one. Where one throws, all do.
json write_at_once(ProcessGroup& group, const std::function<json()>& write) {
  json own;
  try {
    own["files"] = write();
  } catch (const std::exception& error) {
    own["error"] = error_text(error);
  }
  json files = json::object();
  std::int64_t rank = 0;
  for (const std::string& text : group.all_gather(own.dump())) {
    const json one = json::parse(text);
    if (one.contains("error"))
      throw SystemError(fmt::format("the checkpoint was not written: process {} of {}: {}", rank,
                                    group.size(), one["error"].get<std::string>()));
    files.update(one["files"]);
    ++rank;
  }
  return files;
}

}  // namespace

void save_checkpoint(const fs::path& run_dir, const Checkpoint& checkpoint,
                     const KeepCheckpoints& keep) {
  CheckpointWriter writer(run_dir, checkpoint, keep);
  const json files = writer.write_own();
  writer.commit(files);
}

void save_checkpoint_together(ProcessGroup& group, const fs::path& run_dir,
                              const Checkpoint& checkpoint, const KeepCheckpoints& keep) {
  std::optional<CheckpointWriter> writer;  // process 0's
  on_process_zero(&group, [&] { writer.emplace(run_dir, checkpoint, keep); });
  const fs::path staging =
      group.all_gather(writer ? writer->staging().string() : std::string()).front();
  json files = write_at_once(group, [&]() -> json {
    if (writer) return writer->write_own();
    const std::string name = fmt::format("{}{:05}.safetensors", kShardPrefix, group.rank());
    return {{name, write_tensors(staging / name, optimizer_tensors(checkpoint))}};
  });
  on_process_zero(&group, [&] { writer->commit(files); });
}

bool is_checkpoint(const fs::path& folder) { return fs::exists(folder / kTrainerFile); }

Checkpoint load_checkpoint(const fs::path& folder) { return read_checkpoint(folder, Part::kAll); }

Checkpoint load_model_of(const fs::path& folder) { return read_checkpoint(folder, Part::kModel); }

Checkpoint load_latest_checkpoint(const fs::path& run_dir) {
  return load_latest(run_dir, Part::kAll);
}

Checkpoint load_latest_model(const fs::path& run_dir) { return load_latest(run_dir, Part::kModel); }

std::vector<std::int64_t> checkpoint_steps(const fs::path& run_dir) {
  std::vector<std::int64_t> steps;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(run_dir / "checkpoints", error))
    if (const auto step = step_of(entry.path()); step && entry.is_directory(error))
      steps.push_back(*step);
  std::sort(steps.begin(), steps.end());
  return steps;
}

}  // namespace halftone
