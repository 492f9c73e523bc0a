// Steps of a decoder for one token, one after the other in one launch: what linear_gemv, rope_append_kv and
// attention_decode do, with the same bits. Attention is in float16; T is the type of the residual stream, and products are
// of either.
//
// A block for each multiprocessor stays until all steps are done. Of its warps four attend and multiply; four multiply, copy
// keys and values, and help to bring x; four bring x, finish sums, and merge the pieces of attention; two copy weights,
// through a ring in shared memory, and one the descriptions of the steps. The copies run ahead of the steps, as they depend on
// none of them, so that the memory isn't idle while a step waits for the one before. How much weights are under way is
// bounded, because what queues in front of the memory also delays the few words that blocks wait for. Results of steps go
// between blocks through mailboxes; where they can be seen later they are written to their tensors too.
//
// What counts is the time from the last result of a step to the last one of the next. So who waits for one has all ready that
// can be: x is brought by warps that do nothing else before it, and what it is multiplied with, weighted with and added to is
// in registers when it comes.
//
// Every step waits for all results of the one before it, directly or by way of the blocks that made them. So a mailbox may
// be written again once two steps have passed since it was last read; Rust's operations/persistent sees to that.
//
// Launch: 512 threads, a block for each multiprocessor, all of which must be able to run at once; dynamic shared memory
// as in Places. Weights and the steps' descriptions are read early. k of linear steps is a multiple of 8, x and weights aligned
// to 16 bytes; heads have DIM elements, and no gaps between them, nor have the rows of a page, each of which holds whole
// chunks; up to QUERIES heads that share a key are a block's.
//
// Warps take turns at their steps, so most code isn't where it runs when it is needed: what is there for other models, or
// unrolled for nothing, makes all of it slower. So a kernel has the norms of one width alone: those of GROUPS groups of eight
// values for each thread that normalises, weighted with float32, as models have them; of 0 all others.
#pragma once
#define THREAD_ANEW
#include "step_finish.cuh"
#include "step_merge.cuh"
#include "streams.cuh"

// The steps, as the warps that attend and multiply go through them.
template <int DIM, int HALVES, class T>
struct Layers {
  const PersistentArgs<T>& a;
  const Places<T> places;
  LinearSteps<T> linears;
  HeadSteps<DIM, HALVES, T> heads;

  __device__ __forceinline__ Layers(const PersistentArgs<T>& args, const Places<T>& places)
      : a(args), places(places), linears(places), heads(args, places) {}

  __device__ __forceinline__ void run() {
    const auto begin = [&] {
      if (!a.ahead) barrier_arrive(places.begun());
    };
    StepCursor<T> steps(places);
    for (int i = 0; i < a.step_count; ++i, steps.advance()) {
      const Step<T>& step = *steps;
      if (step.kind == STEP_LINEAR) {
        linears.run(step.linear, begin, [&](bool) {
          if (i + 1 < a.step_count && steps.next().kind == STEP_ATTENTION) heads.prepare(steps.next());
        });
      } else if (step.kind == STEP_ATTENTION) {
        heads.attend(step, i + 1);
      }
    }
  }
};

// The steps, as the warps that multiply and copy keys and values go through them.
template <int GROUPS, int DIM, class T>
__device__ __forceinline__ void multiply_steps(const PersistentArgs<T>& a, const Places<T>& places) {
  const Mailboxes<T> mailboxes(a);
  const Input<GROUPS, T> input(places);
  LinearSteps<T> linears(places);
  HeadStream<DIM, T> heads(a, places);
  StepCursor<T> steps(places);
  heads.copy_on(-1);
  for (int i = 0, attention = 0; i < a.step_count; ++i, steps.advance()) {
    const Step<T>& step = *steps;
    if (step.kind == STEP_LINEAR) {
      linears.run(step.linear, [] {}, [&](bool takes_part) {
        if (takes_part) input.help(mailboxes(step.x), step.linear, linears.products.parity);
      });
    } else if (step.kind == STEP_ATTENTION) {
      if (!a.ahead) places.wait_for_products(linears.products.parity);
      heads.copy_on(attention++);
    }
  }
}

// The steps, as the warps that bring x, finish sums and merge go through them.
template <int GROUPS, int DIM, class T>
__device__ __forceinline__ void finish_steps(const PersistentArgs<T>& a, const Places<T>& places) {
  Finisher<GROUPS, T> finisher(a, places);
  Merger<DIM, T> merger(a);
  StepCursor<T> steps(places);
  for (int i = 0; i < a.step_count; ++i, steps.advance()) {
    const Step<T>& step = *steps;
    if (step.kind == STEP_LINEAR)
      finisher.run(step, i + 1 == a.step_count ? a.maxima : nullptr);
    else if (step.kind == STEP_MERGE)
      merger.merge(step);
  }
}

// The last block counts the steps for the launch to come.
template <class T>
__device__ __forceinline__ void count_steps(const PersistentArgs<T>& a) {
  if (atomicAdd(&a.state->finished, 1) + 1 < gridDim.x) return;
  a.state->finished = 0;
  a.state->steps += a.step_count;
}

template <int GROUPS, int DIM, int HALVES, class T>
__device__ __forceinline__ void layers_persistent(const PersistentArgs<T>& a) {
  extern __shared__ __align__(128) unsigned char shared[];
  const Places<T> places(a, shared);
  if (warp_index() < 2) places.init_barriers();
  if (a.partial) places.clear_ring();
  __syncthreads();
  const int warp = warp_index();
  if (warp < WARPS) {
    take_registers<184>();
    wait_for_inputs();
    // What starts from here on finds that all has ended that came before this launch: it `holds_back`, as Rust calls it.
    start_dependents();
    Layers<DIM, HALVES, T>(a, places).run();
    warps_sync<STEPS_DONE, 2 * WARPS>();
    if (thread_index() == 0) count_steps(a);
  } else if (warp < 2 * WARPS) {
    take_registers<136>();
    wait_for_inputs();
    multiply_steps<GROUPS, DIM>(a, places);
  } else if (warp < 3 * WARPS) {
    take_registers<152>();
    wait_for_inputs();
    finish_steps<GROUPS, DIM>(a, places);
    warps_sync<STEPS_DONE, 2 * WARPS>();
  } else {
    give_registers<40>();
    if (warp % WARPS < WEIGHT_STREAMS)
      stream_weights(a, places);
    else if (warp % WARPS == WEIGHT_STREAMS)
      stream_steps(a, places);
  }
}

// A kernel for what NAME says of the norms.
#define ENTRY(NAME, GROUPS, DIM, QUERIES, T)                                                \
  extern "C" __global__ void __launch_bounds__(4 * NORM_THREADS, 1)                         \
      NAME##_##DIM##_##QUERIES##_##T(const __grid_constant__ PersistentArgs<T> a) {         \
    layers_persistent<GROUPS, DIM, QUERIES / 8>(a);                                         \
  }
