// SPDX-License-Identifier: Apache-2.0
#include "halftone/export/export_format.h"

#include <fmt/format.h>

#include <array>
#include <optional>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/export/formats_impl.h"

namespace halftone {
namespace {

struct DtypeFacts {
  ExportDtype dtype;
  std::string_view name;
  torch::ScalarType scalar_type;
};

constexpr std::array<DtypeFacts, 4> kExportDtypes{{{ExportDtype::kF32, "f32", torch::kFloat},
                                                   {ExportDtype::kF16, "f16", torch::kHalf},
                                                   {ExportDtype::kBF16, "bf16", torch::kBFloat16},
                                                   {ExportDtype::kInt8, "int8", torch::kChar}}};

const DtypeFacts& facts_of_dtype(ExportDtype dtype) {
  for (const DtypeFacts& facts : kExportDtypes)
    if (facts.dtype == dtype) return facts;
  HALFTONE_CHECK(false, "[export] there is no dtype ", static_cast<int>(dtype));
}

std::string did_you_mean(std::string_view name, const std::vector<std::string>& names) {
  const std::optional<std::string> nearest = nearest_match(name, names);
  return nearest ? fmt::format("; did you mean {}?", *nearest) : "";
}

}  // namespace

std::string_view name_of(ExportDtype dtype) { return facts_of_dtype(dtype).name; }

torch::ScalarType scalar_type_of(ExportDtype dtype) {
  HALFTONE_CHECK(dtype != ExportDtype::kInt8, "[export] int8 is no dtype without scales");
  return facts_of_dtype(dtype).scalar_type;
}

ExportDtype parse_export_dtype(std::string_view name) {
  std::vector<std::string> names;
  for (const DtypeFacts& facts : kExportDtypes) {
    if (facts.name == name) return facts.dtype;
    names.emplace_back(facts.name);
  }
  throw UserError(fmt::format("--dtype: expected {}, got '{}'{}", fmt::join(names, ", "), name,
                              did_you_mean(name, names)));
}

const std::vector<const ExportFormat*>& export_formats() {
  static const std::vector<const ExportFormat*> formats{&safetensors_format(),
                                                        &hugging_face_format(), &gguf_format(),
                                                        &w8a8_format(), &peft_format()};
  return formats;
}

const ExportFormat& export_format(std::string_view name) {
  std::vector<std::string> names;
  for (const ExportFormat* const format : export_formats()) {
    if (format->name() == name) return *format;
    names.emplace_back(format->name());
  }
  throw UserError(fmt::format("--format: expected {}, got '{}'{}", fmt::join(names, ", "), name,
                              did_you_mean(name, names)));
}

}  // namespace halftone
