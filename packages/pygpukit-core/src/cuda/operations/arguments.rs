//! Arguments of entry points: structs laid out as in the device code, and how they are filled.

use std::ops::Range;

use bytemuck::{NoUninit, Pod, Zeroable};

use crate::cuda::{CudaLaunch, Parameters, TensorMap, TensorMapDimension};
use crate::dispatch::{KernelArgs, TensorArg};
use crate::dtype::DType;

/// The name of an entry point that there is for several dtypes.
macro_rules! entry {
    ($name:literal, $dtype:expr) => {
        match $dtype {
            $crate::dtype::DType::F32 => concat!($name, "_f32"),
            $crate::dtype::DType::F16 => concat!($name, "_f16"),
            $crate::dtype::DType::BF16 => concat!($name, "_bf16"),
            other => unreachable!("the signature admits no {other}"),
        }
    };
}
pub(super) use entry;

/// A launch of blocks with threads in one dimension.
pub(super) fn launch(
    source: &'static str,
    function: &'static str,
    grid: [usize; 3],
    threads: usize,
    shared_bytes: usize,
    arguments: impl NoUninit,
) -> CudaLaunch {
    CudaLaunch {
        source,
        function,
        grid: grid.map(|blocks| u32::try_from(blocks).expect("checked: dimensions fit i32")),
        block: [threads as u32, 1, 1],
        cluster: [1, 1, 1],
        shared_bytes: shared_bytes as u32,
        overlap: true,
        reads_early: Vec::new(),
        holds_back: false,
        delivers: None,
        parameters: Parameters::new().value(arguments),
    }
}

/// Elements of 16 bits in a row of a box that the copy engine brings: 128 bytes.
pub(super) const PANEL: usize = 64;

/// Matrices one below the other whose rows are `stride` elements apart, in boxes of 64 elements of
/// `box_rows` rows, as linear_wgmma.cu has them: (columns, rows, parts, 1); or, where a box is to have
/// several `panels` of 64 columns, (64, rows, parts, columns / 64).
pub(super) fn matrix_map(
    address: u64,
    dtype: DType,
    [parts, rows, columns]: [usize; 3],
    stride: i64,
    [box_parts, box_rows, panels]: [usize; 3],
) -> TensorMap {
    let stride = stride as usize;
    let dimension = |size, stride, box_size| TensorMapDimension {
        size,
        stride,
        box_size: u32::try_from(box_size).expect("boxes are small"),
    };
    let [first, last] = if panels == 1 {
        [dimension(columns, 1, PANEL), dimension(1, PANEL, 1)]
    } else {
        [dimension(PANEL, 1, PANEL), dimension(columns / PANEL, PANEL, panels)]
    };
    let [row, part] =
        [dimension(rows, stride, box_rows), dimension(parts, rows * stride, box_parts)];
    TensorMap { address, dtype, dimensions: vec![first, row, part, last] }
}

/// A cache of keys or values, in boxes of 64 rows of 64 elements of a head of a page.
pub(super) fn cache_map(cache: &TensorArg) -> TensorMap {
    let boxes = [PANEL as u32, 64, 1, 1].into_iter();
    let dimensions = boxes
        .zip([3, 2, 1, 0])
        .map(|(box_size, axis)| TensorMapDimension {
            size: cache.shape[axis],
            stride: cache.strides[axis],
            box_size,
        })
        .collect();
    TensorMap { address: address(cache), dtype: cache.dtype, dimensions }
}

/// A dimension or a number of elements as kernels take it.
pub(super) fn int(value: usize) -> i32 {
    i32::try_from(value).expect("checked: dimensions fit i32")
}

/// The address of a tensor's first element; 0 for none.
pub(super) fn address<'a>(tensor: impl Into<Option<&'a TensorArg>>) -> u64 {
    tensor.into().map_or(0, |tensor| tensor.data.addr() as u64)
}

/// Elements from one index of dimension `axis` to the next; 0 for no tensor.
pub(super) fn stride<'a>(tensor: impl Into<Option<&'a TensorArg>>, axis: usize) -> i64 {
    tensor.into().map_or(0, |tensor| tensor.strides[axis] as i64)
}

/// Whether all rows of a tensor of 16 bits begin at multiples of 16 bytes.
pub(super) fn is_aligned(tensor: &TensorArg) -> bool {
    let outer = &tensor.strides[..tensor.strides.len() - 1];
    tensor.data.addr().is_multiple_of(16) && outer.iter().all(|stride| stride.is_multiple_of(8))
}

/// Bytes of an element of a type that kernels compute with.
pub(super) fn element_bytes(dtype: DType) -> usize {
    if dtype == DType::F32 { 4 } else { 2 }
}

/// `enum DType` of common/types.cuh.
pub(super) fn number(dtype: DType) -> i32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::BF16 => 2,
        other => unreachable!("the signature admits no {other}"),
    }
}

/// `Floats` of common/memory.cuh.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Floats {
    pub(super) data: u64,
    pub(super) dtype: i32,
    padding: i32,
}

impl Floats {
    pub(super) fn of(tensor: Option<&TensorArg>) -> Floats {
        tensor.map_or(Floats::zeroed(), |tensor| Floats {
            data: address(tensor),
            dtype: number(tensor.dtype),
            padding: 0,
        })
    }

    /// Where its first `length` elements lie.
    fn addresses(&self, length: usize) -> Range<usize> {
        let (start, element) = (self.data as usize, if self.dtype == 0 { 4 } else { 2 });
        start..start + element * length
    }
}

