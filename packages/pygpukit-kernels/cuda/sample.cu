// sample: a token of each row, drawn with the random number of (seed, position) from what temperature, top-k, top-p and
// min-p leave, as transformers filters:
//
//   w = exp((logit - largest) / temperature)
//   top_k: the k largest logits and those that tie with the last;  top_p: the shortest head of what is left, in the
//   order of logit and token, that weighs top_p of it;  min_p: those with w ≥ min_p.
//
// Temperature ≤ 0, top_k 1, top_p ≤ 0 and min_p ≥ 1 give the most likely token; top_k 0, top_p 1, min_p 0 are off; -1
// where a logit is NaN or +∞ or all are -∞. The token drawn is the first, by number, up to which the weights exceed the
// random number times their sum.
//
// Launch: after argmax_maxima, 1024 threads, a block for each row. All but maxima and logits is read early.
#include "common/launch.cuh"
#include "common/logits.cuh"
#include "common/random.cuh"
#include "common/step_end.cuh"

struct SampleArgs {
  int* out;             // (rows)
  Ranked* maxima;       // (rows, MAXIMA)
  const float* logits;  // (rows, vocabulary)
  const int* positions;
  const float* temperature;
  const int* top_k;
  const float* top_p;
  const float* min_p;
  const long long* seeds;
  long long logits_stride;
  int vocabulary;
};

struct Settings {
  float temperature, top_p, min_p, largest;
  float factor;  // 1 / temperature
  int top_k;     // 0: off

  __device__ __forceinline__ Settings(const SampleArgs& a, int row) {
    temperature = a.temperature[row];
    factor = fminf(1.f / temperature, LARGEST_F32);
    top_k = a.top_k[row];
    if (top_k < 0 || top_k >= a.vocabulary) top_k = 0;
    top_p = a.top_p[row];
    min_p = a.min_p[row];
  }

  __device__ __forceinline__ bool is_greedy() const {
    return temperature <= 0.f || top_k == 1 || top_p <= 0.f || min_p >= 1.f;
  }
  __device__ __forceinline__ float weight(float logit) const { return expf((logit - largest) * factor); }
  __device__ __forceinline__ bool is_heavy(float weight) const { return weight >= min_p; }
  // What the head that top-p keeps weighs at least.
  __device__ __forceinline__ Weight head_of(Weight total) const {
    return top_p < 1.f ? static_cast<Weight>(static_cast<double>(top_p) * static_cast<double>(total)) : total;
  }
};

struct Shared {
  Ranked sorted[ROW_THREADS];
  Weight weights[ROW_THREADS];
  Weight scratch[ROW_WARPS];
  Weight group_scratch[2][ROW_WARPS];
  PartMaxima::Scratch maxima;
  Candidates candidates;
  Selection selection;
  double random;
  int drawn;
  int some_light;  // whether a candidate weighs too little for min-p

  // By one thread, a barrier before the others are here.
  __device__ __forceinline__ void init() {
    candidates.clear();
    some_light = 0;
  }
};

// The first threads of a block: an even number of warps, enough for what there is to do.
struct Group {
  static constexpr int UNROLL = 2;
  int threads;

  // For `count` times `lanes` threads.
  __device__ __forceinline__ Group(int count, int lanes) : threads(ceil_div(count * lanes, 2 * WARP) * 2 * WARP) {}

  __device__ __forceinline__ void sync() const { asm volatile("bar.sync 1, %0;" ::"r"(threads) : "memory"); }
  // Over the group; every thread gets the result. `scratch` holds ROW_WARPS.
  __device__ __forceinline__ Weight sum(Weight x, Weight* scratch) const {
    x = over_lanes(x, WARP);
    if (lane_index() == 0) scratch[warp_index()] = x;
    sync();
    return over_lanes(lane_index() < threads / WARP ? scratch[lane_index()] : 0, WARP);
  }
  // warp_reduce in a loop, which is less code: over neighbouring lanes, a power of two.
  template <class T>
  static __device__ __forceinline__ T over_lanes(T x, int lanes) {
#pragma unroll 1
    for (int step = 1; step < lanes; step *= 2) x += __shfl_xor_sync(~0u, x, step);
    return x;
  }
  // Calls visit(i) for every lanes-th number below `count`, from this lane's own on, and for a few behind them that are less
  // than threads / lanes.
  template <class Visit>
  __device__ __forceinline__ void for_each(int lanes, int count, Visit visit) const {
#pragma unroll 1
    for (int i = threadIdx.x % lanes; i < count; i += UNROLL * lanes)
#pragma unroll
      for (int j = 0; j < UNROLL; ++j) visit(i + j * lanes);
  }
};

