// The steps of layers_persistent.cu, as Rust's operations/persistent.rs lays them out, and a block's shared memory.
#pragma once
#include "attention_decode.cuh"
#include "gemv.cuh"
#include "hopper.cuh"
#include "mailbox.cuh"
#include "rotation.cuh"

constexpr int WARPS = NORM_THREADS / WARP;  // that compute; as many copy weights, and as many keys and values
constexpr int STEP_BYTES = 512;

enum StepKind : int { STEP_LINEAR = 0, STEP_ATTENTION = 1, STEP_MERGE = 2 };

// Where a step has an operand from, or puts its result.
struct Route {
  int words;  // the first word of its mailbox; -1: the tensor alone
  int step;   // the number of the step that sends, from 1 on
};

// Attention, with what comes before it.
template <class T>
struct HeadsArgs {
  AppendArgs<T> append;
  AttentionArgs<T> attention;
};

template <class T>
struct alignas(16) Step {
  short kind;
  short stores;  // whether the result goes to its tensor, too
  int splits;    // of attention
  Route x, residual, out;
  union {
    LinearArgs<T> linear;
    HeadsArgs<T> heads;  // of attention and of its merge
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
  unsigned* words;            // mailboxes
  unsigned long long* spans;  // mailbox of attention: (heads, most_spans, dim + 2)
  int step_count, weights_count, attention_count;
  int stages;     // of a warp's ring
  int under_way;  // stages that a warp copies at a time, at most
  int sums_size;  // floats: the most that the sums of a round take
  // Where the parts of shared memory begin, in bytes.
  int input;     // x
  int heads;     // attention's
  int vectors;   // what is there before the step that takes it
  int steps_at;  // (3): the step that runs and the next two
  int sums;      // (2, sums_size)
  int scratch;   // (2, NORM_SCRATCH)
  int missing;   // (WARPS): the positions that a warp's keys lack, of 8 bytes
  int barriers;  // of each warp that computes: full and empty of its stages, full and empty of its keys and values
  int rings;
};

// Shared memory. What of it is asked for is computed anew: registers are scarcer.
template <class T>
struct Places {
  const PersistentArgs<T>& a;
  unsigned char* shared;
  unsigned barriers, ring;  // shared addresses, of this warp or of the one that it copies for

  __device__ __forceinline__ Places(const PersistentArgs<T>& args, unsigned char* shared) : a(args), shared(shared) {
    const int warp = warp_index() % WARPS;
    barriers = shared_address(shared + a.barriers) + warp * (2 * a.stages + 4) * 8;
    ring = shared_address(shared + a.rings) + warp * a.stages * STAGE_BYTES<T>;
  }

  __device__ __forceinline__ T* input() const { return reinterpret_cast<T*>(shared + a.input); }
  __device__ __forceinline__ unsigned char* heads() const { return shared + a.heads; }
  __device__ __forceinline__ Step<T>* step(int i) const { return reinterpret_cast<Step<T>*>(shared + a.steps_at) + i % 3; }
  __device__ __forceinline__ float* sums(int turn) const {
    return reinterpret_cast<float*>(shared + a.sums) + turn * a.sums_size;
  }
  __device__ __forceinline__ float* scratch() const { return reinterpret_cast<float*>(shared + a.scratch); }
  __device__ __forceinline__ unsigned long long& missing() const {
    return reinterpret_cast<unsigned long long*>(shared + a.missing)[warp_index() % WARPS];
  }

  // Addresses of barriers. Of keys (0) and values (1) there is one place each.
  __device__ __forceinline__ unsigned full(int stage) const { return barriers + 8 * stage; }
  __device__ __forceinline__ unsigned empty(int stage) const { return barriers + 8 * (a.stages + stage); }
  __device__ __forceinline__ unsigned full_heads(int i) const { return barriers + 8 * (2 * a.stages + i); }
  __device__ __forceinline__ unsigned empty_heads(int i) const { return barriers + 8 * (2 * a.stages + 2 + i); }

  // By one of the warps that compute.
  __device__ __forceinline__ void init_barriers() const {
    const int lane = lane_index();
    if (lane < a.stages) {
      barrier_init(full(lane), 1);
      barrier_init(empty(lane), WARP);
    } else if (lane < a.stages + 2) {
      barrier_init(full_heads(lane - a.stages), WARP + 1);
      barrier_init(empty_heads(lane - a.stages), WARP);
    }
  }
};

// What this block has to do for attention, the same in all steps of a launch; and the token.
struct HeadShare : Share {
  bool none;
  int sequence, position;

  template <class T>
  __device__ __forceinline__ explicit HeadShare(const PersistentArgs<T>& a)
      : HeadShare(a.steps[a.attention[0]].heads.attention, a.steps[a.attention[0]].splits) {}

 private:
  template <class T>
  __device__ __forceinline__ HeadShare(const AttentionArgs<T>& at, int splits)
      : HeadShare(at, splits, at.kv_heads * ceil_div(at.group(), MOST_QUERIES)) {}
  template <class T>
  __device__ __forceinline__ HeadShare(const AttentionArgs<T>& at, int splits, int blocks)
      : Share(at, 0, static_cast<int>(blockIdx.x) % blocks, static_cast<int>(blockIdx.x) / blocks, splits),
        none(static_cast<int>(blockIdx.x) >= blocks * splits),
        sequence(at.sequences[0]),
        position(at.positions[0]) {}
};

// A stage of a warp's ring.
struct Place {
  int stages, index = 0;
  unsigned parity = 0;

  __device__ __forceinline__ explicit Place(int stages) : stages(stages) {}
  __device__ __forceinline__ void advance() {
    if (++index == stages) index = 0, parity ^= 1;
  }
};
