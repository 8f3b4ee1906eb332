// SPDX-License-Identifier: Apache-2.0
#include "cli/data_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cli/program.h"
#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/text.h"
#include "halftone/data/datasets.h"
#include "halftone/media/spoken_names.h"

namespace halftone {
namespace {

constexpr const char* kSpokenNames = "spoken-names";

struct FetchArguments {
  std::string name;
  std::string out;
  CLI::Option* speakers_given = nullptr;
  std::int64_t speakers = SpokenNamesOptions().speakers;
};

std::vector<std::string> fetched_names() {
  std::vector<std::string> names = dataset_names();
  names.emplace_back(kSpokenNames);
  return names;
}

FetchedData fetch_named(const FetchArguments& arguments) {
  if (arguments.name == kSpokenNames)
    return make_spoken_names({.folder = arguments.out, .speakers = arguments.speakers});
  const std::vector<std::string> names = fetched_names();
  if (std::find(names.begin(), names.end(), arguments.name) == names.end())
    refuse_dataset(arguments.name, names);
  if (arguments.speakers_given->count() > 0)
    throw UserError(
        fmt::format("--speakers is for {}; leave it out for {}", kSpokenNames, arguments.name));
  return fetch_dataset(arguments.name, arguments.out);
}

void run_fetch(const FetchArguments& arguments) {
  const FetchedData data = fetch_named(arguments);
  log_note(fmt::format("{} {}, {}, from {}", data.was_there ? "already there:" : "fetched",
                       cli::counted(data.files.size(), "file", "files"), format_bytes(data.bytes),
                       fmt::join(data.packages, ", ")));
  cli::print(data.folder.string() + "\n");
}

}  // namespace

void add_data_command(CLI::App& app) {
  CLI::App* data = app.add_subcommand("data", "Get the real data that the examples use");
  data->require_subcommand(1);
  CLI::App* fetch = data->add_subcommand(
      "fetch", "Put a data set of Debian's into a folder (no root needed) and print the folder");
  const auto arguments = std::make_shared<FetchArguments>();
  fetch
      ->add_option("NAME", arguments->name,
                   fmt::format("One of: {}", fmt::join(fetched_names(), ", ")))
      ->required();
  fetch
      ->add_option("--out", arguments->out,
                   "Folder to put it in (default: data/NAME in ~/.cache/halftone)")
      ->type_name("DIR");
  arguments->speakers_given = fetch
                                  ->add_option("--speakers", arguments->speakers,
                                               fmt::format("Of {}: the number of voices, 1 to {}",
                                                           kSpokenNames, espeak_speakers().size()))
                                  ->capture_default_str();
  fetch->footer(
      "Examples:\n"
      "  halftone data fetch fortunes-zh             Tang and Song poems and sayings, 2.2 MB\n"
      "  halftone data fetch fortunes --out english  English sayings, 2.7 MB\n"
      "  halftone data fetch emoji                   A colour font and its emoji's names, 12 MB\n"
      "  halftone data fetch asterisk-sounds         Recorded English sentences, 24 MB\n"
      "  halftone data fetch spoken-names            Emoji's names, said by espeak-ng: minutes\n"
      "  halftone train --data \"$(halftone data fetch fortunes-zh)\"");
  fetch->callback([arguments] { run_fetch(*arguments); });
}

}  // namespace halftone
