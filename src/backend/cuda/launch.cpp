// Commands are gathered and handed to the driver some at a time. A sequence of kernels that comes back, such
// as that of a training step or of a token, is made into a CUDA graph: then only parameters that differ are
// told to the driver, and one call starts all. Within a graph kernels that can begin early do.
#include "backend/cuda/launch.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <unordered_map>

namespace lazuli::cuda {

namespace {

constexpr size_t kMostCommands = 64;  // handed over together
constexpr size_t kLeastForGraph = 3;
constexpr int kRunsBeforeGraph = 2;   // what comes only a few times is not worth a graph
constexpr size_t kMostVariants = 12;  // graphs of one sequence with other parameters
constexpr size_t kMostGraphs = 512;

void require(cudaError_t status, const char* what) { check(status, what); }

uint64_t mixed(uint64_t h, uint64_t x) {
  h = (h ^ x) * 0x9e3779b97f4a7c15u;
  return h ^ (h >> 29);
}
uint64_t hash_of(uint64_t h, const std::byte* data, size_t bytes) {
  for (; bytes >= 8; data += 8, bytes -= 8) {
    uint64_t x;
    std::memcpy(&x, data, 8);
    h = mixed(h, x);
  }
  uint64_t x = 0;
  std::memcpy(&x, data, bytes);
  return mixed(h, x + bytes);
}

std::atomic<uint64_t> words_taken{0};  // fault words, since the program began

// Evaluations.
std::atomic<uint64_t> running{1}, finished{0};

struct Command {
  const void* kernel;  // null: a call of a library
  dim3 grid, block;
  size_t shared;
  const char* what;
  size_t first, count;  // its parameters
  size_t bytes_at, bytes;
  const void* plan;  // of a call: what it does, but for the bytes
  std::function<void(cudaStream_t)> call;
  bool early;
};

// A block gets more than 48 KiB of shared memory only when its kernel has been given leave.
void allow_shared(const void* kernel, size_t bytes) {
  if (bytes <= 48 * 1024) return;
  static auto& allowed = *new std::unordered_map<const void*, size_t>;
  size_t& most = allowed[kernel];
  if (bytes <= most) return;
  require(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
          "shared memory of a kernel");
  most = bytes;
}

// The commands, with their parameters one after another.
struct Sequence {
  std::vector<Command> commands;
  std::vector<std::byte> bytes;  // each parameter at a multiple of 16
  std::vector<size_t> offsets;   // of the parameters

  void clear() {
    commands.clear();
    bytes.clear();
    offsets.clear();
  }
  void pointers(const Command& c, std::vector<void*>& to) {
    to.clear();
    for (size_t i = 0; i < c.count; ++i) to.push_back(bytes.data() + offsets[c.first + i]);
  }
};

struct Graph {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  std::vector<cudaGraphNode_t> nodes;
  std::vector<std::byte> bytes;  // as of its last run
  std::vector<dim3> grids;
  uint64_t hash = 0;  // of the bytes

  ~Graph() {
    if (exec) cudaGraphExecDestroy(exec);
    if (graph) cudaGraphDestroy(graph);
  }
};

// What is known of sequences of the same kernels.
struct Known {
  int runs = 0;
  bool refused = false;
  size_t next = 0;  // the variant to change
  std::vector<std::unique_ptr<Graph>> variants;
};

class Submitter {
 public:
  Submitter() {
    one_by_one_ = is_set("LAZULI_CUDA_SYNC");
    const char* graphs = std::getenv("LAZULI_CUDA_GRAPHS");
    graphs_ = !graphs || *graphs != '0';
  }

