// A mixture of experts (Shazeer et al. 2017, arXiv:1701.06538): the choice of experts, their linear layers, the
// weighted sum of the results.
#include "common/activation.cuh"
#include "common/launch.cuh"
#include "common/memory.cuh"
#include "common/reduce.cuh"

constexpr int WARPS = 4;
constexpr int THREADS = WARPS * WARP;

struct RouteArgs {
  float* weights;           // (tokens, choices), the best first
  int* experts;             // (tokens, choices)
  const float* logits;      // (tokens, count)
  const float* correction;  // (count), added to what is chosen by, or null
  long long logits_stride, weights_stride, experts_stride;
  int tokens, count, choices;
  int groups, top_groups;  // of neighbouring experts; only those of the best groups are chosen
  int sigmoid, normalize;
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

// The largest of `count` values, in all lanes.
__device__ __forceinline__ Candidate largest(const float* values, int count) {
  Candidate best = {-INFINITY_F32, count};
  for (int i = lane_index(); i < count; i += WARP) best = Better()(best, {values[i], i});
  best = warp_best(best);
  if (best.index == count) best.index = 0;  // nothing but NaN
  return best;
}

// One warp's choice for a token.
struct Router {
  const RouteArgs& a;
  float* scores;       // shared, (count)
  float* ranks;        // shared, (count): -infinity where an expert can't be chosen, or not again
  float* group_ranks;  // shared, (groups): infinity where a group is chosen

  __device__ __forceinline__ void score(const float* logits) const {
    float reference = -INFINITY_F32, total = 0.f;
    for (int e = lane_index(); e < a.count; e += WARP) reference = fmaxf(reference, logits[e]);
    reference = warp_reduce(reference, Max());
    for (int e = lane_index(); e < a.count; e += WARP) {
      scores[e] = a.sigmoid ? 1.f / (1.f + expf(-logits[e])) : expf(logits[e] - reference);
      total += scores[e];
    }
    total = a.sigmoid ? 1.f : warp_reduce(total, Sum());
    for (int e = lane_index(); e < a.count; e += WARP) {
      scores[e] /= total;
      ranks[e] = scores[e] + (a.correction ? a.correction[e] : 0.f);
    }
    __syncwarp();
  }

  // What group `g` counts by: its best expert, with a correction its two best.
  __device__ __forceinline__ float group_rank(int g) const {
    const int size = a.count / a.groups;
    float first = -INFINITY_F32, second = -INFINITY_F32;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      second = fmaxf(second, fminf(first, ranks[e]));
      first = fmaxf(first, ranks[e]);
    }
    return a.correction && size > 1 ? first + second : first;
  }

  // Leaves only experts of the best groups.
  __device__ __forceinline__ void choose_groups() const {
    const int size = a.count / a.groups;
    for (int g = lane_index(); g < a.groups; g += WARP) group_ranks[g] = group_rank(g);
    __syncwarp();
    for (int i = 0; i < a.top_groups; ++i) {
      // Those that are chosen are infinite, so the largest of the rest is looked for.
      Candidate best = {-INFINITY_F32, a.groups};
      for (int g = lane_index(); g < a.groups; g += WARP)
        if (group_ranks[g] < INFINITY_F32) best = Better()(best, {group_ranks[g], g});
      best = warp_best(best);
      __syncwarp();
      if (lane_index() == 0 && best.index < a.groups) group_ranks[best.index] = INFINITY_F32;
      __syncwarp();
    }
    for (int e = lane_index(); e < a.count; e += WARP)
      if (group_ranks[e / size] < INFINITY_F32) ranks[e] = -INFINITY_F32;
    __syncwarp();
  }

