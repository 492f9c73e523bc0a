// Random numbers that depend on nothing but a key and a counter: Philox 4x32 with 10 rounds (Salmon et al. 2011,
// "Parallel random numbers: as easy as 1, 2, 3").
#pragma once

// A number in [0, 1) for the token after `position` of a sequence sampled with `seed`.
__device__ __forceinline__ double uniform(long long seed, int position) {
  unsigned counter[4] = {static_cast<unsigned>(position), 0, 0, 0};
  unsigned key[2] = {static_cast<unsigned>(seed), static_cast<unsigned>(seed >> 32)};
#pragma unroll 1
  for (int round = 0; round < 10; ++round) {
    const unsigned long long first = counter[0] * 0xd2511f53ull, second = counter[2] * 0xcd9e8d57ull;
    counter[0] = static_cast<unsigned>(second >> 32) ^ counter[1] ^ key[0];
    counter[1] = static_cast<unsigned>(second);
    counter[2] = static_cast<unsigned>(first >> 32) ^ counter[3] ^ key[1];
    counter[3] = static_cast<unsigned>(first);
    key[0] += 0x9e3779b9u;
    key[1] += 0xbb67ae85u;
  }
  const unsigned long long bits = static_cast<unsigned long long>(counter[0]) << 32 | counter[1];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}
