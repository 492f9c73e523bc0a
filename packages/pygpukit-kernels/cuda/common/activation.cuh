// Activation functions, by the numbers that a launch passes (the same as on the CPU).
#pragma once

enum Activation : int {
  ACTIVATION_IDENTITY = 0,
  ACTIVATION_SILU = 1,        // x σ(x)
  ACTIVATION_GELU = 2,        // x/2 (1 + erf(x/√2))
  ACTIVATION_GELU_TANH = 3,   // x/2 (1 + tanh u), u = √(2/π) (x + 0.044715 x³)
  ACTIVATION_GELU_QUICK = 4,  // x σ(1.702 x)
  ACTIVATION_RELU = 5,
  ACTIVATION_RELU_SQUARED = 6,
  ACTIVATION_TANH = 7,
  ACTIVATION_SIGMOID = 8,
};

// x σ(factor x), to a few units in the last place of float32; of a large negative x, to a few 1e-6 of next to nothing.
__device__ __forceinline__ float gated_by_itself(float x, float factor) {
  return __fdividef(x, 1.f + __expf(-factor * x));
}
__device__ __forceinline__ float silu(float x) { return gated_by_itself(x, 1.f); }

// A call and not inlined: what uses it is small code, and the code of a short kernel comes from memory too.
__device__ __noinline__ float activate(int activation, float x) {
  switch (activation) {
    case ACTIVATION_SILU: return silu(x);
    case ACTIVATION_GELU: return 0.5f * x * (1.f + erff(x * 0.70710678f));
    // x/2 (1 + tanh u) = x σ(2u), without the cancellation of 1 + tanh.
    case ACTIVATION_GELU_TANH: return gated_by_itself(x, 1.5957691f * fmaf(0.044715f * x, x, 1.f));
    case ACTIVATION_GELU_QUICK: return gated_by_itself(x, 1.702f);
    case ACTIVATION_RELU: return fmaxf(x, 0.f);
    case ACTIVATION_RELU_SQUARED: return fmaxf(x, 0.f) * fmaxf(x, 0.f);
    case ACTIVATION_TANH: return tanhf(x);
    case ACTIVATION_SIGMOID: return 1.f / (1.f + expf(-x));
    default: return x;
  }
}
