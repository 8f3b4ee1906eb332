// SPDX-License-Identifier: Apache-2.0
#include "halftone/run/csv_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <string_view>
#include <utility>

#include "halftone/core/log.h"
#include "halftone/system/atomic_file.h"

namespace halftone {
namespace {

constexpr std::string_view kStepColumn = "step";
constexpr int kTableFlags = O_RDWR | O_CREAT | O_APPEND;

std::string quoted_name(const std::string& name) {
  if (name.find_first_of("\",\r\n") == std::string::npos) return name;
  std::string quoted = "\"";
  for (const char letter : name) quoted += letter == '"' ? "\"\"" : std::string(1, letter);
  return quoted + "\"";
}

std::string header_of(const std::vector<std::string>& columns) {
  std::string line(kStepColumn);
  for (const std::string& name : columns) line += "," + quoted_name(name);
  return line + "\n";
}

// nan may have a sign, which means nothing.
std::string exact_number(double value) {
  return std::isnan(value) ? "nan" : fmt::format("{}", value);
}

struct Header {
  std::vector<std::string> names;
  std::size_t bytes = 0;  // with the end of the line; 0: it has none
};

Header parse_header(std::string_view text) {
  Header header{{""}, 0};
  bool is_quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char letter = text[i];
    const bool is_pair = is_quoted && letter == '"' && text.substr(i + 1).starts_with('"');
    if (letter == '"' && !is_pair) {
      is_quoted = !is_quoted;
    } else if (letter == '\n' && !is_quoted) {
      header.bytes = i + 1;
      return header;
    } else if (letter == ',' && !is_quoted) {
      header.names.emplace_back();
    } else {
      header.names.back() += letter;
    }
    if (is_pair) ++i;
  }
  return header;
}

// The step of a line with `commas` of them; -1 for one that is torn or damaged.
std::int64_t step_of_row(std::string_view line, std::ptrdiff_t commas) {
  std::int64_t step = -1;
  const std::string_view first = line.substr(0, line.find(','));
  const auto [end, error] = std::from_chars(first.data(), first.data() + first.size(), step);
  const bool is_number = error == std::errc() && end == first.data() + first.size();
  return is_number && std::count(line.begin(), line.end(), ',') == commas ? step : -1;
}

// Bytes of the leading lines that are whole and of steps up to `last_step`.
std::uint64_t rows_to_keep(std::string_view rows, std::ptrdiff_t commas, std::int64_t last_step) {
  std::size_t kept = 0;
  for (std::size_t end = 0; (end = rows.find('\n', kept)) != std::string::npos; kept = end + 1) {
    const std::int64_t step = step_of_row(rows.substr(kept, end - kept), commas);
    if (step < 0 || step > last_step) break;
  }
  return kept;
}

// The lines of `from` behind its first `offset` bytes, each with `more` at its end.
void copy_rows(const File& from, std::uint64_t offset, const std::string& more, AtomicFile& to) {
  constexpr std::uint64_t kBlock = 1U << 16U;
  std::string block, longer;
  for (const std::uint64_t size = from.size(); offset < size; offset += block.size()) {
    block.resize(std::min(kBlock, size - offset));
    from.read_at(offset, block.data(), block.size());
    longer.clear();
    for (const char letter : block) {
      if (letter == '\n') longer += more;
      longer += letter;
    }
    to.write(longer);
  }
}

}  // namespace

CsvLog::CsvLog(std::filesystem::path path, std::int64_t last_step) : path_(std::move(path)) {
  file_.emplace(path_, kTableFlags);
  keep_up_to(last_step);
}

void CsvLog::keep_up_to(std::int64_t last_step) {
  std::uint64_t kept = 0;
  if (last_step > 0 && file_->size() > 0) {
    std::string text(file_->size(), '\0');
    file_->read_at(0, text.data(), text.size());
    Header header = parse_header(text);
    if (header.bytes > 0 && header.names.front() == kStepColumn) {
      const std::ptrdiff_t commas = std::ssize(header.names) - 1;
      columns_.assign(header.names.begin() + 1, header.names.end());
      header_bytes_ = header.bytes;
      kept = header.bytes +
             rows_to_keep(std::string_view(text).substr(header.bytes), commas, last_step);
    } else {
      log_warning(
          fmt::format("the first line of {} does not name its columns: the table begins "
                      "anew after step {}",
                      path_.string(), last_step));
    }
  }
  // EINVAL: a device, which has no length
  if (::ftruncate(file_->descriptor(), static_cast<off_t>(kept)) != 0 && errno != EINVAL)
    throw_file_error("write", path_, errno);
}

void CsvLog::add_columns(const std::vector<std::string>& names) {
  std::vector<std::string> columns = columns_;
  columns.insert(columns.end(), names.begin(), names.end());
  const std::string header = header_of(columns);
  if (header_bytes_ == 0) {
    file_->write(header.data(), header.size());
  } else {
    AtomicFile wider(path_);
    wider.write(header);
    copy_rows(*file_, header_bytes_, std::string(names.size(), ','), wider);
    wider.commit();
    file_.emplace(path_, kTableFlags);
  }
  columns_ = std::move(columns);
  header_bytes_ = header.size();
}

void CsvLog::append(std::int64_t step, const std::map<std::string, double>& values) {
  std::vector<std::string> unknown;
  for (const auto& [name, value] : values)
    if (name == kStepColumn)
      log_warning_once(
          "metrics.csv: what is logged as 'step' is not written, because each line has a 'step' of "
          "its own; log it under another name");
    else if (std::find(columns_.begin(), columns_.end(), name) == columns_.end())
      unknown.push_back(name);
  if (!unknown.empty() || header_bytes_ == 0) add_columns(unknown);
  std::string line = std::to_string(step);
  for (const std::string& name : columns_) {
    const auto value = values.find(name);
    line += "," + (value == values.end() ? "" : exact_number(value->second));
  }
  line += "\n";
  file_->write(line.data(), line.size());
}

}  // namespace halftone
