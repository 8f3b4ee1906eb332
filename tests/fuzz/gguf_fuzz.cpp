// SPDX-License-Identifier: Apache-2.0
// Any bytes as a GGUF file: metadata and tensors that read the same when they are written again,
// with the model and the tokenizer that they describe, or a UserError.
#include <filesystem>
#include <map>
#include <string>

#include "fuzz_check.h"
#include "halftone/export/model_gguf.h"
#include "halftone/export/tokenizer_gguf.h"
#include "halftone/io/gguf.h"
#include "halftone/models/parameter_names.h"
#include "halftone/system/file.h"
#include "memory_folder.h"
#include "support/memory_file.h"

namespace {

using halftone::GgufFile;
using halftone::GgufTensor;
using halftone::GgufType;
using halftone::ModelConfig;
using halftone::test::must_succeed;
using halftone::test::require;
using halftone::test::succeeds;
using Tensors = std::map<std::string, GgufTensor>;

/// What the file holds, with blocks of Q8_0 as the fp32 numbers that they stand for.
Tensors tensors_of(const GgufFile& file) {
  Tensors tensors;
  for (const auto& [name, type] : file.types)
    tensors[name] = {file.tensors.tensor(name), type == GgufType::kQ8_0 ? GgufType::kF32 : type};
  return tensors;
}

/// The writer takes no name that llama.cpp would not, and no alignment below 8.
bool is_writable(const GgufFile& file) {
  constexpr std::size_t kMostOfAName = 63;
  for (const auto& [name, type] : file.types)
    if (name.empty() || name.size() > kMostOfAName) return false;
  const char* const alignment = "general.alignment";
  return !file.metadata.contains(alignment) || file.metadata.integer(alignment) >= 8;
}

std::string written(const GgufFile& file, const Tensors& tensors) {
  const std::filesystem::path path = halftone::test::memory_folder() / "written.gguf";
  halftone::save_gguf(path, file.metadata, tensors);
  return halftone::read_file(path, std::uint64_t{1} << 30U);
}

void check_written(const GgufFile& file) {
  const std::string bytes = written(file, tensors_of(file));
  const halftone::test::MemoryFile copy(bytes.data(), bytes.size());
  const GgufFile again = halftone::open_gguf(copy.path());
  require(written(again, tensors_of(again)) == bytes, "a file is written as it was read");
}

void check_model(const GgufFile& file) {
  const ModelConfig model =
      halftone::model_of_gguf(file.metadata, file.types.contains("output.weight"));
  const halftone::StateDict weights = halftone::from_gguf_names(file.tensors, model);
  halftone::check_parameters(weights, model, "input");
  halftone::to_v2_names(weights, model).read_all();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  const halftone::test::MemoryFile memory(data, bytes);
  GgufFile file;
  if (!succeeds([&] { file = halftone::open_gguf(memory.path()); })) return 0;
  if (is_writable(file)) must_succeed([&] { check_written(file); });
  succeeds([&] { check_model(file); });
  succeeds([&] { halftone::tokenizer_of_gguf(file.metadata, "input"); });
  return 0;
}
