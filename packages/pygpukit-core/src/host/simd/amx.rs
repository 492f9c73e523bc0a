//! AMX: products of bfloat16 tiles, summed in float32 (Intel 64 Software Developer's Manual, volume 1,
//! chapter 18).
//!
//! A tile register holds 16 rows of 64 bytes. `TDPBF16PS` adds to each of 16 × 16 sums the products of
//! 32 pairs of numbers, for each sum in one order that the manual defines: a sum depends on its own
//! row and column only. Denormal numbers count as 0.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, CpuidResult};
use std::marker::PhantomData;

/// Rows of a tile.
pub(crate) const ROWS: usize = 16;
/// Columns of a tile, at most.
pub(crate) const COLUMNS: usize = 16;
/// Numbers that one step multiplies for each sum: a row of a tile of weights.
pub(crate) const DEPTH: usize = 32;

const ROW_BYTES: usize = 64;

/// Whether this CPU has AMX for bfloat16 and the operating system lets this process use it.
///
/// The first call asks for that on behalf of every thread of the process.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: std::sync::LazyLock<bool> =
        std::sync::LazyLock::new(|| has_instructions() && permission());
    *AVAILABLE
}

fn has_instructions() -> bool {
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    let features = if cpuid(0).eax >= 7 { cpuid(7).edx } else { 0 };
    features & (AMX_BF16 | AMX_TILE) == AMX_BF16 | AMX_TILE
}

/// What the CPU tells of itself under a number, at most `cpuid(0).eax`.
#[allow(unused_unsafe, reason = "safe from Rust 1.93 on")]
pub(super) fn cpuid(leaf: u32) -> CpuidResult {
    // SAFETY: every x86-64 CPU has CPUID.
    unsafe { __cpuid_count(leaf, 0) }
}

/// Linux keeps room for a thread's tiles only where the process has asked for it.
#[cfg(target_os = "linux")]
fn permission() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes numbers and only changes what this process may do.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permission() -> bool {
    false
}

/// 16 weight rows: the address of the first and the bytes from one to the next.
#[derive(Clone, Copy)]
pub(crate) struct TileRows {
    pub(crate) data: *const u8,
    pub(crate) stride: usize,
}

/// The operand of `LDTILECFG`.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// This thread's tile registers, configured for sums of a number of columns; given up when dropped, so
/// that the operating system needn't save them.
pub(crate) struct Tiles {
    columns: usize,
    /// The configuration is the thread's.
    _not_send: PhantomData<*const ()>,
}

impl Tiles {
    /// Registers 0 to 3 for sums, 4 and 5 for weights, 6 and 7 for `columns` columns of activations.
    ///
    /// # Safety
    /// [`is_available`], and this thread has no other `Tiles`.
    pub(crate) unsafe fn new(columns: usize) -> Tiles {
        assert!((1..=COLUMNS).contains(&columns));
        let mut config = Config {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        config.rows[..8].fill(ROWS as u8);
        config.row_bytes[..8].fill((columns * 4) as u16);
        config.row_bytes[4..6].fill(ROW_BYTES as u16);
        // SAFETY: the configuration is valid for palette 1: at most 16 rows of at most 64 bytes, and
        // nothing reserved set.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        Tiles { columns, _not_send: PhantomData }
    }

    /// `sums[row][column]` = the products of weight row `row` with column `column` of `activations`,
    /// over `steps · DEPTH` inputs.
    ///
    /// `activations` are a tile for each step: for each pair of inputs the pairs of every column.
    ///
    /// # Safety
    /// The 16 rows are readable for `64 · steps` bytes each, the activations for `steps` tiles of
    /// `16 · columns` pairs.
    #[inline(always)]
    pub(crate) unsafe fn multiply(
        &self,
        weights: TileRows,
        activations: *const u32,
        steps: usize,
        sums: &mut [f32; ROWS * COLUMNS],
    ) {
        if steps == 0 {
            return sums.fill(0.0);
        }
        let column_bytes = self.columns * 4;
        // SAFETY: the configuration is this thread's while `self` lives. The loads stay within what
        // the caller vouches for: step i reads bytes 64 i to 64 i + 63 of each row and tile i of the
        // activations. The store writes 16 rows of `columns` numbers.
        unsafe {
            asm!(
                "tilezero tmm0",
                "2:",
                "tileloadd tmm6, [{activations} + {column_bytes}*1]",
                "tileloadd tmm4, [{weights} + {stride}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "add {weights}, 64",
                "add {activations}, {tile_bytes}",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {column_bytes}*1], tmm0",
                weights = inout(reg) weights.data => _,
                stride = in(reg) weights.stride,
                activations = inout(reg) activations => _,
                column_bytes = in(reg) column_bytes,
                tile_bytes = in(reg) ROWS * column_bytes,
                steps = inout(reg) steps => _,
                sums = in(reg) sums.as_mut_ptr(),
                out("tmm0") _,
                out("tmm4") _,
                out("tmm6") _,
                options(nostack),
            );
        }
    }

    /// [`Tiles::multiply`] of two tiles of weight rows with two blocks of 16 columns, bit for bit:
    /// `sums[r][c]` are those of `weights[r]` with `activations[c]`.
    ///
    /// # Safety
    /// As [`Tiles::multiply`], for each of the operands; the configuration has 16 columns.
    #[inline(always)]
    pub(crate) unsafe fn multiply_block(
        &self,
        weights: [TileRows; 2],
        activations: [*const u32; 2],
        steps: usize,
        sums: &mut [[[f32; ROWS * COLUMNS]; 2]; 2],
    ) {
        debug_assert_eq!(self.columns, COLUMNS);
        if steps == 0 {
            return sums.as_flattened_mut().as_flattened_mut().fill(0.0);
        }
        // SAFETY: as in `multiply`; the sums are four tiles of 1024 bytes, one after the other.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm6, [{b0} + {row_bytes}*1]",
                "tileloadd tmm4, [{a0} + {a0_stride}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b1} + {row_bytes}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a1} + {a1_stride}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, 64",
                "add {a1}, 64",
                "add {b0}, 1024",
                "add {b1}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {row_bytes}*1], tmm0",
                "tilestored [{sums} + {row_bytes}*1 + 1024], tmm1",
                "tilestored [{sums} + {row_bytes}*1 + 2048], tmm2",
                "tilestored [{sums} + {row_bytes}*1 + 3072], tmm3",
                a0 = inout(reg) weights[0].data => _,
                a0_stride = in(reg) weights[0].stride,
                a1 = inout(reg) weights[1].data => _,
                a1_stride = in(reg) weights[1].stride,
                b0 = inout(reg) activations[0] => _,
                b1 = inout(reg) activations[1] => _,
                row_bytes = in(reg) ROW_BYTES,
                steps = inout(reg) steps => _,
                sums = in(reg) sums.as_mut_ptr(),
                out("tmm0") _,
                out("tmm1") _,
                out("tmm2") _,
                out("tmm3") _,
                out("tmm4") _,
                out("tmm5") _,
                out("tmm6") _,
                out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: gives up what `new` has configured; no tile holds anything between the calls.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}
