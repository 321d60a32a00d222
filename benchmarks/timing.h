// Timing shared by the benchmark programs, and the way they talk to run.py.
//
// A program is a table of rows. A row prepares its data and returns ways to compute it; each way is
// timed and the best is the row's result, one line of JSON:
//
//     {"row": "exp", "ms": 4.01, "min_ms": 3.95, "n": 96, "way": "loop", "others": 0.01}
//
// `others` is how many cores the rest of the machine kept busy meanwhile: above 0.1 the number is noise.
//
//     int main(int argc, char** argv) { return bench::serve({{"exp", make_exp}}, argc, argv); }
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

namespace bench {

struct Way {
  std::string name;
  std::function<void()> run;
  double divisor = 1;  // operations in one run, where the row counts per operation
};

struct Row {
  std::string name;
  std::function<std::vector<Way>()> make;
};

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline double own_cpu_seconds() {
  rusage r;
  getrusage(RUSAGE_SELF, &r);
  auto seconds = [](timeval t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(r.ru_utime) + seconds(r.ru_stime);
}

// Busy seconds of all cores since the machine started; 0 where /proc/stat does not say.
inline double machine_cpu_seconds() {
  std::FILE* file = std::fopen("/proc/stat", "r");
  if (!file) return 0;
  double user = 0, nice = 0, system = 0, idle, wait, irq = 0, softirq = 0;
  int found = std::fscanf(file, "cpu %lf %lf %lf %lf %lf %lf %lf", &user, &nice, &system, &idle, &wait, &irq,
                          &softirq);
  std::fclose(file);
  return found == 7 ? (user + nice + system + irq + softirq) / static_cast<double>(sysconf(_SC_CLK_TCK)) : 0;
}

struct Timing {
  double median = 0, min = 0, others = 0;
  size_t n = 0;
};

// Runs f warm, for at least 0.4 s and 5 times; tries again, at most twice, when something else kept
// the machine busy meanwhile.
inline Timing measure(const std::function<void()>& f) {
  f();
  Timing best;
  for (int attempt = 0; attempt < 3; ++attempt) {
    f();
    f();
    std::vector<double> times;
    double own = own_cpu_seconds(), machine = machine_cpu_seconds(), start = now();
    while (times.size() < 5 || (now() - start < 0.4 && times.size() < 100000)) {
      double t = now();
      f();
      times.push_back(now() - t);
    }
    double wall = now() - start;
    double others = std::max(0.0, machine_cpu_seconds() - machine - (own_cpu_seconds() - own)) / wall;
    std::sort(times.begin(), times.end());
    Timing t{times[times.size() / 2], times[0], others, times.size()};
    if (attempt == 0 || t.others < best.others) best = t;
    if (best.others < 0.1) break;
    usleep(300000);
  }
  return best;
}

inline void print_result(const Row& row) {
  try {
    Timing best;
    std::string way;
    for (const Way& candidate : row.make()) {
      Timing t = measure(candidate.run);
      t.median /= candidate.divisor;
      t.min /= candidate.divisor;
      if (way.empty() || t.median < best.median) best = t, way = candidate.name;
    }
    std::printf(
        "{\"row\": \"%s\", \"ms\": %.6f, \"min_ms\": %.6f, \"n\": %zu, \"way\": \"%s\", \"others\": %.3f}\n",
        row.name.c_str(), best.median * 1e3, best.min * 1e3, best.n, way.c_str(), best.others);
  } catch (const std::exception& e) {
    std::string text = e.what();
    std::replace_if(
        text.begin(), text.end(), [](char c) { return c == '"' || c == '\\' || c < ' '; }, '\'');
    std::printf("{\"row\": \"%s\", \"error\": \"%s\"}\n", row.name.c_str(), text.c_str());
  }
  std::fflush(stdout);
}

// Runs the rows named on the command line; with --serve those named on standard input, one a line, as they
// come; with --list prints the names.
inline int serve(const std::vector<Row>& rows, int argc, char** argv) {
  auto run = [&](const std::string& name) {
    for (const Row& row : rows)
      if (row.name == name) return print_result(row);
    std::printf("{\"row\": \"%s\", \"missing\": true}\n", name.c_str());
    std::fflush(stdout);
  };
  std::string name;
  if (argc > 1 && !std::strcmp(argv[1], "--serve")) {
    while (std::getline(std::cin, name)) run(name);
  } else if (argc > 1 && !std::strcmp(argv[1], "--list")) {
    for (const Row& row : rows) std::printf("%s\n", row.name.c_str());
  } else if (argc > 1) {
    for (int i = 1; i < argc; ++i) run(argv[i]);
  } else {
    for (const Row& row : rows) print_result(row);
  }
  return 0;
}

}  // namespace bench
