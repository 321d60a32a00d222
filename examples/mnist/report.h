// What the user sees: progress, the confusion matrix, images drawn in the terminal.
#pragma once

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

namespace mnist {

struct Terminal {
  bool present = isatty(STDOUT_FILENO);
  bool color = present && !std::getenv("NO_COLOR");
  int width = [] {
    winsize size{};
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? int(size.ws_col) : 80;
  }();
};

class Timer {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// "0:07", "12:34", "1:02:03"
inline std::string clock(double seconds) {
  int64_t s = static_cast<int64_t>(seconds + 0.5);
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

// "12,345"
inline std::string thousands(double value) {
  std::string digits = fmt::format("{:.0f}", value);
  for (int64_t at = static_cast<int64_t>(digits.size()) - 3; at > 0; at -= 3) digits.insert(at, ",");
  return digits;
}

// One line that is redrawn on a terminal; silent elsewhere.
class Progress {
 public:
  Progress(const Terminal& terminal, int first_epoch, int epochs, int64_t images)
      : terminal_(terminal), first_(first_epoch), epochs_(epochs), images_(images) {}
  ~Progress() { clear(); }

  void start_epoch(int epoch) {
    epoch_ = epoch;
    epoch_timer_ = Timer();
  }

  // `done` images of this epoch are through.
  void update(int64_t done, double loss) {
    bool last = done == images_;
    if (!terminal_.present || (!last && drawn_.seconds() < 0.1)) return;
    drawn_ = Timer();
    double share = static_cast<double>(done) / static_cast<double>(images_);
    double passed = epoch_ - first_ + share, left = total_.seconds() / passed * (epochs_ - first_ - passed);
    std::string head = fmt::format("epoch {}/{} ", epoch_ + 1, epochs_);
    std::string tail =
        fmt::format(" {:3.0f}%  loss {:.4f}  {} images/s  {} left", 100 * share, loss,
                    thousands(static_cast<double>(done) / epoch_timer_.seconds()), clock(left));
    int room = std::clamp(terminal_.width - int(head.size() + tail.size()) - 1, 0, 30);
    std::string bar;
    for (int i = 0; i < room; ++i) bar += i < share * room ? "█" : "░";
    fmt::print("\r\033[K{}", (head + bar + tail));
    std::fflush(stdout);
  }

  // Replaces the bar by a line that stays.
  void finish_epoch(double loss, double accuracy) {
    double seconds = epoch_timer_.seconds();
    clear();
    fmt::print("Epoch: {:{}}, Loss: {:.4f}, Test accuracy: {:.2f}%, Time: {:.2f} s, {} images/s\n",
               epoch_ + 1, fmt::formatted_size("{}", epochs_), loss, 100 * accuracy, seconds,
               thousands(static_cast<double>(images_) / seconds));
    std::fflush(stdout);
  }

 private:
  void clear() const {
    if (terminal_.present) fmt::print("\r\033[K");
  }
  Terminal terminal_;
  int first_, epochs_, epoch_ = 0;
  int64_t images_;
  Timer total_, epoch_timer_, drawn_;
};

// counts[truth][guess]
using Confusion = std::vector<std::vector<int64_t>>;

inline void print_confusion(const Confusion& counts, const std::vector<std::string>& classes) {
  size_t label = 0, cell = 5;
  for (const auto& name : classes) label = std::max(label, name.size());
  for (const auto& row : counts)
    for (int64_t n : row) cell = std::max(cell, fmt::formatted_size("{}", n) + 1);
  fmt::print("\nConfusion matrix: one row for each true class, one column for each guess\n{:{}}", "",
             label + 1);
  for (const auto& name : classes) fmt::print("{:>{}}", name.substr(0, cell - 1), cell);
  fmt::print("{:>8}\n", "right");
  for (size_t truth = 0; truth < counts.size(); ++truth) {
    int64_t all = 0;
    fmt::print("{:{}} ", classes[truth], label);
    for (int64_t n : counts[truth]) {
      fmt::print("{:>{}}", n ? std::to_string(n) : ".", cell);
      all += n;
    }
    fmt::print("{:>8}\n",
               all ? fmt::format("{:.1f}%", 100.0 * static_cast<double>(counts[truth][truth]) / all) : "-");
  }
}

struct Drawing {
  std::span<const uint8_t> pixels;  // row-major
  std::string caption;
};

// Draws images side by side, as many as fit; each character is two pixels, one above the other.
inline void draw(const Terminal& terminal, std::span<const Drawing> images, int64_t height, int64_t width) {
  constexpr int64_t kGap = 2;
  size_t count =
      std::min<size_t>(images.size(), std::max<int64_t>(0, (terminal.width + kGap) / (width + kGap)));
  if (count == 0) return;
  images = images.first(count);
  fmt::print("\n");
  for (const Drawing& image : images) fmt::print("{:{}.{}}{:{}}", image.caption, width, width, "", kGap);
  fmt::print("\n");
  for (int64_t y = 0; y < height; y += 2) {
    for (const Drawing& image : images) {
      for (int64_t x = 0; x < width; ++x) {
        int upper = image.pixels[y * width + x],
            lower = y + 1 < height ? image.pixels[(y + 1) * width + x] : 0;
        auto grey = [](int v) { return 232 + v * 23 / 255; };  // of the 256-colour palette
        if (terminal.color)
          fmt::print("\033[38;5;{};48;5;{}m▀", grey(upper), grey(lower));
        else
          fmt::print("{}", upper > 96 ? (lower > 96 ? "█" : "▀") : (lower > 96 ? "▄" : " "));
      }
      fmt::print("{}{:{}}", terminal.color ? "\033[0m" : "", "", kGap);
    }
    fmt::print("\n");
  }
}

}  // namespace mnist
