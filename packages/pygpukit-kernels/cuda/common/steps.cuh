// The steps of layers_persistent.cuh, as Rust's operations/persistent lays them out, and a block's shared memory.
#pragma once
#include "attention_decode.cuh"
#include "gemv.cuh"
#include "hopper.cuh"
#include "mailbox.cuh"
#include "rotation.cuh"

// The warps of a block: four of each kind (see layers_persistent.cuh).
constexpr int WARPS = NORM_THREADS / WARP;
constexpr int PRODUCT_WARPS = 2 * WARPS;  // two kinds multiply
constexpr int WEIGHT_STREAMS = 2;         // of the kind that copies; the next one has the steps' descriptions

// A stage of the ring that weights go through: of a tile's rows a part that lies in GROUP chunks of k. A row of it is copied
// at once, and for each pair of chunks a warp multiplies.
constexpr int GROUP = 4;
constexpr int GROUP_PITCH = GROUP * SPAN + 8;  // elements from row to row: they start in different banks
template <class T>
constexpr int GROUP_BYTES = TILE * GROUP_PITCH * sizeof(T);
constexpr int STEP_BYTES = 512;
// Places that keys and values of chunks take in turn, at most.
constexpr int MOST_HEAD_PLACES = 3;
constexpr int STEP_PLACES = 4;  // the same of steps' descriptions

// Barriers of some of a block's warps, beside those of block_sync.
enum WarpBarrier : int { STEPS_DONE = 9, ATTENDING = 10, INPUT_AWAITED = 11 };

template <WarpBarrier BARRIER, int COUNT>
__device__ __forceinline__ void warps_sync() {
  asm volatile("bar.sync %0, %1;" ::"n"(static_cast<int>(BARRIER)), "n"(COUNT* WARP) : "memory");
}

enum StepKind : int { STEP_LINEAR = 0, STEP_ATTENTION = 1, STEP_MERGE = 2 };

// Where a step has an operand from, or puts its result.
struct Route {
  int words;  // the first word of its mailbox; -1: the tensor alone
  int step;   // the number of the step that sends, from 1 on
};

using Head = f16;  // an element of queries, keys and values

// Attention, with what comes before it.
struct HeadsArgs {
  AppendArgs<Head> append;
  AttentionArgs<Head> attention;
};

// Of a decoder whose residual stream is of type T.
template <class T>
struct alignas(16) Step {
  short kind;
  short stores;  // whether the result goes to its tensor, too
  int splits;    // attention: the blocks that share a head's pieces
  Route x, residual, out;
  union {
    LinearArgs<T> linear;
    HeadsArgs heads;  // of attention and of its merge
  };
};
static_assert(sizeof(Step<bf16>) == STEP_BYTES, "as Rust lays it out");

// The weights of a linear step.
template <class T>
struct Weights {
  const T* weight;
  long long stride;
  int n, k, gated, padding;
};

struct State {
  unsigned steps;     // that earlier launches have run
  unsigned finished;  // blocks of this one that are done
};

template <class T>
struct PersistentArgs {
  const Step<T>* steps;
  const Weights<T>* weights;  // of the linear steps
  const int* attention;       // the numbers of the steps that are attention
  State* state;
  unsigned* words;             // mailboxes
  unsigned long long* pieces;  // mailbox of attention: (heads, most_pieces, dim + 2)
  Ranked* maxima;              // of the parts of the last step's results, which are logits (see logits.cuh), or null
  int step_count, weights_count, attention_count;
  int stages;     // of the ring
  int under_way;  // of them those that are copied at a time, at most: less than half, and four fewer than all
  int sums_size;  // floats: the most that the sums of a round take
  int ahead;      // whether keys and values have a place of their own, so that they can be there before the step begins
  // Where the parts of shared memory begin, in bytes; first is x, with what it is normalised with.
  int chunks;    // keys and values; 0 where they take turns with x
  int heads;     // what else attention takes
  int steps_at;  // (STEP_PLACES): descriptions of steps, which come ahead of them
  int sums;      // (WARPS, sums_size)
  int scratch;   // (2, NORM_SCRATCH)
  int missing;   // (MOST_HEAD_PLACES): the positions that keys lack, of 8 bytes
  int barriers;
  int ring;
  int most_pieces;
  int partial;            // whether copies fill some stages only in part
  int by_multiprocessor;  // whether no block can end before all have begun: no multiprocessor has two
};

