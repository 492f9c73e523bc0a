// top_logprobs: the natural logarithms of softmax probabilities, of a given token in the first column (NaN where there
// is no such token), then of the k most likely tokens, best first.
//
// Launch: after argmax_maxima, 1024 threads, a block for each row. k is at most 1024.
#include "common/launch.cuh"
#include "common/logits.cuh"

struct LogprobsArgs {
  float* values;        // (rows, k + 1)
  int* indices;         // (rows, k + 1)
  Ranked* maxima;       // (rows, MAXIMA)
  const float* logits;  // (rows, vocabulary)
  const int* ids;       // (rows)
  long long values_stride, indices_stride, logits_stride;
  int vocabulary, k;
};

struct Shared {
  Ranked sorted[ROW_THREADS];
  Weight scratch[ROW_WARPS];
  PartMaxima::Scratch maxima;
  Candidates candidates;
  Selection selection;
};

extern "C" __global__ void __launch_bounds__(ROW_THREADS) top_logprobs_rows(const __grid_constant__ LogprobsArgs a) {
  __shared__ Shared shared;
  start_dependents();
  if (threadIdx.x == 0) shared.candidates.clear();
  wait_for_inputs();
  const int index = blockIdx.x;
  const Row row = {a.logits + index * a.logits_stride, a.vocabulary};
  const PartMaxima maxima(take_maximum(a.maxima), shared.maxima);
  const float largest = logit(maxima.first);
  const float least = a.k ? maxima.reached_by(a.k) : INFINITY_F32;
  Weight sum = 0;
  row.for_each<2>([&](float x, int) { sum += to_weight(expf(x - largest)); });
  const float total = logf(static_cast<float>(block_sum(sum, shared.scratch)) * 0x1p-40f);

  shared.candidates.gather_from_parts(row, least, maxima.own, shared.sorted);
  if (shared.candidates.count < a.k || shared.candidates.count > ROW_THREADS)
    shared.candidates.gather(row, shared.selection.last(row, maxima.first, a.k, shared.candidates,
                                                        [](float, Ranked) -> Weight { return 1; }));
  const Ranked ranked = shared.candidates.sort(shared.sorted);
  float* values = a.values + index * a.values_stride;
  int* indices = a.indices + index * a.indices_stride;
  const auto logprob = [&](float x) { return (x - largest) - total; };
  if (threadIdx.x < a.k) {
    values[threadIdx.x + 1] = logprob(logit(ranked));
    indices[threadIdx.x + 1] = token(ranked);
  }
  if (threadIdx.x == 0) {
    const int id = a.ids[index];
    values[0] = id >= 0 && id < a.vocabulary ? logprob(row.logits[id]) : NAN_F32;
    indices[0] = id;
  }
}
