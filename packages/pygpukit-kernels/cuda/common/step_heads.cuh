// Attention's steps of layers_persistent.cuh: what rope_append_kv and attention_decode do, with the same bits.
//
// The four warps of a block take a chunk together: each multiplies a quarter of its keys and, once all scores are known,
// makes a quarter of the result's columns. While there are blocks for all chunks each takes one, else they take spans.
#pragma once
#include "steps.cuh"

// What this block has to do for attention, the same in all steps of a launch; and the token.
struct HeadShare : Share {
  bool none;
  int sequence, position;

  template <class T>
  __device__ __forceinline__ explicit HeadShare(const PersistentArgs<T>& a)
      : HeadShare(a.steps[a.attention[0]].heads.attention, a.steps[a.attention[0]].splits, block_number(a)) {}

 private:
  __device__ __forceinline__ HeadShare(const AttentionArgs<Head>& at, int splits, int number)
      : HeadShare(at, splits, number, at.kv_heads * ceil_div(at.group(), MOST_QUERIES)) {}
  __device__ __forceinline__ HeadShare(const AttentionArgs<Head>& at, int splits, int number, int blocks)
      : Share(at, 0, number % blocks, number / blocks, splits),
        none(number >= blocks * splits),
        sequence(at.sequences[0]),
        position(at.positions[0]) {}
};

// The pieces, chunks or spans, of the positions that the token sees; none where there is no room for it.
struct Pieces {
  int begin, end;     // positions
  int chunks, first;  // of a piece; the first piece's number, counted from position 0
  int count;

  __device__ __forceinline__ Pieces() : begin(0), end(0), chunks(1), first(0), count(0) {}
  __device__ __forceinline__ Pieces(const AttentionArgs<Head>& at, const HeadShare& share)
      : begin(at.first_visible(share.position)), end(share.position + 1) {
    const bool fits = ceil_div(end, CHUNK_KEYS) - begin / CHUNK_KEYS <= share.splits;
    chunks = fits ? 1 : SPAN_CHUNKS;
    first = begin / (chunks * CHUNK_KEYS);
    count = at.pages.holds(share.sequence, share.position) ? ceil_div(end, chunks * CHUNK_KEYS) - first : 0;
  }
  __device__ __forceinline__ int first_chunk(int piece) const {
    return max((first + piece) * chunks, begin / CHUNK_KEYS);
  }
  __device__ __forceinline__ int end_chunk(int piece) const {
    return min((first + piece + 1) * chunks, ceil_div(end, CHUNK_KEYS));
  }
  // Pieces of the first one's span that come before it.
  __device__ __forceinline__ int behind_span() const { return first * chunks % SPAN_CHUNKS; }
};

// Attention's parts of shared memory: 128 PLACES DIM bytes for chunks, and (16 + 2 ROOM) DIM + 512 ROOM bytes, with ROOM 8 for
// groups of up to 8 heads, else 16. What only larger groups have lies last.
template <int DIM>
struct HeadPlaces {
  // With a third one keys are on their way while values are multiplied. Chunks of small heads come soon enough.
  static constexpr int PLACES = DIM == 64 ? 2 : MOST_HEAD_PLACES;
  static constexpr int ROW = DIM * sizeof(Head);
  static constexpr int NORM_ROOM = DIM * sizeof(float);
  // Of what the lanes of a warp have of half of the queries and eight keys to the same of the next keys; from the scores of
  // one chunk to the next one's; and to the other half of the queries.
  static constexpr int SCORES_TILE = WARP, SCORES_TURN = CHUNK_KEYS / 8 * SCORES_TILE;
  static constexpr int SCORES_HALF = 2 * SCORES_TURN + MOST_QUERIES * ROW / sizeof(float2);
  unsigned char *chunks, *start;

  template <class T>
  __device__ __forceinline__ explicit HeadPlaces(const Places<T>& places) : chunks(places.chunks()), start(places.heads()) {}

