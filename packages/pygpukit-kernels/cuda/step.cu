// The end of a decoding step, by kernels of its own.
#include "common/launch.cuh"
#include "common/step_end.cuh"

// advance: see Advance.
// Launch: 128 threads, ⌈rows / 128⌉ blocks.
extern "C" __global__ void __launch_bounds__(128) step_advance(const __grid_constant__ AdvanceArgs a) {
  start_dependents();
  wait_for_inputs();
  const int row = blockIdx.x * 128 + threadIdx.x;
  if (row < a.rows) Advance(a, row).to(a.ids[row]);
}

struct FetchArgs {
  Delivery to;
  const unsigned* source;
  int words, padding;
};

// Brings a few words to the host. The copy engine takes microseconds to begin and to end, which the next step waits for; and
// it couldn't begin early behind an event.
// Launch: 128 threads, one block.
extern "C" __global__ void __launch_bounds__(128) step_fetch(const __grid_constant__ FetchArgs a) {
  start_dependents();
  wait_for_inputs();
  for (int i = threadIdx.x; i < a.words; i += 128) a.to.send(i, a.source[i]);
}
