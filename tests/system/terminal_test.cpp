// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/terminal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>

namespace halftone::terminal_test {
namespace {

/// A terminal of `columns` columns in place of stderr, while it lives.
class Terminal {
 public:
  explicit Terminal(unsigned short columns) : master_(::posix_openpt(O_RDWR | O_NOCTTY)) {
    EXPECT_GE(master_, 0);
    EXPECT_EQ(::grantpt(master_), 0);
    EXPECT_EQ(::unlockpt(master_), 0);
    winsize size{.ws_row = 24, .ws_col = columns};
    EXPECT_EQ(::ioctl(master_, TIOCSWINSZ, &size), 0);
    const int slave = ::open(::ptsname(master_), O_RDWR | O_NOCTTY);
    stderr_ = ::dup(STDERR_FILENO);
    ::dup2(slave, STDERR_FILENO);
    ::close(slave);
  }
  ~Terminal() {
    ::dup2(stderr_, STDERR_FILENO);
    ::close(stderr_);
    ::close(master_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  /// What was written so far; the line discipline turns "\n" into "\r\n".
  std::string shown() const {
    std::array<char, 65536> bytes{};
    write_to_stderr("#");  // so that there is something to wait for
    std::string text;
    while (!text.ends_with('#')) {
      const ssize_t got = ::read(master_, bytes.data(), bytes.size());
      if (got <= 0) break;
      text.append(bytes.data(), static_cast<std::size_t>(got));
    }
    return text.substr(0, text.size() - 1);
  }

 private:
  int master_ = -1;
  int stderr_ = -1;
};

TEST(ProgressBar, IsDrawnToAnEighthOfACell) {
  EXPECT_EQ(progress_bar(0, 4), "    ");
  EXPECT_EQ(progress_bar(1, 4), "████");
  EXPECT_EQ(progress_bar(0.5, 4), "██  ");
  EXPECT_EQ(progress_bar(1.0 / 32, 4), "▏   ");
  EXPECT_EQ(progress_bar(31.0 / 32, 4), "███▉");
  EXPECT_EQ(progress_bar(-3, 2), "  ") << "shares are clamped";
  EXPECT_EQ(progress_bar(7, 2), "██");
  EXPECT_EQ(progress_bar(0.5, 0), "");
}

TEST(Terminal, TellsWhetherStderrIsOneAndItsWidth) {
  {
    const Terminal terminal(43);
    EXPECT_TRUE(stderr_is_terminal());
    EXPECT_EQ(terminal_width(), 43U);
  }
  {
    const Terminal terminal(0);  // as a serial line tells
    EXPECT_EQ(terminal_width(), 100U);
  }
  const int before = ::dup(STDERR_FILENO);
  const int null = ::open("/dev/null", O_WRONLY);
  ::dup2(null, STDERR_FILENO);
  EXPECT_FALSE(stderr_is_terminal());
  EXPECT_EQ(terminal_width(), 100U);
  ::dup2(before, STDERR_FILENO);
  ::close(before);
  ::close(null);
}

TEST(StatusLine, RedrawsItselfAndIsCutOffAtTheWidth) {
  const Terminal terminal(30);
  StatusLine line;
  line.redraw("one");
  EXPECT_EQ(terminal.shown(), "\r\x1b[Kone");
  line.redraw(std::string(40, 'x'));
  EXPECT_EQ(terminal.shown(), "\r\x1b[K" + std::string(29, 'x'));
  std::string bar;
  for (int i = 0; i < 40; ++i) bar += "█";  // three bytes each
  line.redraw(bar);
  EXPECT_EQ(terminal.shown(), "\r\x1b[K" + bar.substr(0, std::size_t{29} * 3));
}

TEST(StatusLine, MakesRoomForPlainLines) {
  const Terminal terminal(80);
  StatusLine line;
  line.print("note");
  EXPECT_EQ(terminal.shown(), "note\r\n") << "nothing was drawn: nothing to take away";
  line.redraw("50 %");
  line.print("note");
  EXPECT_EQ(terminal.shown(), "\r\x1b[K50 %\r\x1b[Knote\r\n");
  line.clear();
  line.finish();
  EXPECT_EQ(terminal.shown(), "");
  line.redraw("100 %");
  line.finish();
  line.finish();
  EXPECT_EQ(terminal.shown(), "\r\x1b[K100 %\r\n");
}

TEST(Pace, IsDueAtOnceAndThenAfterAWhile) {
  Pace pace;
  EXPECT_TRUE(pace.due());
  EXPECT_FALSE(pace.due());
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  EXPECT_TRUE(pace.due());
  EXPECT_FALSE(pace.due());
}

TEST(WriteToStderr, DropsWhatATerminalThatHasGoneCannotTake) {
  const int before = ::dup(STDERR_FILENO);
  ::close(STDERR_FILENO);
  write_to_stderr("lost");
  ::dup2(before, STDERR_FILENO);
  ::close(before);
  const Terminal terminal(80);
  write_to_stderr("kept");
  EXPECT_EQ(terminal.shown(), "kept");
}

}  // namespace
}  // namespace halftone::terminal_test
