// What only Hopper (sm_90a) has: tensor-core products of four warps that read shared memory themselves, copies of whole
// tiles, barriers that count bytes, clusters of blocks (PTX ISA 8.0: wgmma, cp.async.bulk.tensor, mbarrier, setmaxnreg).
#pragma once
#include "memory.cuh"
#include "reduce.cuh"

constexpr int WARPGROUP = 4 * WARP;

// A matrix, and how tiles of it are copied; the driver fills it in (cuTensorMapEncodeTiled).
struct alignas(64) TensorMap {
  unsigned long long opaque[16];
};

// --- Barriers in shared memory, by their shared addresses. A phase ends when as many have arrived as were announced and
// all bytes that were expected have come; `parity` is that of the phase's number.

__device__ __forceinline__ void barrier_init(unsigned barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes initialised barriers known to the copy engine and to the blocks of the cluster.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void barrier_wait(unsigned barrier, unsigned parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(barrier), "r"(parity)
      : "memory");
}
// Whether the phase has ended, without waiting.
__device__ __forceinline__ bool barrier_test(unsigned barrier, unsigned parity) {
  int done;
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "mbarrier.test_wait.parity.shared.b64 done, [%1], %2;\n"
      "selp.s32 %0, 1, 0, done;\n"
      "}"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done;
}
__device__ __forceinline__ void barrier_arrive_expecting(unsigned barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_arrive(unsigned barrier) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// The address in the cluster of what lies at a shared address in block `rank`.
__device__ __forceinline__ unsigned address_in_cluster(unsigned address, unsigned rank) {
  unsigned remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}
// Arrives at the barrier that lies at the same place in block `rank` of the cluster. What it orders are reads of shared
// memory that have ended, so the scope is left at the block: a wider one costs a fence of the whole GPU.
__device__ __forceinline__ void barrier_arrive(unsigned barrier, unsigned rank) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(address_in_cluster(barrier, rank)) : "memory");
}

// A place in a ring of STAGES, and the parity of the round that it belongs to.
template <int STAGES>
struct Slot {
  int index = 0;
  unsigned parity = 0;

  __device__ __forceinline__ void advance() {
    if (++index == STAGES) index = 0, parity ^= 1;
  }
};

// --- Clusters.

__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ void cluster_sync() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

// --- Copies of tiles from global to shared memory; what lies outside the matrix becomes zeros.

__device__ __forceinline__ void prefetch(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
// Of a matrix among those that the last two coordinates number.
__device__ __forceinline__ void copy_tile(unsigned to, const TensorMap& map, int column, int row, int inner, int outer,
                                          unsigned barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];" ::
          "r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(inner), "r"(outer), "r"(barrier)
      : "memory");
}
// One thread: copies `bytes`, a multiple of 16, to shared memory; the barrier counts them. Both addresses are aligned to 16.
__device__ __forceinline__ void copy_bulk(unsigned to, const void* from, unsigned bytes, unsigned barrier,
                                          unsigned long long policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
}
__device__ __forceinline__ void copy_bulk(unsigned to, const void* from, unsigned bytes, unsigned barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
               "r"(bytes), "r"(barrier)
               : "memory");
}

// To the same place in every block of the cluster whose bit is set in `blocks`; each one's barrier counts the bytes. To
// this block alone if none is.
__device__ __forceinline__ void copy_tile(unsigned to, const TensorMap& map, int column, int row, int inner, int outer,
                                          unsigned barrier, unsigned short blocks) {
  if (!blocks) return copy_tile(to, map, column, row, inner, outer, barrier);
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(inner), "r"(outer), "r"(barrier), "h"(blocks)
      : "memory");
}

// --- Registers, handed from warpgroups that need few to those that need many.

template <int COUNT>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// --- Products of a warpgroup: D (64, N) = A (64, 16) B (16, N) (+ D), float32 accumulation, bit for bit as mma.sync.
// Row r of each warp's 16 is one of its mma tiles: d[t] holds columns 8t … 8t+7 as mma leaves them.

// Rows of 128 bytes in shared memory whose pieces of 16 bytes are permuted: piece i of row r lies at i ^ (r % 8).
// The address of the first row is a multiple of 1024, plus 2k for the columns from k on.
__device__ __forceinline__ unsigned long long matrix_descriptor(unsigned address) {
  constexpr unsigned long long EIGHT_ROWS = 1024 / 16, PERMUTED_128 = 1;
  return (address & 0x3ffff) / 16 | 1ull << 16 | EIGHT_ROWS << 32 | PERMUTED_128 << 62;
}

// That of what lies `bytes`, a multiple of 16, further on.
__device__ __forceinline__ unsigned long long descriptor_after(unsigned long long descriptor, unsigned bytes) {
  const unsigned low = static_cast<unsigned>(descriptor) + bytes / 16;
  return (descriptor & ~0xffffffffull) | low;
}

__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most PENDING of the newest groups are under way.
template <int PENDING>
__device__ __forceinline__ void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// Keeps the compiler from reading sums before a wait, or from writing them after a begin.
template <int N>
__device__ __forceinline__ void products_fence(float (&d)[N][4]) {
#pragma unroll
  for (int i = 0; i < 4 * N; ++i) asm volatile("" : "+f"(d[i / 4][i % 4])::"memory");
}