  void add(Command command, std::span<void* const> parameters, std::span<const size_t> sizes) {
    std::lock_guard lock(mutex_);
    command.first = sequence_.offsets.size();
    command.count = parameters.size();
    command.bytes_at = sequence_.bytes.size();
    for (size_t i = 0; i < parameters.size(); ++i) {
      const size_t at = (sequence_.bytes.size() + 15) / 16 * 16;
      sequence_.bytes.resize(at + sizes[i]);
      std::memcpy(sequence_.bytes.data() + at, parameters[i], sizes[i]);
      sequence_.offsets.push_back(at);
    }
    sequence_.bytes.resize((sequence_.bytes.size() + 15) / 16 * 16);
    command.bytes = sequence_.bytes.size() - command.bytes_at;
    sequence_.commands.push_back(std::move(command));
    words_ = words_taken;
    if (one_by_one_) {
      hand_over();
      require(cudaStreamSynchronize(gpu().stream), sequence_what_);
    } else if (sequence_.commands.size() >= limit_) {
      // The first ones are handed over early, so that the GPU has work while more is prepared.
      limit_ = std::min(2 * limit_, kMostCommands);
      hand_over();
    }
  }
  uint64_t flush() {
    std::lock_guard lock(mutex_);
    limit_ = kFirst;
    hand_over();
    return words_;
  }

 private:
  static constexpr size_t kFirst = 8;

  void hand_over() {
    if (sequence_.commands.empty()) return;
    sequence_what_ = sequence_.commands.back().what;
    try {
      if (!graphs_ || one_by_one_ || sequence_.commands.size() < kLeastForGraph || !as_graph()) run_each();
    } catch (...) {
      sequence_.clear();
      throw;
    }
    sequence_.clear();
  }

  void run_each() {
    for (const Command& c : sequence_.commands) {
      if (!c.kernel) {
        c.call(gpu().stream);
        continue;
      }
      sequence_.pointers(c, pointers_);
      require(cudaLaunchKernel(c.kernel, c.grid, c.block, pointers_.data(), c.shared, gpu().stream), c.what);
    }
  }

  // Runs the sequence as a graph, if it has come often enough.
  bool as_graph() {
    uint64_t key = sequence_.commands.size();
    for (const Command& c : sequence_.commands) {
      key = mixed(key, reinterpret_cast<uint64_t>(c.kernel ? c.kernel : c.plan));
      key = mixed(key, (uint64_t{c.block.x} << 32) + (uint64_t{c.block.y} << 16) + c.block.z);
      key = mixed(key, c.shared * 64 + c.count);
      key = mixed(key, c.bytes);
    }
    if (known_.size() >= kMostGraphs && !known_.contains(key)) {
      require(cudaStreamSynchronize(gpu().stream), "a kernel");
      known_.clear();
    }
    Known& known = known_[key];
    if (known.refused || ++known.runs <= kRunsBeforeGraph) return false;
    const uint64_t hash = hash_of(key, sequence_.bytes.data(), sequence_.bytes.size());
    Graph* graph = nullptr;
    for (auto& g : known.variants)
      if (g->hash == hash && g->bytes == sequence_.bytes && same_grids(*g)) graph = g.get();
    if (!graph && known.variants.size() < kMostVariants) {
      known.variants.push_back(made());
      if (!known.variants.back()) {
        known.variants.pop_back();
        forget(known);
        return false;
      }
      graph = known.variants.back().get();
    } else if (!graph) {
      graph = known.variants[known.next++ % known.variants.size()].get();
      if (!change(*graph)) {
        forget(known);
        return false;
      }
    }
    graph->hash = hash;
    require(cudaGraphLaunch(graph->exec, gpu().stream), sequence_what_);
    return true;
  }

  // What the driver has refused once is not tried again.
  void forget(Known& known) {
    if (verbose())
      std::fprintf(stderr, "[cuda] a sequence up to %s does not become a graph\n", sequence_what_);
    require(cudaStreamSynchronize(gpu().stream), "a kernel");
    known.variants.clear();
    known.refused = true;
  }

  bool same_grids(const Graph& g) {
    for (size_t i = 0; i < g.grids.size(); ++i)
      if (!same(g.grids[i], sequence_.commands[i].grid)) return false;
    return true;
  }
  static bool same(dim3 a, dim3 b) { return a.x == b.x && a.y == b.y && a.z == b.z; }

  cudaKernelNodeParams node_of(const Command& c) {
    sequence_.pointers(c, pointers_);
    cudaKernelNodeParams p{};
    p.func = const_cast<void*>(c.kernel);
    p.gridDim = c.grid;
    p.blockDim = c.block;
    p.sharedMemBytes = static_cast<unsigned>(c.shared);
    p.kernelParams = pointers_.data();
    return p;
  }

