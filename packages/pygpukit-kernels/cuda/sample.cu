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
// Launch: after argmax_maxima, 1024 threads, a block for each row.
#include "common/launch.cuh"
#include "common/logits.cuh"
#include "common/random.cuh"

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
  int top_k;  // 0: off

  __device__ __forceinline__ Settings(const SampleArgs& a, int row) {
    temperature = a.temperature[row];
    top_k = a.top_k[row];
    if (top_k < 0 || top_k >= a.vocabulary) top_k = 0;
    top_p = a.top_p[row];
    min_p = a.min_p[row];
  }

  __device__ __forceinline__ bool is_greedy() const {
    return temperature <= 0.f || top_k == 1 || top_p <= 0.f || min_p >= 1.f;
  }
  __device__ __forceinline__ float weight(float logit) const { return expf((logit - largest) / temperature); }
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
  Candidates candidates;
  Selection selection;
  double random;
  int drawn, kept;
};

struct Sampler {
  const SampleArgs& a;
  const Row& row;
  Ranked first;  // of the row
  const Settings& settings;
  Shared& shared;

  // By the last thread, which has the least to do before it is needed.
  __device__ __forceinline__ void draw_random() const {
    if (threadIdx.x == ROW_THREADS - 1) shared.random = uniform(a.seeds[blockIdx.x], a.positions[blockIdx.x]);
  }
  __device__ __forceinline__ Weight weight_of(float logit) const { return to_weight(settings.weight(logit)); }
  __device__ __forceinline__ Weight target(Weight total) const {
    return static_cast<Weight>(shared.random * static_cast<double>(total));
  }

  __device__ __forceinline__ Weight total() const {
    Weight sum = 0;
    row.for_each<2>([&](float x, int) { sum += weight_of(x); });
    return block_sum(sum, shared.scratch);
  }

  // Draws from among the candidates, in order in shared.sorted, of which thread i holds the i-th, 0 where there is none or
  // it is left out with those behind it; false if top-p may keep more than are here. `total` is what all that top-p chooses
  // from weighs; 0: the candidates are all.
  __device__ __forceinline__ bool draw_from_list(Ranked ranked, Weight total) const {
    const int i = threadIdx.x;
    const float w = ranked ? settings.weight(logit(ranked)) : 0.f;
    const Weight weight = to_weight(w);
    if (threadIdx.x == 0) shared.kept = 0;
    const auto [sum, here] = BlockScan(weight, shared.scratch);
    const Weight head = settings.head_of(total ? total : here);
    // Candidates that aren't here can matter only if the head reaches beyond those that are, or if the last that is
    // here is still heavy enough.
    const bool all_here = !total || shared.candidates.count == row.vocabulary || (settings.top_p < 1.f && here >= head) ||
                          !settings.is_heavy(settings.weight(logit(shared.sorted[shared.candidates.count - 1])));
    if (!all_here) return false;
    const bool kept = ranked && (settings.top_p >= 1.f || sum - weight < head) && settings.is_heavy(w);
    shared.weights[i] = kept ? weight : 0;
    const unsigned lanes = __ballot_sync(~0u, kept);
    if (lanes && lane_index() == 0) atomicMax(&shared.kept, i + WARP - __clz(lanes));
    const Weight kept_total = block_sum(kept ? weight : 0, shared.scratch), target = this->target(kept_total);
    for (int one = warp_index(); one < shared.kept; one += ROW_WARPS) {
      const int its_token = token(shared.sorted[one]);
      Weight before = 0;
      for (int j = lane_index(); j < shared.kept; j += WARP)
        if (token(shared.sorted[j]) < its_token) before += shared.weights[j];
      before = warp_reduce(before, Sum());
      if (before <= target && target < before + shared.weights[one]) shared.drawn = its_token;
    }
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
    draw_random();
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

  // `maximum`: the thread's share of the maxima.
  __device__ __forceinline__ void draw(Ranked maximum) const {
    // Where k of the first logits of parts of the row rank so high, the first k of all do. Without top-k the head that
    // top-p keeps is hoped to be among some hundreds.
    constexpr int HOPE = 384;
    const int count = settings.top_k ? settings.top_k : HOPE;
    if (count <= ROW_THREADS && (settings.top_k || settings.top_p < 1.f || settings.min_p > 0.f)) {
      const Ranked least = reached_by(count, maximum, first, shared.sorted);
      draw_random();
      shared.candidates.gather_from_parts(row, least, maximum, shared.sorted);
      if (shared.candidates.count >= settings.top_k && shared.candidates.count <= ROW_THREADS) {
        Ranked ranked = shared.candidates.sort(shared.sorted);
        const Weight all = settings.top_k ? 0 : total();
        if (settings.top_k && key(ranked) < key(shared.sorted[settings.top_k - 1])) ranked = 0;
        if (draw_from_list(ranked, all)) return;
      }
    }
    draw_filtered();
  }
};

extern "C" __global__ void __launch_bounds__(ROW_THREADS) sample_rows(const __grid_constant__ SampleArgs a) {
  __shared__ Shared shared;
  start_dependents();
  wait_for_inputs();
  const int index = blockIdx.x;
  const Ranked maximum = take_maximum(a.maxima);
  Settings settings(a, index);
  const Ranked first = row_reduce(maximum, shared.sorted, Later());
  if (threadIdx.x == 0) shared.drawn = is_sound(first) ? token(first) : -1;
  settings.largest = logit(first);
  const Row row = {a.logits + index * a.logits_stride, a.vocabulary};
  __syncthreads();
  if (is_sound(first) && !settings.is_greedy()) Sampler{a, row, first, settings, shared}.draw(maximum);
  __syncthreads();
  if (threadIdx.x == 0) a.out[index] = shared.drawn;
}
