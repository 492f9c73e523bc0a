// Steps of a decoder for one token, one after the other in one launch: what linear_gemv, rope_append_kv and
// attention_decode do, with the same bits.
//
// A block for each multiprocessor stays until all steps are done. Four of its warps compute; for each of them one warp
// copies weights, through a ring in shared memory, and one keys and values. The copies run ahead of the steps, as they
// depend on none of them, so that the memory isn't idle while a step waits for the one before. How much weights are under
// way is bounded, because what queues in front of the memory also delays the few words that blocks wait for. Results of
// steps go between blocks through mailboxes; where they can be seen later they are written to their tensors too.
//
// Every step waits for all results of the one before it, directly or by way of the blocks that made them. So a mailbox may
// be written again once two steps have passed since it was last read; Rust's operations/persistent.rs sees to that.
//
// Launch: 384 threads, a block for each multiprocessor, all of which must be able to run at once; dynamic shared memory
// as in Places. k of linear steps is a multiple of 8, x and weights aligned to 16 bytes; heads have DIM elements, and no
// gaps between them.
#define THREAD_ANEW
#include "common/streams.cuh"

// A vector that is wanted in shared memory, where it is if it can't be there. `copies`: begins to copy it.
__device__ __forceinline__ Floats stage_vector(const Floats& floats, int length, unsigned char* to, int room, bool copies) {
  const int bytes = length * floats.element_bytes();
  const char* source = static_cast<const char*>(floats.data);
  if (!source || bytes % 16 || bytes > room || !is_aligned16(source)) return floats;
  if (copies)
#pragma unroll 1
    for (int i = thread_index() * 16; i < bytes; i += NORM_THREADS * 16)
      copy16_async(shared_address(to + i), source + i, true);
  return {to, floats.dtype};
}
// The same of a norm's weight and bias.
__device__ __forceinline__ NormArgs stage_norm(const NormArgs& norm, int length, unsigned char* to, int room, bool copies) {
  const int taken = norm.weight ? ceil_div(length * norm.weight.element_bytes(), 16) * 16 : 0;
  return {stage_vector(norm.weight, length, to, room, copies),
          stage_vector(norm.bias, length, to + taken, room - taken, copies), norm.kind, norm.eps, norm.offset};
}

constexpr int CHAINS = 2;  // of products that a warp makes side by side

// The steps, as the warps that compute go through them.
template <int DIM, int HEAD_WARPS, class T>
struct Layers {
  using Decoder = Decode<DIM, HEAD_WARPS, T>;

  const PersistentArgs<T>& a;
  const Places<T> places;
  const HeadShare share;
  Place stage;
  unsigned base;                // steps of earlier launches
  unsigned head_parity = 0;     // of the barriers of keys and values
  int turn = 0;                 // which of the two sums are next
  bool vectors_ahead = false;   // whether the norm of the next step is in shared memory

  __device__ __forceinline__ Layers(const PersistentArgs<T>& args, const Places<T>& places)
      : a(args), places(places), share(args), stage(args.stages) {}

  __device__ __forceinline__ void run() {
    fetch_step(0);
    fetch_step(1);
    base = a.state->steps;
    for (int i = 0; i < a.step_count; ++i) {
      copy_async_wait<0>();
      block_sync<WARPS>();
      const bool has_vectors = vectors_ahead;
      prepare(i + 1);
      fetch_step(i + 2);
      const Step<T>& step = *places.step(i);
      if (step.kind == STEP_LINEAR)
        linear(step, has_vectors);
      else if (step.kind == STEP_ATTENTION)
        attention(step, spans(i + 1));
      else
        merge(step, spans(step.x.step));
    }
    block_sync<WARPS>();
    if (thread_index() == 0) finish();
  }

  __device__ __forceinline__ Mailbox mailbox(const Route& route) const {
    return {route.words < 0 ? nullptr : a.words + route.words, (base + route.step) & 0xffff};
  }
  __device__ __forceinline__ FloatMailbox spans(int step) const { return {a.spans, base + step}; }
  // The first of the DIM + 2 words of a span: sums, largest score, weight.
  static __device__ __forceinline__ long long span_words(const AttentionArgs<T>& at, int head, int span) {
    return (static_cast<long long>(head) * at.most_spans + span) * (DIM + 2);
  }

