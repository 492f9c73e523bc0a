//! Which launches become steps of one.

use super::*;
use crate::cuda::operations::attention::SinkArgs;
use crate::cuda::operations::tests::{H100, plan, tensor_at};
use crate::dispatch::{ArgValue, TensorArg};
use crate::dtype::DType;

const HEADS: usize = 8;
const KV_HEADS: usize = 2;
const DIM: usize = 64;
const HIDDEN: usize = 320;
const FEED: usize = 1056;
const QKV: usize = (HEADS + 2 * KV_HEADS) * DIM;
const VOCABULARY: usize = 300;
const STEPS_PER_LAYER: usize = 6;

/// A decoder's launches for one token, its tensors at addresses of their own.
struct Decoder {
    launches: Vec<CudaLaunch>,
    next: usize,
    /// Of the residual stream.
    dtype: DType,
    /// Of queries, keys and values.
    head_dtype: DType,
    rows: usize,
    limits: Limits,
    sinks: bool,
    /// Positions of a page of the cache, and elements between the rows of two of them.
    page_size: usize,
    gap: usize,
}

impl Decoder {
    fn new(dtype: DType, rows: usize, limits: Limits) -> Decoder {
        let (launches, next, head_dtype) = (Vec::new(), 1 << 20, DType::F16);
        let (sinks, page_size, gap) = (false, 256, 0);
        Decoder { launches, next, dtype, head_dtype, rows, limits, sinks, page_size, gap }
    }

    fn tensor(&mut self, shape: &[usize], dtype: DType) -> TensorArg {
        let tensor = tensor_at(self.next, shape, dtype);
        self.next += (4 * tensor.elements()).next_multiple_of(256);
        tensor
    }

    fn value(&mut self, shape: &[usize], dtype: DType) -> ArgValue {
        ArgValue::Tensor(self.tensor(shape, dtype))
    }

    fn run(&mut self, name: &str, values: &[ArgValue]) {
        self.launches.extend(plan(name, values, self.limits).unwrap());
    }

    /// A product with what is normalised, or that is added to a residual.
    fn linear(
        &mut self,
        x: &TensorArg,
        n: usize,
        gated: bool,
        [weight, out]: [DType; 2],
        residual: Option<(&TensorArg, bool)>,
    ) -> TensorArg {
        let (k, norm) = (x.shape[1], residual.is_none());
        let weight = self.value(&[if gated { 2 * n } else { n }, k], weight);
        let norm_weight = self.value(&[k], DType::F32);
        let out = match residual {
            Some((residual, true)) => residual.clone(),
            _ => self.tensor(&[x.shape[0], n], out),
        };
        let values = [
            ArgValue::Tensor(x.clone()),
            weight,
            ArgValue::None,
            ArgValue::Int(i64::from(norm)),
            if norm { norm_weight } else { ArgValue::None },
            ArgValue::None,
            ArgValue::Float(1e-6),
            ArgValue::Float(0.0),
            residual.map_or(ArgValue::None, |(tensor, _)| ArgValue::Tensor(tensor.clone())),
            ArgValue::Tensor(out.clone()),
            ArgValue::Int(i64::from(gated)),
            ArgValue::Int(i64::from(gated)),
            ArgValue::Float(1.0),
        ];
        self.run("linear", &values);
        out
    }

    fn attention(&mut self, qkv: TensorArg) -> TensorArg {
        let rows = self.rows;
        let [k_cache, v_cache] = [(); 2].map(|()| {
            let shape = [4, KV_HEADS, self.page_size, DIM + self.gap];
            let cache = self.tensor(&shape, self.head_dtype);
            ArgValue::Tensor(TensorArg { shape: [&shape[..3], &[DIM]].concat(), ..cache })
        });
        let integers = |shape: &[usize], address: usize| {
            ArgValue::Tensor(tensor_at(address, shape, DType::I32))
        };
        let (positions, sequences) = (integers(&[rows], 0x1000), integers(&[rows], 0x2000));
        let tables = integers(&[rows, 4], 0x3000);
        let q = self.value(&[rows, HEADS, DIM], self.head_dtype);
        let out = self.tensor(&[rows, HEADS * DIM], self.head_dtype);
        let sinks = if self.sinks { self.value(&[HEADS], DType::F32) } else { ArgValue::None };
        let no_norm = || {
            [
                ArgValue::Int(0),
                ArgValue::None,
                ArgValue::None,
                ArgValue::Float(0.0),
                ArgValue::Float(0.0),
            ]
        };
        let mut values = vec![ArgValue::Tensor(qkv), ArgValue::None];
        values.extend([positions.clone(), sequences.clone(), tables.clone()]);
        values.extend([k_cache.clone(), v_cache.clone()]);
        values.extend(no_norm());
        values.extend(no_norm());
        values.extend([q.clone(), ArgValue::Int(HEADS as i64), ArgValue::Int(0)]);
        self.run("append_kv", &values);
        let values = [
            q,
            k_cache,
            v_cache,
            tables,
            positions,
            sequences,
            ArgValue::Tensor(out.clone()),
            ArgValue::Float(0.125),
            ArgValue::Int(0),
            ArgValue::Float(0.0),
            sinks,
            ArgValue::Int(-1),
        ];
        self.run("attention", &values);
        out
    }

