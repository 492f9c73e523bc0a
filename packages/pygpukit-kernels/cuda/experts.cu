// A mixture of experts (Shazeer et al. 2017, arXiv:1701.06538): the choice of experts, their linear layers, the
// weighted sum of the results.
#include "common/activation.cuh"
#include "common/launch.cuh"
#include "common/memory.cuh"
#include "common/reduce.cuh"

constexpr int WARPS = 4;
constexpr int THREADS = WARPS * WARP;

struct RouteArgs {
  float* weights;       // (tokens, choices), the largest first
  int* experts;         // (tokens, choices)
  const float* logits;  // (tokens, count)
  long long logits_stride, weights_stride, experts_stride;
  int tokens, count, choices, normalize;
};

// The larger of two probabilities, the first of equal ones.
struct Candidate {
  float value;
  int index;
};
struct Better {
  __device__ __forceinline__ Candidate operator()(Candidate a, Candidate b) const {
    return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
  }
};

__device__ __forceinline__ Candidate warp_best(Candidate best) {
#pragma unroll
  for (int offset = WARP / 2; offset; offset /= 2) {
    const Candidate other = {__shfl_xor_sync(~0u, best.value, offset), __shfl_xor_sync(~0u, best.index, offset)};
    best = Better()(best, other);
  }
  return best;
}

// Launch: 128 threads, ⌈tokens / 4⌉ blocks, dynamic shared memory 16 count bytes: a warp for each token.
extern "C" __global__ void __launch_bounds__(THREADS) experts_route(const __grid_constant__ RouteArgs a) {
  extern __shared__ float probabilities[];
  start_dependents();
  wait_for_inputs();
  const int token = blockIdx.x * WARPS + warp_index(), lane = lane_index();
  if (token >= a.tokens) return;
  const float* logits = a.logits + token * a.logits_stride;
  float* left = probabilities + warp_index() * a.count;  // probabilities of those that aren't chosen yet
  float largest = -INFINITY_F32, total = 0.f;
  for (int e = lane; e < a.count; e += WARP) largest = fmaxf(largest, logits[e]);
  largest = warp_reduce(largest, Max());
  for (int e = lane; e < a.count; e += WARP) total += left[e] = expf(logits[e] - largest);
  total = warp_reduce(total, Sum());
  float* weights = a.weights + token * a.weights_stride;
  float chosen = 0.f;
  for (int choice = 0; choice < a.choices; ++choice) {
    Candidate best = {-INFINITY_F32, choice};
    for (int e = lane; e < a.count; e += WARP) best = Better()(best, {left[e], e});
    best = warp_best(best);
    __syncwarp();
    if (lane == 0) {
      left[best.index] = -INFINITY_F32;
      weights[choice] = best.value / total;
      a.experts[token * a.experts_stride + choice] = best.index;
      chosen += best.value / total;
    }
    __syncwarp();
  }
  if (lane == 0 && a.normalize)
    for (int choice = 0; choice < a.choices; ++choice) weights[choice] /= chosen;
}

template <class T>
struct CombineArgs {
  T* out;                // (tokens, length)
  const T* x;            // (tokens * choices, length)
  const float* weights;  // (tokens, choices)
  const T* residual;     // (tokens, length), or null
  long long out_stride, x_stride, weights_stride, residual_stride;
  int length, choices;
  float scale;
};

// out = residual + scale * Σ weights x, over the choices in order. Launch: 128 threads, a block for each token.
template <class T>
__device__ __forceinline__ void combine(const CombineArgs<T>& a) {
  start_dependents();
  wait_for_inputs();
  const long long token = blockIdx.x;
  const float* weights = a.weights + token * a.weights_stride;
  const T* x = a.x + token * a.choices * a.x_stride;
  for (int i = threadIdx.x; i < a.length; i += THREADS) {
    float sum = 0.f;
    for (int choice = 0; choice < a.choices; ++choice)
      sum = fmaf(weights[choice], to_float(x[choice * a.x_stride + i]), sum);
    const float before = a.residual ? to_float(a.residual[token * a.residual_stride + i]) : 0.f;
    a.out[token * a.out_stride + i] = from_float<T>(fmaf(a.scale, sum, before));
  }
}

template <class T, class W>
struct ExpertLinearArgs {
  T* out;              // (rows, n)
  const T* x;          // (rows / rows_per_input, k)
  const W* weight;     // (count, n, k), or (count, 2n, k) when gated
  const int* experts;  // (rows / choices, choices)
  long long out_stride, x_stride, expert_stride, weight_stride, experts_stride;
  int n, k, count, choices, rows_per_input, activation, gated;
};

// The product of x, in shared memory, with a weight row. A lane sums every 32nd group of eight, then the lanes are
// added: an order that depends on k alone.
template <class W>
__device__ __forceinline__ float dot(const float* x, const W* weight, int k, bool vectorizable) {
  float sum = 0.f;
#pragma unroll 4
  for (int start = lane_index() * 8; start < k; start += WARP * 8) {
    const Eight w = load8(weight, start, k, vectorizable);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = fmaf(x[start + i], w.value[i], sum);
  }
  return warp_reduce(sum, Sum());
}

// Launch: 128 threads, ⌈n / 4⌉ blocks in x, one for each row in y; dynamic shared memory 4 ⌈k / 8⌉ 8 bytes: a warp for
// each output.
template <class T, class W>
__device__ __forceinline__ void expert_linear(const ExpertLinearArgs<T, W>& a) {
  extern __shared__ float shared[];
  start_dependents();
  wait_for_inputs();
  const long long row = blockIdx.y;
  const T* x = a.x + row / a.rows_per_input * a.x_stride;
  for (int i = threadIdx.x; i < ceil_div(a.k, 8) * 8; i += THREADS) shared[i] = i < a.k ? to_float(x[i]) : 0.f;
  __syncthreads();
  const int column = blockIdx.x * WARPS + warp_index();
  if (column >= a.n) return;
  T* out = a.out + row * a.out_stride + column;
  const int expert = a.experts[row / a.choices * a.experts_stride + row % a.choices];
  if (expert < 0 || expert >= a.count) {
    if (lane_index() == 0) *out = from_float<T>(NAN_F32);
    return;
  }
  const W* weight = a.weight + expert * a.expert_stride + column * a.weight_stride;
  const bool vectorizable =
      is_vectorizable(a.weight, 8, a.weight_stride) && a.expert_stride % 8 == 0;
  float y = activate(a.activation, dot(shared, weight, a.k, vectorizable));
  if (a.gated) y *= dot(shared, weight + a.n * a.weight_stride, a.k, vectorizable);
  if (lane_index() == 0) *out = from_float<T>(y);
}

#define COMBINE(T)                                                                                                \
  extern "C" __global__ void __launch_bounds__(THREADS) experts_combine_##T(const __grid_constant__ CombineArgs<T> a) { \
    combine(a);                                                                                                   \
  }
FOR_EACH_DTYPE(COMBINE)

#define LINEAR(T, W)                                                                                              \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                           \
      experts_linear_##T##_##W(const __grid_constant__ ExpertLinearArgs<T, W> a) {                                \
    expert_linear(a);                                                                                             \
  }
LINEAR(f32, f32) LINEAR(f32, f16) LINEAR(f32, bf16) LINEAR(f16, f16) LINEAR(bf16, bf16)