  // A graph of the sequence, one command after another; null if the driver or a library will not have it.
  std::unique_ptr<Graph> made() {
    auto g = std::make_unique<Graph>();
    bool good = cudaGraphCreate(&g->graph, 0) == cudaSuccess;
    for (size_t i = 0; good && i < sequence_.commands.size(); ++i) {
      const Command& c = sequence_.commands[i];
      cudaGraphNode_t node = nullptr;
      if (c.kernel) {
        const cudaKernelNodeParams p = node_of(c);
        good = cudaGraphAddKernelNode(&node, g->graph, nullptr, 0, &p) == cudaSuccess;
      } else if (cudaGraph_t child = captured(c)) {
        good = cudaGraphAddChildGraphNode(&node, g->graph, nullptr, 0, child) == cudaSuccess;
        cudaGraphDestroy(child);
      } else {
        good = false;
      }
      if (good && i > 0) {
        cudaGraphEdgeData edge{};  // when all has been done
        if (c.early && sequence_.commands[i - 1].kernel && gpu().capability >= 90) {
          edge.from_port = cudaGraphKernelNodePortLaunchCompletion;
          edge.type = cudaGraphDependencyTypeProgrammatic;
        }
        good = cudaGraphAddDependencies(g->graph, &g->nodes.back(), &node, &edge, 1) == cudaSuccess;
      }
      g->nodes.push_back(node);
      g->grids.push_back(c.grid);
    }
    good = good && cudaGraphInstantiate(&g->exec, g->graph, 0) == cudaSuccess;
    cudaGetLastError();
    if (!good) return nullptr;
    g->bytes = sequence_.bytes;
    return g;
  }

  // Gives the graph the parameters of the sequence.
  bool change(Graph& g) {
    for (size_t i = 0; i < sequence_.commands.size(); ++i) {
      const Command& c = sequence_.commands[i];
      if (same(g.grids[i], c.grid) &&
          std::memcmp(g.bytes.data() + c.bytes_at, sequence_.bytes.data() + c.bytes_at, c.bytes) == 0)
        continue;
      bool good;
      if (c.kernel) {
        const cudaKernelNodeParams p = node_of(c);
        good = cudaGraphExecKernelNodeSetParams(g.exec, g.nodes[i], &p) == cudaSuccess;
      } else {
        cudaGraph_t child = captured(c);
        good = child && cudaGraphExecChildGraphNodeSetParams(g.exec, g.nodes[i], child) == cudaSuccess;
        if (child) cudaGraphDestroy(child);
      }
      if (!good) {
        cudaGetLastError();
        return false;
      }
      g.grids[i] = c.grid;
    }
    g.bytes = sequence_.bytes;
    return true;
  }

  // What a library submits, as a graph; null if it cannot be captured.
  cudaGraph_t captured(const Command& c) {
    if (!capture_ && cudaStreamCreateWithFlags(&capture_, cudaStreamNonBlocking) != cudaSuccess)
      return nullptr;
    if (cudaStreamBeginCapture(capture_, cudaStreamCaptureModeThreadLocal) != cudaSuccess) return nullptr;
    cudaGraph_t graph = nullptr;
    try {
      c.call(capture_);
    } catch (...) {
      cudaStreamEndCapture(capture_, &graph);
      if (graph) cudaGraphDestroy(graph);
      return nullptr;
    }
    return cudaStreamEndCapture(capture_, &graph) == cudaSuccess ? graph : nullptr;
  }