    /// A layer whose residual stream goes on in tensors of its own, or in place.
    fn layer(&mut self, x: &TensorArg, in_place: bool) -> TensorArg {
        let x = self.attend(x, x, in_place);
        let feed = self.linear(&x, FEED, true, [self.dtype; 2], None);
        self.linear(&feed, HIDDEN, false, [self.dtype; 2], Some((&x, in_place)))
    }

    /// `residual` plus attention from `x`, in place or not.
    fn attend(&mut self, x: &TensorArg, residual: &TensorArg, in_place: bool) -> TensorArg {
        let qkv = self.linear(x, QKV, false, [self.head_dtype; 2], None);
        let heads = self.attention(qkv);
        let dtypes = [self.head_dtype, self.dtype];
        self.linear(&heads, HIDDEN, false, dtypes, Some((residual, in_place)))
    }

    /// So many layers, and the product that makes logits.
    fn with_layers(mut self, layers: usize, in_place: bool) -> Decoder {
        let mut x = self.tensor(&[self.rows, HIDDEN], self.dtype);
        for _ in 0..layers {
            x = self.layer(&x, in_place);
        }
        self.linear(&x, VOCABULARY, false, [self.dtype, DType::F32], None);
        self
    }

    fn join(&self) -> Vec<Persistent> {
        join(&self.launches.iter().collect::<Vec<_>>(), &self.limits)
    }
}

fn decoder(dtype: DType, rows: usize, limits: Limits, layers: usize, in_place: bool) -> Decoder {
    Decoder::new(dtype, rows, limits).with_layers(layers, in_place)
}

#[test]
fn a_decoder_of_one_token_is_one_launch() {
    for (dtype, function) in [
        (DType::BF16, "layers_1k_persistent_64_8_bf16"),
        (DType::F16, "layers_1k_persistent_64_8_f16"),
    ] {
        let decoder = decoder(dtype, 1, H100, 3, false);
        let joined = decoder.join();
        assert_eq!(joined.len(), 1);
        assert_eq!(joined[0].range, 0..decoder.launches.len());
        assert_eq!(joined[0].steps.len(), 3 * STEPS_PER_LAYER + 1);
        assert_eq!(joined[0].weights.len(), 3 * 4 + 1);
        assert_eq!(joined[0].attention(), [1, 7, 13]);
        let [launch] = joined[0].launches(1 << 30, &H100).try_into().unwrap();
        assert_eq!(launch.function, function);
        assert_eq!(launch.grid, [132, 1, 1]);
        assert!(launch.shared_bytes <= H100.shared_bytes_per_block);
    }
}

#[test]
fn blocks_that_may_end_early_have_their_own_numbers() {
    let mut joined = decoder(DType::BF16, 1, H100, 3, false).join().remove(0);
    let mut tiles = |tiles: [usize; 3]| {
        let count = joined.weights.len();
        for (i, weights) in joined.weights.iter_mut().enumerate() {
            let place = if i + 1 == count { 2 } else { usize::from(i == 5) };
            weights.n = (tiles[place] * Shape::TILE) as i32;
        }
        joined.begins_before_it_ends(&H100)
    };
    assert!(tiles([8, 132, 132]) && tiles([200, 200, 200]));
    assert!(!tiles([131, 131, 132]) && !tiles([132, 132, 131]));
}

#[test]
fn stages_are_partial_where_a_row_ends_within_one() {
    let joined = decoder(DType::BF16, 1, H100, 3, false).join().remove(0);
    let is_partial = |k| Weights { k, ..joined.weights[0] }.are_partial();
    assert!(is_partial(320) && is_partial(1032));
    assert!(!is_partial(1024) && !is_partial(14336));
}

/// Steps whose products are changed.
fn changed(steps: &[Step], change: impl Fn(&mut LinearArgs)) -> Vec<Step> {
    let mut steps = steps.to_vec();
    for step in steps.iter_mut().filter(|step| step.kind == LINEAR) {
        let mut args = step.linear();
        change(&mut args);
        step.set_arguments(bytemuck::bytes_of(&args));
    }
    steps
}

