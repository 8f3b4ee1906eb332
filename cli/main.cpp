// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>

#include "cli/data_command.h"
#include "cli/tokenizer_command.h"
#include "halftone/core/error.h"

int main(int argc, char** argv) {
  CLI::App app("Mixed-precision training for C++ on LibTorch", "halftone");
  app.require_subcommand(1);
  halftone::add_data_command(app);
  halftone::add_tokenizer_command(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const halftone::UserError& error) {
    std::cerr << "halftone: error: " << error.what() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "halftone: error: " << error.what() << '\n';
    return 1;
  }
}
