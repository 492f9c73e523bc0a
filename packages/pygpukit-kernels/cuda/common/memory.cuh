// Loads and stores of eight elements at a time, asynchronous copies to shared memory, vectors of parameters.
#pragma once
#include "types.cuh"

// Eight consecutive elements as float32: the unit in which kernels walk along a row.
struct Eight {
  float value[8];
};

__device__ __forceinline__ uint4 load16(const void* p) { return *static_cast<const uint4*>(p); }
__device__ __forceinline__ void store16(void* p, uint4 v) { *static_cast<uint4*>(p) = v; }

template <class T>
__device__ __forceinline__ bool is_aligned16(const T* p) {
  return reinterpret_cast<unsigned long long>(p) % 16 == 0;
}

// Whether rows of `length` elements, `stride` apart, can be walked in aligned groups of eight.
template <class T>
__device__ __forceinline__ bool is_vectorizable(const T* p, int length, long long stride) {
  return is_aligned16(p) && length % 8 == 0 && stride % 8 == 0;
}

// Whether rows of `length` elements, `stride` apart, can be walked in aligned pairs, of `bytes` each.
__device__ __forceinline__ bool is_pairs(const void* p, int bytes, int length, long long stride) {
  return reinterpret_cast<unsigned long long>(p) % bytes == 0 && length % 2 == 0 && stride % 2 == 0;
}

// In the order in which they lie in memory.
template <class T>
__device__ __forceinline__ Eight unpack8(const uint4& v) {
  Eight e;
  unpack2<T>(v.x, e.value[0], e.value[1]);
  unpack2<T>(v.y, e.value[2], e.value[3]);
  unpack2<T>(v.z, e.value[4], e.value[5]);
  unpack2<T>(v.w, e.value[6], e.value[7]);
  return e;
}

template <class T>
__device__ __forceinline__ Eight load8(const T* p) {
  Eight e;
  if constexpr (same_type<T, float>) {
    const float4 a = reinterpret_cast<const float4*>(p)[0], b = reinterpret_cast<const float4*>(p)[1];
    e = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
  } else {
    e = unpack8<T>(load16(p));
  }
  return e;
}

// Rounded to T, in the order in which they lie in memory.
template <class T>
__device__ __forceinline__ uint4 pack8(const Eight& e) {
  const float* v = e.value;
  return make_uint4(pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3]), pack2<T>(v[4], v[5]), pack2<T>(v[6], v[7]));
}

template <class T>
__device__ __forceinline__ void store8(T* p, const Eight& e) {
  const float* v = e.value;
  if constexpr (same_type<T, float>) {
    reinterpret_cast<float4*>(p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    reinterpret_cast<float4*>(p)[1] = make_float4(v[4], v[5], v[6], v[7]);
  } else {
    store16(p, pack8<T>(e));
  }
}

// One by one. A call, as it is needed seldom and long: the code of a short kernel comes from memory too.
template <class T>
__device__ __noinline__ Eight load8_each(const T* row, int start, int length) {
  Eight e;
#pragma unroll
  for (int i = 0; i < 8; ++i) e.value[i] = start + i < length ? to_float(row[start + i]) : 0.f;
  return e;
}
template <class T>
__device__ __noinline__ void store8_each(T* row, int start, int length, Eight e) {
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (start + i < length) row[start + i] = from_float<T>(e.value[i]);
}

// Elements start … start+7 of a row, with zeros past its end. `vectorizable` is is_vectorizable of the row.
template <class T>
__device__ __forceinline__ Eight load8(const T* row, int start, int length, bool vectorizable) {
  return vectorizable && start + 8 <= length ? load8(row + start) : load8_each(row, start, length);
}

template <class T>
__device__ __forceinline__ void store8(T* row, int start, int length, bool vectorizable, const Eight& e) {
  if (vectorizable && start + 8 <= length)
    store8(row + start, e);
  else
    store8_each(row, start, length, e);
}

__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void store_shared(unsigned to, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ __forceinline__ void store_shared(unsigned to, float v) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"(v) : "memory");
}
template <class T>
__device__ __forceinline__ void store_shared(unsigned to, T v) {
  static_assert(sizeof(T) == 2);
  asm volatile("st.shared.u16 [%0], %1;" ::"r"(to), "h"(v.bits) : "memory");
}

// Copies 16 bytes to shared memory in the background, or writes 16 zero bytes where `valid` is false; then the source
// isn't read and may be any address.
__device__ __forceinline__ void copy16_async(unsigned destination, const void* source, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source), "r"(valid ? 16 : 0)
               : "memory");
}

