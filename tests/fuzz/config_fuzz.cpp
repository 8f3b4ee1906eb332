// SPDX-License-Identifier: Apache-2.0
// Any bytes as the config.json of a model: a ModelConfig that is written as it was read, or a
// UserError.
#include "fuzz_check.h"
#include "halftone/pretrain/hugging_face_config.h"
#include "support/memory_file.h"

namespace {

using halftone::FileForm;
using halftone::ModelConfig;
using halftone::test::MemoryFile;
using halftone::test::must_succeed;
using halftone::test::require;
using halftone::test::succeeds;

void check_parameters(const ModelConfig& model) {
  constexpr std::int64_t kMostListed = 1000;
  if (model.n_layers * (model.n_routed_experts + 1) > kMostListed) return;
  std::int64_t sum = 0;
  for (const halftone::NamedShape& shape : halftone::parameter_shapes(model)) {
    std::int64_t count = 1;
    for (const std::int64_t size : shape.sizes) count *= size;
    sum += count;
  }
  require(sum == halftone::parameter_count(model), "the parameters are as many as is said");
}

void check_written(const ModelConfig& model) {
  const FileForm* const form = halftone::export_form(model);
  if (form == nullptr) return;
  const std::string written = halftone::hugging_face_config(model, *form);
  const MemoryFile file(written.data(), written.size());
  const ModelConfig again = halftone::read_hugging_face_config(file.path());
  require(halftone::export_form(again) == form, "a config.json is read as the form it has");
  require(halftone::hugging_face_config(again, *form) == written,
          "a config.json is written as it was read");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  const MemoryFile file(data, bytes);
  succeeds([&] { halftone::has_int8_products(file.path()); });
  for (const bool ties_by_default : {true, false}) {
    ModelConfig model;
    if (!succeeds(
            [&] { model = halftone::read_hugging_face_config(file.path(), ties_by_default); }))
      continue;
    check_parameters(model);
    must_succeed([&] { check_written(model); });
  }
  return 0;
}