  // As the products take them: (CHUNK_KEYS, DIM) keys or values, (MOST_QUERIES, DIM) queries.
  __device__ __forceinline__ unsigned chunk(int place) const { return shared_address(chunks) + place * CHUNK_KEYS * ROW; }
  __device__ __forceinline__ unsigned queries() const { return shared_address(scores(2)); }
  // Of every other chunk.
  __device__ __forceinline__ float2* scores(int turn) const {
    return reinterpret_cast<float2*>(angles() + DIM * sizeof(float)) + turn * SCORES_TURN;
  }
  // The token's own key (0) and value (1).
  __device__ __forceinline__ Head* newest(int is_value) const {
    return reinterpret_cast<Head*>(start) + is_value * DIM;
  }
  // The head that a warp rotates, before there are scores.
  __device__ __forceinline__ float* head() const { return reinterpret_cast<float*>(scores(0)) + warp_index() * DIM; }
  // What queries (0) and keys (1) are weighted with, and the angles.
  __device__ __forceinline__ unsigned char* norm(int is_key) const {
    return reinterpret_cast<unsigned char*>(newest(2)) + is_key * NORM_ROOM;
  }
  __device__ __forceinline__ unsigned char* angles() const { return norm(2); }
};

// The first of the DIM + 2 words of a piece: sums, largest score, weight.
template <int DIM>
__device__ __forceinline__ long long piece_words(int most_pieces, int head, int piece) {
  return (static_cast<long long>(head) * most_pieces + piece) * (DIM + 2);
}

// Of the warps that compute. A block has up to 8 HALVES queries.
template <int DIM, int HALVES, class T>
struct HeadSteps {
  const Places<T> places;
  const Mailboxes<T> mailboxes;
  const HeadShare share;
  const HeadPlaces<DIM> own;
  int most_pieces;
  Slot<HeadPlaces<DIM>::PLACES> next;  // the place that keys or values come to, by turns
  int turn = 0;  // which scores are next
  // Of the step that comes next:
  Pieces pieces;
  Scorer<Head> scorer;

  __device__ __forceinline__ HeadSteps(const PersistentArgs<T>& args, const Places<T>& places)
      : places(places), mailboxes(args), share(args), own(places), most_pieces(args.most_pieces) {}

  // Before the step before it ends: finds out what there is to do, and begins to copy what that takes beside the results of
  // the step before.
  __device__ __forceinline__ void prepare(const Step<T>& step) {
    pieces = Pieces(step.heads.attention, share);
    if (!takes_part()) return;
    scorer = Scorer<Head>(step.heads.attention);
    warps_sync<ATTENDING, WARPS>();  // nobody needs those of the step before any more
    const AppendArgs<Head>& append = step.heads.append;
#pragma unroll 1
    for (int is_key = 0; is_key < 2; ++is_key) norm(append, is_key, true);
    angles(append, true);
    copy_async_commit();
  }

  // The results go to the mailbox of step number `number`.
  __device__ __forceinline__ void attend(const Step<T>& step, int number) {
    if (!takes_part()) return;
    copy_async_wait<0>();
    warps_sync<ATTENDING, WARPS>();
    bring_heads(step);
    warps_sync<ATTENDING, WARPS>();
    attend_pieces(mailboxes.pieces(number));
    append_newest(step.heads.append);
  }

 private:
  __device__ __forceinline__ bool takes_part() const { return !share.none && share.split < pieces.count; }

  // --- Queries, the newest key and value. They come from the product before.

  // `copies`: begins to copy it to shared memory.
  __device__ __forceinline__ NormArgs norm(const AppendArgs<Head>& a, int is_key, bool copies) const {
    return stage_norm(is_key ? a.k_norm : a.q_norm, DIM, own.norm(is_key), own.NORM_ROOM, copies);
  }
  __device__ __forceinline__ const float* angles(const AppendArgs<Head>& a, bool copies) const {
    constexpr int ROOM = DIM * sizeof(float);
    return static_cast<const float*>(stage_vector({a.angles, DTYPE_F32}, a.rotated, own.angles(), ROOM, copies).data);
  }

  // Whether this block sees the token itself.
  __device__ __forceinline__ bool sees_newest() const {
    return (pieces.count - 1) % share.splits == share.split;
  }

