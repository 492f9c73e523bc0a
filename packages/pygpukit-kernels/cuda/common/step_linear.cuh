// The linear steps of layers_persistent.cu: what linear_gemv does, with the same bits.
//
// A block takes its tiles in rounds. Four warps multiply, each its chunks of k; four others add up the chunks and send the
// results, each every fourth round, so that products don't wait for what comes after them.
#pragma once
#include "steps.cuh"

constexpr int CHAINS = 2;  // of products that a warp makes at a time

// The tiles of a step that this block takes: blockIdx, blockIdx + gridDim, ….
struct Rounds {
  int chunks, parts, tiles;
  int together;  // tiles of a round: as many as a warp has chains for

  __device__ __forceinline__ Rounds(int n, int k, int gated)
      : chunks(ceil_div(k, SPAN)), parts(1 + gated), tiles(ceil_div(n, TILE)) {
    together = max(1, CHAINS / (parts * ceil_div(chunks, WARPS)));
  }
  __device__ __forceinline__ int stride() const { return together * gridDim.x; }
  // Tiles of the round that begins with `tile`.
  __device__ __forceinline__ int count(int tile) const {
    return min(together, ceil_div(tiles - tile, static_cast<int>(gridDim.x)));
  }
};

// Of the warps that multiply.
template <class T>
struct Products {
  const Places<T> places;
  const Mailboxes<T> mailboxes;
  Place stage;
  Slot<WARPS> sums;

  __device__ __forceinline__ Products(const Places<T>& places, const Mailboxes<T>& mailboxes)
      : places(places), mailboxes(mailboxes), stage(places.a.stages) {}

  // `norm`: that of the step, in shared memory if it is there.
  __device__ __forceinline__ void run(const Step<T>& step, const NormArgs& norm) {
    const LinearArgs<T>& l = step.linear;
    const Rounds rounds(l.n, l.k, l.gated);
    if (static_cast<int>(blockIdx.x) >= rounds.tiles) return;
    load_input(mailboxes(step.x), l.x, l.k, norm);
    block_sync<WARPS>();
    const unsigned x = shared_address(places.input());
    for (int tile = blockIdx.x; tile < rounds.tiles; tile += rounds.stride()) {
      barrier_wait(places.empty_sums(sums.index), sums.parity ^ 1);
      if (warp_index() < rounds.chunks)
        multiply_round(rounds.count(tile) * rounds.parts, rounds.chunks, places.sums(sums.index), x);
      __syncwarp();
      if (lane_index() == 0) barrier_arrive(places.full_sums(sums.index));
      sums.advance();
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

  __device__ __forceinline__ void load_input(const Mailbox& box, const T* source, int length, const NormArgs& norm) const {
    T* x = places.input();
    const int groups = length / 8;
    if (box) {
      // The last tiles are those that come last.
      box.wait_for(max(length - 1 - warp_index() * TILE, 0));
      box.receive_groups<NORM_THREADS>(groups, [&](int g, const uint4& v) { put_group(x, g, v); });
    } else {
      for (int g = thread_index(); g < groups; g += NORM_THREADS) put_group(x, g, load16(source + 8 * g));
    }
    for (int g = groups + thread_index(); g < ceil_div(length, SPAN) * (SPAN / 8); g += NORM_THREADS)
      put_group(x, g, make_uint4(0, 0, 0, 0));
    if (norm.kind == NORM_NONE) return;
    const Moments moments = block_moments(norm, length, [&](int g) { return input_group(x, g); }, places.scratch());
    for (int g = thread_index(); g < groups; g += NORM_THREADS)
      put_group(x, g, pack8<T>(moments(norm, 8 * g, length, input_group(x, g))));
  }

  // Of a round's sums (row, chunk, TILE), rows being the parts of its tiles, those that a warp makes one after the other.
  struct Position {
    int row = 0, chunk = warp_index();

    __device__ __forceinline__ void advance(int chunks) {
      chunk += WARPS;
      if (chunk < chunks) return;
      chunk = warp_index();
      ++row;
    }
  };

  // Multiplies this warp's stages of a round, two at a time: their weight rows are the halves of one matrix, and the chunks
  // of x that they are multiplied with are columns of the other. The other half of the results is for nothing.
  __device__ __forceinline__ void multiply_round(int rows, int chunks, float* sums, unsigned x) {
    for (Position position; position.row < rows;) {
      unsigned weights[2], inputs[2], empty[2];
      float* results[2];
      bool is_pair = true;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (i == 1 && position.row == rows) {
          weights[1] = weights[0], inputs[1] = inputs[0];
          is_pair = false;
          continue;
        }
        barrier_wait(places.full(stage.index), stage.parity);
        weights[i] = places.ring + stage.index * STAGE_BYTES<T>;
        inputs[i] = x + position.chunk * SPAN * sizeof(T);
        empty[i] = places.empty(stage.index);
        results[i] = sums + (position.row * chunks + position.chunk) * TILE;
        stage.advance();
        position.advance(chunks);
      }
      const int lane = lane_index();
      float d[4] = {};
      multiply_stages(d, (lane & 8 ? weights[1] : weights[0]) + (lane % 8 * PITCH + lane / 16 * 8) * sizeof(T),
                      (lane & 4 ? inputs[1] : inputs[0]) + lane % 4 * 16);
      __syncwarp();
      barrier_arrive(empty[0]);
      if (is_pair) barrier_arrive(empty[1]);
      if (lane % 4) continue;
      results[0][lane / 4] = d[0];
      if (is_pair) results[1][lane / 4] = d[3];
    }
  }

  // d += the products of two stages, their addresses being those that this lane gives. All is loaded before it is needed:
  // a chain of products waits for nothing but itself.
  static __device__ __forceinline__ void multiply_stages(float (&d)[4], unsigned weights, unsigned x) {
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
      mma<T>(d, a[0], a[1], a[2], a[3], columns[i].x, columns[i].y);
      mma<T>(d, b[0], b[1], b[2], b[3], columns[i].z, columns[i].w);
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
      __syncwarp();
      if (lane_index() == 0) barrier_arrive(places.empty_sums(sums.index));
      if (!exists) continue;
      y = finish_sums(l, column, y, up);
      if (residual)
        y += to_float(residual.receive<T>(column, word));
      else if (l.residual)
        y += to_float(l.residual[column]);
      if (out) out.send(column, from_float<T>(y));
      if (stores) store(l, 0, column, y);
    }
  }
};
