// The linear steps of layers_persistent.cu: what linear_gemv does, with the same bits.
//
// A block takes its tiles in rounds. Eight warps multiply, each every fourth stage's half; four others add up the chunks and
// send the results, each every fourth round, so that products don't wait for what comes after them.
#pragma once
#include "steps.cuh"

// The tiles of a step that a block takes, blockIdx, blockIdx + gridDim, …, in rounds of some tiles each. The stages of a
// round are numbered (tile, part, group).
struct Rounds {
  static constexpr int MOST_TILES = WARP / TILE;  // a lane of a finisher for each result
  static constexpr int STRIDE = PRODUCT_WARPS / (GROUP / 2);

  int chunks, groups, parts, tiles, together;

  // As many tiles in a round as give each warp something to do.
  __device__ __forceinline__ Rounds(int n, int k, int gated)
      : chunks(ceil_div(k, SPAN)), groups(ceil_div(chunks, GROUP)), parts(1 + gated), tiles(ceil_div(n, TILE)) {
    together = min(max(STRIDE / (parts * groups), 1), MOST_TILES);
  }
  __device__ __forceinline__ int stride() const { return together * gridDim.x; }
  // Stages of the round that begins with `tile`.
  __device__ __forceinline__ int stages(int tile) const {
    return min(together, ceil_div(tiles - tile, static_cast<int>(gridDim.x))) * parts * groups;
  }
};

// Of the warps that multiply.
template <class T>
struct Products {
  const Places<T> places;
  Place round;       // of the first stage of the next round
  unsigned number = 0;  // of that stage
  unsigned parity = 0;  // of the barriers of x
  Slot<WARPS> sums;

  __device__ __forceinline__ explicit Products(const Places<T>& places) : places(places), round(places.a.stages) {}

  // Waits until all have multiplied what is in the place of x.
  __device__ __forceinline__ void wait_for_room() const { barrier_wait(places.empty_input(), parity ^ 1); }

  // As soon as x is in shared memory.
  __device__ __forceinline__ void run(const Rounds& rounds, int dtype) {
    const int warp = warp_index(), lane = lane_index();
    barrier_wait(places.full_input(), parity);
    parity ^= 1;
    for (int tile = blockIdx.x; tile < rounds.tiles; tile += rounds.stride(), sums.advance()) {
      const int stages = rounds.stages(tile);
      barrier_wait(places.empty_sums(sums.index), sums.parity ^ 1);
      if (dtype == DTYPE_F16)
        multiply_round<f16>(warp, lane, stages, rounds, places.sums(sums.index));
      else
        multiply_round<T>(warp, lane, stages, rounds, places.sums(sums.index));
      round.advance(stages);
      number += stages;
      if (has_sums(lane)) barrier_arrive(places.full_sums(sums.index));
    }
    barrier_arrive(places.empty_input());
  }

 private:
  // Of the lanes of a warp there are TILE.
  static __device__ __forceinline__ bool has_sums(int lane) { return lane % 4 == 0; }

  // Multiplies this warp's pairs of chunks: a tile's rows in both are the halves of one matrix, and the chunks of x columns of
  // the other. The other half of the results is for nothing.
  template <class Product>
  __device__ __forceinline__ void multiply_round(int warp, int lane, int stages, const Rounds& rounds, float* sums) const {
    const unsigned half = lane / 8 % 2, column = lane / 4 % 2;
    const int first = (warp / (GROUP / 2) - number) % Rounds::STRIDE, pair = warp % (GROUP / 2) * 2;
    const unsigned row = (lane % 8 * GROUP_PITCH + (pair + half) * SPAN + lane / 16 * 8) * sizeof(T);
    const unsigned x = shared_address(places.input()) + (pair + column) * SPAN * sizeof(T) + lane % 4 * 16;
    Place place = round;
    place.advance(first);
    int group = first;
    float* result = sums + pair * TILE + lane / 4;
    for (int stage = first; stage < stages; stage += Rounds::STRIDE, group += Rounds::STRIDE) {
      for (; group >= rounds.groups; group -= rounds.groups) result += rounds.chunks * TILE;
      barrier_wait(places.full(place.index), place.parity);
      float d[4] = {};
      multiply<Product>(d, places.stage(place.index) + row, x + group * GROUP * SPAN * sizeof(T));
      barrier_arrive(places.empty(place.index));
      place.advance(Rounds::STRIDE);
      const int chunk = group * GROUP + pair;
      if (has_sums(lane) && chunk < rounds.chunks) result[group * GROUP * TILE] = d[0];
      if (has_sums(lane) && chunk + 1 < rounds.chunks) result[(group * GROUP + 1) * TILE] = d[3];
    }
  }