#[test]
fn a_kernel_has_norms_of_one_width() {
    let decoder = decoder(DType::BF16, 1, H100, 3, false);
    let steps = &decoder.join()[0].steps;
    let SinkArgs { attention, .. } = decoder.launches[2].parameters.first().unwrap();
    let chosen = |dim: i32, change: fn(&mut LinearArgs)| {
        let steps = changed(steps, change);
        let mut attention = attention;
        attention.dim = dim;
        entry::kernel(&steps, &attention, DType::BF16).1
    };
    let same: fn(&mut LinearArgs) = |_| ();
    assert_eq!(chosen(64, same), "layers_1k_persistent_64_8_bf16");
    assert_eq!(chosen(64, |args| args.k = 1032), "layers_2k_persistent_64_8_bf16");
    assert_eq!(chosen(128, |args| args.k = 2048), "layers_2k_persistent_128_8_bf16");
    assert_eq!(chosen(128, |args| args.k = 3072), "layers_3k_persistent_128_8_bf16");
    assert_eq!(chosen(128, |args| args.k = 4096), "layers_4k_persistent_128_8_bf16");
    assert_eq!(chosen(128, |args| args.k = 4104), "layers_persistent_128_8_bf16");
    assert_eq!(chosen(64, |args| args.k = 4096), "layers_persistent_64_8_bf16");
    assert_eq!(chosen(64, |args| args.norm.bias.data = 16), "layers_persistent_64_8_bf16");
    assert_eq!(chosen(64, |args| args.norm.weight.data += 4), "layers_persistent_64_8_bf16");
}

#[test]
fn the_last_step_finds_the_first_logits() {
    for (chooses, last, maxima_at) in [
        ("argmax", "argmax_rows", 8),
        ("sample", "sample_rows", 8),
        ("top_logprobs", "top_logprobs_rows", 16),
    ] {
        let mut decoder = decoder(DType::BF16, 1, H100, 3, false);
        let logits: LinearArgs = decoder.launches.last().unwrap().parameters.first().unwrap();
        let logits = tensor_at(logits.out as usize, &[1, VOCABULARY], DType::F32);
        let mut values = vec![ArgValue::Tensor(logits)];
        let (rows, columns) = (&[1][..], &[1, 6][..]);
        values.extend(match chooses {
            "sample" => {
                [DType::I32, DType::F32, DType::I32, DType::F32, DType::F32, DType::I64, DType::I32]
                    .map(|dtype| decoder.value(rows, dtype))
                    .to_vec()
            }
            "top_logprobs" => vec![
                decoder.value(rows, DType::I32),
                decoder.value(columns, DType::F32),
                decoder.value(columns, DType::I32),
            ],
            _ => vec![decoder.value(rows, DType::I32)],
        });
        decoder.run(chooses, &values);
        let joined = decoder.join();
        assert_eq!(joined[0].range, 0..decoder.launches.len());
        let [steps, choice] = joined[0].launches(1 << 30, &H100).try_into().unwrap();
        assert_eq!((steps.source, choice.function), ("layers_1k_persistent", last));
        assert_eq!(choice.reads_early.len(), if chooses == "sample" { 6 } else { 0 });
        let maxima = (1 << 30) + joined[0].layout().maxima as u64;
        assert_eq!(choice.parameters.bytes()[maxima_at..][..8], maxima.to_le_bytes());
        assert!(steps.parameters.bytes().windows(8).any(|word| word == maxima.to_le_bytes()));
        assert_eq!(joined[0].bytes(), joined[0].layout().maxima + 8192);
    }
}

#[test]
fn steps_take_what_the_steps_before_them_send() {
    let joined = decoder(DType::BF16, 1, H100, 3, true).join();
    let steps = &joined[0].steps;
    // The first product and the first residual are read where they lie.
    assert_eq!(steps[0].x, TENSOR_ALONE);
    assert_eq!(steps[3].residual, TENSOR_ALONE);
    for (number, step) in steps.iter().enumerate().skip(1) {
        assert_eq!(step.x.step as usize, number);
        if step.residual != TENSOR_ALONE {
            let sender = step.residual.step as usize - 1;
            assert_eq!(step.residual, steps[sender].out);
            assert!(number - sender <= FARTHEST);
        }
    }
    // Mailboxes in use at the same time lie apart.
    for (number, step) in steps.iter().enumerate() {
        for other in &steps[number + 1..steps.len().min(number + MAILBOXES)] {
            assert!(step.out.words < 0 || step.out.words != other.out.words);
        }
    }
    assert_eq!(steps.last().unwrap().out, TENSOR_ALONE);
}

