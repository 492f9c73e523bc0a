// penalize, in place: for each distinct token of history[s, :positions[s] + 1], of which the first prompt_lengths[s]
// are the prompt, the logit is divided by the repetition penalty where positive, else multiplied by it (Keskar et al.
// 2019, arXiv:1909.05858); for each that was generated, the presence penalty and the frequency penalty times how often
// are subtracted.
//
// Launch: 1024 threads, a block for each row.
#include "common/launch.cuh"

constexpr int THREADS = 1024;

struct PenalizeArgs {
  float* logits;     // (rows, vocabulary)
  unsigned* counts;  // scratch, (rows, vocabulary)
  const int* history;  // (rows, columns)
  const int* positions;
  const int* prompt_lengths;
  const float* penalties;  // (rows, 3): repetition, presence, frequency
  long long logits_stride, history_stride, penalties_stride;
  int vocabulary, columns;
};

extern "C" __global__ void __launch_bounds__(THREADS) penalize_rows(const __grid_constant__ PenalizeArgs a) {
  constexpr unsigned DONE = ~0u;
  start_dependents();
  wait_for_inputs();
  const long long row = blockIdx.x;
  const float* penalties = a.penalties + row * a.penalties_stride;
  const float repetition = penalties[0], presence = penalties[1], frequency = penalties[2];
  if (repetition == 1.f && presence == 0.f && frequency == 0.f) return;
  const int position = a.positions[row], length = position < a.columns ? position + 1 : a.columns;
  const int* history = a.history + row * a.history_stride;
  unsigned* counts = a.counts + row * a.vocabulary;
  float* logits = a.logits + row * a.logits_stride;
  const auto for_each = [&](auto visit) {
    for (int i = threadIdx.x; i < length; i += THREADS)
      if (history[i] >= 0 && history[i] < a.vocabulary) visit(history[i], i);
    __syncthreads();
  };
  for_each([&](int token, int) { atomicExch(counts + token, 0u); });
  for_each([&](int token, int i) { atomicAdd(counts + token, i >= a.prompt_lengths[row] ? 1u : 0u); });
  // Of those that meet a token, the first to come takes its count and applies the penalties.
  for_each([&](int token, int) {
    const unsigned count = atomicExch(counts + token, DONE);
    if (count == DONE) return;
    const float x = logits[token];
    const float repeated = x > 0.f ? x / repetition : x * repetition;
    logits[token] = repeated - (count ? presence : 0.f) - frequency * static_cast<float>(count);
  });
}
