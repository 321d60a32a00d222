// The emulated GPU itself: what kernels see, and that broken kernels are found out. (cmake: only with
// LAZULI_CUDA_EMULATED.)
#include <gmock/gmock.h>

#include <numeric>
#include <vector>

#include "backend/cuda/dtypes.h"
#include "backend/cuda/early.h"
#include "backend/cuda/warp.cuh"

namespace lazuli::cuda {
namespace {

template <class T>
class OnGpu {
 public:
  explicit OnGpu(size_t n) : n_(n) {
    cudaMallocAsync(reinterpret_cast<void**>(&data_), n * sizeof(T), nullptr);
  }
  ~OnGpu() { cudaFreeAsync(data_, nullptr); }
  OnGpu(const OnGpu&) = delete;
  operator T*() const { return data_; }
  std::vector<T> read() const {
    std::vector<T> v(n_);
    EXPECT_EQ(cudaMemcpyAsync(v.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost, nullptr), cudaSuccess);
    return v;
  }

 private:
  size_t n_;
  T* data_;
};

template <class... Parameters, class... Arguments>
cudaError_t start(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
                  const Arguments&... arguments) {
  emulation::introduce(kernel, "of a test");
  std::tuple<Parameters...> values(arguments...);
  return std::apply(
      [&](auto&... value) {
        void* pointers[] = {&value...};
        return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers, shared,
                                nullptr);
      },
      values);
}
template <class F>
std::string message_of(F f) {
  try {
    f();
  } catch (const std::runtime_error& e) {
    return e.what();
  }
  return "nothing was thrown";
}

// ---- What kernels see ----

__global__ void number(int* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned at = block * blockDim.x * blockDim.y * blockDim.z + thread;
  out[at] = static_cast<int>(at);
}
TEST(Emulation, EveryThreadOfEveryBlockRunsOnce) {
  OnGpu<int> out(2 * 3 * 4 * 5 * 6 * 7);
  ASSERT_EQ(start(&number, dim3(2, 3, 4), dim3(5, 6, 7), 0, out), cudaSuccess);
  std::vector<int> expected(2 * 3 * 4 * 5 * 6 * 7);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(out.read(), expected);
}

__global__ void reverse(int* out) {
  __shared__ int tile[256];
  for (int round = 0; round < 3; ++round) {
    tile[threadIdx.x] = static_cast<int>(threadIdx.x) + round;
    __syncthreads();
    out[blockIdx.x * 256 + threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
    __syncthreads();
  }
}
TEST(Emulation, ABarrierSeparatesWritesFromReads) {
  OnGpu<int> out(512);
  ASSERT_EQ(start(&reverse, 2, 256, 0, out), cudaSuccess);
  for (int i = 0; i < 512; ++i) ASSERT_EQ(out.read()[static_cast<size_t>(i)], 255 - i % 256 + 2);
}
__global__ void reverse_without_barrier(int* out) {
  __shared__ int tile[256];
  tile[threadIdx.x] = -1;
  __syncthreads();
  tile[threadIdx.x] = static_cast<int>(threadIdx.x);
  out[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}
TEST(Emulation, AMissingBarrierShowsInTheResult) {
#ifdef LAZULI_EMULATED_RACES
  GTEST_SKIP() << "and is an error in this build";
#endif
  OnGpu<int> out(256);
  ASSERT_EQ(start(&reverse_without_barrier, 1, 256, 0, out), cudaSuccess);
  EXPECT_THAT(out.read(), testing::Contains(-1));
}

__global__ void shuffles(int* out) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int* mine = out + threadIdx.x * 12;
  mine[0] = __shfl_sync(~0u, lane * 10, 5);
  mine[1] = __shfl_sync(~0u, lane * 10, lane + 1, 8);
  mine[2] = __shfl_xor_sync(~0u, lane, 3);
  mine[3] = __shfl_up_sync(~0u, lane, 2);
  mine[4] = __shfl_up_sync(~0u, lane, 2, 16);
  mine[5] = __shfl_down_sync(~0u, lane, 3);
  mine[6] = __shfl_down_sync(~0u, lane, 3, 4);
  mine[7] = static_cast<int>(__ballot_sync(~0u, lane % 2));
  mine[8] = __any_sync(~0u, lane == 7) + 2 * __any_sync(~0u, lane == 77);
  mine[9] = __all_sync(~0u, lane < 32) + 2 * __all_sync(~0u, lane < 31);
  mine[10] = __reduce_max_sync(~0u, lane - 100) + static_cast<int>(__reduce_add_sync(~0u, unsigned(lane)));
  // Halves of a warp by themselves, a different number of times.
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  int sum = lane;
  for (int i = 0; i < (lane < 16 ? 1 : 3); ++i) sum = __shfl_xor_sync(half, sum, 1);
  mine[11] = sum;
}
TEST(Emulation, Shuffles) {
  OnGpu<int> out(64 * 12);
  ASSERT_EQ(start(&shuffles, 1, 64, 0, out), cudaSuccess);
  const auto v = out.read();
  for (int t = 0; t < 64; ++t) {
    const int l = t % 32;
    const int expected[] = {50,
                            (l / 8 * 8 + (l + 1) % 8) * 10,
                            l ^ 3,
                            l < 2 ? l : l - 2,
                            l % 16 < 2 ? l : l - 2,
                            l + 3 > 31 ? l : l + 3,
                            l % 4 + 3 > 3 ? l : l + 3,
                            static_cast<int>(0xaaaaaaaau),
                            1,
                            1,
                            -69 + 496,
                            l ^ 1};
    for (int i = 0; i < 12; ++i) EXPECT_EQ(v[static_cast<size_t>(t * 12 + i)], expected[i]) << t << " " << i;
  }
}
__global__ void in_groups(int* out, int n) {
  if (static_cast<int>(threadIdx.x) >= n) return;  // lanes that ended are not waited for
  out[threadIdx.x] = static_cast<int>(__ballot_sync(~0u, 1));
}
TEST(Emulation, LanesThatEndedAreNotWaitedFor) {
  OnGpu<int> out(20);
  ASSERT_EQ(start(&in_groups, 1, 64, 0, out, 20), cudaSuccess);
  EXPECT_THAT(out.read(), testing::Each((1 << 20) - 1));
}

__global__ void counts(int* out) {
  atomicAdd(&out[0], 2);
  atomicMax(&out[1], static_cast<int>(threadIdx.x));
  int seen = 0;
  while (true) {
    const int before = atomicCAS(&out[2], seen, seen + 1);
    if (before == seen) break;
    seen = before;
  }
  const int odd = __syncthreads_count(threadIdx.x % 2);
  if (threadIdx.x == 0) out[3] = odd;
}
TEST(Emulation, AtomicsAndVotes) {
  OnGpu<int> out(4);
  cudaMemsetAsync(out, 0, 16, nullptr);
  ASSERT_EQ(start(&counts, 1, 100, 0, out), cudaSuccess);
  EXPECT_THAT(out.read(), testing::ElementsAre(200, 99, 100, 50));
}

__global__ void sums(const float* in, float* out) {
  float* room = shared_memory<float>();
  out[blockIdx.x * blockDim.x + threadIdx.x] = block_join(
      in[threadIdx.x], 0.0f, [](float a, float b) { return a + b; }, room);
}
TEST(Emulation, DynamicSharedMemory) {
  OnGpu<float> in(512), out(1024);
  std::vector<float> ones(512, 1);
  cudaMemcpyAsync(in, ones.data(), 2048, cudaMemcpyHostToDevice, nullptr);
  ASSERT_EQ(start(&sums, 2, 512, 16 * sizeof(float), in, out), cudaSuccess);
  EXPECT_THAT(out.read(), testing::Each(512.0f));
}

__global__ void late_copies(const int* in, int* out) {
  alignas(16) __shared__ int tile[12];
  emulation::copy_later(tile, in, 16);
  emulation::end_copies();
  emulation::copy_later(tile + 4, in + 4, 16);
  emulation::end_copies();
  emulation::copy_later(tile + 8, nullptr, 16);
  emulation::wait_copies(1);
  out[0] = tile[0], out[1] = tile[4], out[2] = tile[8];
  emulation::wait_copies(0);
  out[3] = tile[4], out[4] = tile[8];
  emulation::end_copies();
  emulation::wait_copies(0);
  out[5] = tile[8];
}
TEST(Emulation, CopiesAreDoneWhenTheyAreWaitedFor) {
  OnGpu<int> in(8), out(6);
  const std::vector<int> numbers{1, 2, 3, 4, 5, 6, 7, 8};
  cudaMemcpyAsync(in, numbers.data(), 32, cudaMemcpyHostToDevice, nullptr);
  ASSERT_EQ(start(&late_copies, 1, 1, 0, in, out), cudaSuccess);
  EXPECT_THAT(out.read(), testing::ElementsAre(1, -1, -1, 5, -1, 0));
}

struct Word {
  int at[3];
};
__global__ void gathers(int* out) {
  Word all[32];
  const int lane = static_cast<int>(threadIdx.x);
  emulation::gather(~0u, "a gather", Word{{lane, 2 * lane, 3 * lane}}, all);
  out[lane] = all[(lane + 1) % 32].at[2];
}
TEST(Emulation, LanesSeeWhatOthersBring) {
  OnGpu<int> out(32);
  ASSERT_EQ(start(&gathers, 1, 32, 0, out), cudaSuccess);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(out.read()[static_cast<size_t>(i)], (i + 1) % 32 * 3);
}

__global__ void add_to(int* out, int x) { out[0] = 10 * out[0] + x; }
TEST(Emulation, GraphsRunWhatWasRecorded) {
  OnGpu<int> out(1);
  cudaStream_t stream;
  cudaStreamCreateWithFlags(&stream, 0);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  cudaMemsetAsync(out, 0, 4, stream);
  emulation::introduce(&add_to, "of a test");
  int* at = out;
  int x = 1;
  void* arguments[] = {&at, &x};
  const auto* kernel = reinterpret_cast<const void*>(&add_to);
  ASSERT_EQ(cudaLaunchKernel(kernel, 1, 1, arguments, 0, stream), cudaSuccess);
  cudaGraph_t recorded, graph;
  ASSERT_EQ(cudaStreamEndCapture(stream, &recorded), cudaSuccess);
  ASSERT_EQ(cudaGraphCreate(&graph, 0), cudaSuccess);
  cudaGraphNode_t child, node;
  ASSERT_EQ(cudaGraphAddChildGraphNode(&child, graph, nullptr, 0, recorded), cudaSuccess);
  x = 2;
  cudaKernelNodeParams p{const_cast<void*>(kernel), 1, 1, 0, arguments, nullptr};
  ASSERT_EQ(cudaGraphAddKernelNode(&node, graph, &child, 1, &p), cudaSuccess);
  cudaGraphExec_t exec;
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  EXPECT_THAT(out.read(), testing::ElementsAre(12));
  x = 3;
  ASSERT_EQ(cudaGraphExecKernelNodeSetParams(exec, node, &p), cudaSuccess);
  ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  EXPECT_THAT(out.read(), testing::ElementsAre(13));
  EXPECT_EQ(cudaGraphExecKernelNodeSetParams(exec, child, &p), cudaErrorInvalidValue);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaGraphDestroy(recorded);
  cudaStreamDestroy(stream);
}

TEST(Emulation, HalvesConvertAsTheirDefinitionSays) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto h = static_cast<uint16_t>(bits);
    const float16_t expected = std::bit_cast<float16_t>(h);
    const float f = static_cast<float>(expected);
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(lane::of_half(h)));
    } else {
      ASSERT_EQ(lane::of_half(h), f);
      ASSERT_EQ(lane::to_half(f), h);
      // Halfway to the next one, and beside.
      const float next = static_cast<float>(std::bit_cast<float16_t>(static_cast<uint16_t>(h + 1)));
      if (std::isfinite(f) && std::isfinite(next)) {
        const float half = (f + next) / 2;
        for (float x : {half, std::nextafter(half, 1e9f), std::nextafter(half, -1e9f)})
          ASSERT_EQ(lane::to_half(x), std::bit_cast<uint16_t>(float16_t(x))) << x;
      }
    }
  }
  EXPECT_EQ(lane::to_half(65520.0f), 0x7c00);
  EXPECT_EQ(lane::to_half(65519.0f), 0x7bff);
}