  std::mutex mutex_;
  bool one_by_one_ = false, graphs_ = true;
  size_t limit_ = kFirst;
  uint64_t words_ = 0;  // fault words that commands so far may use
  Sequence sequence_;
  const char* sequence_what_ = "";
  std::vector<void*> pointers_;
  std::unordered_map<uint64_t, Known> known_;
  cudaStream_t capture_ = nullptr;
};

Submitter& submitter() {
  static Submitter& s = *new Submitter;
  return s;
}

// Words of the host that kernels write to, in a ring. A word is used again when its kernel has run and it has
// been looked at.
class Faults {
 public:
  int64_t* word(std::function<std::string(int64_t)> told) {
    if (words_taken - seen_ == kWords) {
      const uint64_t submitted = cuda::flush();
      require(cudaStreamSynchronize(gpu().stream), "a kernel");
      inspect(submitted);
    }
    if (!words_) {
      require(cudaHostAlloc(reinterpret_cast<void**>(&words_), kWords * sizeof(int64_t), cudaHostAllocMapped),
              "cudaHostAlloc");
      std::fill_n(words_, kWords, 0);
    }
    const size_t i = words_taken++ % kWords;
    armed_[i] = {evaluation_, awaited_, std::move(told)};
    return words_ + i;
  }
  void begin(uint64_t evaluation, bool awaited) {
    evaluation_ = evaluation;
    awaited_ = awaited;
  }
  void inspect(uint64_t submitted) {
    for (; seen_ < submitted; ++seen_) {
      Armed& a = armed_[seen_ % kWords];
      if (const int64_t found = std::exchange(words_[seen_ % kWords], 0))
        found_.push_back({a.evaluation, a.awaited, a.told(found)});
      a.told = nullptr;
    }
  }
  // Throws the first error that is `mine`, and forgets the others of its evaluation.
  void raise(const std::function<bool(uint64_t, bool)>& mine) {
    const auto first = std::find_if(found_.begin(), found_.end(),
                                    [&](const Found& f) { return mine(f.evaluation, f.awaited); });
    if (first == found_.end()) return;
    const Found raised = std::move(*first);
    std::erase_if(found_, [&](const Found& f) { return f.evaluation == raised.evaluation; });
    throw std::out_of_range(raised.message);
  }

 private:
  struct Armed {
    uint64_t evaluation;
    bool awaited;
    std::function<std::string(int64_t)> told;
  };
  struct Found {
    uint64_t evaluation;
    bool awaited;
    std::string message;
  };
  static constexpr size_t kWords = 1024;
  int64_t* words_ = nullptr;
  Armed armed_[kWords];
  uint64_t seen_ = 0, evaluation_ = 0;
  bool awaited_ = false;
  std::vector<Found> found_;
};

std::mutex faults_mutex;
Faults& faults() {
  static Faults& f = *new Faults;
  return f;
}

}  // namespace

void submit(const void* kernel, dim3 grid, dim3 block, size_t shared, std::span<void* const> parameters,
            std::span<const size_t> sizes, const char* what, bool early) {
  allow_shared(kernel, shared);
  submitter().add({kernel, grid, block, shared, what, 0, 0, 0, 0, nullptr, nullptr, early}, parameters,
                  sizes);
}

void library_call(const char*, const std::function<void(cudaStream_t)>& call) {
  flush();
  call(gpu().stream);
}

void library_call(const char* what, const void* plan, std::span<const uint64_t> arguments,
                  std::function<void(cudaStream_t)> call) {
  void* const parameters[] = {const_cast<uint64_t*>(arguments.data())};
  const size_t sizes[] = {arguments.size_bytes()};
  submitter().add({nullptr, 1, 1, 0, what, 0, 0, 0, 0, plan, std::move(call), false}, parameters, sizes);
}

uint64_t flush() { return submitter().flush(); }

int64_t* fault_word(std::function<std::string(int64_t)> told) {
  std::lock_guard lock(faults_mutex);
  return faults().word(std::move(told));
}
void begin_evaluation(uint64_t evaluation, bool awaited) {
  running = evaluation;
  std::lock_guard lock(faults_mutex);
  faults().begin(evaluation, awaited);
}
uint64_t running_evaluation() { return running; }
uint64_t ended_evaluation() { return running - 1; }
void note_finished(uint64_t evaluation) {
  uint64_t before = finished;
  while (before < evaluation && !finished.compare_exchange_weak(before, evaluation)) {}
}
uint64_t finished_evaluation() { return finished; }
void check_faults(uint64_t submitted, const std::function<bool(uint64_t, bool)>& mine) {
  std::lock_guard lock(faults_mutex);
  faults().inspect(submitted);
  faults().raise(mine);
}

}  // namespace lazuli::cuda
