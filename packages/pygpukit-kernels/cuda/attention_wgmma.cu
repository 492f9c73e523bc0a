// Attention of many tokens on Hopper's tensor cores: as attention_prefill.cu, bit for bit, for pages of whole chunks.
//
// A block takes 128 queries that share a key/value head (of a token after the other, and of a token the heads of the
// group), 64 for each of its two warpgroups, and passes over what any of them sees. A warp has pairs of chunks of keys and
// values copied into rings in shared memory. While one warpgroup weighs its scores the other one multiplies.
//
// Launch: 384 threads, blocks (⌈tokens group / 128⌉, kv_heads), dynamic shared memory
// 1024 + (768 + 512 STAGES) DIM + 40 STAGES bytes. The maps are of the caches, in boxes of 64 elements of 64 rows of a head
// of a page. dim is a multiple of 8 of at most DIM; q, with its strides, is aligned to 16 bytes, out to 4.
#include "common/attention_mma.cuh"
#include "common/hopper.cuh"
#include "common/launch.cuh"
#include "common/segment.cuh"

constexpr int CONSUMERS = 2;  // warpgroups
constexpr int GROUP_QUERIES = 64;
constexpr int QUERIES = CONSUMERS * GROUP_QUERIES;
constexpr int THREADS = (1 + CONSUMERS) * WARPGROUP;
constexpr int PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;
constexpr int STAGES = 2;
constexpr int PAIR = 2;                // chunks of a stage: half a span
constexpr int PANEL_BYTES = 64 * 128;  // 64 elements of 64 rows

using Place = Slot<STAGES>;

// Pairs of chunks of one of the caches on their way through shared memory: of each 64 elements all rows, one chunk's after
// the other's.
template <int DIM>
struct Ring {
  static constexpr int STAGE_BYTES = DIM / 64 * PAIR * PANEL_BYTES;
  unsigned data, full, empty;  // shared addresses

  // Elements 64 panel … 64 panel + 63 of a chunk.
  __device__ __forceinline__ unsigned at(int slot, int panel, int chunk) const {
    return data + slot * STAGE_BYTES + (panel * PAIR + chunk) * PANEL_BYTES;
  }

  __device__ __forceinline__ void init_barriers() const {
    for (int i = 0; i < STAGES; ++i) {
      barrier_init(full + 8 * i, 1);
      barrier_init(empty + 8 * i, CONSUMERS * WARPGROUP);
    }
  }
  // One thread: waits until a place is free.
  __device__ __forceinline__ void reserve(const Place& slot) const {
    barrier_wait(empty + 8 * slot.index, slot.parity ^ 1);
  }
  // One thread: announces that many chunks.
  __device__ __forceinline__ void expect(const Place& slot, int chunks) const {
    barrier_arrive_expecting(full + 8 * slot.index, chunks * STAGE_BYTES / PAIR);
  }
  __device__ __forceinline__ void copy(const Place& slot, int chunk, const TensorMap& map, int row, int head,
                                       int page) const {
#pragma unroll
    for (int panel = 0; panel < DIM / 64; ++panel)
      copy_tile(at(slot.index, panel, chunk), map, panel * 64, row, head, page, full + 8 * slot.index);
  }
  __device__ __forceinline__ void wait(const Place& slot) const { barrier_wait(full + 8 * slot.index, slot.parity); }
  // Every thread that reads.
  __device__ __forceinline__ void release(const Place& slot) const { barrier_arrive(empty + 8 * slot.index); }
};

template <int DIM, class T>
struct Prefill {
  static constexpr int PANELS = DIM / 64;
  const SinkArgs<T>& a;
  unsigned queries;  // shared addresses
  Ring<DIM> keys, values;
  int* pages;        // of the chunks of values in the ring, -1 where there is none
  int first_query;   // of the block, counted over tokens and the heads of the group