// Has one thread fetch what will be read into the L2 cache: `bytes` is a multiple of 16, the address aligned as much. It
// does no harm where something else is read. Without effect before sm_90.
__device__ __forceinline__ void prefetch_bulk(const void* p, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes) : "memory");
#endif
}

// The policy for what is read once: it leaves the L2 cache to the rest (activations, the cache of keys and values, and
// the kernels' own code).
__device__ __forceinline__ unsigned long long evict_first_policy() {
  unsigned long long policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ void copy16_async(unsigned destination, const void* source, bool valid,
                                             unsigned long long policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(destination), "l"(source),
               "r"(valid ? 16 : 0), "l"(policy)
               : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most PENDING of this thread's newest groups are under way.
template <int PENDING>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// An element of a 16-bit type that is known at run time only, or a float.
__device__ __forceinline__ float to_float(bits16 x, int dtype) {
  return dtype == DTYPE_F16 ? to_float(f16{x.bits}) : to_float(bf16{x.bits});
}
__device__ __forceinline__ float to_float(float x, int) { return x; }

// Two elements of a 16-bit type that is known at run time only.
__device__ __forceinline__ unsigned pack2(int dtype, float low, float high) {
  return dtype == DTYPE_F16 ? pack2<f16>(low, high) : pack2<bf16>(low, high);
}

__host__ __device__ constexpr int element_bytes(int dtype) { return dtype == DTYPE_F32 ? 4 : 2; }

// The address of element i of a row whose type is known at run time only.
__device__ __forceinline__ void* element(void* row, int dtype, long long i) {
  return static_cast<char*>(row) + i * element_bytes(dtype);
}

// A vector (a bias, a norm's weight, a row of a table) whose type is known at run time only, or absent (null data).
struct Floats {
  const void* data;
  int dtype;

  // From element `start` on.
  __device__ __forceinline__ Floats from(long long start) const {
    return {static_cast<const char*>(data) + start * element_bytes(), dtype};
  }
  __device__ __forceinline__ int element_bytes() const { return ::element_bytes(dtype); }

  __device__ __forceinline__ explicit operator bool() const { return data; }

  __device__ __forceinline__ float operator[](long long i) const {
    if (dtype == DTYPE_F32) return static_cast<const float*>(data)[i];
    if (dtype == DTYPE_F16) return to_float(static_cast<const f16*>(data)[i]);
    return to_float(static_cast<const bf16*>(data)[i]);
  }

  // Elements start … start+7 of `length`, zeros past the end.
  __device__ __forceinline__ Eight eight(int start, int length) const {
    const bool vectorizable = is_aligned16(data);
    if (dtype == DTYPE_F32) return load8(static_cast<const float*>(data), start, length, vectorizable);
    if (dtype == DTYPE_F16) return load8(static_cast<const f16*>(data), start, length, vectorizable);
    return load8(static_cast<const bf16*>(data), start, length, vectorizable);
  }

  // Has the block fetch the first `length` elements into the L2 cache.
  __device__ __forceinline__ void prefetch(int length) const {
    if (!data) return;
    const int bytes = length * element_bytes();
    for (int i = threadIdx.x * 128; i < bytes; i += blockDim.x * 128)
      asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(data) + i));
  }
};

// Eight elements of a 16-bit type that is known at run time only.
__device__ __forceinline__ Eight load8(const void* p, int dtype) {
  return dtype == DTYPE_F16 ? load8(static_cast<const f16*>(p)) : load8(static_cast<const bf16*>(p));
}

// The other way, in the order in which they lie in memory.
__device__ __forceinline__ uint4 pack8(int dtype, const Eight& e) {
  return dtype == DTYPE_F16 ? pack8<f16>(e) : pack8<bf16>(e);
}

// Element i of a row whose type is known at run time only.
__device__ __forceinline__ void store(void* row, int dtype, long long i, float y) {
  if (dtype == DTYPE_F32) {
    static_cast<float*>(row)[i] = y;
  } else if (dtype == DTYPE_F16) {
    static_cast<f16*>(row)[i] = from_float<f16>(y);
  } else {
    static_cast<bf16*>(row)[i] = from_float<bf16>(y);
  }
}

// Elements start … start+7 of a row of `length` whose type is known at run time only.
__device__ __forceinline__ void store8(void* row, int dtype, int start, int length, const Eight& e) {
  const bool vectorizable = is_aligned16(row);
  if (dtype == DTYPE_F32) return store8(static_cast<float*>(row), start, length, vectorizable, e);
  if (dtype == DTYPE_F16) return store8(static_cast<f16*>(row), start, length, vectorizable, e);
  store8(static_cast<bf16*>(row), start, length, vectorizable, e);
}
