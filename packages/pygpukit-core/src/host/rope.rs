//! Rotary position embedding: the angles, and the kernel that rotates queries and keys and writes
//! keys and values into the pages of the cache (Su et al. 2021, arXiv:2104.09864).

use super::HostKernel;
use super::norm::Norm;
use super::pool::ThreadPool;
use super::scratch;
use super::simd::{ACTIVATIONS, Numbers, Simd, WithSimd, dispatch, for_each_vector};
use super::view::{FloatView, View, check_layout, expect_same_dtype, expect_shape};
use crate::dispatch::{KernelArgs, LaunchError, Param, Signature};
use crate::dtype::DType;

/// `rope_angles(positions (T,), inv_freq (F,), out (T,2,F), scale)`:
/// `out[t] = scale · (cos, sin)(positions[t] · inv_freq)`, the angle rounded to float32 as
/// transformers rounds it.
pub(crate) const ROPE_ANGLES: HostKernel = HostKernel {
    signature: &Signature {
        name: "rope_angles",
        params: &[
            Param::input("positions", &[DType::I32], 1),
            Param::input("inv_freq", &[DType::F32], 1),
            Param::output("out", &[DType::F32], 3),
            Param::float("scale"),
        ],
    },
    check: |args| {
        check_layout(args)?;
        expect_shape(args, 2, &[args.tensor(0).shape[0], 2, args.tensor(1).shape[0]])
    },
    run: |args| {
        let positions = View::<i32, 1>::of(args.tensor(0));
        let inv_freq = View::<f32, 1>::of(args.tensor(1));
        let out = View::<f32, 3>::of(args.tensor(2));
        let scale = args.float(3) as f32;
        // A sine and cosine cost about as much as 16 elements of an ordinary row kernel.
        ThreadPool::global().run_rows(positions.length(0), inv_freq.length(0) * 16, |token| {
            for i in 0..inv_freq.length(0) {
                let angle = positions.get([token]) as f32 * inv_freq.get([i]);
                let (sin, cos) = angle.sin_cos();
                out.set([token, 0, i], cos * scale);
                out.set([token, 1, i], sin * scale);
            }
        });
    },
};

/// How the two coordinates that are rotated together lie in a head.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pairs {
    /// `i` with `i + R/2` (GPT-NeoX, Llama as transformers stores it).
    Halves,
    /// `2i` with `2i + 1` (GPT-J, Llama as Meta stores it).
    Interleaved,
}

/// The cosines and sines of one token.
#[derive(Clone, Copy)]
struct Angles {
    cos: *const f32,
    sin: *const f32,
    count: usize,
}

/// One head of one token on its way from `source` to `target`.
struct Head {
    source: Numbers,
    target: Numbers,
    dim: usize,
    norm: Option<Norm>,
    angles: Option<Angles>,
    pairs: Pairs,
}

impl WithSimd for Head {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut buffer = scratch::take(self.dim);
        let head = self.target.as_f32().unwrap_or(buffer.as_mut_ptr());
        // SAFETY: source and target have `dim` numbers, the angles at most dim / 2 each.
        unsafe {
            self.source.copy(simd, head.into(), self.dim);
            if let Some(norm) = self.norm {
                norm.apply(simd, head, head, self.dim);
            }
            match (self.angles, self.pairs) {
                (Some(angles), Pairs::Halves) => rotate_halves(simd, head, angles),
                (Some(angles), Pairs::Interleaved) => rotate_interleaved(head, angles),
                (None, _) => {}
            }
            if self.target.as_f32().is_none() {
                Numbers::from(head).copy(simd, self.target, self.dim);
            }
        }
    }
}

/// # Safety
/// `head` has at least two numbers for each angle.
#[inline(always)]
unsafe fn rotate_halves<S: Simd>(simd: S, head: *mut f32, angles: Angles) {
    for_each_vector!(S, angles.count, |start, count| {
        // SAFETY: `start + count` is at most the number of angles; the rest is the caller's.
        unsafe {
            let (first, second) = (head.add(start), head.add(angles.count + start));
            let cos = simd.load_some(angles.cos.add(start), count);
            let sin = simd.load_some(angles.sin.add(start), count);
            let (x, y) = (simd.load_some(first, count), simd.load_some(second, count));
            let rotated_x = simd.sub(simd.mul(x, cos), simd.mul(y, sin));
            let rotated_y = simd.add(simd.mul(y, cos), simd.mul(x, sin));
            simd.store_some(first, rotated_x, count);
            simd.store_some(second, rotated_y, count);
        }
    });
}