  __device__ __forceinline__ Prefill(const SinkArgs<T>& args, unsigned char* shared) : a(args) {
    // The last tokens of a prompt see the most, so their blocks come first.
    first_query = (gridDim.x - 1 - blockIdx.x) * QUERIES;
    const unsigned start = shared_address(shared);
    queries = (start + 1023) / 1024 * 1024;
    keys.data = queries + QUERIES * DIM * sizeof(T);
    values.data = keys.data + STAGES * Ring<DIM>::STAGE_BYTES;
    keys.full = values.data + STAGES * Ring<DIM>::STAGE_BYTES;
    keys.empty = keys.full + 8 * STAGES;
    values.full = keys.empty + 8 * STAGES;
    values.empty = values.full + 8 * STAGES;
    pages = reinterpret_cast<int*>(shared + (values.empty + 8 * STAGES - start));
  }

  // This thread's sums over the spans so far, four at a time: those of tile t at totals()[t * 256].
  __device__ __forceinline__ float4* totals() const {
    return reinterpret_cast<float4*>(pages + PAIR * STAGES) + threadIdx.x - WARPGROUP;
  }

  // The token of a query of the block, and its head.
  __device__ __forceinline__ int token(int row) const { return (first_query + row) / a.group(); }
  __device__ __forceinline__ int head(int row) const {
    return blockIdx.y * a.group() + (first_query + row) % a.group();
  }

  // Calls body(segment, its first token) for each sequence of which a token sees something.
  template <class Body>
  __device__ __forceinline__ void for_each_segment(Body body) const {
    const int end_token = min(token(QUERIES - 1) + 1, a.tokens);
    for (int t = token(0); t < end_token;) {
      const Segment<QUERIES> segment(a, t, end_token);
      if (segment.end > 0) body(segment, t);
      t += segment.tokens;
    }
  }

  // The chunk with which the first span of a segment begins.
  static __device__ __forceinline__ int first_chunk(const Segment<QUERIES>& segment) {
    return segment.begin / SPAN_KEYS * SPAN_CHUNKS;
  }

  // A warp: has the chunks copied that the queries see.
  __device__ __forceinline__ void produce(const TensorMap& k_map, const TensorMap& v_map) const {
    Place slot;
    for_each_segment([&](const Segment<QUERIES>& segment, int) {
      const int end = ceil_div(segment.end, CHUNK_KEYS);
      for (int chunk = first_chunk(segment); chunk < end; chunk += PAIR, slot.advance()) {
        const int chunks = min(PAIR, end - chunk);
        int page[PAIR], row[PAIR];
#pragma unroll
        for (int i = 0; i < PAIR; ++i)
          if (!a.pages.find(segment.sequence, (chunk + i) * CHUNK_KEYS, page[i], row[i])) page[i] = -1;
        if (lane_index() != 0) continue;
        keys.reserve(slot);
        for (int i = 0; i < PAIR; ++i) pages[slot.index * PAIR + i] = page[i];
        keys.expect(slot, chunks);
        for (int i = 0; i < chunks; ++i) keys.copy(slot, i, k_map, row[i], blockIdx.y, page[i]);
        values.reserve(slot);
        values.expect(slot, chunks);
        for (int i = 0; i < chunks; ++i) values.copy(slot, i, v_map, row[i], blockIdx.y, page[i]);
      }
    });
  }
};

// What a warpgroup does with its 64 queries.
template <int DIM, class T>
struct Consumer : Prefill<DIM, T> {
  using Base = Prefill<DIM, T>;
  using Base::a, Base::keys, Base::pages, Base::PANELS, Base::queries, Base::values;
  using Scores = float[PAIR][8][4];  // or products of a pair of chunks
  // Of sums of 64 elements of a chunk: wide heads leave no registers for a second one.
  static constexpr int BUFFERS = PANELS == 1 ? 2 : 1;
  static_assert(2 * PAIR == SPAN_CHUNKS, "see run_pair");
  const Scorer<T> scorer;
  int group;
  Place slot;                 // of the pair whose products with the keys are made
  float sums[DIM / 8][4];     // over the chunks of a span, as mma leaves them
  Softmax span[2], total[2];  // of this lane's queries: rows lane / 4 and lane / 4 + 8 of the warp's

  __device__ __forceinline__ Consumer(const Base& base) : Base(base), scorer(base.a) {
    group = __shfl_sync(~0u, threadIdx.x / WARPGROUP, 0) - 1;  // the same in all lanes, as the compiler sees
    queries += group * GROUP_QUERIES * DIM * sizeof(T);
  }

