//! A product of logits that finds the first ones of their rows itself, in the place of argmax_maxima.

use std::ops::Range;

use bytemuck::Pod;

use super::joined::Joined;
use super::linear::{LinearArgs, rows_of_cluster};
use super::sampling::{
    ADVANCE_PARAMETER, AdvanceArgs, ArgmaxArgs, LogprobsArgs, MAXIMA, MaximaArgs, SampleArgs,
};
use crate::cuda::CudaLaunch;
use crate::device::Limits;

/// The launches of an operation that takes the first logits of a row's parts, for what a product has made.
pub(super) struct Choice {
    rows: usize,
    /// How many they are.
    pub(super) launches: usize,
    /// The second one, which does what the third one did, if there is one.
    last: CudaLaunch,
}

impl Choice {
    /// Those that come first in `following`, if they are such; and what moves on to the ids that they choose.
    pub(super) fn of(product: &LinearArgs, following: &[&CudaLaunch]) -> Option<Choice> {
        let [first, last] = following.first_chunk()?;
        if first.function != "argmax_maxima" {
            return None;
        }
        let mut last = (*last).clone();
        let found: MaximaArgs = first.parameters.first()?;
        let rows = product.rows.cast_unsigned();
        let made = (product.out, product.out_stride, product.n);
        let expected = (found.logits, found.logits_stride, found.vocabulary) == made
            && (first.grid[0], last.grid[0]) == (rows, rows)
            && exchange_maxima(&mut last, 0) == Some(found.maxima)
            && product.gated == 0
            && product.residual.data == 0
            && product.scale > 0.0;
        let moves_on = expected && following.get(2).is_some_and(|next| advances(&mut last, next));
        let launches = 2 + usize::from(moves_on);
        expected.then_some(Choice { rows: rows as usize, launches, last })
    }

    /// Whether it doesn't matter which parts there are.
    fn is_argmax(&self) -> bool {
        self.last.function == "argmax_rows"
    }

    /// Bytes of the memory that the product leaves the maxima in, at first zeros.
    pub(super) fn bytes(&self) -> usize {
        self.rows * MAXIMA * size_of::<u64>()
    }

    /// The launch that is left of them, with that memory at `maxima`.
    pub(super) fn launch(&self, maxima: u64) -> CudaLaunch {
        let mut launch = self.last.clone();
        exchange_maxima(&mut launch, maxima);
        launch
    }
}

/// Gives a launch that takes maxima others; returns where it had them from, None if it isn't such.
fn exchange_maxima(launch: &mut CudaLaunch, maxima: u64) -> Option<u64> {
    fn exchange<T: Pod>(
        launch: &mut CudaLaunch,
        maxima: u64,
        field: fn(&mut T) -> &mut u64,
    ) -> Option<u64> {
        let mut arguments: T = launch.parameters.first()?;
        let before = std::mem::replace(field(&mut arguments), maxima);
        launch.parameters.replace(0, arguments);
        Some(before)
    }
    match launch.function {
        "argmax_rows" => exchange(launch, maxima, |a: &mut ArgmaxArgs| &mut a.maxima),
        "sample_rows" => exchange(launch, maxima, |a: &mut SampleArgs| &mut a.maxima),
        "top_logprobs_rows" => exchange(launch, maxima, |a: &mut LogprobsArgs| &mut a.maxima),
        _ => None,
    }
}

/// Whether `launch` moves on to the ids that `choice` chooses, and no more than that: then `choice` does.
fn advances(choice: &mut CudaLaunch, launch: &CudaLaunch) -> bool {
    let ids = match choice.function {
        "argmax_rows" => choice.parameters.first().map(|a: ArgmaxArgs| a.out),
        "sample_rows" => choice.parameters.first().map(|a: SampleArgs| a.out),
        _ => None,
    };
    let rows = choice.grid[0];
    let is_expected = |advance: &AdvanceArgs| {
        launch.function == "step_advance"
            && Some(advance.ids) == ids
            && advance.rows.cast_unsigned() == rows
    };
    let advance = launch.parameters.first().filter(is_expected);
    if let Some(advance) = advance {
        choice.parameters.replace(ADVANCE_PARAMETER, advance);
    }
    advance.is_some()
}

/// A product of several rows with argmax behind it.
pub(super) struct Ranked {
    first: usize,
    product: CudaLaunch,
    choice: Choice,
}

/// The launches from number `first` on as two, if they are such.
pub(super) fn join(first: usize, launches: &[&CudaLaunch]) -> Option<Ranked> {
    let product = launches[first];
    let most_rows = match product.source {
        "linear_few_tma" => u32::MAX,
        // A block leaves one maximum for each row, so its tiles have to be of the same rows.
        "linear_wgmma" => rows_of_cluster(product),
        _ => return None,
    };
    let args: LinearArgs = product.parameters.first()?;
    let choice = Choice::of(&args, &launches[first + 1..])?;
    let expected = choice.is_argmax()
        && args.rows.cast_unsigned() <= most_rows
        && product.grid[0] as usize <= MAXIMA;
    expected.then(|| Ranked { first, product: product.clone(), choice })
}

impl Joined for Ranked {
    fn range(&self) -> Range<usize> {
        self.first..self.first + 1 + self.choice.launches
    }

    fn bytes(&self) -> usize {
        self.choice.bytes()
    }