#define SUMS_1(t) "+f"(d[t][0]), "+f"(d[t][1]), "+f"(d[t][2]), "+f"(d[t][3])
#define SUMS_4(t) SUMS_1(t), SUMS_1(t + 1), SUMS_1(t + 2), SUMS_1(t + 3)
#define SUMS_16(t) SUMS_4(t), SUMS_4(t + 4), SUMS_4(t + 8), SUMS_4(t + 12)
#define PLACES_16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define PLACES_32 PLACES_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define PLACES_48 PLACES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define PLACES_64                                                                    \
  PLACES_32                                                                          \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51," \
  "%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define PLACES_80 PLACES_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define PLACES_96                                                                    \
  PLACES_64                                                                          \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83," \
  "%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"

#define WGMMA(N, TYPE, PLACES, A, B, ADD, ...)                                                       \
  asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " ADD ", 0;\n"                                  \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" PLACES "}, " A ", " B \
               ", add, 1, 1, 0, 0;\n}"                                                              \
               : __VA_ARGS__                                                                        \
               : "l"(a), "l"(b), "r"(add)                                                           \
               : "memory")

// Begins d = A B, or d += A B where `add` isn't 0; both are read from shared memory, B as (N, 16).
#define MULTIPLY_GROUP(TILES, N, PLACES, A, B, ADD, ...)                                                              \
  template <class T>                                                                                                  \
  __device__ __forceinline__ void multiply_group(float (&d)[TILES][4], unsigned long long a, unsigned long long b, int add) { \
    if constexpr (same_type<T, bf16>)                                                                                 \
      WGMMA(N, "bf16", PLACES, A, B, ADD, __VA_ARGS__);                                                               \
    else                                                                                                              \
      WGMMA(N, "f16", PLACES, A, B, ADD, __VA_ARGS__);                                                                \
  }
MULTIPLY_GROUP(4, 32, PLACES_16, "%16", "%17", "%18", SUMS_4(0))
MULTIPLY_GROUP(8, 64, PLACES_32, "%32", "%33", "%34", SUMS_4(0), SUMS_4(4))
MULTIPLY_GROUP(12, 96, PLACES_48, "%48", "%49", "%50", SUMS_4(0), SUMS_4(4), SUMS_4(8))
MULTIPLY_GROUP(16, 128, PLACES_64, "%64", "%65", "%66", SUMS_16(0))
MULTIPLY_GROUP(20, 160, PLACES_80, "%80", "%81", "%82", SUMS_16(0), SUMS_4(16))
MULTIPLY_GROUP(24, 192, PLACES_96, "%96", "%97", "%98", SUMS_16(0), SUMS_4(16), SUMS_4(20))

// Columns of a matrix whose rows of 64 elements lie as those of matrix_descriptor, `panel_bytes` after them the next 64
// columns. The address of the first row is a multiple of 1024.
__device__ __forceinline__ unsigned long long columns_descriptor(unsigned address, unsigned panel_bytes) {
  const unsigned long long rows = matrix_descriptor(address);
  return (rows & ~(0x3fffull << 16)) | static_cast<unsigned long long>(panel_bytes / 16) << 16;
}

#define WGMMA_COLUMNS(N, TYPE, PLACES, A, B, ADD, ...)                                                            \
  asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " ADD ", 0;\n"                                               \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" PLACES "}, {" A "}, " B         \
               ", add, 1, 1, 1;\n}"                                                                               \
               : __VA_ARGS__                                                                                      \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add)                                     \
               : "memory")

// Begins d = A B, or d += A B where `add` isn't 0, with A from registers, as mma takes it, and B (16, N) by a
// columns_descriptor.
template <class T>
__device__ __forceinline__ void multiply_columns(float (&d)[8][4], const unsigned (&a)[4], unsigned long long b, int add) {
  if constexpr (same_type<T, bf16>)
    WGMMA_COLUMNS(64, "bf16", PLACES_32, "%32,%33,%34,%35", "%36", "%37", SUMS_4(0), SUMS_4(4));
  else
    WGMMA_COLUMNS(64, "f16", PLACES_32, "%32,%33,%34,%35", "%36", "%37", SUMS_4(0), SUMS_4(4));
}
template <class T>
__device__ __forceinline__ void multiply_columns(float (&d)[16][4], const unsigned (&a)[4], unsigned long long b, int add) {
  if constexpr (same_type<T, bf16>)
    WGMMA_COLUMNS(128, "bf16", PLACES_64, "%64,%65,%66,%67", "%68", "%69", SUMS_16(0));
  else
    WGMMA_COLUMNS(128, "f16", PLACES_64, "%64,%65,%66,%67", "%68", "%69", SUMS_16(0));
}

// Makes what this thread has written to shared memory known to the tensor cores and the copy engine.
__device__ __forceinline__ void shared_writes_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Waits for the other threads of a warpgroup; each one has a barrier of its own.
__device__ __forceinline__ void warpgroup_sync(int group) {
  asm volatile("bar.sync %0, %1;" ::"r"(1 + group), "n"(WARPGROUP) : "memory");
}
