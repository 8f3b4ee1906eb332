// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace halftone {

/// What Unicode's CLDR calls a character or a sequence of them in one language.
struct Annotation {
  std::string text;  ///< UTF-8, without variation selectors (U+FE0F)
  std::string name;  ///< as it is read out: "grinning face"
  std::vector<std::string> keywords;
};

/// Reads an annotation file of CLDR (`annotations/en.xml`), in the file's order; entries without a
/// name are left out. Throws UserError that names the file and the line when it is missing, no XML,
/// without annotations, or declares entities, which CLDR's don't.
std::vector<Annotation> read_annotations(const std::filesystem::path& path);

}  // namespace halftone