  // The block's row of this lane's query `h`.
  __device__ __forceinline__ int own_row(int h) const {
    return group * GROUP_QUERIES + warp_index() % 4 * 16 + lane_index() / 4 + 8 * h;
  }

  __device__ __forceinline__ void load_queries() const {
    for (int piece = threadIdx.x % WARPGROUP; piece < GROUP_QUERIES * DIM / 8; piece += WARPGROUP) {
      const int row = piece / (DIM / 8), column = piece % (DIM / 8) * 8, block_row = group * GROUP_QUERIES + row;
      const bool valid = this->token(block_row) < a.tokens && column < a.dim;
      const T* source = a.q + this->token(block_row) * a.q_stride + this->head(block_row) * a.q_head_stride + column;
      copy16_async(queries + column / 64 * PANEL_BYTES + head_offset<64>(row, column % 64), source, valid);
    }
    copy_async_commit();
    copy_async_wait<0>();
    shared_writes_fence();
    warpgroup_sync(group);
  }

  // Begins s = the products of the queries with a pair of chunks of keys, as soon as it is there.
  __device__ __forceinline__ void multiply_keys(Scores& s) {
    keys.wait(slot);
    products_begin();
    const unsigned long long q = matrix_descriptor(queries), k = matrix_descriptor(keys.at(slot.index, 0, 0));
#pragma unroll
    for (int i = 0; i < DIM; i += 16)
      multiply_group<T>(reinterpret_cast<float(&)[8 * PAIR][4]>(s),
                        descriptor_after(q, i / 64 * PANEL_BYTES + i % 64 * 2),
                        descriptor_after(k, i / 64 * PAIR * PANEL_BYTES + i % 64 * 2), i != 0);
    products_commit();
  }

  // Begins d = the weighted sums of 64 elements of a chunk of values; `pair` describes the chunks of its stage.
  __device__ __forceinline__ void multiply_values(float (&d)[8][4], const unsigned (&p)[4][4], unsigned long long pair,
                                                  int chunk, int panel) const {
    products_begin();
#pragma unroll
    for (int k = 0; k < 4; ++k)
      multiply_columns<T>(d, p[k], descriptor_after(pair, (panel * PAIR + chunk) * PANEL_BYTES + k * 16 * 128), k != 0);
    products_commit();
  }

  // The sums of 64 elements.
  __device__ __forceinline__ float (&panel_sums(int panel))[8][4] {
    return reinterpret_cast<float(&)[8][4]>(sums[8 * panel]);
  }

  // Makes zeros of the values of a chunk that nobody may see: they are multiplied with weights of zero, and could be NaN.
  __device__ __forceinline__ void clear_values(int slot, int chunk, int begin, int end) const {
    if (begin <= 0 && end >= CHUNK_KEYS) return;
    for (int piece = threadIdx.x % WARPGROUP; piece < CHUNK_KEYS * DIM / 8; piece += WARPGROUP) {
      const int row = piece / (DIM / 8), column = piece % (DIM / 8) * 8;
      if (row >= begin && row < end) continue;
      const unsigned at = values.at(slot, column / 64, chunk) + head_offset<64>(row, column % 64);
      store_shared(at, make_uint4(0, 0, 0, 0));
    }
    shared_writes_fence();
    warpgroup_sync(group);
  }