  // Begins to copy what step i is; it is there two steps later.
  __device__ __forceinline__ void fetch_step(int i) const {
    if (i < a.step_count && thread_index() < STEP_BYTES / 16)
      copy16_async(shared_address(places.step(i)) + 16 * thread_index(),
                   reinterpret_cast<const uint4*>(a.steps + i) + thread_index(), true);
    copy_async_commit();
  }

  // Begins to copy what step i takes beside the results of the one before it.
  __device__ __forceinline__ void prepare(int i) {
    const Step<T>& step = *places.step(i);
    const bool exists = i < a.step_count;
    vectors_ahead = exists && step.kind == STEP_LINEAR && step.linear.norm.kind != NORM_NONE && !vectors_ahead;
    if (vectors_ahead) norm_of(step, true);
    if (exists && step.kind == STEP_ATTENTION && !share.none) {
      const Decoder decode(step.heads.attention, places.heads(), share);
      Heads(step, *this, decode).prepare();
    }
  }
  __device__ __forceinline__ NormArgs norm_of(const Step<T>& step, bool copies) const {
    return stage_norm(step.linear.norm, step.linear.k, places.shared + a.vectors, a.steps_at - a.vectors, copies);
  }

  // The last block counts the steps for the launch to come.
  __device__ __forceinline__ void finish() const {
    if (atomicAdd(&a.state->finished, 1) + 1 < gridDim.x) return;
    a.state->finished = 0;
    a.state->steps = base + a.step_count;
  }

  // --- Linear steps.

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

  __device__ __forceinline__ void load_input(const Step<T>& step, const LinearArgs<T>& l, bool has_vectors, T* x) const {
    const int groups = l.k / 8;
    const NormArgs norm = has_vectors ? norm_of(step, false) : l.norm;
    if (const Mailbox box = mailbox(step.x)) {
      box.receive_groups<NORM_THREADS>(
          groups, [](int g) { return 8 * g; }, [&](int g, const uint4& v) { put_group(x, g, v); });
    } else {
      for (int g = thread_index(); g < groups; g += NORM_THREADS) put_group(x, g, load16(l.x + 8 * g));
    }
    for (int g = groups + thread_index(); g < ceil_div(l.k, SPAN) * (SPAN / 8); g += NORM_THREADS)
      put_group(x, g, make_uint4(0, 0, 0, 0));
    if (norm.kind == NORM_NONE) return;
    const Moments moments = block_moments(norm, l.k, [&](int g) { return input_group(x, g); }, places.scratch());
    for (int g = thread_index(); g < groups; g += NORM_THREADS) {
      put_group(x, g, pack8<T>(moments(norm, 8 * g, l.k, input_group(x, g))));
    }
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
    __device__ __forceinline__ void keep(float* sums, int chunks, const float (&d)[4]) const {
      if (lane_index() < 4)
        reinterpret_cast<float2*>(sums + (row * chunks + chunk) * TILE)[lane_index()] = make_float2(d[0], d[1]);
    }
  };