// The number of this block: that of its multiprocessor, if all have one. So neighbours have the same to do in every launch;
// 0.6B's step takes 3 % longer where of each two only one attends.
template <class T>
__device__ __forceinline__ int block_number(const PersistentArgs<T>& a) {
  unsigned number, count;
  asm("mov.u32 %0, %%smid;" : "=r"(number));
  asm("mov.u32 %0, %%nsmid;" : "=r"(count));
  return a.by_multiprocessor && count == gridDim.x ? number : blockIdx.x;
}

// Shared memory. What of it is asked for is computed anew: registers are scarcer.
template <class T>
struct Places {
  const PersistentArgs<T>& a;
  unsigned char* shared;

  __device__ __forceinline__ Places(const PersistentArgs<T>& args, unsigned char* shared) : a(args), shared(shared) {}

  __device__ __forceinline__ unsigned char* input() const { return shared; }
  // Behind an x of k elements, and the room there.
  __device__ __forceinline__ unsigned char* vectors(int k) const { return shared + input_bytes(k); }
  __device__ __forceinline__ int vectors_room(int k) const { return (a.ahead ? a.chunks : a.heads) - input_bytes(k); }
  __device__ __forceinline__ unsigned char* chunks() const { return shared + a.chunks; }
  __device__ __forceinline__ unsigned char* heads() const { return shared + a.heads; }
  __device__ __forceinline__ Step<T>* step(int place) const { return reinterpret_cast<Step<T>*>(shared + a.steps_at) + place; }
  __device__ __forceinline__ float* sums(int turn) const {
    return reinterpret_cast<float*>(shared + a.sums) + turn * a.sums_size;
  }
  __device__ __forceinline__ float* scratch() const { return reinterpret_cast<float*>(shared + a.scratch); }
  __device__ __forceinline__ unsigned long long& missing(int place) const {
    return reinterpret_cast<unsigned long long*>(shared + a.missing)[place];
  }

  // The shared address of a stage.
  __device__ __forceinline__ unsigned stage(int i) const { return shared_address(shared + a.ring) + i * GROUP_BYTES<T>; }

  // Addresses of barriers: of the block's sums, its keys and values, its x, of which there is one place, of descriptions of
  // steps, and of its stages. Every thread that takes what is there arrives itself.
  __device__ __forceinline__ unsigned full_sums(int turn) const { return barrier(turn); }
  __device__ __forceinline__ unsigned empty_sums(int turn) const { return barrier(WARPS + turn); }
  __device__ __forceinline__ unsigned full_heads(int i) const { return barrier(2 * WARPS + i); }
  __device__ __forceinline__ unsigned empty_heads(int i) const { return barrier(2 * WARPS + MOST_HEAD_PLACES + i); }
  __device__ __forceinline__ unsigned full_input() const { return barrier(INPUT_BARRIERS); }
  __device__ __forceinline__ unsigned empty_input() const { return barrier(INPUT_BARRIERS + 1); }
  // Of the warps that attend, where keys and values take turns with x: they have come to a linear step.
  __device__ __forceinline__ unsigned begun() const { return barrier(INPUT_BARRIERS + 2); }
  __device__ __forceinline__ unsigned full_step(int place) const { return barrier(STEP_BARRIERS + place); }
  __device__ __forceinline__ unsigned empty_step(int place) const { return barrier(STEP_BARRIERS + STEP_PLACES + place); }
  __device__ __forceinline__ unsigned full(int stage) const { return barrier(BLOCK_BARRIERS + stage); }
  __device__ __forceinline__ unsigned empty(int stage) const { return barrier(BLOCK_BARRIERS + a.stages + stage); }

  // Waits until the x before has been multiplied. `parity` is that of the step among those that take an x.
  __device__ __forceinline__ void wait_for_products(unsigned parity) const { barrier_wait(empty_input(), parity ^ 1); }
  // Waits until nobody needs what is in the place of x any more: products, and attention to what takes turns with it.
  __device__ __forceinline__ void wait_for_room(unsigned parity) const {
    wait_for_products(parity);
    if (!a.ahead) barrier_wait(begun(), parity);
  }

