// advance, the end of a decoding step: token_ids = ids; positions += 1; history[s, positions[s]] = ids[s], the last
// where the history has that column.
#include "common/launch.cuh"

struct AdvanceArgs {
  const int* ids;  // (rows)
  int* token_ids;  // (rows)
  int* positions;  // (rows)
  int* history;    // (rows, columns)
  long long history_stride;
  int rows, columns;
};

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
