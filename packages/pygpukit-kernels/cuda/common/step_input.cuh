// How x comes to the products of layers_persistent.cuh.
//
// It is brought by the warps that finish sums, as they have the least to do before it comes; in wider models those that copy
// keys and values help with what isn't normalised.
#pragma once
#include "step_linear.cuh"

// Brings x, normalised, into shared memory. What is normalised has GROUPS groups of a thread and is_plain(), or is anything.
template <int GROUPS, class T>
struct Input {
  // Where x may be long, others help with what isn't normalised; where it isn't, their code would be in the way.
  static constexpr bool IS_HELPED = GROUPS != 1;
  static constexpr int PLAIN_WARPS = IS_HELPED ? 2 * WARPS : WARPS;

  const Places<T> places;

  __device__ __forceinline__ explicit Input(const Places<T>& places) : places(places) {}

  // Of the warps that finish; `parity` is that of the step among those whose x this block takes. The warp `asking` asks whether
  // x has come.
  __device__ __forceinline__ void bring(const Mailbox& box, const LinearArgs<T>& l, unsigned parity, int asking) const {
    if (l.norm.kind == NORM_NONE)
      bring_plain(box, l, parity, asking);
    else if constexpr (GROUPS > 0)
      bring_short(box, l.x, l.k, l.norm, l.dtype, parity, asking);
    else
      bring_any(box, l, parity, asking);
    barrier_arrive(places.full_input());
  }

  // Of those that help.
  __device__ __forceinline__ void help(const Mailbox& box, const LinearArgs<T>& l, unsigned parity) const {
    constexpr int NONE = -1;
    if (IS_HELPED && l.norm.kind == NORM_NONE) bring_plain(box, l, parity, NONE);
    barrier_arrive(places.full_input());
  }

 private:
  // A thread's number among those of the COUNT warps that bring x.
  template <int COUNT>
  static __device__ __forceinline__ int thread() {
    return COUNT == WARPS ? norm_thread() : thread_index() - NORM_THREADS;
  }

  __device__ __forceinline__ void bring_plain(const Mailbox& box, const LinearArgs<T>& l, unsigned parity, int asking) const {
    places.wait_for_room(parity);
    receive<PLAIN_WARPS>(box, l.x, l.k, asking, [&](int g, const uint4& v) { put_group(g, v); });
  }

  // In registers. To ask for each of a thread's groups whether it exists would take as long as what is done with it.
  __device__ __forceinline__ void bring_short(const Mailbox& box, const T* source, int length, const NormArgs& norm,
                                              int dtype, unsigned parity, int asking) const {
    ShortRow<T, GROUPS> row(norm, length);
    places.wait_for_room(parity);
    if (box) {
      wait_for_last<WARPS>(box, length, asking);
      box.receive_some<NORM_THREADS, GROUPS - 1>(row.values, norm_thread(), length / 8);
    } else {
      row.load(source);
    }
    row.normalize(places.scratch(), [&](int g, const Eight& y) { put_normalized(g, y, dtype); });
    clear_behind<WARPS>(length);
  }

  // What it is normalised with, as far as this thread has begun to copy it, is there when x is, and for all behind the next
  // barrier: that of the moments.
  __device__ __forceinline__ void bring_any(const Mailbox& box, const LinearArgs<T>& l, unsigned parity, int asking) const {
    const int length = l.k;
    places.wait_for_room(parity);
    const NormArgs norm = stage_norm(l.norm, length, places.vectors(length), places.vectors_room(length), true);
    float squares = 0.f;
    receive<WARPS>(box, l.x, length, asking, [&](int g, const uint4& v) {
      put_group(g, v);
      if (norm.kind == NORM_RMS) squares = add_squares(squares, unpack8<T>(v));
    });
    copy_async_commit();
    copy_async_wait<0>();
    const auto group = [&](int g) { return input_group(g); };
    const Moments moments = norm.kind == NORM_RMS ? block_moments(norm.eps, reciprocal(length), 0.f, squares, places.scratch())
                                                  : block_moments(norm, length, group, places.scratch());
#pragma unroll 1
    for (int g = norm_thread(); g < length / 8; g += NORM_THREADS)
      put_normalized(g, moments(norm, 8 * g, length, input_group(g)), l.dtype);
  }

  // put(g, values) has the values of group g, in the order of the groups of a thread; zeros are put behind them.
  template <int COUNT, class Put>
  __device__ __forceinline__ void receive(const Mailbox& box, const T* source, int length, int asking, const Put& put) const {
    const int groups = length / 8;
    if (box) {
      wait_for_last<COUNT>(box, length, asking);
      box.receive_groups<COUNT * WARP>(thread<COUNT>(), groups, put);
    } else {
#pragma unroll 1
      for (int g = thread<COUNT>(); g < groups; g += COUNT * WARP) put(g, load16(source + 8 * g));
    }
    clear_behind<COUNT>(length);
  }

  // The last tile is one of those that come last. Only one warp asks for it: what asks often is in the results' way.
  template <int COUNT>
  static __device__ __forceinline__ void wait_for_last(const Mailbox& box, int length, int asking) {
    if (warp_index() == asking) box.wait_for(length - 1);
    if (COUNT == WARPS)
      block_sync<WARPS>();
    else
      warps_sync<INPUT_AWAITED, COUNT>();
  }

  // Puts zeros behind the values, as far as products go.
  template <int COUNT>
  __device__ __forceinline__ void clear_behind(int length) const {
#pragma unroll 1
    for (int g = length / 8 + thread<COUNT>(); g < ceil_div(length, SPAN) * (SPAN / 8); g += COUNT * WARP)
      put_group(g, make_uint4(0, 0, 0, 0));
  }

  // x lies in shared memory as the products take it: of the 32 values of a part lane q has 2q, 2q + 1 and those 8, 16 and 24
  // after them.
  __device__ __forceinline__ unsigned* input_words(int group) const {
    constexpr int PARTS = SPAN / 32;
    const int part = group / 4;
    return reinterpret_cast<unsigned*>(input_part(places.input(), part / PARTS, part % PARTS)) + group % 4;
  }
  __device__ __forceinline__ void put_group(int group, const uint4& v) const {
    unsigned* words = input_words(group);
    words[0] = v.x;
    words[4] = v.y;
    words[8] = v.z;
    words[12] = v.w;
  }
  __device__ __forceinline__ void put_normalized(int group, const Eight& y, int dtype) const {
    put_group(group, dtype == DTYPE_F16 ? pack8<f16>(y) : pack8<T>(y));
  }
  __device__ __forceinline__ Eight input_group(int group) const {
    const unsigned* words = input_words(group);
    Eight e;
#pragma unroll
    for (int i = 0; i < 4; ++i) unpack2<T>(words[4 * i], e.value[2 * i], e.value[2 * i + 1]);
    return e;
  }
};
