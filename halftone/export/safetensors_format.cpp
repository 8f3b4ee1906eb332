// SPDX-License-Identifier: Apache-2.0
// This library's own names, as checkpoints have them, with what is needed to start from them or to
// generate. int8: one scale for each row of a matrix.
#include <map>
#include <string>

#include "halftone/core/error.h"
#include "halftone/export/formats_impl.h"
#include "halftone/io/safetensors.h"
#include "halftone/models/int8_weights.h"

namespace halftone {
namespace {

using torch::Tensor;

/// The form that config.json takes: the family's own where it has one for such layers.
const FileForm& own_form(const ModelConfig& model) {
  for (const FileForm& form : family_of(model).forms)
    if (form.has_experts == model.use_moe) return form;
  return family_of(model).forms.front();
}

/// Some forms are told from others of their model_type by a key alone.
void mark_form(nlohmann::ordered_json& config, const FileForm& form, const ModelConfig& model) {
  const std::string marker(form.marker);
  if (!marker.empty() && !config.contains(marker)) config[marker] = model.n_routed_experts;
}

/// The choice of experts changes by leaps: its matrix is small and stays as it is.
bool is_router(const std::string& name) { return name.ends_with(".gate.weight"); }

std::map<std::string, Tensor> stored(const StateDict& parameters, ExportDtype dtype) {
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, tensor] : parameters.tensors) {
    if (dtype != ExportDtype::kInt8) {
      tensors[name] = tensor.to(scalar_type_of(dtype)).contiguous();
    } else if (tensor.dim() == 2 && !is_router(name)) {
      const Int8Weight weight = quantize_weight(tensor);
      tensors[name] = weight.integers;
      tensors[name + kScaleSuffix] = weight.scales;
    } else {
      tensors[name] = tensor;
    }
  }
  return tensors;
}

class SafetensorsFormat : public ExportFormat {
 public:
  std::string_view name() const override { return "safetensors"; }
  std::vector<ExportDtype> dtypes() const override {
    return {ExportDtype::kF32, ExportDtype::kF16, ExportDtype::kBF16, ExportDtype::kInt8};
  }

  void check(const ExportSource& source, ExportDtype /*dtype*/) const override {
    source.tokenizer.special_tokens();
  }

  void write(const ExportSource& source, ExportDtype dtype,
             const std::filesystem::path& folder) const override {
    save_safetensors(folder / "model.safetensors", stored(source.parameters, dtype));
    const FileForm& form = own_form(source.model);
    nlohmann::ordered_json config = config_for(source, form, dtype);
    mark_form(config, form, source.model);
    write_json(folder / "config.json", config);
    write_tokenizer_files(source.tokenizer, folder);
  }

  TrainedModel read(const std::filesystem::path& folder) const override {
    return load_trained_model(folder);
  }
};

}  // namespace

const ExportFormat& safetensors_format() {
  static const SafetensorsFormat format;
  return format;
}

}  // namespace halftone
