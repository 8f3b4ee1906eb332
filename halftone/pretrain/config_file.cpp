// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/config_file.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>

#include "halftone/core/error.h"
#include "halftone/pretrain/toml_keys.h"
#include "halftone/system/file.h"

namespace halftone {
namespace {

constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 20U;
constexpr int kMaxKeyParts = 16;  // ours have two

std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

// The usual slip: preset = tiny.
std::string quotes_hint(const std::string& what) {
  const bool of_a_value = what.find("parsing boolean") != std::string::npos ||
                          what.find("parsing value") != std::string::npos;
  return of_a_value ? "; strings must be quoted: preset = \"tiny\"" : "";
}

bool is_table_name(const std::string& prefix) {
  return std::any_of(config_fields().begin(), config_fields().end(),
                     [&](const ConfigField& f) { return f.key.starts_with(prefix + "."); });
}

ConfigValue value_of(const toml::node& node, const ConfigField& field, const std::string& place) {
  if (const auto* v = node.as_boolean()) return v->get();
  if (const auto* v = node.as_integer()) return v->get();
  if (const auto* v = node.as_floating_point()) return v->get();
  if (const auto* v = node.as_string()) return v->get();
  if (const auto* list = node.as_array()) {
    std::vector<std::string> texts;
    for (const toml::node& item : *list)
      if (const auto* text = item.as_string()) texts.push_back(text->get());
    if (texts.size() == list->size()) return texts;
  }
  throw UserError(fmt::format("{}: {} must be {}, got {}", place, field.key, field.expected,
                              node.is_array()   ? "a list"
                              : node.is_table() ? "a table"
                                                : "a date or time"));
}

class Collector {
 public:
  explicit Collector(std::string file) : file_(std::move(file)) {}

  void collect(const toml::table& table, const std::string& prefix) {
    for (const auto& [name, node] : table) {
      const std::string key = prefix + std::string(name.str());
      const auto line = name.source().begin.line;
      const std::string place = fmt::format("{}:{}", file_, line);
      if (is_table_name(key)) {
        if (!node.is_table())
          throw UserError(
              fmt::format("{}: {} is a table: write [{}] and its keys below", place, key, key));
        collect(*node.as_table(), key + ".");
        continue;
      }
      const ConfigField& field = config_field(key, place);
      found_.emplace_back(line, checked_assignment(field, value_of(node, field, place), place));
    }
  }

  std::vector<ConfigAssignment> in_order_of_lines() {
    std::stable_sort(found_.begin(), found_.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<ConfigAssignment> assignments;
    for (auto& [line, assignment] : found_) assignments.push_back(std::move(assignment));
    return assignments;
  }

 private:
  std::string file_;
  std::vector<std::pair<toml::source_index, ConfigAssignment>> found_;
};

std::string default_text(const ConfigField& field) {
  if (field.key == "out") return "`runs/` and the preset";
  const std::string text = to_text(field, field.get(resolve_config({})));
  if (text == "\"\"" || text == "[]" || text.empty()) return "-";
  return text.find('"') == 0 ? "`" + text.substr(1, text.size() - 2) + "`" : "`" + text + "`";
}

}  // namespace

std::vector<ConfigAssignment> read_config_file(const std::filesystem::path& path) {
  const std::string text = read_file(path, kMaxBytes);
  if (const auto line = line_of_deep_key(text, kMaxKeyParts))
    throw UserError(fmt::format("{}:{}: expected a key of at most {} parts (a.b.c), found more",
                                path.string(), *line, kMaxKeyParts));
  toml::table table;
  try {
    table = toml::parse(text, path.string());
  } catch (const toml::parse_error& error) {
    const std::string what = one_line(std::string(error.description()));
    throw UserError(fmt::format("{}:{}: not TOML: {}{}", path.string(), error.source().begin.line,
                                what, quotes_hint(what)));
  }
  Collector collector(path.string());
  collector.collect(table, "");
  return collector.in_order_of_lines();
}

std::string config_to_toml(const TrainConfig& config) {
  std::string top = "# The complete configuration of a halftone run; see docs/config.md.\n";
  std::map<std::string, std::string> tables;
  for (const ConfigField& field : config_fields()) {
    const std::string value = to_text(field, field.get(config));
    if (!field.is_saved || value.empty()) continue;
    const std::size_t dot = field.key.find('.');
    if (dot == std::string::npos)
      top += fmt::format("{} = {}\n", field.key, value);
    else
      tables[field.key.substr(0, dot)] +=
          fmt::format("{} = {}\n", field.key.substr(dot + 1), value);
  }
  for (const auto& [name, lines] : tables) top += fmt::format("\n[{}]\n{}", name, lines);
  return top;
}

std::string config_reference() {
  std::string page =
      "# Configuration\n\n"
      "<!-- Generated from halftone/pretrain/config_fields.cpp. After a change there, run\n"
      "     HALFTONE_UPDATE_DOCS=1 build/tests/pretrain/pretrain_tests -->\n\n"
      "Every key of a TOML file is a flag of `halftone train` and the other way round: `batch_size "
      "= 16`\n"
      "and `--batch-size 16`; `n_layers` in a table `[model]` and `--model.n-layers`. Flags win "
      "over the\n"
      "file, the file over the preset, the preset over the defaults. Relative paths count from the "
      "folder\n"
      "in which the program is started. A key with a * may be changed when a run is resumed.\n"
      "Without a limit, training ends after one epoch; with `max_steps` or `max_time` alone the "
      "data\n"
      "repeats.\n";
  std::string group;
  for (const ConfigField& field : config_fields()) {
    if (field.group != group) {
      group = field.group;
      page +=
          fmt::format("\n## {}\n\n| key | default | takes | meaning |\n|---|---|---|---|\n", group);
    }
    page += fmt::format("| `{}`{} | {} | {} | {} |\n", field.key,
                        field.may_change_on_resume ? " *" : "", default_text(field), field.expected,
                        field.help);
  }
  return page;
}

}  // namespace halftone
