// The end of a decoding step.
#include "common/launch.cuh"

struct AdvanceArgs {
  const int* ids;  // (rows)
  int* token_ids;  // (rows)
  int* positions;  // (rows)
  int* history;    // (rows, columns)
  long long history_stride;
  int rows, columns;
};

// advance: token_ids = ids; positions += 1; history[s, positions[s]] = ids[s], the last where the history has that column.
// Launch: 128 threads, ⌈rows / 128⌉ blocks.
extern "C" __global__ void __launch_bounds__(128) step_advance(const __grid_constant__ AdvanceArgs a) {
  start_dependents();
  wait_for_inputs();
  const int row = blockIdx.x * 128 + threadIdx.x;
  if (row >= a.rows) return;
  const int id = a.ids[row], before = a.positions[row], position = before == 0x7fffffff ? before : before + 1;
  a.token_ids[row] = id;
  a.positions[row] = position;
  if (position >= 0 && position < a.columns) a.history[row * a.history_stride + position] = id;
}

struct FetchArgs {
  unsigned* out;  // memory of the host that the GPU reaches
  const unsigned* source;
  int words;
};

// Brings a few words to the host. The copy engine takes microseconds to begin and to end, which the next step waits for.
// Launch: 128 threads, one block.
extern "C" __global__ void __launch_bounds__(128) step_fetch(const __grid_constant__ FetchArgs a) {
  start_dependents();
  wait_for_inputs();
  for (int i = threadIdx.x; i < a.words; i += 128) a.out[i] = a.source[i];
}