  // By the first two warps.
  __device__ __forceinline__ void init_barriers() const {
    const int lane = lane_index(), warp = warp_index();
    if (warp == 0 && lane < a.stages) {
      barrier_init(full(lane), 1);
      barrier_init(empty(lane), GROUP / 2 * WARP);
    } else if (warp == 1 && lane < WARPS) {
      barrier_init(full_sums(lane), PRODUCT_WARPS * TILE);
      barrier_init(empty_sums(lane), WARP);
    } else if (warp == 1 && lane < WARPS + MOST_HEAD_PLACES) {
      barrier_init(full_heads(lane - WARPS), WARPS / 2 * (WARP + 1));
      barrier_init(empty_heads(lane - WARPS), WARPS * WARP);
    } else if (warp == 1 && lane == WARPS + MOST_HEAD_PLACES) {
      barrier_init(full_input(), PRODUCT_WARPS * WARP);
      barrier_init(empty_input(), PRODUCT_WARPS * WARP);
      barrier_init(begun(), WARPS * WARP);
    } else if (warp == 1 && lane <= WARPS + MOST_HEAD_PLACES + STEP_PLACES) {
      const int place = lane - (WARPS + MOST_HEAD_PLACES + 1);
      barrier_init(full_step(place), 1);
      barrier_init(empty_step(place), (PRODUCT_WARPS + WARPS) * WARP);
    }
  }

  // By all threads. Products with zeros of x are taken of what no copy ever fills in a partial row, too: it mustn't be NaN.
  __device__ __forceinline__ void clear_ring() const {
    const unsigned end = stage(a.stages);
    for (unsigned at = stage(0) + threadIdx.x * 16; at < end; at += blockDim.x * 16)
      store_shared(at, make_uint4(0, 0, 0, 0));
    shared_writes_fence();
  }

 private:
  // Stages are multiplied as a whole, though what is behind the end of x counts for nothing.
  static __device__ __forceinline__ int input_bytes(int k) {
    return ceil_div(k, GROUP * SPAN) * GROUP * SPAN * static_cast<int>(sizeof(T));
  }

  static constexpr int INPUT_BARRIERS = 2 * (WARPS + MOST_HEAD_PLACES), STEP_BARRIERS = INPUT_BARRIERS + 3,
                       BLOCK_BARRIERS = STEP_BARRIERS + 2 * STEP_PLACES;

  __device__ __forceinline__ unsigned barrier(int i) const { return shared_address(shared + a.barriers) + 8 * i; }
};

// The steps one after the other, for a warp of those that go through them.
template <class T>
struct StepCursor {
  const Places<T> places;
  Slot<STEP_PLACES> place;

  __device__ __forceinline__ explicit StepCursor(const Places<T>& places) : places(places) {}

  __device__ __forceinline__ const Step<T>& operator*() const { return at(place); }
  __device__ __forceinline__ const Step<T>& next() const {
    Slot<STEP_PLACES> after = place;
    after.advance();
    return at(after);
  }
  __device__ __forceinline__ void advance() {
    barrier_arrive(places.empty_step(place.index));
    place.advance();
  }

 private:
  __device__ __forceinline__ const Step<T>& at(const Slot<STEP_PLACES>& slot) const {
    barrier_wait(places.full_step(slot.index), slot.parity);
    return *places.step(slot.index);
  }
};

// The mailboxes of a launch.
template <class T>
struct Mailboxes {
  const PersistentArgs<T>& a;
  unsigned base;  // steps of earlier launches

  __device__ __forceinline__ explicit Mailboxes(const PersistentArgs<T>& args) : a(args), base(args.state->steps) {}

  __device__ __forceinline__ Mailbox operator()(const Route& route) const {
    return {route.words < 0 ? nullptr : a.words + route.words, (base + route.step) & 0xffff};
  }
  // That of attention's pieces, which step number `step` sends.
  __device__ __forceinline__ FloatMailbox pieces(int step) const { return {a.pieces, base + step}; }
};

// A place in the ring.
struct Place {
  int stages, index = 0;
  unsigned parity = 0;

  __device__ __forceinline__ explicit Place(int stages) : stages(stages) {}
  __device__ __forceinline__ void advance(int count = 1) {
    for (index += count; index >= stages; index -= stages) parity ^= 1;
  }
  // By fewer than there are stages.
  __device__ __forceinline__ void advance_within(int count) {
    index += count;
    if (index >= stages) index -= stages, parity ^= 1;
  }
};