/// # Safety
/// `head` has at least two numbers for each angle.
unsafe fn rotate_interleaved(head: *mut f32, angles: Angles) {
    for i in 0..angles.count {
        // SAFETY: the caller's contract.
        unsafe {
            let (cos, sin) = (*angles.cos.add(i), *angles.sin.add(i));
            let (x, y) = (*head.add(2 * i), *head.add(2 * i + 1));
            *head.add(2 * i) = x * cos - y * sin;
            *head.add(2 * i + 1) = y * cos + x * sin;
        }
    }
}

/// Where in a paged cache the keys and values of a position lie.
#[derive(Clone, Copy)]
pub(super) struct Pages {
    pub(super) tables: View<i32, 2>,
    pub(super) page_size: usize,
    pub(super) pages: usize,
}

impl Pages {
    /// The page of `position` in sequence `sequence` and the row within it, if the table names one.
    #[inline(always)]
    pub(super) fn find(&self, sequence: usize, position: usize) -> Option<(usize, usize)> {
        let (index, row) = (position / self.page_size, position % self.page_size);
        if index >= self.tables.length(1) {
            return None;
        }
        let page = usize::try_from(self.tables.get([sequence, index])).ok()?;
        (page < self.pages).then_some((page, row))
    }

    /// A token's sequence and position as indices, if they can be.
    pub(super) fn place(&self, sequence: i32, position: i32) -> Option<(usize, usize)> {
        let sequence = usize::try_from(sequence).ok()?;
        let position = usize::try_from(position).ok()?;
        (sequence < self.tables.length(0)).then_some((sequence, position))
    }
}

const QKV: usize = 0;
const ANGLES: usize = 1;
const POSITIONS: usize = 2;
const SEQUENCES: usize = 3;
const BLOCK_TABLES: usize = 4;
const K_CACHE: usize = 5;
const V_CACHE: usize = 6;
const Q_NORM: usize = 7;
const K_NORM: usize = 12;
const OUT: usize = 17;
const NUM_HEADS: usize = 18;
const INTERLEAVED: usize = 19;

const Q_NORM_PARAMS: [Param; 5] =
    Norm::params(["q_norm", "q_norm_weight", "q_norm_bias", "q_norm_eps", "q_norm_offset"]);
const K_NORM_PARAMS: [Param; 5] =
    Norm::params(["k_norm", "k_norm_weight", "k_norm_bias", "k_norm_eps", "k_norm_offset"]);

fn check_append(args: &KernelArgs<'_>) -> Result<(), LaunchError> {
    check_layout(args)?;
    let tokens = args.tensor(QKV).shape[0];
    let cache = &args.tensor(K_CACHE).shape;
    let (kv_heads, page_size, dim) = (cache[1], cache[2], cache[3]);
    if page_size == 0 {
        return Err(args.refuse(K_CACHE, format!("expected pages of some size, found {cache:?}")));
    }
    expect_shape(args, V_CACHE, cache)?;
    expect_same_dtype(args, &[K_CACHE, V_CACHE])?;
    let heads = usize::try_from(args.int(NUM_HEADS)).unwrap_or(0);
    if heads == 0 {
        let reason = format!("expected a positive number, found {}", args.int(NUM_HEADS));
        return Err(args.refuse(NUM_HEADS, reason));
    }
    expect_shape(args, QKV, &[tokens, (heads + 2 * kv_heads) * dim])?;
    expect_shape(args, OUT, &[tokens, heads, dim])?;
    expect_shape(args, POSITIONS, &[tokens])?;
    expect_shape(args, SEQUENCES, &[tokens])?;
    if let Some(angles) = args.optional(ANGLES) {
        let count = angles.shape[2].min(dim / 2);
        expect_shape(args, ANGLES, &[tokens, 2, count])?;
    }
    Norm::of(args, Q_NORM, dim)?;
    Norm::of(args, K_NORM, dim)?;
    Ok(())
}