  __device__ __forceinline__ Visible visible_to(const Segment<QUERIES>& segment, int first_token) const {
    Visible visible;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int t = this->token(own_row(h));
      if (t < first_token || t >= first_token + segment.tokens) continue;
      visible.last[h] = a.positions[t];
      visible.first[h] = a.first_visible(visible.last[h]);
    }
    return visible;
  }

  // Adds 64 elements of what a chunk gives to the sums of its span.
  __device__ __forceinline__ void add_panel(const float (&d)[8][4], const Scales (&scales)[2], int panel) {
    float(&sum)[8][4] = panel_sums(panel);
#pragma unroll
    for (int i = 0; i < 32; ++i) sum[i / 4][i % 4] = scales[i / 2 % 2](sum[i / 4][i % 4], d[i / 4][i % 4]);
  }

  // Merges a span into the total; its sums are begun anew by its first chunk.
  __device__ __forceinline__ void end_span(float4* totals) {
    const Scales scales[2] = {total[0].merge(span[0]), total[1].merge(span[1])};
#pragma unroll
    for (int t = 0; t < DIM / 8; ++t) {
      float4 x = totals[t * CONSUMERS * WARPGROUP];
      x.x = scales[0](x.x, sums[t][0]);
      x.y = scales[0](x.y, sums[t][1]);
      x.z = scales[1](x.z, sums[t][2]);
      x.w = scales[1](x.w, sums[t][3]);
      totals[t * CONSUMERS * WARPGROUP] = x;
    }
  }

  // What a pass over a segment needs to know of it.
  struct Pass {
    const Segment<QUERIES>& segment;
    Visible visible;
    int whole_begin, whole_end;  // of these chunks all queries of the warp see all positions
    int end;                     // chunks
  };

  // Hides what isn't visible of a pair of chunks: its scores, and values that nobody sees.
  __device__ __forceinline__ void hide_pair(const Pass& pass, Scores& s, int slot, int chunk, const int (&page)[PAIR]) const {
#pragma unroll
    for (int i = 0; i < PAIR; ++i) {
      const int start = (chunk + i) * CHUNK_KEYS;
      hide_keys(s[i], pass.visible, chunk + i, page[i] < 0 ? ~0ull : 0);
      clear_values(slot, i, pass.segment.begin - start, pass.segment.end - start);
    }
  }

  // Begins a step: 64 elements of a chunk, of those of a pair that don't begin a span.
  template <bool FIRST>
  __device__ __forceinline__ void begin_step(float (&d)[BUFFERS][8][4], const unsigned (&p)[PAIR][4][4],
                                             unsigned long long pair, int step) const {
    const int i = FIRST + step / PANELS;
    multiply_values(d[step % BUFFERS], p[i], pair, i, step % PANELS);
  }

  // Passes over a pair of chunks, the first one of a span or the second, whose products with the keys are on their way into
  // s; afterwards those of the next pair are. What the first chunk of a span gives are its sums.
  template <bool FIRST>
  __device__ __forceinline__ void run_pair(const Pass& pass, Scores& s, int chunk) {
    const Place own = slot;
    unsigned p[PAIR][4][4];
    Softmax rows[PAIR][2];
    float d[BUFFERS][8][4];
    products_wait<0>();
    products_fence(reinterpret_cast<float(&)[8 * PAIR][4]>(s));
    const int page[PAIR] = {pages[own.index * PAIR], pages[own.index * PAIR + 1]};
    const bool whole = chunk >= pass.whole_begin && chunk + PAIR <= pass.whole_end && page[0] >= 0 && page[1] >= 0;
    keys.release(own);
    scorer.score(reinterpret_cast<float(&)[8 * PAIR][4]>(s));
    values.wait(own);
    if (!whole) hide_pair(pass, s, own.index, chunk, page);
    weigh<T>(s[0], p[0], rows[0]);
    constexpr int STEPS = FIRST ? PANELS : 2 * PANELS;
    const unsigned long long v = columns_descriptor(values.at(own.index, 0, 0), PANEL_BYTES);
    if constexpr (FIRST) {
#pragma unroll
      for (int panel = 0; panel < PANELS; ++panel) multiply_values(panel_sums(panel), p[0], v, 0, panel);
    } else {
      begin_step<FIRST>(d, p, v, 0);
    }
    weigh<T>(s[1], p[1], rows[1]);
    if constexpr (FIRST) {
      begin_step<FIRST>(d, p, v, 0);
      span[0] = rows[0][0];
      span[1] = rows[0][1];
    }
    slot.advance();
    Scales scales[PAIR][2];
#pragma unroll
    for (int i = FIRST; i < PAIR; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h) scales[i][h] = span[h].merge(rows[i][h]);
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
      const bool last = step + 1 == STEPS;
      if (BUFFERS > 1 && !last) {
        begin_step<FIRST>(d, p, v, step + 1);
        products_wait<1>();
      } else if (last && chunk + PAIR < pass.end) {
        multiply_keys(s);
        products_wait<1>();
      } else {
        products_wait<0>();
      }
      if (FIRST && step == 0) products_fence(sums);
      products_fence(d[step % BUFFERS]);
      if (last) values.release(own);
      add_panel(d[step % BUFFERS], scales[FIRST + step / PANELS], step % PANELS);
      if (BUFFERS == 1 && !last) begin_step<FIRST>(d, p, v, step + 1);
    }
  }

  // Passes over the chunks that a segment, which starts at `first_token`, sees.
  __device__ __forceinline__ void run_segment(const Segment<QUERIES>& segment, int first_token, float4* totals) {
    Pass pass = {segment, visible_to(segment, first_token)};
    const Visible& visible = pass.visible;
    pass.whole_begin = ceil_div(__reduce_max_sync(~0u, max(visible.first[0], visible.first[1])), CHUNK_KEYS);
    pass.whole_end = (__reduce_min_sync(~0u, min(visible.last[0], visible.last[1])) + 1) / CHUNK_KEYS;
    pass.end = ceil_div(segment.end, CHUNK_KEYS);
    Scores s;
    multiply_keys(s);
    for (int chunk = Base::first_chunk(segment); chunk < pass.end; chunk += SPAN_CHUNKS) {
      run_pair<true>(pass, s, chunk);
      if (chunk + PAIR < pass.end) run_pair<false>(pass, s, chunk + PAIR);
      end_span(totals);
    }
  }

  __device__ __forceinline__ void store(const float4* totals) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = own_row(h), t = this->token(row);
      if (t >= a.tokens) continue;
      // Where there is nothing to see, 0 / 0 gives NaN.
      const float scale = 1.f / total[h].with_sink(a.sink(this->head(row)));
      T* out = a.out + t * a.out_stride + this->head(row) * a.dim;
