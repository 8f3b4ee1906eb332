// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "halftone/core/error.h"
#include "halftone/data/line_reader.h"
#include "halftone/pretrain/json_lines_impl.h"

namespace halftone {
namespace {

constexpr std::size_t kLongestLine = std::size_t{1} << 20U;

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

}  // namespace

void for_each_line(
    const std::filesystem::path& path,
    const std::function<void(const std::string& line, const std::string& place)>& read) {
  LineReader reader(path, {.max_line_bytes = kLongestLine});
  bool found = false;
  for (std::string line; reader.next(line);) {
    const std::string place = fmt::format("{}, line {}", path.string(), reader.line_number());
    // Only a line that is too long, or the last one, comes without its end.
    if (std::string more; !line.ends_with('\n') && reader.next(more))
      throw UserError(fmt::format("{}: expected a line of at most 1 MiB", place));
    while (line.ends_with('\n') || line.ends_with('\r')) line.pop_back();
    if (is_blank(line)) continue;
    found = true;
    read(line, place);
  }
  if (!found)
    throw UserError(
        fmt::format("{}: expected at least one line with text, found none", path.string()));
}

void for_each_json_line(const std::filesystem::path& path,
                        const std::function<void(const JsonField& root)>& read) {
  for_each_line(path, [&](const std::string& line, const std::string& place) {
    const JsonDocument document =
        parse_json(line, place, {.max_bytes = kLongestLine, .remedy = "each line is one value"});
    read(document.root());
  });
}

}  // namespace halftone
