// Values on their way between the blocks of one launch.
//
// A 16-bit value travels in a word of its own whose lower half is a tag, the number of the step that made it; who waits
// for it reads the word until the tag is there. So waiting and reading are one trip to the L2 cache, and nothing is left
// to fence: the LL protocol of NCCL (Hu et al. 2025, arXiv:2507.04786). A float32 travels with a tag of 32 bits.
#pragma once
#include "memory.cuh"
#include "reduce.cuh"

__device__ __forceinline__ unsigned load_word(const unsigned* p) {
  unsigned word;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(word) : "l"(p) : "memory");
  return word;
}
__device__ __forceinline__ uint4 load_words(const unsigned* p) {
  uint4 w;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(w.x), "=r"(w.y), "=r"(w.z), "=r"(w.w)
               : "l"(p)
               : "memory");
  return w;
}

// A warp waits until the bits of a word that are in `mask` are those of `tag`. The first question is apart from the others, as
// between one and the next the warp makes way for others.
__device__ __forceinline__ void wait_for_tag(const unsigned* word, unsigned tag, unsigned mask) {
  const auto differs = [&] { return __any_sync(~0u, ((load_word(word) ^ tag) & mask) != 0); };
  if (differs())
    while (differs()) {
    }
}

// Values of one step.
struct Mailbox {
  unsigned* words;  // null: not a mailbox
  unsigned tag;     // of 16 bits

  static constexpr int AHEAD = 4;  // groups of eight values that a thread reads together

  __device__ __forceinline__ explicit operator bool() const { return words; }

  __device__ __forceinline__ void send(int i, unsigned short bits) const {
    const unsigned word = static_cast<unsigned>(bits) << 16 | tag;
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(words + i), "r"(word) : "memory");
  }

  // The value in a word that was read before, once it is the one that is waited for.
  template <class T>
  __device__ __forceinline__ T receive(int i, unsigned word) const {
    while ((word & 0xffff) != tag) word = load_word(words + i);
    return {static_cast<unsigned short>(word >> 16)};
  }

  // A warp receives COUNT * 32 values from `first` on: lane i those numbered i, i + 32, ….
  template <class T, int COUNT>
  __device__ __forceinline__ void receive_row(T (&to)[COUNT], int first) const {
    unsigned read[COUNT], differs;
    do {
      differs = 0;
#pragma unroll
      for (int j = 0; j < COUNT; ++j) read[j] = load_word(words + first + j * WARP + lane_index());
#pragma unroll
      for (int j = 0; j < COUNT; ++j) differs |= read[j] ^ tag;
    } while (__any_sync(~0u, differs & 0xffff));
#pragma unroll
    for (int j = 0; j < COUNT; ++j) to[j] = {static_cast<unsigned short>(read[j] >> 16)};
  }

  __device__ __forceinline__ void wait_for(int i) const { wait_for_tag(words + i, tag, 0xffff); }

  // THREADS threads, whole warps, receive groups of eight values: of groups 0 … count - 1 each takes every THREADS-th.
  // put(g, values) has those of group g.
  template <int THREADS, class Put>
  __device__ __forceinline__ void receive_groups(int thread, int count, const Put& put) const {
    for (int start = thread; start - lane_index() < count; start += AHEAD * THREADS) {
      uint4 groups[AHEAD];
      receive_some<THREADS, 0>(groups, start, count);
#pragma unroll
      for (int j = 0; j < AHEAD; ++j)
        if (start + j * THREADS < count) put(start + j * THREADS, groups[j]);
    }
  }

  // groups[j] = group start + j * THREADS, of those that exist: the first SURE do. The lanes of a warp wait together: lanes
  // that went on alone would go each through all that follows.
  template <int THREADS, int SURE, int COUNT>
  __device__ __forceinline__ void receive_some(uint4 (&groups)[COUNT], int start, int count) const {
    const auto exists = [&](int j) { return j < SURE || start + j * THREADS < count; };
    uint4 low[COUNT], high[COUNT];
    unsigned differs;
    do {
      differs = 0;
#pragma unroll
      for (int j = 0; j < COUNT; ++j)
        if (exists(j)) {
          const unsigned* source = words + 8 * (start + j * THREADS);
          low[j] = load_words(source);
          high[j] = load_words(source + 4);
        } else {
          low[j] = high[j] = make_uint4(tag, tag, tag, tag);
        }
#pragma unroll
      for (int j = 0; j < COUNT; ++j)
        differs |= difference(low[j]) | difference(high[j]);
    } while (__any_sync(~0u, differs & 0xffff));
#pragma unroll
    for (int j = 0; j < COUNT; ++j)
      groups[j] = make_uint4(values(low[j].x, low[j].y), values(low[j].z, low[j].w), values(high[j].x, high[j].y),
                               values(high[j].z, high[j].w));
  }

 private:
  __device__ __forceinline__ unsigned difference(const uint4& w) const {
    return (w.x ^ tag) | (w.y ^ tag) | (w.z ^ tag) | (w.w ^ tag);
  }
  static __device__ __forceinline__ unsigned values(unsigned low, unsigned high) {
    return __byte_perm(low, high, 0x7632);
  }
};

// Float32 values, each written by no more than one step of those with its tag.
struct FloatMailbox {
  unsigned long long* words;
  unsigned tag;

  // Two values, i even.
  __device__ __forceinline__ void send(long long i, float first, float second) const {
    asm volatile("st.relaxed.gpu.global.v2.u64 [%0], {%1, %2};" ::"l"(words + i), "l"(word(first)), "l"(word(second))
                 : "memory");
  }
  __device__ __forceinline__ void wait_for(long long i) const {
    wait_for_tag(reinterpret_cast<const unsigned*>(words + i), tag, ~0u);
  }
  // read[j] = the word of value at(j), of those numbers j for which exists(j).
  template <int N, class Exists, class At>
  __device__ __forceinline__ void ask(unsigned long long (&read)[N], const Exists& exists, const At& at) const {
#pragma unroll
    for (int j = 0; j < N; ++j)
      if (exists(j)) asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(read[j]) : "l"(words + at(j)) : "memory");
  }
  // The values in words that were read, if a warp has all of them.
  template <int N, class Exists>
  __device__ __forceinline__ bool receive(float (&to)[N], const unsigned long long (&read)[N], const Exists& exists) const {
    bool complete = true;
#pragma unroll
    for (int j = 0; j < N; ++j)
      if (exists(j)) complete &= static_cast<unsigned>(read[j]) == tag;
    if (!__all_sync(~0u, complete)) return false;
#pragma unroll
    for (int j = 0; j < N; ++j) to[j] = exists(j) ? __uint_as_float(static_cast<unsigned>(read[j] >> 32)) : 0.f;
    return true;
  }

 private:
  __device__ __forceinline__ unsigned long long word(float value) const {
    return static_cast<unsigned long long>(__float_as_uint(value)) << 32 | tag;
  }
};
