// SPDX-License-Identifier: Apache-2.0
// For llama.cpp and what is built on it: one file that holds the tokenizer too.
#include <fmt/format.h>

#include <map>
#include <string>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/export/formats_impl.h"
#include "halftone/export/gguf_experts.h"
#include "halftone/export/model_gguf.h"
#include "halftone/export/tokenizer_gguf.h"
#include "halftone/io/gguf.h"
#include "halftone/io/q8_0.h"
#include "halftone/models/causal_lm.h"
#include "halftone/models/parameter_names.h"

namespace halftone {
namespace {

using torch::Tensor;

constexpr const char* kGgufFileName = "model.gguf";
constexpr const char* kGgufHead = "output.weight";
constexpr std::uint32_t kQuantizationVersion = 2;  // of ggml's blocks

struct GgufKind {
  GgufType type;
  std::uint32_t file_type;  // general.file_type, as llama.cpp counts
};

GgufKind kind_of(ExportDtype dtype) {
  switch (dtype) {
    case ExportDtype::kF32:
      return {GgufType::kF32, 0};
    case ExportDtype::kF16:
      return {GgufType::kF16, 1};
    case ExportDtype::kBF16:
      return {GgufType::kBF16, 32};
    case ExportDtype::kInt8:
      return {GgufType::kQ8_0, 7};
  }
  HALFTONE_CHECK(false, "[export] there is no dtype ", static_cast<int>(dtype));
}

GgufMetadata metadata_for(const ExportSource& source, ExportDtype dtype) {
  GgufMetadata metadata;
  set_model_metadata(metadata, source.model);
  set_tokenizer_metadata(metadata, source.tokenizer, source.model.vocab_size);
  metadata.set("general.type", std::string("model"));
  metadata.set("general.file_type", kind_of(dtype).file_type);
  metadata.set("general.quantization_version", kQuantizationVersion);
  return metadata;
}

class GgufFormat : public ExportFormat {
 public:
  std::string_view name() const override { return "gguf"; }
  bool normalizes_text() const override { return false; }  // llama.cpp does not
  std::vector<ExportDtype> dtypes() const override {
    return {ExportDtype::kF32, ExportDtype::kF16, ExportDtype::kBF16, ExportDtype::kInt8};
  }

  void check(const ExportSource& source, ExportDtype dtype) const override {
    metadata_for(source, dtype);
    if (dtype != ExportDtype::kInt8) return;
    for (const auto& [name, tensor] : source.parameters.tensors)
      if (tensor.dim() == 2 && tensor.size(1) % kQ8BlockSize != 0)
        throw UserError(fmt::format(
            "the rows of {} have {} numbers, but Q8_0, GGUF's int8, needs a multiple of {}; take "
            "--dtype f16",
            name, tensor.size(1), kQ8BlockSize));
  }

  /// Vectors (the norms and biases) and routers stay fp32, as llama.cpp computes with them.
  void write(const ExportSource& source, ExportDtype dtype,
             const std::filesystem::path& folder) const override {
    std::map<std::string, GgufTensor> tensors;
    for (const auto& [name, tensor] : to_gguf_names(source.parameters, source.model).tensors)
      tensors[name] = {
          tensor, tensor.dim() < 2 || is_gguf_router(name) ? GgufType::kF32 : kind_of(dtype).type};
    save_gguf(folder / kGgufFileName, metadata_for(source, dtype), tensors);
  }

  TrainedModel read(const std::filesystem::path& folder) const override {
    const std::filesystem::path path = folder / kGgufFileName;
    const GgufFile file = open_gguf(path);
    const ModelConfig config = model_of_gguf(file.metadata, file.types.contains(kGgufHead));
    const StateDict weights = from_gguf_names(file.tensors, config);
    check_parameters(weights, config, path.string());
    TrainedModel trained{.model = CausalLM(config),
                         .tokenizer = tokenizer_of_gguf(file.metadata, path.string()),
                         .precision = "32-true"};
    load_parameters(trained.model, weights, path.string());
    return trained;
  }
};

}  // namespace

const ExportFormat& gguf_format() {
  static const GgufFormat format;
  return format;
}

}  // namespace halftone