#[test]
fn only_results_that_can_be_seen_are_stored() {
    let stores = |in_place| {
        let joined = decoder(DType::BF16, 1, H100, 2, in_place).join();
        joined[0].steps.iter().map(|step| step.stores).collect::<Vec<_>>()
    };
    assert!(stores(false).iter().all(|&stores| stores == 1));
    // The residual stream, in place, is that of the last layer.
    let in_place = stores(true);
    let hidden: Vec<_> = (0..13).filter(|&step| in_place[step] == 0).collect();
    assert_eq!(hidden, [3, 5, 9]);
}

#[test]
fn other_launches_stay() {
    let ampere = Limits { capability: (8, 0), sm_count: 108, ..H100 };
    assert!(decoder(DType::BF16, 1, ampere, 3, false).join().is_empty());
    assert!(decoder(DType::BF16, 2, H100, 3, false).join().is_empty());
    assert!(decoder(DType::F32, 1, H100, 3, false).join().is_empty());
    // Too few steps to be worth it.
    assert!(decoder(DType::BF16, 1, H100, 1, false).join().is_empty());
}

#[test]
fn attention_is_in_float16() {
    let joined = |head_dtype| {
        let decoder = Decoder { head_dtype, ..Decoder::new(DType::BF16, 1, H100) };
        decoder.with_layers(3, false).join()
    };
    assert!(joined(DType::BF16).is_empty());
    assert_eq!(joined(DType::F16).len(), 1);
}

#[test]
fn attention_with_sinks_stays_a_launch_of_its_own() {
    let joined = |sinks| {
        let decoder = Decoder { sinks, ..Decoder::new(DType::BF16, 1, H100) };
        decoder.with_layers(3, false).join().len()
    };
    assert_eq!([false, true].map(joined), [1, 0]);
}

#[test]
fn attention_of_scattered_chunks_stays_a_launch_of_its_own() {
    let joined = |(page_size, gap)| {
        let decoder = Decoder { page_size, gap, ..Decoder::new(DType::BF16, 1, H100) };
        decoder.with_layers(3, false).join().len()
    };
    assert_eq!([(256, 0), (64, 0), (32, 0), (256, 8)].map(joined), [1, 1, 0, 0]);
}

#[test]
fn written_weights_keep_a_product_apart() {
    let mut decoder = decoder(DType::BF16, 1, H100, 5, false);
    // The second layer's first product: six launches to a layer, too, of which three are attention's.
    let written = 7 + 4;
    decoder.launches[written].overlap = false;
    let joined = decoder.join();
    assert_eq!(joined.len(), 1);
    assert_eq!(joined[0].range.start, written + 1);
}

#[test]
fn a_step_that_skips_the_one_before_ends_the_run() {
    // Attention and the feed-forward network side by side, both on x.
    let mut decoder = Decoder::new(DType::BF16, 1, H100);
    let mut x = decoder.tensor(&[1, HIDDEN], DType::BF16);
    for _ in 0..4 {
        let attended = decoder.attend(&x, &x, false);
        let feed = decoder.linear(&x, FEED, true, [DType::BF16; 2], None);
        x = decoder.linear(&feed, HIDDEN, false, [DType::BF16; 2], Some((&attended, false)));
    }
    assert!(decoder.join().is_empty());
}

#[test]
fn memory_begins_with_the_steps_and_no_launches_counted() {
    let joined = decoder(DType::BF16, 1, H100, 2, false).join();
    let (content, layout) = (joined[0].content(), joined[0].layout());
    assert!(content[..layout.steps].iter().all(|&byte| byte == 0));
    let first: Step = bytemuck::pod_read_unaligned(&content[layout.steps..][..size_of::<Step>()]);
    assert_eq!(first.linear().n as usize, QKV);
    assert!(joined[0].bytes() > content.len());
}

#[test]
fn stages_suffice_to_tell_their_phases_apart() {
    let mut joined = 0;
    for kilobytes in 32..=227 {
        let limits = Limits { shared_bytes_per_block: kilobytes << 10, ..H100 };
        for persistent in decoder(DType::BF16, 1, limits, 3, false).join() {
            let Shape { stages, under_way, bytes, .. } = persistent.shape;
            assert!(bytes <= (kilobytes << 10) as usize);
            assert!(under_way >= 2 && 2 * under_way < stages && under_way + 4 <= stages);
            joined += 1;
        }
    }
    assert!((1..196).contains(&joined));
}

