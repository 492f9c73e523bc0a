//! attention_decode.cu with the work of rope.cu, that rotates heads and appends them to the cache, as a part of
//! its launch.

use std::ops::Range;

use super::attention::SinkArgs;
use super::joined::Joined;
use super::rope::AppendArgs;
use crate::cuda::CudaLaunch;
use crate::device::Limits;

/// Which parameter of attention_decode.cu it is that says what to append.
const PARAMETER: usize = 1;

/// The launch of both.
pub(super) struct Appended {
    first: usize,
    launch: CudaLaunch,
}

/// The two launches from number `first` on as one, if they are such.
///
/// Nothing waits within a launch, so tokens mustn't see each other.
pub(super) fn join(first: usize, launches: &[&CudaLaunch]) -> Option<Appended> {
    let [append, attention] = launches[first..].first_chunk()?;
    let others = ["attention_decode_merge", "attention_decode_pieces"];
    let expected = append.function.starts_with("rope_append_kv")
        && attention.function.starts_with("attention_decode")
        && !others.iter().any(|other| attention.function.starts_with(other));
    if !expected {
        return None;
    }
    let appended: AppendArgs = append.parameters.first()?;
    let SinkArgs { attention: args, alone, .. } = attention.parameters.first()?;
    let joined =
        alone != 0 && append.grid[0] == args.tokens.cast_unsigned() && appended.is_of(&args);
    let mut launch = (*attention).clone();
    launch.overlap &= append.overlap;
    launch.parameters.replace(PARAMETER, appended);
    joined.then_some(Appended { first, launch })
}

impl Joined for Appended {
    fn range(&self) -> Range<usize> {
        self.first..self.first + 2
    }

    fn launches(&self, _memory: u64, _limits: &Limits) -> Vec<CudaLaunch> {
        vec![self.launch.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::operations::tests::{H100, plan, tensor_at};
    use crate::dispatch::ArgValue;
    use crate::dtype::DType;

    const TOKENS: usize = 12;
    const HEADS: usize = 8;
    const KV_HEADS: usize = 2;
    const DIM: usize = 64;

    /// The launches of both operations, attention taking its queries from `queries`.
    fn launches(page_size: usize, alone: i64, queries: usize) -> Vec<CudaLaunch> {
        let tensor =
            |address, shape: &[usize], dtype| ArgValue::Tensor(tensor_at(address, shape, dtype));
        let at = |address, shape: &[usize]| tensor(address, shape, DType::F16);
        let int = |address, shape: &[usize]| tensor(address, shape, DType::I32);
        let cache = [64, KV_HEADS, page_size, DIM];
        let (keys, values) = (at(0x10_0000, &cache), at(0x20_0000, &cache));
        let (positions, sequences) = (int(0x1000, &[TOKENS]), int(0x2000, &[TOKENS]));
        let tables = int(0x3000, &[TOKENS, 4]);
        let norm = || {
            let [none, zero] = [ArgValue::None, ArgValue::Float(0.0)];
            [ArgValue::Int(0), none.clone(), none, zero.clone(), zero]
        };
        let mut append = vec![at(0x5000, &[TOKENS, (HEADS + 2 * KV_HEADS) * DIM]), ArgValue::None];
        append.extend([positions.clone(), sequences.clone(), tables.clone()]);
        append.extend([keys.clone(), values.clone()]);
        append.extend(norm());
        append.extend(norm());
        append.push(at(0x4000, &[TOKENS, HEADS, DIM]));
        append.extend([ArgValue::Int(HEADS as i64), ArgValue::Int(0)]);
        let mut attention = vec![at(queries, &[TOKENS, HEADS, DIM]), keys, values];
        attention.extend([tables, positions, sequences]);
        attention.push(at(0x8000, &[TOKENS, HEADS * DIM]));
        attention.extend([ArgValue::Float(0.125), ArgValue::Int(0), ArgValue::Float(0.0)]);
        attention.extend([ArgValue::None, ArgValue::Int(alone)]);
        let mut launches = plan("append_kv", &append, H100).unwrap();
        launches.extend(plan("attention", &attention, H100).unwrap());
        launches
    }

    fn joined(launches: &[CudaLaunch]) -> Option<CudaLaunch> {
        let joined = join(0, &launches.iter().collect::<Vec<_>>())?;
        joined.launches(0, &H100).pop()
    }

    #[test]
    fn tokens_that_stand_alone_are_appended_by_attention() {
        let mut launches = launches(64, TOKENS as i64, 0x4000);
        let launch = joined(&launches).unwrap();
        assert_eq!((launch.function, launch.grid), (launches[1].function, launches[1].grid));
        let appended: AppendArgs = launches[0].parameters.first().unwrap();
        let bytes = launch.parameters.bytes();
        assert!(bytes.ends_with(bytemuck::bytes_of(&appended)));
        assert!(launch.overlap);
        // The caches are written to by another operation of the graph, too.
        launches[0].overlap = false;
        assert!(!joined(&launches).unwrap().overlap);
    }

    #[test]
    fn other_launches_stay() {
        assert!(joined(&launches(64, -1, 0x4000)).is_none());
        assert!(joined(&launches(64, TOKENS as i64 - 1, 0x4000)).is_none());
        assert!(joined(&launches(64, TOKENS as i64, 0x6000)).is_none());
        assert!(joined(&launches(16, TOKENS as i64, 0x4000)).is_none());
    }
}