/// `NormArgs` of common/normalize.cuh.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Norm {
    pub(super) weight: Floats,
    pub(super) bias: Floats,
    /// 0 none, [`Norm::RMS`] or [`Norm::LAYER`].
    pub(super) kind: i32,
    pub(super) eps: f32,
    pub(super) offset: f32,
    pub(super) padding: i32,
}

impl Norm {
    pub(super) const RMS: i32 = 1;
    pub(super) const LAYER: i32 = 2;
    /// Elements that a block normalises at a time: eight of each of its threads.
    const AT_A_TIME: usize = 1024;

    /// The groups of eight elements that each thread has of a row of `length`, which it can keep in registers.
    /// None where the norm isn't plain, or the last group isn't whole.
    pub(super) fn short_groups(&self, length: usize) -> Option<usize> {
        (self.is_plain() && length.is_multiple_of(8)).then(|| length.div_ceil(Self::AT_A_TIME))
    }

    /// `NormArgs::is_plain` of common/normalize.cuh.
    fn is_plain(&self) -> bool {
        let Floats { data, dtype, .. } = self.weight;
        let has_float32 = data != 0 && data.is_multiple_of(16) && dtype == number(DType::F32);
        self.kind == Self::RMS && has_float32 && self.bias.data == 0
    }

    /// Bytes of its weight and bias, of `length` elements each, in whole groups of 16.
    pub(super) fn vector_bytes(&self, length: usize) -> usize {
        self.vectors(length).iter().map(|vector| vector.len().next_multiple_of(16)).sum()
    }

    /// Where its weight and bias lie, of `length` elements each.
    pub(super) fn vectors(&self, length: usize) -> Vec<Range<usize>> {
        let vectors = [&self.weight, &self.bias].into_iter();
        let given = vectors.filter(|vector| self.kind != 0 && vector.data != 0);
        given.map(|vector| vector.addresses(length)).collect()
    }
}

/// `Table` of rows.cu.
#[derive(Clone, Copy, NoUninit, Zeroable)]
#[repr(C)]
pub(super) struct Table {
    first: Floats,
    stride: i64,
    count: i32,
    padding: i32,
}

impl Table {
    pub(super) fn of(tensor: Option<&TensorArg>) -> Table {
        tensor.map_or(Table::zeroed(), |tensor| Table {
            first: Floats::of(Some(tensor)),
            stride: stride(tensor, 0),
            count: int(tensor.shape[0]),
            padding: 0,
        })
    }
}

/// `Output` of rows.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
pub(super) struct Output {
    data: u64,
    stride: i64,
    dtype: i32,
    length: i32,
}

impl Output {
    pub(super) fn of(tensor: &TensorArg) -> Output {
        Output {
            data: address(tensor),
            stride: stride(tensor, 0),
            dtype: number(tensor.dtype),
            length: int(tensor.shape[1]),
        }
    }
}

/// `Pages` of common/pages.cuh.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Pages {
    tables: u64,
    table_stride: i64,
    sequences: i32,
    columns: i32,
    page_size: i32,
    pages: i32,
}

impl Pages {
    pub(super) fn of(tables: &TensorArg, cache: &TensorArg) -> Pages {
        Pages {
            tables: address(tables),
            table_stride: stride(tables, 0),
            sequences: int(tables.shape[0]),
            columns: int(tables.shape[1]),
            page_size: int(cache.shape[2]),
            pages: int(cache.shape[0]),
        }
    }
}

/// `CacheStrides` of common/pages.cuh.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct CacheStrides([i64; 3]);

impl CacheStrides {
    pub(super) fn of(cache: &TensorArg) -> CacheStrides {
        CacheStrides([0, 1, 2].map(|axis| stride(cache, axis)))
    }

    /// Whether the rows of a page, of `dim` elements, lie one after the other.
    pub(super) fn are_packed(&self, dim: i32) -> bool {
        self.0[2] == i64::from(dim)
    }
}

/// Reads the arguments of a launch one after the other, in the order of the signature.
pub(super) struct Reader<'a> {
    args: &'a KernelArgs<'a>,
    next: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(args: &'a KernelArgs<'a>) -> Reader<'a> {
        Reader { args, next: 0 }
    }

    fn advance(&mut self) -> usize {
        self.next += 1;
        self.next - 1
    }

    pub(super) fn tensor(&mut self) -> &'a TensorArg {
        let index = self.advance();
        self.args.tensor(index)
    }

    pub(super) fn optional(&mut self) -> Option<&'a TensorArg> {
        let index = self.advance();
        self.args.optional(index)
    }

    /// A whole number that the check has found small.
    pub(super) fn int(&mut self) -> i32 {
        let index = self.advance();
        i32::try_from(self.args.int(index)).unwrap_or(i32::MAX)
    }

    pub(super) fn float(&mut self) -> f32 {
        let index = self.advance();
        self.args.float(index) as f32
    }

    /// The five arguments of a norm.
    pub(super) fn norm(&mut self) -> Norm {
        Norm {
            kind: self.int(),
            weight: Floats::of(self.optional()),
            bias: Floats::of(self.optional()),
            eps: self.float(),
            offset: self.float(),
            padding: 0,
        }
    }
}

/// How many blocks, `most` at most, share so many tiles: each takes as many, so that they end together.
pub(super) fn share_tiles(tiles: usize, most: usize) -> usize {
    tiles.div_ceil(tiles.div_ceil(most))
}