#pragma unroll
      for (int i = 0; i < DIM / 8; ++i) {
        const int column = i * 8 + lane_index() % 4 * 2;
        const float4 x = totals[i * CONSUMERS * WARPGROUP];
        const unsigned pair = pack2<T>((h ? x.z : x.x) * scale, (h ? x.w : x.y) * scale);
        if (column < a.dim) *reinterpret_cast<unsigned*>(out + column) = pair;
      }
    }
  }

  __device__ __forceinline__ void run() {
    float4* const totals = this->totals();
#pragma unroll
    for (int t = 0; t < DIM / 8; ++t) totals[t * CONSUMERS * WARPGROUP] = make_float4(0.f, 0.f, 0.f, 0.f);
    load_queries();
    this->for_each_segment(
        [&](const Segment<QUERIES>& segment, int first_token) { run_segment(segment, first_token, totals); });
    store(totals);
  }
};

template <int DIM, class T>
__device__ __forceinline__ void attention_wgmma(const SinkArgs<T>& a, const TensorMap& k_map,
                                                const TensorMap& v_map) {
  extern __shared__ unsigned char shared[];
  const Prefill<DIM, T> prefill(a, shared);
  if (threadIdx.x == 0) {
    prefetch(k_map);
    prefetch(v_map);
    prefill.keys.init_barriers();
    prefill.values.init_barriers();
    barrier_init_fence();
  }
  __syncthreads();
  start_dependents();
  wait_for_inputs();
  if (threadIdx.x < WARPGROUP) {
    give_registers<PRODUCER_REGISTERS>();
    if (warp_index() == 0) prefill.produce(k_map, v_map);
  } else {
    take_registers<CONSUMER_REGISTERS>();
    Consumer<DIM, T>(prefill).run();
  }
}

#define ENTRY(DIM, T)                                                                                              \
  extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                         \
      attention_wgmma_##DIM##_##T(const __grid_constant__ SinkArgs<T> a, const __grid_constant__ TensorMap k, \
                                  const __grid_constant__ TensorMap v) {                                           \
    attention_wgmma<DIM>(a, k, v);                                                                                 \
  }
#define ENTRIES(T) ENTRY(64, T) ENTRY(128, T)
FOR_EACH_16BIT(ENTRIES)