  // d[i] += the products of stage i with a chunk of x: chains that hide each other's latency.
  template <int COUNT>
  static __device__ __forceinline__ void multiply_stages(float (&d)[COUNT][4], const unsigned (&stage)[COUNT],
                                                         const unsigned (&x)[COUNT]) {
    const unsigned w = ((lane_index() % 8) * PITCH + lane_index() / 8 * 8) * sizeof(T);
#pragma unroll
    for (int k = 0; k < SPAN; k += 32) {
      unsigned b[COUNT][4];
      uint4 c[COUNT];
#pragma unroll
      for (int i = 0; i < COUNT; ++i) {
        load_matrix_x4(b[i], stage[i] + w + k * sizeof(T));
        // Of one row of x: that of the first four lanes.
        c[i] = lane_index() < 4 ? load_shared16(x[i] + k * sizeof(T) + lane_index() * 16) : make_uint4(0, 0, 0, 0);
      }
#pragma unroll
      for (int i = 0; i < COUNT; ++i) mma<T>(d[i], c[i].x, 0, c[i].y, 0, b[i][0], b[i][1]);
#pragma unroll
      for (int i = 0; i < COUNT; ++i) mma<T>(d[i], c[i].z, 0, c[i].w, 0, b[i][2], b[i][3]);
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

  // Multiplies this warp's stages of a round, CHAINS at a time.
  __device__ __forceinline__ void multiply_round(int rows, int chunks, float* sums, unsigned x) {
    if (warp_index() >= chunks) return;
    Position position;
    while (position.row < rows) {
      const Position first = position;
      unsigned stages[CHAINS], inputs[CHAINS];
      Place place = stage;
      int count = 0;
#pragma unroll
      for (int i = 0; i < CHAINS; ++i) {
        // Where there are fewer the first one is multiplied again, for nothing.
        const bool exists = position.row < rows;
        if (exists) barrier_wait(places.full(place.index), place.parity);
        stages[i] = exists ? places.ring + place.index * STAGE_BYTES<T> : stages[0];
        inputs[i] = exists ? x + position.chunk * SPAN * sizeof(T) : inputs[0];
        count += exists;
        place.advance();
        if (exists) position.advance(chunks);
      }
      float d[CHAINS][4] = {};
      multiply_stages(d, stages, inputs);
      __syncwarp();
      Position kept = first;
#pragma unroll
      for (int i = 0; i < CHAINS; ++i)
        if (i < count) {
          barrier_arrive(places.empty(stage.index));
          stage.advance();
          kept.keep(sums, chunks, d[i]);
          kept.advance(chunks);
        }
    }
  }

  __device__ __forceinline__ void linear(const Step<T>& step, bool has_vectors) {
    const LinearArgs<T> l = step.linear;  // in registers before it is needed
    const int chunks = ceil_div(l.k, SPAN), tiles = ceil_div(l.n, TILE), parts = 1 + l.gated;
    if (static_cast<int>(blockIdx.x) >= tiles) return;
    const Mailbox residual = mailbox(step.residual), out = mailbox(step.out);
    const bool stores = step.stores;
    load_input(step, l, has_vectors, places.input());
    block_sync<WARPS>();
    const unsigned x = shared_address(places.input());
    // As many tiles at a time as a warp has chains for.
    const int together = max(1, CHAINS / (parts * ceil_div(chunks, WARPS)));
    for (int first = blockIdx.x; first < tiles; first += together * gridDim.x, turn ^= 1) {
      float* sums = places.sums(turn);
      // The warp that finishes a tile asks for its residual now, as it takes as long as the products.
      const int own = (warp_index() + 2 * turn) % WARPS, tile = first + own * static_cast<int>(gridDim.x);
      const int column = tile * TILE + lane_index();
      const bool finishes = own < together && lane_index() < TILE && column < l.n;
      unsigned word = 0;
      if (finishes && residual) word = load_word(residual.words + column);
      const int count = min(together, (tiles - first + static_cast<int>(gridDim.x) - 1) / static_cast<int>(gridDim.x));
      multiply_round(count * parts, chunks, sums, x);
      block_sync<WARPS>();
      if (!finishes) continue;
      sums += own * parts * chunks * TILE;
      const float up = l.gated ? add_chunks(sums, chunks, TILE, 1, lane_index()) : 0.f;
      float y = finish_sums(l, column, add_chunks(sums, chunks, TILE, 0, lane_index()), up);
      if (residual)
        y += to_float(residual.receive<T>(column, word));
      else if (l.residual)
        y += to_float(l.residual[column]);
      if (out) out.send(column, from_float<T>(y));
      if (stores) store(l, 0, column, y);
    }
  }

  // --- Attention. A block has one share of it, or none.

  // The source of Decode. Queries come from the product before, and are normalised and rotated here, with the newest key
  // and value, which go to the cache as well.
  struct Heads {
    const AppendArgs<T>& a;
    const Decoder& d;
    Layers& layers;
    Mailbox qkv;
    bool stores;             // the queries
    bool newest;             // whether this block sees the token itself

    __device__ __forceinline__ Heads(const Step<T>& step, Layers& layers, const Decoder& decode)
        : a(step.heads.append), d(decode), layers(layers), qkv(layers.mailbox(step.x)), stores(step.stores) {
      newest = ((d.end - 1) / SPAN_KEYS - d.begin / SPAN_KEYS) % d.splits == d.split;
    }

    // (queries + 2, DIM): queries, key, value
    __device__ __forceinline__ T* rows() const { return reinterpret_cast<T*>(d.softmax + SPAN_CHUNKS * d.queries); }
    // (HEAD_WARPS, DIM)
    __device__ __forceinline__ float* heads() const { return reinterpret_cast<float*>(rows() + (MOST_QUERIES + 2) * DIM); }
    // What queries (0) and keys (1) are normalised with, and the angles, in shared memory. `copies`: begins to copy it.
    __device__ __forceinline__ NormArgs norm_of(int is_key, bool copies) const {
      constexpr int ROOM = 2 * DIM * sizeof(float);
      return stage_norm(is_key ? a.k_norm : a.q_norm, DIM, vectors() + is_key * ROOM, ROOM, copies);
    }
    __device__ __forceinline__ const float* angles(bool copies) const {
      constexpr int ROOM = DIM * sizeof(float);
      const Floats staged = stage_vector({a.angles, DTYPE_F32}, a.rotated, vectors() + 4 * ROOM, ROOM, copies);
      return static_cast<const float*>(staged.data);
    }
    __device__ __forceinline__ unsigned char* vectors() const {
      return reinterpret_cast<unsigned char*>(heads() + HEAD_WARPS * DIM);
    }
    __device__ __forceinline__ void prepare() const {
#pragma unroll 1
      for (int is_key = 0; is_key < 2; ++is_key) norm_of(is_key, true);
      angles(true);
    }

    __device__ __forceinline__ void bring_queries() const {
      constexpr int GROUPS = DIM / 8;
      const auto first = [&](int g) {
        const int row = g / GROUPS, kv = a.heads + d.kv_head + (row - d.queries) * a.kv_heads;
        return (row < d.queries ? d.head + row : kv) * DIM + g % GROUPS * 8;
      };
      T* to = rows();
      qkv.receive_groups<HEAD_WARPS * WARP>(
          (d.queries + 2) * GROUPS, first, [&](int g, const uint4& v) { store16(to + 8 * g, v); });
      block_sync<HEAD_WARPS>();
      for (int row = warp_index(); row < d.queries + newest; row += HEAD_WARPS) turn(row);
    }

    // Normalises and rotates a query or the key, in place; a query goes to where the products take it from, too.
    __device__ __forceinline__ void turn(int row) const {
      float* head = heads() + warp_index() * DIM;
      T* values = rows() + row * DIM;
      const float* turns = angles(false);
      load_head(head, values, DIM, norm_of(row == d.queries, false));
      __syncwarp();
#pragma unroll
      for (int j = 0; j < DIM / WARP; ++j) {
        const int i = j * WARP + lane_index();
        const T turned = from_float<T>(rotate(head, i, turns, a.rotated, a.interleaved));
        values[i] = turned;
        if (row == d.queries) continue;
        asm volatile("st.shared.u16 [%0], %1;" ::"r"(d.q + head_offset<DIM>(row, i) + i % 8 * 2), "h"(turned.bits)
                     : "memory");
        if (newest && stores) a.out[(d.head + row) * DIM + i] = turned;
      }
      __syncwarp();
    }

    // Puts the newest key and value into the cache: once, where several blocks share a head. Only launches to come read
    // them there.
    __device__ __forceinline__ void append_newest() const {
      int page, row;
      if (!newest || d.head % (a.heads / a.kv_heads) || !a.pages.find(d.sequence, d.end - 1, page, row)) return;
      for (int i = thread_index(); i < 2 * DIM; i += HEAD_WARPS * WARP) {
        const CacheStrides& s = i < DIM ? a.k_strides : a.v_strides;
        T* target = (i < DIM ? a.k_cache : a.v_cache) + page * s.page + d.kv_head * s.head + row * s.row;
        target[i % DIM] = rows()[d.queries * DIM + i];
      }
    }

    __device__ __forceinline__ unsigned long long wait_for_keys(int chunk) const {
      barrier_wait(layers.places.full_heads(0), layers.head_parity);
      replace(d.k, chunk, d.queries);
      return layers.places.missing();
    }
    __device__ __forceinline__ void wait_for_values(int chunk) const {
      barrier_wait(layers.places.full_heads(1), layers.head_parity);
      replace(d.v, chunk, d.queries + 1);
    }
    // Puts the newest key or value into a chunk that may have been copied when the cache didn't have it yet.
    __device__ __forceinline__ void replace(unsigned to, int chunk, int row) const {
      const int position = d.end - 1, i = lane_index() * 8;
      if (chunk != position / CHUNK_KEYS) return;
      if (i < DIM) {
        const uint4 v = load16(rows() + row * DIM + i);
        asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to + head_offset<DIM>(position % CHUNK_KEYS, i)),
                     "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                     : "memory");
      }
      __syncwarp();
    }

    __device__ __forceinline__ void next_keys(int) const { barrier_arrive(layers.places.empty_heads(0)); }
    __device__ __forceinline__ void next_values(int) const {
      barrier_arrive(layers.places.empty_heads(1));
      layers.head_parity ^= 1;
    }
  };

  __device__ __forceinline__ void attention(const Step<T>& step, const FloatMailbox& results) {
    if (warp_index() >= HEAD_WARPS || share.none) return;
    Decoder decode(step.heads.attention, places.heads(), share);
    if (!decode.locate(share.sequence, share.position)) return;
    Heads heads(step, *this, decode);
    decode.run(heads, [&](int head, int span, int column, float sum, const Softmax& softmax) {
      const long long first = span_words(step.heads.attention, head, span);
      results.send(first + column, sum);
      if (column == 0) {
        results.send(first + DIM, softmax.largest);
        results.send(first + DIM + 1, softmax.weight);
      }
    });
    heads.append_newest();
  }

  // The last blocks merge: the first ones have the spans.
  __device__ __forceinline__ void merge(const Step<T>& step, const FloatMailbox& results) const {
    constexpr int AHEAD = 4;
    const AttentionArgs<T>& at = step.heads.attention;
    const Mailbox out = mailbox(step.out);
    if (thread_index() >= DIM) return;
    for (int head = gridDim.x - 1 - blockIdx.x; head < at.heads; head += gridDim.x) {
      const int first = at.first_visible(share.position) / SPAN_KEYS;
      const int end = at.pages.holds(share.sequence, share.position) ? share.position / SPAN_KEYS + 1 : first;
      const float y = merge_spans<AHEAD>(first, end, [&](int span, int count, float* sums, Softmax* softmax) {
        const long long start = span_words(at, head, span);
        float values[3 * AHEAD];
        results.receive<3 * AHEAD>(values, 3 * count, [&](int i) {
          return start + i / 3 * (DIM + 2) + (i % 3 ? DIM + i % 3 - 1 : thread_index());
        });
#pragma unroll
        for (int j = 0; j < AHEAD; ++j) {
          sums[j] = values[3 * j];
          softmax[j].largest = values[3 * j + 1];
          softmax[j].weight = values[3 * j + 2];
        }
      });
      const int i = head * DIM + thread_index();
      if (out) out.send(i, from_float<T>(y));
      if (step.stores) at.out[i] = from_float<T>(y);
    }
  }
};

template <int DIM, int HEAD_WARPS, class T>
__device__ __forceinline__ void layers_persistent(const PersistentArgs<T>& a) {
  extern __shared__ __align__(128) unsigned char shared[];
  const Places<T> places(a, shared);
  if (warp_index() < WARPS) places.init_barriers();
  __syncthreads();
  start_dependents();
  if (warp_index() < WARPS) {
    take_registers<240>();
    wait_for_inputs();
    Layers<DIM, HEAD_WARPS, T>(a, places).run();
  } else if (warp_index() < 2 * WARPS) {
    give_registers<72>();
    stream_weights(a, places);
  } else {
    give_registers<72>();
    stream_heads<DIM, HEAD_WARPS>(a, places);
  }
}

#define ENTRY(DIM, HEAD_WARPS, T)                                                          \
  extern "C" __global__ void __launch_bounds__(3 * NORM_THREADS, 1)                          \
      layers_persistent_##DIM##_##HEAD_WARPS##_##T(const __grid_constant__ PersistentArgs<T> a) { \
    layers_persistent<DIM, HEAD_WARPS>(a);                                                 \
  }
#define ENTRIES(T) ENTRY(64, 4, T) ENTRY(128, 4, T) ENTRY(128, 2, T)
FOR_EACH_16BIT(ENTRIES)
