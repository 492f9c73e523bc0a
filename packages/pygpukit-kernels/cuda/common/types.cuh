// Element types. Storage is bfloat16, float16 or float32; all arithmetic is in float32.
//
// No toolkit header is included: NVRTC alone compiles every kernel.
#pragma once

struct bf16 {
  unsigned short bits;
};
struct f16 {
  unsigned short bits;
};
using f32 = float;
// An element of one of the 16-bit types, which one being known at run time only.
struct bits16 {
  unsigned short bits;
};

#define FOR_EACH_16BIT(MACRO) MACRO(bf16) MACRO(f16)
#define FOR_EACH_DTYPE(MACRO) FOR_EACH_16BIT(MACRO) MACRO(f32)

// The numbers by which a launch names element types.
enum DType : int { DTYPE_F32 = 0, DTYPE_F16 = 1, DTYPE_BF16 = 2 };

#define INFINITY_F32 __int_as_float(0x7f800000)
#define LARGEST_F32 __int_as_float(0x7f7fffff)
#define NAN_F32 __int_as_float(0x7fffffff)

template <class A, class B>
constexpr bool same_type = false;
template <class A>
constexpr bool same_type<A, A> = true;

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float(unsigned(x.bits) << 16); }
__device__ __forceinline__ float to_float(f16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

// Rounds to nearest even.
template <class T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (same_type<T, float>) {
    return x;
  } else {
    T y;
    if constexpr (same_type<T, bf16>) asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    if constexpr (same_type<T, f16>) asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
  }
}

// Two 16-bit elements in one register, `low` at the lower address.
template <class T>
__device__ __forceinline__ unsigned pack2(float low, float high) {
  unsigned y;
  if constexpr (same_type<T, bf16>) asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  if constexpr (same_type<T, f16>) asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}

template <class T>
__device__ __forceinline__ void unpack2(unsigned pair, float& low, float& high) {
  low = to_float(T{static_cast<unsigned short>(pair)});
  high = to_float(T{static_cast<unsigned short>(pair >> 16)});
}