  __device__ __forceinline__ void choose(float* weights, int* experts) const {
    float total = 0.f;
    for (int choice = 0; choice < a.choices; ++choice) {
      const Candidate best = largest(ranks, a.count);
      __syncwarp();
      if (lane_index() == 0) {
        ranks[best.index] = -INFINITY_F32;
        weights[choice] = scores[best.index];
        experts[choice] = best.index;
        total += scores[best.index];
      }
      __syncwarp();
    }
    constexpr float TINY = 1e-20f;  // as DeepSeek has it
    if (lane_index() == 0 && a.normalize)
      for (int choice = 0; choice < a.choices; ++choice) weights[choice] /= total + TINY;
  }
};

// Launch: 128 threads, ⌈tokens / 4⌉ blocks, dynamic shared memory 16 (2 count + groups) bytes: a warp for each token.
extern "C" __global__ void __launch_bounds__(THREADS) experts_route(const __grid_constant__ RouteArgs a) {
  extern __shared__ float route_shared[];
  start_dependents();
  wait_for_inputs();
  const long long token = blockIdx.x * WARPS + warp_index();
  if (token >= a.tokens) return;
  float* own = route_shared + warp_index() * (2 * a.count + a.groups);
  const Router router = {a, own, own + a.count, own + 2 * a.count};
  router.score(a.logits + token * a.logits_stride);
  if (a.top_groups < a.groups) router.choose_groups();
  router.choose(a.weights + token * a.weights_stride, a.experts + token * a.experts_stride);
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
  const float* bias;   // (count, n) or (count, 2n), or null
  const int* experts;  // (rows / choices, choices)
  long long out_stride, x_stride, expert_stride, weight_stride, bias_stride, experts_stride;
  int n, k, count, choices, rows_per_input, activation, gated;
  float alpha, limit;  // limit 0: the activation; else clamped_swiglu, gated

  __device__ __forceinline__ float bias_of(int expert, int row) const {
    return bias ? bias[expert * bias_stride + row] : 0.f;
  }
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

// g σ(alpha g) (u + 1), with g at most the limit and u within it: gpt-oss's gated activation. NaN passes through.
__device__ __forceinline__ float clamped_swiglu(float gate, float other, float alpha, float limit) {
  gate = gate > limit ? limit : gate;
  other = other > limit ? limit : other < -limit ? -limit : other;
  return gated_by_itself(gate, alpha) * (other + 1.f);
}

// Launch: 128 threads, ⌈n / 4⌉ blocks in x, one for each row in y; dynamic shared memory 4 ⌈k / 8⌉ 8 bytes: a warp for
// each output. Unless BIASED there are neither biases nor a limit: they take registers.
template <bool BIASED, class T, class W>
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
  const auto sum = [&](int row) {
    const float sum = dot(shared, weight + row * a.weight_stride, a.k, vectorizable);
    return BIASED ? sum + a.bias_of(expert, row + column) : sum;
  };
  float y = sum(0);
  if (!BIASED || a.limit == 0.f) y = activate(a.activation, y);
  if (a.gated) {
    const float other = sum(a.n);
    y = !BIASED || a.limit == 0.f ? y * other : clamped_swiglu(y, other, a.alpha, a.limit);
  }
  if (lane_index() == 0) *out = from_float<T>(y);
}

#define COMBINE(T)                                                                                                \
  extern "C" __global__ void __launch_bounds__(THREADS) experts_combine_##T(const __grid_constant__ CombineArgs<T> a) { \
    combine(a);                                                                                                   \
  }
FOR_EACH_DTYPE(COMBINE)

#define ENTRY(NAME, BIASED, T, W)                                                                                 \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                           \
      NAME##_##T##_##W(const __grid_constant__ ExpertLinearArgs<T, W> a) {                                        \
    expert_linear<BIASED>(a);                                                                                     \
  }
#define LINEAR(T, W) ENTRY(experts_linear, false, T, W) ENTRY(experts_linear_biased, true, T, W)
LINEAR(f32, f32) LINEAR(f32, f16) LINEAR(f32, bf16) LINEAR(f16, f16) LINEAR(bf16, bf16)