struct Sampler {
  Row row;
  Ranked first;  // of the row
  Settings settings;
  Shared& shared;

  __device__ __forceinline__ Weight weight_of(float logit) const { return to_weight(settings.weight(logit)); }
  __device__ __forceinline__ Weight target(Weight total) const {
    return static_cast<Weight>(shared.random * static_cast<double>(total));
  }

  __device__ __forceinline__ Weight total() const {
    Weight sum = 0;
    row.for_each<2>([&](float x, int) { sum += weight_of(x); });
    return block_sum(sum, shared.scratch);
  }

  // Draws from among the candidates, if those are all that can be drawn: then it is true for some threads. `total` is what all
  // that top-p chooses from weighs; 0: what is left of the candidates by top-k.
  __device__ __forceinline__ bool draw_from_candidates(Weight total) const {
    const int count = shared.candidates.count;
    const int lanes = count <= ROW_THREADS / 4 ? 4 : count <= ROW_THREADS / 2 ? 2 : 1;  // that share one
    const Group group(count, lanes);
    if (threadIdx.x >= group.threads) return false;
    const int own = threadIdx.x / lanes;
    const bool exists = own < count, speaks = exists && threadIdx.x % lanes == 0;
    Ranked* list = shared.candidates.list;
    const Ranked ranked = exists ? list[own] : 0;
    const float w = exists ? settings.weight(logit(ranked)) : 0.f;
    const Weight weight = to_weight(w);
    if (threadIdx.x % lanes == 0) {
      if (!exists) list[own] = 0;
      shared.weights[own] = weight;
      if (exists && !settings.is_heavy(w)) atomicOr(&shared.some_light, 1);
    }
    group.sync();
    int larger = 0;    // logits
    Weight above = 0;  // what those weigh that rank higher
    group.for_each(lanes, count, [&](int i) {
      larger += key(list[i]) > key(ranked);
      above += list[i] > ranked ? shared.weights[i] : 0;
    });
    larger = group.over_lanes(larger, lanes);
    above = group.over_lanes(above, lanes);
    const bool stays = exists && (!settings.top_k || larger < settings.top_k);
    const Weight here = group.sum(stays && speaks ? weight : 0, shared.group_scratch[0]);
    const Weight head = settings.head_of(total ? total : here);
    // Candidates that aren't here can matter only if the head reaches beyond those that are, and none of these is too light.
    if (total && count < row.vocabulary && (settings.top_p >= 1.f || here < head) && !shared.some_light) return false;
    const bool kept = stays && (settings.top_p >= 1.f || above < head) && settings.is_heavy(w);
    if (speaks && !kept) shared.weights[own] = 0;
    const Weight target = this->target(group.sum(kept && speaks ? weight : 0, shared.group_scratch[1]));
    Weight before = 0;
    group.for_each(lanes, count, [&](int i) { before += token(list[i]) < token(ranked) ? shared.weights[i] : 0; });
    before = group.over_lanes(before, lanes);
    if (kept && speaks && before <= target && target < before + weight) shared.drawn = token(ranked);
    return true;
  }