/// The shape where norms are of rows of `normed` elements, and the longest other row has `longest`.
fn shape(normed: usize, longest: usize, limits: Limits) -> Option<Shape> {
    let decoder = decoder(DType::BF16, 1, H100, 3, false);
    let steps = changed(&decoder.join()[0].steps, |args| {
        args.k = if args.norm.kind != 0 { normed } else { longest } as i32;
    });
    let SinkArgs { attention, .. } = decoder.launches[2].parameters.first().unwrap();
    Shape::new(&steps, &attention, &limits)
}

const CHUNKS: usize = 2 * 64 * DIM * 2;

#[test]
fn vectors_of_norms_and_early_keys_give_way_to_weights() {
    let k = 8192;
    let choice = |hundreds: u32| {
        let limits = Limits { shared_bytes_per_block: 100 * hundreds, ..H100 };
        let Shape { under_way, stages, ahead, places: [chunks, heads, ..], .. } =
            shape(k, k, limits)?;
        let end_of_input = if ahead { chunks } else { heads } as usize;
        Some((under_way, end_of_input - 2 * k, stages.min(Shape::ENOUGH_STAGES), ahead))
    };
    let choices: Vec<_> = (300..2300).filter_map(choice).collect();
    // From a few bytes on there is one more under way; then there is room for vectors, and then for more weights.
    assert!(choices.is_sorted());
    let least = [2, 3].map(|n| choices.iter().find(|(under_way, ..)| *under_way == n));
    assert_eq!(least, [Some(&(2, 0, 6, false)), Some(&(3, 0, 7, false))]);
    let vectors = Shape::MOST_VECTOR_BYTES;
    assert!(choices.contains(&(2, vectors, 6, false)) && choices.contains(&(3, vectors, 7, false)));
    assert_eq!(choices.last(), Some(&(3, vectors, 9, true)));
}

#[test]
fn what_a_norm_takes_lies_behind_its_x() {
    let end = |normed, longest| shape(normed, longest, H100).unwrap().places[0] as usize;
    assert_eq!(end(HIDDEN, FEED), 2 * 2048);
    assert_eq!(end(HIDDEN, 9000), 2 * 9216);
    assert_eq!(end(3000, FEED), 2 * 3072 + 4 * 3000);
}

#[test]
fn keys_and_x_take_turns_where_weights_need_the_room() {
    let Shape { ahead, places: [chunks, heads, ..], .. } = shape(3000, 30_000, H100).unwrap();
    assert!(!ahead && chunks == 0 && heads as usize == 2 * 30_720);
    let small = Limits { shared_bytes_per_block: 176_000, ..H100 };
    let Shape { ahead, places: [chunks, heads, ..], .. } = shape(HIDDEN, FEED, small).unwrap();
    assert!(!ahead && chunks == 0 && heads as usize == CHUNKS);
}

/// The value of a constant of a kernel's header, where that is written as a number.
fn constant(source: &str, name: &str) -> usize {
    let start =
        source.find(&format!("constexpr int {name} = ")).unwrap_or_else(|| panic!("{name}"));
    let value = source[start..].split_once("= ").unwrap().1;
    value[..value.find(';').unwrap()].parse().unwrap_or_else(|_| panic!("{name} is {value}"))
}

#[test]
fn a_block_has_the_shape_that_the_kernels_assume() {
    let headers = concat!(env!("CARGO_MANIFEST_DIR"), "/../pygpukit-kernels/cuda/common");
    let read = |name: &str| std::fs::read_to_string(format!("{headers}/{name}"));
    // The core's sources alone, as its sdist has them, come without the kernels'.
    let Ok(steps) = read("steps.cuh") else { return };
    let gemv = read("gemv.cuh").unwrap();
    let (norm, reduce) = (read("normalize.cuh").unwrap(), read("reduce.cuh").unwrap());
    assert_eq!(Shape::WARPS, constant(&norm, "NORM_THREADS") / constant(&reduce, "WARP"));
    assert_eq!(Shape::SPAN, constant(&gemv, "SPAN"));
    assert_eq!(Shape::TILE, constant(&gemv, "TILE"));
    assert_eq!(Shape::GROUP, constant(&steps, "GROUP"));
    assert_eq!(Shape::MOST_HEAD_PLACES, constant(&steps, "MOST_HEAD_PLACES"));
    assert_eq!(Shape::STEP_PLACES, constant(&steps, "STEP_PLACES"));
    assert_eq!(size_of::<Step>(), constant(&steps, "STEP_BYTES"));
}
