//! Which instruction set the host kernels use.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set that the host kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Level {
    /// What every CPU of the target has.
    Portable = 1,
    /// AVX2 with FMA and F16C.
    Avx2 = 2,
    /// AVX-512 (F, BW, DQ, VL).
    Avx512 = 3,
    /// AVX-512 with its bfloat16 instructions for bfloat16 weights.
    Avx512Bf16 = 4,
    /// The same, and AMX tiles for bfloat16 weights.
    Amx = 5,
    /// NEON.
    Neon = 6,
}

impl Level {
    const ALL: [Level; 6] =
        [Level::Portable, Level::Avx2, Level::Avx512, Level::Avx512Bf16, Level::Amx, Level::Neon];

    /// The name, as `PYGPUKIT_SIMD` takes it and `pygpukit info` shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Bf16 => "avx512_bf16",
            Level::Amx => "amx",
            Level::Neon => "neon",
        }
    }

    /// Whether this CPU (and its operating system) has the instruction set.
    pub fn is_available(self) -> bool {
        match self {
            Level::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => x86::has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => x86::has_avx512(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => x86::has_avx512_bf16(),
            #[cfg(target_arch = "x86_64")]
            Level::Amx => x86::has_amx(),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => true,
            _ => false,
        }
    }

    /// Every instruction set of this CPU, the newest last.
    pub fn available() -> impl Iterator<Item = Level> {
        Level::ALL.into_iter().filter(|level| level.is_available())
    }

    fn from_index(index: u8) -> Option<Level> {
        Level::ALL.into_iter().find(|&level| level as u8 == index)
    }

    /// The best instruction set, unless `PYGPUKIT_SIMD` names another that this CPU has.
    fn detect() -> Level {
        let wanted = std::env::var("PYGPUKIT_SIMD").unwrap_or_default();
        Level::available()
            .find(|level| level.name() == wanted)
            .or_else(|| Level::available().filter(|level| level.is_quick()).last())
            .unwrap_or(Level::Portable)
    }

    /// Whether this CPU isn't quicker without it.
    fn is_quick(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => x86::has_quick_pairs(),
            _ => true,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

static CHOSEN: AtomicU8 = AtomicU8::new(0);

/// The instruction set of the host kernels, fixed at the first call.
///
/// The environment variable `PYGPUKIT_SIMD` (`portable`, `avx2`, `avx512`, `avx512_bf16`,
/// `amx`, `neon`) picks
/// another one that this CPU has.
pub fn level() -> Level {
    Level::from_index(CHOSEN.load(Ordering::Relaxed)).unwrap_or_else(|| {
        let level = Level::detect();
        CHOSEN.store(level as u8, Ordering::Relaxed);
        level
    })
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    pub(super) fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
    }

    pub(super) fn has_avx512() -> bool {
        has_avx2()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
    }

    pub(super) fn has_avx512_bf16() -> bool {
        has_avx512() && is_x86_feature_detected!("avx512bf16")
    }

    /// Intel's CPUs, which have AMX for that, multiply pairs of bfloat16 numbers more slowly than float32
    /// numbers: prompts took Sapphire Rapids without AMX 2.5 times as long.
    pub(super) fn has_quick_pairs() -> bool {
        let id = super::super::amx::cpuid(0);
        [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).concat() != b"GenuineIntel"
    }

    pub(super) fn has_amx() -> bool {
        has_avx512_bf16() && super::super::amx::is_available()
    }
}

/// Calls `body` once for each instruction set of this CPU, with [`level()`] returning that one.
#[cfg(test)]
pub(crate) fn at_each_level(mut body: impl FnMut(Level)) {
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for level in Level::available() {
        CHOSEN.store(level as u8, Ordering::Relaxed);
        body(level);
    }
}