struct Append {
    qkv: FloatView<2>,
    angles: Option<View<f32, 3>>,
    positions: View<i32, 1>,
    sequences: View<i32, 1>,
    pages: Pages,
    k_cache: FloatView<4>,
    v_cache: FloatView<4>,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
    out: FloatView<3>,
    pairs: Pairs,
}

impl Append {
    fn of(args: &KernelArgs<'_>) -> Append {
        let k_cache = FloatView::<4>::of(args.tensor(K_CACHE));
        let norm = |index| Norm::of(args, index, k_cache.length(3)).expect("checked before");
        Append {
            qkv: FloatView::of(args.tensor(QKV)),
            angles: args.optional(ANGLES).map(View::of),
            positions: View::of(args.tensor(POSITIONS)),
            sequences: View::of(args.tensor(SEQUENCES)),
            pages: Pages {
                tables: View::of(args.tensor(BLOCK_TABLES)),
                page_size: k_cache.length(2),
                pages: k_cache.length(0),
            },
            k_cache,
            v_cache: FloatView::of(args.tensor(V_CACHE)),
            q_norm: norm(Q_NORM),
            k_norm: norm(K_NORM),
            out: FloatView::of(args.tensor(OUT)),
            pairs: if args.int(INTERLEAVED) != 0 { Pairs::Interleaved } else { Pairs::Halves },
        }
    }

    fn token(&self, token: usize) {
        let dim = self.k_cache.length(3);
        let (heads, kv_heads) = (self.out.length(1), self.k_cache.length(1));
        let angles = self.angles.filter(|angles| angles.length(2) > 0).map(|angles| Angles {
            cos: angles.at([token, 0, 0]),
            sin: angles.at([token, 1, 0]),
            count: angles.length(2),
        });
        let head = |index: usize, target, norm, angles| {
            let source = self.qkv.at([token, index * dim]);
            dispatch(Head { source, target, dim, norm, angles, pairs: self.pairs });
        };
        for q in 0..heads {
            head(q, self.out.at([token, q, 0]), self.q_norm, angles);
        }
        let place = self
            .pages
            .place(self.sequences.get([token]), self.positions.get([token]))
            .and_then(|(sequence, position)| self.pages.find(sequence, position));
        let Some((page, row)) = place else { return };
        for kv in 0..kv_heads {
            let index = [page, kv, row, 0];
            head(heads + kv, self.k_cache.at(index), self.k_norm, angles);
            head(heads + kv_heads + kv, self.v_cache.at(index), None, None);
        }
    }
}

/// `append_kv(qkv (T,(H+2KV)·D), angles (T,2,R/2), positions (T,), sequences (T,), block_tables
/// (S,P), k_cache, v_cache (pages,KV,page_size,D), q_norm…, k_norm…, out (T,H,D), num_heads,
/// interleaved)`: normalises and rotates each head of `q` into `out` and of `k` into its page, and
/// copies `v` into its page. A token whose position has no page leaves the cache alone.
pub(crate) const APPEND_KV: HostKernel = HostKernel {
    signature: &Signature {
        name: "append_kv",
        params: &[
            Param::input("qkv", ACTIVATIONS, 2),
            Param::optional("angles", &[DType::F32], 3),
            Param::input("positions", &[DType::I32], 1),
            Param::input("sequences", &[DType::I32], 1),
            Param::input("block_tables", &[DType::I32], 2),
            Param::inout("k_cache", ACTIVATIONS, 4),
            Param::inout("v_cache", ACTIVATIONS, 4),
            Q_NORM_PARAMS[0],
            Q_NORM_PARAMS[1],
            Q_NORM_PARAMS[2],
            Q_NORM_PARAMS[3],
            Q_NORM_PARAMS[4],
            K_NORM_PARAMS[0],
            K_NORM_PARAMS[1],
            K_NORM_PARAMS[2],
            K_NORM_PARAMS[3],
            K_NORM_PARAMS[4],
            Param::output("out", ACTIVATIONS, 3),
            Param::int("num_heads"),
            Param::int("interleaved"),
        ],
    },
    check: check_append,
    run: |args| {
        let append = Append::of(args);
        ThreadPool::global().run_rows(append.qkv.length(0), append.qkv.length(1), |token| {
            append.token(token);
        });
    },
};
