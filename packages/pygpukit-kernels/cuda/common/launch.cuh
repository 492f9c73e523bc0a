// Programmatic dependent launch: a kernel launched with the programmatic-stream-serialization attribute may start
// while the one before it still runs. Every kernel here calls wait_for_inputs() before it touches anything that an
// earlier kernel may write (all but what its launch is said to read early, as weights), so any of them may be launched with
// the attribute, or without.
//
// The instructions exist from sm_90 on. On older targets they are absent, and the attribute has no effect there.
#pragma once

__device__ __forceinline__ void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel start as soon as every block of this one has come here or ended.
__device__ __forceinline__ void start_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