// ---- What broken kernels meet ----

__global__ void some_return(int n) {
  if (static_cast<int>(threadIdx.x) >= n) return;
  __syncthreads();
}
TEST(Emulation, ThreadsThatEndBeforeABarrierAreAnError) {
  EXPECT_EQ(
      message_of([] { start(&some_return, dim3(3, 2), 64, 0, 60); }),
      "[emulated GPU] kernel \"of a test\", block (0, 0, 0): 60 threads wait at __syncthreads, 4 have ended");
  // The machine works on.
  EXPECT_EQ(start(&some_return, 1, 64, 0, 64), cudaSuccess);
}
__global__ void crossed_masks() {
  if (threadIdx.x < 16)
    __shfl_sync(0xffffffffu, 1, 0);
  else
    __syncthreads();
}
TEST(Emulation, BarriersThatWaitForEachOtherAreAnError) {
  EXPECT_THAT(
      message_of([] { start(&crossed_masks, 1, 32, 0); }),
      testing::EndsWith("16 threads wait at __syncthreads, 16 wait for others of their warp (one, lane "
                        "15, in __shfl_sync with mask 0xffffffff)"));
}
__global__ void two_operations() {
  if (threadIdx.x < 16)
    __shfl_sync(0xffffffffu, 1, 0);
  else
    __ballot_sync(0xffffffffu, 1);
}
TEST(Emulation, LanesInDifferentOperationsAreAnError) {
  EXPECT_THAT(
      message_of([] { start(&two_operations, 1, 32, 0); }),
      testing::AnyOf(testing::EndsWith("some lanes of a warp are in __shfl_sync and some in __ballot_sync"),
                     testing::EndsWith("some lanes of a warp are in __ballot_sync and some in __shfl_sync")));
}
__global__ void without_itself() { __syncwarp(1); }
TEST(Emulation, AMaskNamesItsOwnLane) {
  EXPECT_THAT(message_of([] { start(&without_itself, 1, 2, 0); }),
              testing::EndsWith("__syncwarp: the mask leaves out the lane that calls it"));
}
// An early kernel of which some threads wait for their inputs, and others read first.
__global__ void begins_early(Early early, int* data, int waiting, int reading) {
  const auto thread = static_cast<int>(threadIdx.x);
  int found = thread < reading ? data[thread] : 0;
  if (thread < waiting) wait_for_inputs(early);
  if (thread < waiting) data[thread] = found + 1;
}
TEST(Emulation, EarlyKernelsWaitForTheirInputs) {
  OnGpu<int> data(64);
  EXPECT_EQ(start(&begins_early, 1, 32, 0, Early(), data, 32, 0), cudaSuccess);
  EXPECT_EQ(data.read()[31], 1);
  EXPECT_EQ(
      message_of([&] { start(&begins_early, 1, 32, 0, Early(), data, 31, 0); }),
      "[emulated GPU] kernel \"of a test\", block (0, 0, 0): a thread ends without having waited for its "
      "inputs");
}
// An early kernel that begins to copy before it waits: `settled` bytes of `from` may be read by then.
__global__ void copies_early(Early early, const int* from, int settled, int* out) {
  alignas(16) __shared__ int tile[32 * 4];
  const auto thread = static_cast<int>(threadIdx.x);
  note_settled(from, settled);
  emulation::copy_later(tile + 4 * thread, from + 4 * thread, 16);
  emulation::end_copies();
  wait_for_inputs(early);
  emulation::wait_copies(0);
  out[thread] = tile[4 * thread + 3];
}
TEST(Emulation, EarlyKernelsCopyWhatIsSettled) {
  OnGpu<int> in(32 * 4), out(32);
  std::vector<int> numbers(32 * 4);
  std::iota(numbers.begin(), numbers.end(), 0);
  cudaMemcpyAsync(in, numbers.data(), 512, cudaMemcpyHostToDevice, nullptr);
  EXPECT_EQ(start(&copies_early, 1, 32, 0, Early(), in, 512, out), cudaSuccess);
  EXPECT_EQ(out.read()[31], 127);
  EXPECT_THAT(
      message_of([&] { start(&copies_early, 1, 32, 0, Early(), in, 511, out); }),
      testing::EndsWith("a copy from memory of the GPU begins before its thread has waited for its inputs"));
  // What was settled for one launch is not for the next.
  EXPECT_THAT(message_of([&] { start(&copies_early, 1, 32, 0, Early(), in, 0, out); }),
              testing::EndsWith("has waited for its inputs"));
}
__global__ void nothing() {}
TEST(Emulation, LaunchesBeyondTheLimitsAreErrors) {
  EXPECT_EQ(start(&nothing, 1, 1024, 0), cudaSuccess);
  EXPECT_EQ(start(&nothing, 1, 1025, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(start(&nothing, 1, dim3(1, 1, 65), 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(start(&nothing, 0, 32, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(start(&nothing, dim3(1, 65536), 32, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(start(&nothing, 1, 32, 48 * 1024), cudaSuccess);
  EXPECT_EQ(start(&nothing, 1, 32, 48 * 1024 + 1), cudaErrorInvalidValue);
  const auto* kernel = reinterpret_cast<const void*>(&nothing);
  EXPECT_EQ(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 * 1024),
            cudaSuccess);
  EXPECT_EQ(start(&nothing, 1, 32, 227 * 1024), cudaSuccess);
  EXPECT_EQ(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 * 1024 + 1),
            cudaErrorInvalidValue);
}
TEST(Emulation, CopiesKnowWhereMemoryIs) {
  OnGpu<int> gpu(4);
  int host[5] = {};
  EXPECT_EQ(cudaMemcpyAsync(gpu, host, 16, cudaMemcpyHostToDevice, nullptr), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(host, gpu, 16, cudaMemcpyHostToDevice, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpyAsync(host, host + 1, 4, cudaMemcpyDeviceToHost, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemsetAsync(host, 0, 4, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(message_of([&] { cudaMemcpyAsync(host, gpu, 20, cudaMemcpyDeviceToHost, nullptr); }),
            "[emulated GPU] a copy goes beyond its memory");
}

#ifdef __SANITIZE_ADDRESS__
__global__ void read_at(const int* in, int* out, int i) { out[0] = in[i]; }
TEST(EmulationDeathTest, ReadingBeyondAnArrayIsFound) {
  OnGpu<int> in(3), out(1);
  EXPECT_DEATH(start(&read_at, 1, 1, 0, in, out, 3), "heap-buffer-overflow");
}
__global__ void read_shared(int* out, int i) {
  __shared__ int tile[8];
  tile[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = tile[i];
}
TEST(EmulationDeathTest, ReadingBeyondSharedMemoryIsFound) {
  OnGpu<int> out(8);
  EXPECT_DEATH(start(&read_shared, 1, 8, 0, out, 8), "global-buffer-overflow|out of bounds");
}
__global__ void read_dynamic(int* out, int i) { out[0] = shared_memory<int>()[i]; }
TEST(EmulationDeathTest, ReadingBeyondDynamicSharedMemoryIsFound) {
  OnGpu<int> out(1);
  EXPECT_DEATH(start(&read_dynamic, 1, 1, 12, out, 3), "heap-buffer-overflow");
}
#endif

#ifdef LAZULI_EMULATED_RACES
using testing::AllOf, testing::HasSubstr;

TEST(EmulatedRaces, ThreadsThatNothingSeparates) {
  OnGpu<int> out(256);
  EXPECT_THAT(message_of([&] { start(&reverse_without_barrier, 1, 256, 0, out); }),
              AllOf(HasSubstr("a race: thread "), HasSubstr(" 4 bytes, static shared memory, which thread "),
                    HasSubstr("and nothing is between them; at ")));
}

// A number that lanes of a warp give their neighbours through dynamic shared memory.
__global__ void to_neighbour(int* out, int between) {
  int* room = shared_memory<int>();
  const unsigned lane = threadIdx.x;
  room[lane] = static_cast<int>(lane);
  if (between == 1) __shfl_sync(~0u, 1, 0);
  if (between == 2) __syncwarp();
  const int found = room[(lane + 1) % 32];
  if (between == 2) __syncwarp();
  room[lane] = 0;
  out[lane] = found;
}
TEST(EmulatedRaces, LanesNeedAWarpBarrier) {
  OnGpu<int> out(32);
  for (int between : {0, 1})
    EXPECT_THAT(message_of([&] { start(&to_neighbour, 1, 32, 128, out, between); }),
                HasSubstr("of dynamic shared memory, which thread "));
  EXPECT_EQ(start(&to_neighbour, 1, 32, 128, out, 2), cudaSuccess);
  EXPECT_EQ(out.read()[31], 0);
}

__global__ void all_write(int* out, int apart) {
  out[blockIdx.x * static_cast<unsigned>(apart)] = static_cast<int>(blockIdx.x);
}
__global__ void read_and_write(int* data) { data[blockIdx.x] = data[(blockIdx.x + 1) % gridDim.x]; }
TEST(EmulatedRaces, BlocksAreInNoOrder) {
  OnGpu<int> out(4);
  EXPECT_EQ(start(&all_write, 4, 1, 0, out, 1), cudaSuccess);
  EXPECT_THAT(message_of([&] { start(&all_write, 4, 1, 0, out, 0); }),
              HasSubstr("4 bytes, memory of the GPU, which thread 0 of the block 1 before wrote"));
  EXPECT_THAT(message_of([&] { start(&read_and_write, 4, 1, 0, out); }), HasSubstr("memory of the GPU"));
  // One launch comes after the other.
  EXPECT_EQ(start(&all_write, 1, 1, 0, out, 0), cudaSuccess);
  EXPECT_EQ(start(&all_write, 1, 1, 0, out, 0), cudaSuccess);
}

TEST(EmulatedRaces, EarlyKernelsReadWhatTheyHaveWaitedFor) {
  OnGpu<int> data(64);
  EXPECT_EQ(start(&begins_early, 1, 64, 0, Early(), data, 64, 0), cudaSuccess);
  EXPECT_THAT(message_of([&] { start(&begins_early, 1, 64, 0, Early(), data, 64, 1); }),
              HasSubstr("thread 0 uses memory of the GPU before it has waited for its inputs, at "));
}

// An early kernel that reads `read` and writes `written` before it waits.
__global__ void settles(Early early, int* read, int* written) {
  note_settled(read, 32 * sizeof(int));
  if (written) *written = 1;
  const int found = read[threadIdx.x];
  wait_for_inputs(early);
  read[threadIdx.x] = found;
}
TEST(EmulatedRaces, EarlyKernelsReadWhatIsSettledAndWriteNothing) {
  OnGpu<int> data(33);
  EXPECT_EQ(start(&settles, 1, 32, 0, Early(), data, nullptr), cudaSuccess);
  EXPECT_THAT(message_of([&] { start(&settles, 1, 32, 0, Early(), data, data); }),
              HasSubstr("uses memory of the GPU before it has waited for its inputs, at "));
  EXPECT_THAT(message_of([&] { start(&settles, 1, 33, 0, Early(), data, nullptr); }),
              HasSubstr("thread 32 uses memory of the GPU before it has waited for its inputs, at "));
}

__global__ void bytes(uint8_t* out) { out[threadIdx.x] = static_cast<uint8_t>(threadIdx.x); }
TEST(EmulatedRaces, PartsOfAWordAreSeparate) {
  OnGpu<uint8_t> out(64);
  EXPECT_EQ(start(&bytes, 1, 64, 0, out), cudaSuccess);
}

// The last block to arrive adds up what all have written.
__global__ void last_adds(int* parts, int* arrived, int* sum, int counts) {
  parts[blockIdx.x] = 1;
  __threadfence();
  const int before = counts ? atomicAdd(arrived, 1) : static_cast<int>(blockIdx.x);
  if (before + 1 != static_cast<int>(gridDim.x)) return;
  __threadfence();
  *sum = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) *sum += parts[i];
}
TEST(EmulatedRaces, AtomicsPutBlocksInOrder) {
  OnGpu<int> parts(5), arrived(1), sum(1);
  cudaMemsetAsync(arrived, 0, 4, nullptr);
  EXPECT_EQ(start(&last_adds, 5, 1, 0, parts, arrived, sum, 1), cudaSuccess);
  EXPECT_THAT(sum.read(), testing::ElementsAre(5));
  EXPECT_THAT(message_of([&] { start(&last_adds, 5, 1, 0, parts, arrived, sum, 0); }),
              HasSubstr("memory of the GPU"));
}

__global__ void count_and_look(int* out, int barrier) {
  __shared__ int count;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  atomicAdd(&count, 1);
  if (barrier) __syncthreads();
  out[threadIdx.x] = count;
}
TEST(EmulatedRaces, AtomicsAndPlainAccessesNeedABarrier) {
  OnGpu<int> out(64);
  EXPECT_EQ(start(&count_and_look, 1, 64, 0, out, 1), cudaSuccess);
  EXPECT_THAT(out.read(), testing::Each(64));
  EXPECT_THAT(message_of([&] { start(&count_and_look, 1, 64, 0, out, 0); }),
              HasSubstr("static shared memory"));
}
#endif

}  // namespace
}  // namespace lazuli::cuda
