// The most likely token of each row of logits.
#include "common/launch.cuh"
#include "common/logits.cuh"
#include "common/step_end.cuh"

constexpr int THREADS = 256;
constexpr int LANES = PART_RUN;  // that share one of the maxima
constexpr int BLOCKS = PART_STRIDE / THREADS;

struct MaximaArgs {
  Ranked* maxima;       // (rows, MAXIMA)
  const float* logits;  // (rows, vocabulary)
  long long logits_stride;
  int vocabulary;
};

// The first logits of the parts of each row, for argmax, sample and top_logprobs.
// Launch: 256 threads, blocks (rows, 32).
extern "C" __global__ void __launch_bounds__(THREADS) argmax_maxima(const __grid_constant__ MaximaArgs a) {
  start_dependents();
  wait_for_inputs();
  static_assert(BLOCKS == 32, "as it is launched");
  const float* logits = a.logits + blockIdx.x * a.logits_stride;
  Ranked first = 0;
#pragma unroll 4
  for (int i = blockIdx.y * THREADS + threadIdx.x; i < a.vocabulary; i += PART_STRIDE) {
    first = Later()(first, rank_any(logits[i], i));
  }
  first = warp_reduce<LANES>(first, Later());
  if (threadIdx.x % LANES == 0)
    a.maxima[blockIdx.x * MAXIMA + blockIdx.y * (THREADS / LANES) + threadIdx.x / LANES] = first;
}

struct ArgmaxArgs {
  int* out;  // (rows)
  Ranked* maxima;
};

// The token of the largest logit, the first of equals; -1 where a logit is NaN or +∞ or all are -∞.
// Launch: 1024 threads, a block for each row.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    argmax_rows(const __grid_constant__ ArgmaxArgs a, const __grid_constant__ AdvanceArgs next,
                const __grid_constant__ Delivery to) {
  __shared__ PartMaxima::Scratch scratch;
  start_dependents();
  wait_for_inputs();
  const Advance advance(next, blockIdx.x);
  const Ranked first = PartMaxima(take_maximum(a.maxima), scratch).first;
  if (threadIdx.x == 0) choose(a.out, is_sound(first) ? token(first) : -1, advance, to);
}