  // Draws from the tokens that rank at least as high as `least` and are heavy enough.
  __device__ __forceinline__ void draw_from_row(Ranked least) const {
    const int size = ceil_div(row.vocabulary, ROW_WARPS), first = warp_index() * size;
    const int end = min(first + size, row.vocabulary);
    const auto weight = [&](int i) -> Weight {
      if (i >= end || rank(row.logits[i], i) < least) return 0;
      const float w = settings.weight(row.logits[i]);
      return settings.is_heavy(w) ? to_weight(w) : 0;
    };
    Weight sum = 0;
    for (int i = first + lane_index(); i < end; i += WARP) sum += weight(i);
    sum = warp_reduce(sum, Sum());
    __syncthreads();
    if (lane_index() == 0) shared.scratch[warp_index()] = sum;
    __syncthreads();
    Weight before = 0, all = 0;
    for (int w = 0; w < ROW_WARPS; ++w) {
      if (w == warp_index()) before = all;
      all += shared.scratch[w];
    }
    const Weight target = this->target(all);
    if (target < before || target >= before + sum) return;
    for (int start = first; start < end; start += WARP) {
      const Weight own = weight(start + lane_index()), here = warp_scan(own);
      if (before + here - own <= target && target < before + here) shared.drawn = start + lane_index();
      before += __shfl_sync(~0u, here, WARP - 1);
    }
  }

  // The general way: a few passes over the row for each filter.
  __device__ __forceinline__ void draw_filtered() const {
    Ranked least = 0;
    if (settings.top_k) {
      const auto one = [](float, Ranked) -> Weight { return 1; };
      const Ranked last = shared.selection.last(row, first, settings.top_k, shared.candidates, one);
      least = static_cast<Ranked>(key(last)) << 32;  // those that tie with it stay
    }
    if (settings.top_p < 1.f) {
      const auto weigh = [&](float x, Ranked ranked) { return ranked < least ? 0 : weight_of(x); };
      Weight sum = 0;
      row.for_each<1>([&](float x, int i) { sum += weigh(x, rank(x, i)); });
      const Weight head = settings.head_of(block_sum(sum, shared.scratch));
      least = shared.selection.last(row, first, max(head, 1ull), shared.candidates, weigh);
    }
    draw_from_row(least);
  }
};

// Calls, so that their code, many times the rest's, isn't in the way.
__device__ __noinline__ Weight total(Sampler sampler) { return sampler.total(); }
__device__ __noinline__ void draw_filtered(Sampler sampler) { sampler.draw_filtered(); }

__device__ __forceinline__ void draw(const Sampler& sampler, const PartMaxima& maxima) {
  const Settings& settings = sampler.settings;
  Shared& shared = sampler.shared;
  // Where k of the first logits of parts of the row rank so high, the first k of all do. Without top-k the head that top-p
  // keeps is hoped to be among some hundreds.
  constexpr int HOPE = 384;
  const int count = settings.top_k ? settings.top_k : HOPE;
  if (count <= ROW_THREADS && (settings.top_k || settings.top_p < 1.f || settings.min_p > 0.f)) {
    shared.candidates.gather_from_parts(sampler.row, maxima.reached_by(count), maxima.own, shared.sorted);
    const int found = shared.candidates.count;
    const bool may_be_all = found >= settings.top_k && found <= ROW_THREADS;
    const Weight all = settings.top_k || !may_be_all ? 0 : total(sampler);
    if (__syncthreads_or(may_be_all && sampler.draw_from_candidates(all))) return;
  }
  draw_filtered(sampler);
  __syncthreads();
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    sample_rows(const __grid_constant__ SampleArgs a, const __grid_constant__ AdvanceArgs next,
                const __grid_constant__ Delivery to) {
  __shared__ Shared shared;
  start_dependents();
  const int index = blockIdx.x;
  Settings settings(a, index);
  if (threadIdx.x == 0) shared.init();
  if (threadIdx.x == ROW_THREADS - 1) shared.random = uniform(a.seeds[index], a.positions[index]);
  wait_for_inputs();
  const Advance advance(next, index);
  const PartMaxima maxima(take_maximum(a.maxima), shared.maxima);
  const bool sound = is_sound(maxima.first);
  settings.largest = logit(maxima.first);
  if (threadIdx.x == 0) shared.drawn = sound ? token(maxima.first) : -1;
  const Row row = {a.logits + index * a.logits_stride, a.vocabulary};
  if (sound && !settings.is_greedy()) draw({row, maxima.first, settings, shared}, maxima);
  if (threadIdx.x == 0) choose(a.out, shared.drawn, advance, to);
}