  // d += the products of two chunks, at the addresses that this lane gives. All is loaded before it is needed:
  // a chain of products waits for nothing but itself.
  template <class Product>
  static __device__ __forceinline__ void multiply(float (&d)[4], unsigned weights, unsigned x) {
    constexpr int STEPS = SPAN / 32;
    unsigned w[2 * STEPS][4];
    uint4 columns[STEPS];
#pragma unroll
    for (int i = 0; i < STEPS; ++i) {
      load_matrix_x4(w[2 * i], weights + i * 32 * sizeof(T));
      load_matrix_x4(w[2 * i + 1], weights + (i * 32 + 16) * sizeof(T));
      columns[i] = load_shared16(x + i * 32 * sizeof(T));
    }
#pragma unroll
    for (int i = 0; i < STEPS; ++i) {
      const unsigned(&a)[4] = w[2 * i], (&b)[4] = w[2 * i + 1];
      mma<Product>(d, a[0], a[1], a[2], a[3], columns[i].x, columns[i].y);
      mma<Product>(d, b[0], b[1], b[2], b[3], columns[i].z, columns[i].w);
    }
  }
  static __device__ __forceinline__ uint4 load_shared16(unsigned address) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
  }
};

// Brings x, normalised, into shared memory: of the first WARPS warps.
template <class T>
struct Input {
  const Places<T> places;

  __device__ __forceinline__ explicit Input(const Places<T>& places) : places(places) {}

  __device__ __forceinline__ void load(const Mailbox& box, const T* source, int length, const NormArgs& norm,
                                       int dtype) const {
    T* x = places.input();
    const int groups = length / 8;
    if (box) {
      // The last tile is one of those that come last. Only one warp asks for it: what asks often is in the results' way.
      if (warp_index() == 0) box.wait_for(length - 1);
      block_sync<WARPS>();
      box.receive_groups<NORM_THREADS>(groups, [&](int g, const uint4& v) { put_group(x, g, v); });
    } else {
      for (int g = thread_index(); g < groups; g += NORM_THREADS) put_group(x, g, load16(source + 8 * g));
    }
    for (int g = groups + thread_index(); g < ceil_div(length, SPAN) * (SPAN / 8); g += NORM_THREADS)
      put_group(x, g, make_uint4(0, 0, 0, 0));
    if (norm.kind == NORM_NONE) return;
    const Moments moments = block_moments(norm, length, [&](int g) { return input_group(x, g); }, places.scratch());
    for (int g = thread_index(); g < groups; g += NORM_THREADS) {
      const Eight y = moments(norm, 8 * g, length, input_group(x, g));
      put_group(x, g, dtype == DTYPE_F16 ? pack8<f16>(y) : pack8<T>(y));
    }
  }

 private:
  // x lies in shared memory as the products take it: of 32 values lane q has 2q, 2q + 1 and those 8, 16 and 24 after them.
  static __device__ __forceinline__ unsigned* input_words(T* x, int group) {
    return reinterpret_cast<unsigned*>(x) + group / 4 * 16 + group % 4;
  }
  static __device__ __forceinline__ void put_group(T* x, int group, const uint4& v) {
    unsigned* words = input_words(x, group);
    words[0] = v.x;
    words[4] = v.y;
    words[8] = v.z;
    words[12] = v.w;
  }
  static __device__ __forceinline__ Eight input_group(T* x, int group) {
    const unsigned* words = input_words(x, group);
    Eight e;
#pragma unroll
    for (int i = 0; i < 4; ++i) unpack2<T>(words[4 * i], e.value[2 * i], e.value[2 * i + 1]);
    return e;
  }
};

// Of the warps that add up the chunks and send.
template <class T>
struct Finisher {
  const PersistentArgs<T>& a;
  const Places<T> places;
  const Mailboxes<T> mailboxes;
  Slot<WARPS> sums;

  __device__ __forceinline__ Finisher(const PersistentArgs<T>& args, const Places<T>& places)
      : a(args), places(places), mailboxes(args) {}

  __device__ __forceinline__ void run() {
    for (int i = 0; i < a.step_count; ++i)
      if (a.steps[i].kind == STEP_LINEAR) finish_step(a.steps[i]);
  }

 private:
  __device__ __forceinline__ void finish_step(const Step<T>& step) {
    const LinearArgs<T> l = step.linear;
    const Rounds rounds(l.n, l.k, l.gated);
    const Mailbox residual = mailboxes(step.residual), out = mailboxes(step.out);
    const bool stores = step.stores;
    const int own = lane_index() / TILE, i = lane_index() % TILE;
    for (int first = blockIdx.x; first < rounds.tiles; first += rounds.stride(), sums.advance()) {
      if (sums.index != warp_index() % WARPS) continue;
      const int column = (first + own * static_cast<int>(gridDim.x)) * TILE + i;
      const bool exists = own < rounds.together && column < l.n;
      // Asked for now, as it takes as long as the products.
      unsigned word = 0;
      if (exists && residual) word = load_word(residual.words + column);
      barrier_wait(places.full_sums(sums.index), sums.parity);
      float y = 0.f, up = 0.f;
      if (exists) {
        const float* from = places.sums(sums.index) + own * rounds.parts * rounds.chunks * TILE;
        y = add_chunks(from, rounds.chunks, TILE, 0, i);
        if (l.gated) up = add_chunks(from, rounds.chunks, TILE, 1, i);
      }
      barrier_arrive(places.empty_sums(sums.index));
      if (!exists) continue;
      y = finish_sums(l, column, y, up);
      if (residual)
        y += to_float(residual.receive<T>(column, word));
      else if (l.residual)
        y += l.residual[column];
      if (out) out.send(column, l.out_dtype == DTYPE_F16 ? from_float<f16>(y).bits : from_float<bf16>(y).bits);
      if (stores) store(l, 0, column, y);
    }
  }
};