  // A warp for each: normalises and rotates the queries and the key.
  __device__ __forceinline__ void bring_heads(const Step<T>& step) const {
    const AppendArgs<Head>& a = step.heads.append;
    const Mailbox qkv = mailboxes(step.x);
    const bool newest = sees_newest();
    for (int row = warp_index(); row < share.queries + 2 * newest; row += WARPS) {
      const bool is_query = row < share.queries, is_value = row == share.queries + 1;
      const int number = is_query ? share.head + row : a.heads + is_value * a.kv_heads + share.kv_head;
      Head values[DIM / WARP];
      const NormArgs norm = this->norm(a, !is_query, false);
      const bool turns_in_lane = !is_value && LaneTurn<DIM>::suits(a, norm);
      LaneTurn<DIM> turn;
      if (turns_in_lane) turn.load(norm, angles(a, false));
      qkv.receive_row(values, number * DIM);
      if (turns_in_lane)
        turn(values);
      else if (!is_value)
        turn_head(a, norm, values);
      const int lane = lane_index();
#pragma unroll
      for (int j = 0; j < DIM / WARP; ++j) {
        const int i = j * WARP + lane;
        if (!is_query) {
          own.newest(is_value)[i] = values[j];
          continue;
        }
        store_shared(own.queries() + head_offset<DIM>(row, i) + i % 8 * 2, values[j]);
        if (newest && step.stores) a.out[number * DIM + i] = values[j];
      }
    }
  }

  // Normalises and rotates a head of which lane i has the elements i, i + 32, ….
  __device__ __forceinline__ void turn_head(const AppendArgs<Head>& a, const NormArgs& norm,
                                            Head (&values)[DIM / WARP]) const {
    const int lane = lane_index();
    float* head = own.head();
#pragma unroll
    for (int j = 0; j < DIM / WARP; ++j) head[j * WARP + lane] = to_float(values[j]);
    normalize_head(DIM, norm, [&](int j) -> float& { return head[j * WARP + lane]; });
    __syncwarp();
    const float* turns = angles(a, false);
#pragma unroll
    for (int j = 0; j < DIM / WARP; ++j)
      values[j] = from_float<Head>(Turn(j * WARP + lane, turns, a.rotated, a.interleaved)(head));
    __syncwarp();
  }

  // Puts the newest key and value into the cache: once, where several blocks share a head. Only launches to come read
  // them there.
  __device__ __forceinline__ void append_newest(const AppendArgs<Head>& a) const {
    int page, row;
    if (!sees_newest() || share.head % (a.heads / a.kv_heads) ||
        !a.pages.find(share.sequence, share.position, page, row))
      return;
#pragma unroll 1
    for (int i = thread_index(); i < 2 * DIM; i += NORM_THREADS) {
      const CacheStrides& s = i < DIM ? a.k_strides : a.v_strides;
      Head* target = (i < DIM ? a.k_cache : a.v_cache) + page * s.page + share.kv_head * s.head + row * s.row;
      target[i % DIM] = own.newest(0)[i];
    }
  }

  // --- Pieces.

  // The block's queries, as products take them: where they are up to 8, those after them are the same again, and the first
  // elements stay in registers, as far as there are some left.
  struct Queries {
    static constexpr int KEPT = HALVES > 1 ? 0 : DIM == 64 ? 4 : 6;

    unsigned queries;
    int own;  // the offset of what this lane loads
    unsigned parts[KEPT ? KEPT : 1][4];

    __device__ __forceinline__ explicit Queries(unsigned queries)
        : queries(queries), own(head_offset<DIM>(lane_index() % (8 * HALVES), lane_index() / 16 * 8)) {
#pragma unroll
      for (int i = 0; i < KEPT; ++i) load(16 * i, parts[i]);
    }
    // Elements i … i+15.
    __device__ __forceinline__ void operator()(int i, unsigned (&q)[4]) const {
      if (i / 16 >= KEPT) return load(i, q);
#pragma unroll
      for (int j = 0; j < 4; ++j) q[j] = parts[i / 16][j];
    }

   private:
    __device__ __forceinline__ void load(int i, unsigned (&q)[4]) const { load_matrix_x4(q, queries + further(own, i)); }
  };

  __device__ __forceinline__ void attend_pieces(const FloatMailbox& results) {
    const Queries queries(own.queries());
    for (int piece = share.split; piece < pieces.count; piece += share.splits)
      attend_piece(piece, queries, results);
  }