    fn launches(&self, memory: u64, _limits: &Limits) -> Vec<CudaLaunch> {
        let mut product = self.product.clone();
        let mut arguments: LinearArgs = product.parameters.first().expect("as when it was found");
        arguments.maxima = memory;
        product.parameters.replace(0, arguments);
        vec![product, self.choice.launch(memory)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::operations::tests::{H100, plan, tensor_at};
    use crate::dispatch::ArgValue;
    use crate::dtype::DType;

    /// A product that makes logits, in float32.
    #[derive(Clone, Copy)]
    struct Logits {
        rows: usize,
        vocabulary: usize,
        residual: bool,
        scale: f64,
    }

    const LOGITS: Logits = Logits { rows: 64, vocabulary: 30_000, residual: false, scale: 1.0 };

    impl Logits {
        /// Its launches, and those of what `chooses` from the logits.
        fn launches(self, chooses: &str) -> Vec<CudaLaunch> {
            let Logits { rows, vocabulary, residual, scale } = self;
            let tensor = |address, shape: &[usize], dtype| {
                ArgValue::Tensor(tensor_at(address, shape, dtype))
            };
            let logits = || tensor(0x100_0000, &[rows, vocabulary], DType::F32);
            let mut product = vec![
                tensor(0x1000, &[rows, 512], DType::BF16),
                tensor(0x80_0000, &[vocabulary, 512], DType::BF16),
                ArgValue::None,
            ];
            product.extend([ArgValue::Int(0), ArgValue::None, ArgValue::None]);
            product.extend([ArgValue::Float(0.0), ArgValue::Float(0.0)]);
            product.push(if residual { logits() } else { ArgValue::None });
            product.extend([logits(), ArgValue::Int(0), ArgValue::Int(0), ArgValue::Float(scale)]);
            let of_rows = |dtype| tensor(0x2000, &[rows], dtype);
            let mut choice = vec![logits()];
            if chooses == "sample" {
                let (int, float) = (DType::I32, DType::F32);
                choice.extend([int, float, int, float, float, DType::I64].map(of_rows));
            }
            choice.push(tensor(0x3000, &[rows], DType::I32));
            let mut launches = plan("linear", &product, H100).unwrap();
            launches.extend(plan(chooses, &choice, H100).unwrap());
            launches
        }
    }

    fn joined(launches: &[CudaLaunch]) -> Option<Ranked> {
        join(0, &launches.iter().collect::<Vec<_>>())
    }

    #[test]
    fn a_product_finds_the_first_logits() {
        for (rows, function) in [
            (2, "linear_few_tma_8"),
            (32, "linear_few_tma_32"),
            (64, "linear_wgmma_64x32"),
            (256, "linear_wgmma_128x160"),
        ] {
            let joined = joined(&Logits { rows, ..LOGITS }.launches("argmax")).unwrap();
            assert_eq!((joined.range(), joined.bytes()), (0..3, rows * 8192));
            let [product, argmax] = joined.launches(0x7000, &H100).try_into().unwrap();
            assert_eq!((product.function, argmax.function), (function, "argmax_rows"));
            assert_eq!(argmax.delivers, Some(0x3000..0x3000 + 4 * rows));
            let [linear, argmax] = [&product, &argmax].map(|launch| launch.parameters.bytes());
            let maxima = std::mem::offset_of!(LinearArgs, maxima);
            assert_eq!(linear[maxima..][..8], 0x7000u64.to_le_bytes());
            assert_eq!(argmax[8..16], 0x7000u64.to_le_bytes());
        }
    }

    #[test]
    fn a_choice_moves_on_to_its_ids() {
        for (rows, chooses) in [(64, "argmax"), (1, "sample")] {
            let advance = |ids, of: usize| {
                let ints = |address, shape: &[usize]| tensor_at(address, shape, DType::I32);
                let args = [ints(ids, &[of]), ints(0x4000, &[of]), ints(0x5000, &[of])];
                let history = ints(0x8000, &[of, 16]);
                let args = args.into_iter().chain([history]).map(ArgValue::Tensor);
                plan("advance", &args.collect::<Vec<_>>(), H100).unwrap().remove(0)
            };
            let [product, choice @ ..] = &Logits { rows, ..LOGITS }.launches(chooses)[..] else {
                panic!("a product and a choice");
            };
            let product = product.parameters.first().unwrap();
            let choose = |advance: &CudaLaunch| {
                Choice::of(&product, &[&choice[0], &choice[1], advance]).unwrap()
            };
            let moving = advance(0x3000, rows);
            let joined = choose(&moving);
            assert_eq!(joined.launches, 3);
            let moved_on = |choice: &Choice| {
                let parameters = choice.last.parameters.launch_parameters();
                parameters.bytes[parameters.starts[ADVANCE_PARAMETER]..][..48].to_vec()
            };
            assert_eq!(moved_on(&joined), moving.parameters.bytes());
            // To other ids, or to some of them only.
            for other in [advance(0x3100, rows), advance(0x3000, rows + 1)] {
                let apart = choose(&other);
                assert_eq!((apart.launches, moved_on(&apart)), (2, vec![0; 48]));
            }
        }
    }

    #[test]
    fn other_launches_stay() {
        let stays = |logits: Logits, chooses| joined(&logits.launches(chooses)).is_none();
        assert!(!stays(LOGITS, "argmax"));
        // Tiles of several groups of rows; a kernel that doesn't find them; another order of parts; what is
        // ranked isn't what was multiplied, or not by a positive factor.
        assert!(stays(Logits { rows: 300, ..LOGITS }, "argmax"));
        assert!(stays(Logits { rows: 1, ..LOGITS }, "argmax"));
        assert!(stays(LOGITS, "sample"));
        assert!(stays(Logits { residual: true, ..LOGITS }, "argmax"));
        assert!(stays(Logits { scale: -1.0, ..LOGITS }, "argmax"));
        // Fewer logits.
        let mut mixed = LOGITS.launches("argmax");
        mixed[1] = Logits { vocabulary: 29_000, ..LOGITS }.launches("argmax")[1].clone();
        assert!(joined(&mixed).is_none());
    }
}