  __device__ __forceinline__ void attend_piece(int piece, const Queries& queries, const FloatMailbox& results) {
    constexpr int COLUMNS = DIM / WARPS;
    const int first = warp_index() * COLUMNS;
    Softmax total[2];
    float sums[COLUMNS / 8][4] = {};
    for (int chunk = pieces.first_chunk(piece); chunk < pieces.end_chunk(piece); ++chunk) {
      float s[8][4];
      score_chunk(chunk, queries, s);
      unsigned p[4][4];
      Softmax softmax[2];
      weigh_parts<Head, HALVES>(s, p, softmax);
      const int place = next.index;
      barrier_wait(places.full_heads(place), next.parity);
      replace(own.chunk(place), chunk, 1, first, COLUMNS);
      add_parts<HALVES>(softmax);
      Scales scales[HALVES];
#pragma unroll
      for (int half = 0; half < HALVES; ++half) scales[half] = total[half].merge(softmax[half]);
      multiply_values<DIM, COLUMNS / 16, Head>(
          p, own.chunk(place),
          [&](int i, const float(&sum)[4]) {
            float(&to)[4] = sums[i / 8];
#pragma unroll
            for (int j = 0; j < 2 * HALVES; ++j) to[j] = scales[j / 2](to[j], sum[j]);
          },
          first, COLUMNS);
      barrier_arrive(places.empty_heads(place));
      next.advance();
    }
#pragma unroll
    for (int half = 0; half < HALVES; ++half) {
      const int row = lane_index() / 4 + 8 * half;
      if (row >= share.queries) continue;
      const long long words = piece_words<DIM>(most_pieces, share.head + row, piece);
      if (lane_index() % 4 == 0 && first == 0) results.send(words + DIM, total[half].largest, total[half].weight);
#pragma unroll
      for (int t = 0; t < COLUMNS / 8; ++t)
        results.send(words + first + 8 * t + lane_index() % 4 * 2, sums[t][2 * half], sums[t][2 * half + 1]);
    }
  }

  // The scores of a chunk, as the lanes of every warp have them.
  __device__ __forceinline__ void score_chunk(int chunk, const Queries& queries, float (&s)[8][4]) {
    constexpr int KEYS = CHUNK_KEYS / WARPS, TILES = KEYS / 8;
    float own_scores[TILES][4];
    const int first = warp_index() * KEYS, place = next.index;
    const unsigned keys = own.chunk(place);
    barrier_wait(places.full_heads(place), next.parity);
    const unsigned long long missing = places.missing(place);
    const int newest = (pieces.end - 1) % CHUNK_KEYS;
    if (newest / KEYS == warp_index()) replace(keys, chunk, 0, 0, DIM);
    multiply_keys<DIM, DIM / 16, Head>(own_scores, keys + first * own.ROW, queries);
    barrier_arrive(places.empty_heads(place));
    next.advance();
    float2* scores = own.scores(turn) + lane_index();
    turn ^= 1;
#pragma unroll
    for (int t = 0; t < TILES; ++t)
#pragma unroll
      for (int half = 0; half < HALVES; ++half)
        scores[half * own.SCORES_HALF + (first / 8 + t) * own.SCORES_TILE] =
            make_float2(own_scores[t][2 * half], own_scores[t][2 * half + 1]);
    warps_sync<ATTENDING, WARPS>();
#pragma unroll
    for (int t = 0; t < 8; ++t)
#pragma unroll
      for (int half = 0; half < HALVES; ++half) {
        const float2 v = scores[half * own.SCORES_HALF + t * own.SCORES_TILE];
        s[t][2 * half] = v.x, s[t][2 * half + 1] = v.y;
      }
    if constexpr (HALVES == 1) {
#pragma unroll
      for (int t = 0; t < 8; ++t) s[t][2] = s[t][3] = 0.f;
    }
    Visible visible;
    visible.first[0] = visible.first[1] = pieces.begin;
    visible.last[0] = visible.last[1] = pieces.end - 1;
    score_keys(s, scorer, visible, chunk, missing);
  }

  // Puts `count` elements from `first` on of the newest key (0) or value (1) into its chunk, which may have been copied
  // when the cache didn't have it yet.
  __device__ __forceinline__ void replace(unsigned to, int chunk, int is_value, int first, int count) const {
    if (chunk != share.position / CHUNK_KEYS) return;
    const int i = first + lane_index() * 8;
    if (i < first + count) {
      store_shared(to + head_offset<DIM>(share.position % CHUNK_KEYS, i), load16(own.newest(is_value) + i));
    }
    __syncwarp();
  }
};
