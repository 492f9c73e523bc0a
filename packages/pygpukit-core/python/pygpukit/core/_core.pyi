from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from os import PathLike
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import Any, ClassVar, Self, TypeAlias, TypeVar, final, overload

import numpy as np
import numpy.typing as npt

__all__ = [
    "AsyncEngine",
    "Device",
    "DeviceError",
    "DeviceInfo",
    "DispatchStats",
    "Event",
    "Fetch",
    "Graph",
    "GraphNode",
    "KernelDispatchController",
    "KernelError",
    "Latencies",
    "LaunchError",
    "LoadError",
    "MemoryPool",
    "Metadata",
    "MissingFileError",
    "OutOfMemoryError",
    "PoolStats",
    "PygpukitError",
    "QueueFullError",
    "RequestRefusedError",
    "Scheduler",
    "SchedulerConfig",
    "SchedulerShare",
    "SchedulerStats",
    "SimulationReport",
    "StepPlan",
    "StepRow",
    "Tensor",
    "TensorMap",
    "TensorView",
    "TransferError",
    "TransferStats",
    "UnknownTensorError",
    "__version__",
    "load_gguf",
    "load_safetensors",
    "load_tensors",
    "register_kernel_images",
    "simulate",
]

__version__: str

_T = TypeVar("_T")
_Array: TypeAlias = npt.NDArray[Any]
_Device: TypeAlias = Device | str
_DType: TypeAlias = npt.DTypeLike
_Path: TypeAlias = str | PathLike[str]
_Shape: TypeAlias = int | Sequence[int]
_Number: TypeAlias = int | float | np.number[Any]

class PygpukitError(Exception):
    """Base of the errors of pygpukit."""

class DeviceError(PygpukitError, RuntimeError):
    """A device isn't known, or can't be used here."""

class OutOfMemoryError(PygpukitError, MemoryError):
    """Neither the pool nor the device has the memory.

    Attributes:
        needed: Bytes of the block that was needed.
        free: Bytes that could be had.
        held: Bytes that the pool holds, in use or ready for reuse.
    """

    needed: int
    free: int
    held: int

class TransferError(PygpukitError, ValueError):
    """A copy between host and device was refused."""

class LaunchError(PygpukitError, ValueError):
    """A launch was refused before it ran: unknown kernel, or arguments that don't fit."""

class KernelError(PygpukitError, RuntimeError):
    """A kernel broke while it ran, or couldn't be launched; what it was to write is unspecified."""

class LoadError(PygpukitError, ValueError):
    """A weight file was refused, or a tensor in it."""

class MissingFileError(LoadError, FileNotFoundError):
    """A weight file, or a shard of a checkpoint, isn't there."""

class RequestRefusedError(PygpukitError, ValueError):
    """A scheduler can't take a request."""

class QueueFullError(RequestRefusedError, RuntimeError):
    """As many requests are waiting as may; later there may be room."""

class UnknownTensorError(LoadError, KeyError):
    """A checkpoint holds no tensor of that name."""

def load_safetensors(path: _Path, *, mmap: bool = True) -> TensorMap:
    """The tensors of a safetensors checkpoint, by name.

    Files are mapped and only their headers are read: the size of a checkpoint doesn't matter.

    Args:
        path: A `.safetensors` file, the `*.index.json` of a sharded checkpoint, or a folder. In a
            folder `model.safetensors.index.json` comes before `model.safetensors`, and that before
            the only file of another name. With an index only what it names is loaded.
        mmap: Whether to map the files, which then must not be changed while they are in use.
            Otherwise they are read into memory.

    Raises:
        MissingFileError: The file, or shards that the index names, aren't there.
        LoadError: Something is malformed or ambiguous; the message names file and tensor.
    """

def load_gguf(path: _Path, *, mmap: bool = True) -> TensorMap:
    """The tensors of a GGUF file (version 2 or 3, little-endian), by name, with its metadata.

    Shapes are row-major: the reverse of ggml's dimensions. A model that gguf-split has cut into
    several files (`NAME-00001-of-00003.gguf`) is opened as one, with the first part's metadata.

    Args:
        path: The file, or any part of a split model.
        mmap: As for `load_safetensors`.

    Raises:
        MissingFileError: The file isn't there.
        LoadError: It is malformed or of an unsupported kind; the message names file and tensor.
    """

def load_tensors(path: _Path, *, mmap: bool = True) -> TensorMap:
    """The tensors at a path, by name, whatever the format.

    Args:
        path: A safetensors or GGUF file (told apart by their first bytes), an `*.index.json`, or a
            folder that holds one of them (safetensors first).
        mmap: As for `load_safetensors`.

    Raises:
        MissingFileError: The file, or shards that an index names, aren't there.
        LoadError: Something is malformed, ambiguous or of no known format.
    """

def register_kernel_images(folder: _Path, /) -> None:
    """Makes a folder of compiled CUDA kernels known; pygpukit.kernels does so when it is imported.

    The files are called `<source>.sm_<N>.cubin` and `<source>.compute_<N>.ptx`. One is read when a
    kernel in it is first launched. Of two folders with files of one source the one registered last
    is used.

    Args:
        folder: The folder.

    Raises:
        DeviceError: The folder can't be read.
    """

@final
class TensorMap(Mapping[str, TensorView]):
    """The tensors of a checkpoint, by name: a read-only mapping of str to TensorView.

    They come in the order in which they lie in the files. A name that isn't there raises
    UnknownTensorError, which is a KeyError and says which names are close.
    """

    def __getitem__(self, name: str, /) -> TensorView: ...
    def __contains__(self, name: object, /) -> bool: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[str]: ...
    @overload
    def get(self, name: str, default: None = None) -> TensorView | None:
        """The tensor of that name, or `default`."""
    @overload
    def get(self, name: str, default: _T) -> TensorView | _T: ...
    def keys(self) -> KeysView[str]:
        """The names, as a set-like view."""
    def values(self) -> ValuesView[TensorView]:
        """The tensors, as a view."""
    def items(self) -> ItemsView[str, TensorView]:
        """The (name, tensor) pairs, as a set-like view."""
    @property
    def metadata(self) -> Metadata:
        """What the files say about themselves, by key.

        Of several files the first that has a key is heard.
        """
    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as stored."""
    @property
    def files(self) -> list[Path]:
        """The files that hold the tensors."""
    @property
    def path(self) -> Path:
        """What was loaded: a file, or the index of several."""

@final
class Metadata(Mapping[str, Any]):
    """The metadata of a checkpoint: a read-only mapping of str to plain Python values.

    Values are int, float, bool, str or (nested) lists of them; safetensors files hold strings only.
    Each is converted when it is asked for.
    """

    def __getitem__(self, key: str, /) -> Any: ...
    def __contains__(self, key: object, /) -> bool: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[str]: ...
    def get(self, key: str, default: Any = None) -> Any:
        """The value of that key, or `default`."""
    def keys(self) -> KeysView[str]:
        """The keys, as a set-like view."""
    def values(self) -> ValuesView[Any]:
        """The values, as a view."""
    def items(self) -> ItemsView[str, Any]:
        """The (key, value) pairs, as a set-like view."""

@final
class TensorView:
    """A tensor in a weight file: a name, a dtype, a shape and a byte range, nothing read yet.

    Rows (`view[start:stop]`, along the first dimension), conversions, transpositions and
    permutations are views too. They compose, and are carried out only when the elements are asked
    for: by `numpy()`, by DLPack, or by `Tensor.from_safetensor`, which fills a tensor beside the
    calling thread. A view keeps its file open. What the tensor doesn't allow raises LoadError,
    naming the file and the tensor.
    """

    @property
    def name(self) -> str:
        """The tensor's name in its file."""
    @property
    def dtype(self) -> str:
        """The name of the elements' type, after any conversion, e.g. "bfloat16" or "q4_0".

        A type that can't be read, e.g. "q6_k", has a name all the same.
        """
    @property
    def shape(self) -> tuple[int, ...]:
        """Elements in each dimension, the last one varying fastest."""
    @property
    def nbytes(self) -> int:
        """Bytes of all elements, after any conversion."""
    @property
    def file(self) -> Path:
        """The file that holds the tensor."""
    @property
    def byte_range(self) -> tuple[int, int]:
        """Where the bytes that the view reads start and end in the file.

        A permuted or transposed view reads all of its tensor's.
        """
    def __getitem__(self, rows: slice[Any, Any, Any], /) -> TensorView: ...
    def cast(self, dtype: _DType) -> TensorView:
        """The elements as another floating-point type, as a view.

        They are rounded to nearest, ties to even; quantised ones are dequantised as ggml does it.

        Args:
            dtype: float64, float32, float16 or bfloat16.

        Raises:
            LoadError: The elements aren't floating-point or quantised numbers, or can't be read.
        """
    def scaled(self, scales: TensorView, block: tuple[int, int]) -> TensorView:
        """A matrix as float32, each element times the scale of its block, as a view.

        That is how FP8 checkpoints are stored.

        Args:
            scales: One floating-point number for each block, row by row, in whatever shape.
            block: Rows and columns of a block; blocks at the edges may be cut.

        Raises:
            LoadError: It isn't a matrix, the number of scales is another, or either can't be read.
        """
    def mxfp4(self, scales: TensorView) -> TensorView:
        """Blocks of MXFP4, (…, n, 16) uint8 with two elements a byte, as float32 of (…, 32 n).

        That is how gpt-oss is stored. The numbers are exact in bfloat16, too.

        Args:
            scales: (…, n) uint8: the exponents of the blocks, 127 for 1.

        Raises:
            LoadError: The shapes or types are others, or either can't be read.
        """
    def transpose(self) -> TensorView:
        """The transpose of a matrix.

        Raises:
            LoadError: It isn't a matrix, or its elements are quantised: cast them first.
        """
    def permute_rows(self, indices: Iterable[int]) -> TensorView:
        """The rows along the first dimension in another order.

        Args:
            indices: Row `i` of the result is row `indices[i]` of this view. Rows may be left out or
                repeated.

        Raises:
            LoadError: There is no such row.
        """
    @overload
    def reshape(self, shape: Sequence[int], /) -> TensorView:
        """The same elements in another shape, of which one length may be -1.

        Raises:
            LoadError: The number of elements differs, or quantised blocks would be cut.
        """
    @overload
    def reshape(self, *shape: int) -> TensorView: ...
    def release(self) -> None:
        """Lets go of the memory that holds this tensor's part of a mapped file.

        That is for a tensor that was copied elsewhere. Arrays made of it stay valid: what is
        touched again is read again.
        """
    def numpy(self) -> _Array:
        """The elements as a NumPy array of this view's shape and dtype.

        Where they lie in the file as they are, the array is read-only, shares the file's memory and
        keeps it open. Otherwise they are computed into a new array.

        Raises:
            TypeError: The elements are quantised: `cast` them first.
            ImportError: The dtype is one of ml_dtypes (bfloat16, float8), and that isn't installed.
            LoadError: The file's type can't be read.
        """
    def raw(self) -> npt.NDArray[np.uint8]:
        """The bytes of the file that the view reads, as a read-only uint8 array of shape (n,).

        They are `byte_range` of the file, shared without a copy, and also there for types that
        can't be read.
        """
    def __array__(self, dtype: _DType | None = None, *, copy: bool | None = None) -> _Array: ...
    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

@final
class Device:
    """A device that tensors live on and kernels run on.

    It has a default pool, an engine and a controller. Devices of the same name are equal.

    Args:
        name: "cpu"; "cuda:N" for the NVIDIA GPU of that number; "cuda" for the first GPU that can
            be used; "auto" for that, or for the CPU where there is none.

    Raises:
        DeviceError: The name isn't known, or the device can't be used here: the message says what
            is missing and what to do.
    """

    def __new__(cls, name: _Device) -> Self: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    @property
    def name(self) -> str:
        """The name: "cpu" or "cuda:N"."""
    def info(self) -> DeviceInfo:
        """What the device is, as of now."""
    @property
    def pool(self) -> MemoryPool:
        """The pool that tensors come from unless another is given; it has no quota at first."""
    @property
    def engine(self) -> AsyncEngine:
        """The engine that copies to and from the device."""
    @property
    def controller(self) -> KernelDispatchController:
        """The controller that launches on the device."""

@final
class DeviceInfo:
    """What a device is, as of the moment that it was asked."""

    @property
    def name(self) -> str:
        """The model name, as the hardware reports it."""
    @property
    def cores(self) -> int:
        """Logical cores that this process may use; multiprocessors of a GPU."""
    @property
    def total_memory(self) -> int:
        """Bytes of memory that there are, or that this process may use where that is less."""
    @property
    def available_memory(self) -> int:
        """Bytes of memory that could be allocated."""
    @property
    def compute_capability(self) -> tuple[int, int] | None:
        """The compute capability of a GPU, e.g. (9, 0); else None."""
    @property
    def cuda_version(self) -> tuple[int, int] | None:
        """The CUDA version that a GPU's driver supports, e.g. (13, 0); else None."""

@final
class Event:
    """The end of a copy that runs beside the calling thread, to be waited for."""

    @property
    def ready(self) -> bool:
        """Whether the copy has ended, well or badly."""
    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end of the copy. Ctrl-C interrupts it.

        Args:
            timeout: The most seconds to wait.

        Returns:
            Whether the copy has ended.

        Raises:
            PygpukitError: What went wrong with the copy, e.g. LoadError when a file couldn't be
                read.
        """

@final
class MemoryPool:
    """A pool of device memory.

    Tensors take blocks of it, which are at most an eighth, or a page, larger than the tensor. Freed
    blocks are kept for reuse; they go back to the device by `trim()`, or by themselves when an
    allocation would otherwise break the quota or exhaust the device. An allocation that can't be
    served raises OutOfMemoryError and takes nothing. Threads may share a pool.

    Args:
        device: The device whose memory it is.
        quota: The most bytes that it may hold, or None for what the device has.
    """

    def __new__(cls, device: _Device = "cpu", *, quota: int | None = None) -> Self: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    @property
    def device(self) -> Device:
        """The device whose memory it is."""
    @property
    def quota(self) -> int | None:
        """The most bytes that the pool may hold, or None for what the device has.

        Lowering it gives free blocks back, never live ones.
        """
    @quota.setter
    def quota(self, quota: int | None) -> None: ...
    def stats(self) -> PoolStats:
        """The counters, as of now."""
    def trim(self) -> int:
        """Gives every free block back to the device. Returns how many bytes that were."""

@final
class PoolStats:
    """Counters of a pool; sizes are bytes of whole blocks."""

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __eq__(self, other: object, /) -> bool: ...
    @property
    def in_use(self) -> int:
        """Bytes in live blocks."""
    @property
    def held(self) -> int:
        """Bytes in live blocks and in free ones kept for reuse."""
    @property
    def peak(self) -> int:
        """The most bytes that were ever in use."""
    @property
    def allocations(self) -> int:
        """Blocks handed out so far."""
    @property
    def reuses(self) -> int:
        """Blocks handed out that had been used before."""
    @property
    def live_blocks(self) -> int:
        """Blocks in use now."""

@final
class Tensor:
    """An array in device memory: dtype, shape and strides over memory of a pool.

    Make one with `empty`, `zeros`, `from_numpy`, `from_dlpack` or `from_safetensor`. Indexing (with
    whole numbers, slices of a positive step and `...`), `narrow` and `reshape` give views of the
    same elements; the memory is freed with the last of them. Launches and host access wait for the
    copies that fill a tensor. Two tensors are equal only if they are the same object.
    """

    @staticmethod
    def empty(
        shape: _Shape,
        dtype: _DType,
        *,
        device: _Device | None = None,
        pool: MemoryPool | None = None,
    ) -> Tensor:
        """A tensor whose elements are whatever its memory held.

        Args:
            shape: Elements in each dimension.
            dtype: The elements' type, by name or as a NumPy dtype.
            device: Where it lives: "cpu" unless the pool says otherwise.
            pool: Where its memory comes from: the device's default pool if not given.

        Raises:
            OutOfMemoryError: Neither the pool nor the device has the memory.
            ValueError: There is no such shape or dtype.
        """
    @staticmethod
    def zeros(
        shape: _Shape,
        dtype: _DType,
        *,
        device: _Device | None = None,
        pool: MemoryPool | None = None,
    ) -> Tensor:
        """A tensor of zeros, with the arguments and errors of `empty`."""
    @staticmethod
    def from_numpy(
        array: npt.ArrayLike,
        dtype: _DType | None = None,
        *,
        device: _Device | None = None,
        pool: MemoryPool | None = None,
    ) -> Tensor:
        """A copy of an array, or of anything that NumPy makes one of.

        What has the buffer protocol, such as `array.array`, is copied without importing NumPy.

        Args:
            array: The elements.
            dtype: The type to convert them to; between floating-point types rounded to nearest
                even, which needs no ml_dtypes.
            device: As for `empty`.
            pool: As for `empty`.

        Raises:
            OutOfMemoryError: Neither the pool nor the device has the memory.
            TypeError: The elements are of a type that a tensor can't have.
        """
    @staticmethod
    def from_dlpack(array: Any, /, *, pool: MemoryPool | None = None) -> Tensor:
        """A tensor over the memory of an array that speaks DLPack, such as NumPy's and PyTorch's.

        Nothing is copied: either sees what is written to the other.

        Args:
            array: The array, in host memory or on a GPU.
            pool: Where results computed from the tensor go: the device's default pool if not given.

        Raises:
            BufferError: The array is read-only, isn't aligned, or is on another device than the
                pool or on one of another kind, or its dtype or strides are such as a tensor can't
                have.
            DeviceError: The array is on a GPU that can't be used.
        """
    @staticmethod
    def from_cuda_array_interface(array: Any, /, *, pool: MemoryPool | None = None) -> Tensor:
        """A tensor over the memory of an array on a GPU with the CUDA array interface.

        CuPy's and Numba's have it. Nothing is copied: either sees what is written to the other.

        Args:
            array: The array.
            pool: As for `from_dlpack`.

        Raises:
            BufferError: The array is read-only or masked, is on another device than the pool, or
                its dtype or strides are such as a tensor can't have.
            DeviceError: The array is on a GPU that can't be used.
            TypeError: The array doesn't have the interface.
        """
    @staticmethod
    def from_safetensor(
        view: TensorView,
        /,
        *,
        dtype: _DType | None = None,
        device: _Device | None = None,
        pool: MemoryPool | None = None,
    ) -> Tensor:
        """A new tensor with the elements of a tensor in a weight file, of any format.

        They are being read when this returns; launches and host access wait for them.

        Args:
            view: The tensor in the file.
            dtype: The type to convert the elements to, as by `TensorView.cast`.
            device: As for `empty`.
            pool: As for `empty`.

        Raises:
            LoadError: The file's type can't be read or converted.
            OutOfMemoryError: Neither the pool nor the device has the memory.
        """
    def copy_(self, source: Tensor | TensorView | npt.ArrayLike, /) -> Self:
        """Replaces all elements, and returns the tensor itself.

        Args:
            source: A tensor of the same dtype and shape; or an array, or a tensor in a weight file,
                of the same shape, whose elements are converted. The latter is read beside the
                calling thread; launches and host access wait for it.

        Raises:
            ValueError: The shape differs, or the dtype of a tensor.
        """
    @property
    def shape(self) -> tuple[int, ...]:
        """Elements in each dimension, the last one varying fastest."""
    @property
    def strides(self) -> tuple[int, ...]:
        """Elements from one index to the next in each dimension."""
    @property
    def dtype(self) -> str:
        """The name of the elements' type, e.g. "float32"."""
    @property
    def ndim(self) -> int:
        """The number of dimensions."""
    @property
    def size(self) -> int:
        """Elements in all."""
    @property
    def nbytes(self) -> int:
        """Bytes of all elements, gaps between them not counted."""
    @property
    def device(self) -> Device:
        """The device that it lives on."""
    @property
    def pool(self) -> MemoryPool:
        """The pool that it came from and that results computed from it go to."""
    @property
    def data_ptr(self) -> int:
        """The address of the first element, on its device; no copy is waited for."""
    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
    @property
    def ready(self) -> bool:
        """Whether no copy into the tensor is under way."""
    def wait(self) -> None:
        """Waits for the copies that fill the tensor. Ctrl-C interrupts it.

        Raises:
            PygpukitError: What went wrong with a copy, e.g. LoadError when a file couldn't be read.
        """
    @overload
    def reshape(self, shape: Sequence[int], /) -> Tensor:
        """The same elements in another shape, of which one length may be -1, as a view.

        Raises:
            ValueError: The number of elements differs, or they aren't contiguous.
        """
    @overload
    def reshape(self, *shape: int) -> Tensor: ...
    def narrow(self, dim: int, start: int, length: int) -> Tensor:
        """Elements `start` to `start + length` of dimension `dim`, as a view.

        Raises:
            IndexError: There is no such dimension.
            ValueError: There are no such elements.
        """
    def numpy(self, dtype: _DType | None = None, *, copy: bool = True) -> _Array:
        """The elements as a NumPy array.

        Args:
            dtype: The type to convert them to. Quantised elements need one, e.g. "float32": they
                are dequantised as ggml does it.
            copy: Whether to copy them. Otherwise the array is the tensor's own memory, where a
                later launch that writes the tensor changes the array.

        Raises:
            TypeError: Elements are quantised and no dtype was given.
            ImportError: The dtype is one of ml_dtypes (bfloat16, float8), and that isn't installed.
            ValueError: `copy=False`, and the dtype differs or the tensor is on a GPU.
            KernelError: A kernel that was launched before broke.
        """
    def item(self) -> Any:
        """The one element as a Python number.

        Raises:
            ValueError: There are more elements, or none.
            TypeError: The element is quantised.
        """
    def fetch(self) -> Fetch:
        """Begins to copy the elements to the host, as they are when what was launched has run.

        Launches that come after it don't wait for the host to take them, though they may write the
        tensor: a loop on a GPU can launch its next step before it looks at the last one's result.

        Raises:
            KernelError: A kernel that was launched before broke.
        """
    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers; without dimensions, the number.

        Raises:
            TypeError: The elements are quantised.
        """
    def __getitem__(self, index: _Index | tuple[_Index, ...], /) -> Tensor: ...
    def __len__(self) -> int: ...
    def __array__(self, dtype: _DType | None = None, *, copy: bool | None = None) -> _Array: ...
    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The CUDA array interface, version 3, of a tensor on a GPU."""

_Index: TypeAlias = int | slice[Any, Any, Any] | EllipsisType

@final
class Fetch:
    """Elements of a tensor on their way to the host: from `Tensor.fetch`."""

    def tolist(self) -> Any:
        """Waits for the elements, which can be taken once: nested lists of Python numbers.

        Raises:
            KernelError: A kernel that was launched before broke.
            TypeError: The elements are quantised.
            ValueError: They have been taken.
        """

@final
class AsyncEngine:
    """The copies between the host and one device: `device.engine`.

    Uploads out of weight files run beside the calling thread, any number at once, on a bounded set
    of threads; launches and host access wait for the tensors that they need.
    """

    @property
    def device(self) -> Device:
        """The device that it copies to and from."""
    @property
    def max_threads(self) -> int:
        """The most threads that fill tensors at a time."""
    def upload(self, source: TensorView, tensor: Tensor, /) -> Event:
        """Starts filling a tensor with the elements of a tensor in a weight file.

        Args:
            source: The tensor in the file; its elements are converted to the dtype of `tensor`.
            tensor: A contiguous tensor of the same shape, such as rows of a larger one.

        Returns:
            The event of the end of the copy. Waiting for the tensor waits for it too.

        Raises:
            ValueError: The shapes differ.
            LoadError: The file's type can't be read or converted.
            TransferError: The tensor has gaps between its elements.
        """
    def download(self, tensor: Tensor, /) -> _Array:
        """Copies a tensor to a new NumPy array, as `Tensor.numpy` does."""
    def stats(self) -> TransferStats:
        """The counters, as of now."""

@final
class TransferStats:
    """Counters of an engine since the start of the process."""

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __eq__(self, other: object, /) -> bool: ...
    @property
    def bytes_uploaded(self) -> int:
        """Bytes that were sent to the device, or are queued to be."""
    @property
    def bytes_downloaded(self) -> int:
        """Bytes that were fetched from the device."""
    @property
    def copies(self) -> int:
        """Copies of any kind."""

@final
class KernelDispatchController:
    """The one way to run a kernel on a device: `device.controller`.

    A launch is checked against the kernel's signature (how many arguments, of which kind, dtype and
    number of dimensions) and by the kernel itself (how shapes fit together) before anything runs.
    """

    @property
    def device(self) -> Device:
        """The device that it launches on."""
    @property
    def kernels(self) -> tuple[str, ...]:
        """The names of the kernels that there are, sorted."""
    def launch(self, name: str, args: Iterable[Tensor | _Number | None], /) -> None:
        """Runs a kernel; within a capture of this thread the launch is recorded instead.

        It comes after the copies that fill the tensors. On a GPU it is queued, behind what was
        launched before: host access to a tensor waits for it.

        Args:
            name: One of `kernels`.
            args: Tensors, numbers, and None for optional tensors, in the order of the signature.

        Raises:
            LaunchError: The kernel isn't known or an argument doesn't fit; nothing has run.
            KernelError: The kernel broke, or one launched before it on a GPU.
            DeviceError: The GPU has no such kernel.
            PygpukitError: What went wrong with a copy that was to fill one of the tensors.
        """
    def capture(self, arena: MemoryPool | None = None) -> Graph:
        """A graph that records this thread's launches, and runs none of them.

        Use it as `with controller.capture() as graph:`. Captures don't nest.

        Args:
            arena: A pool of the device whose tensors are not kept for the graph: those that are
                gone when the capture ends lend their memory to later ones. Graphs of one arena work
                in the same memory, which goes back to the device only after the last of them; what
                a replay leaves in its other tensors lasts until the next replay of any of these
                graphs.

        Raises:
            ValueError: The arena is of another device.
        """
    def images(self) -> dict[str, Path]:
        """The files of compiled kernels that a GPU has loaded so far, by source.

        A `.cubin` is machine code; a `.ptx` was compiled by the driver.
        """
    def stats(self) -> DispatchStats:
        """The counters, as of now."""

@final
class Graph:
    """Launches that were captured in a `with` block, to be run again and again.

    The graph keeps its tensors alive and in place; a replay sees what was written into them since.
    Threads that replay the same graph take turns. Before the end of the block, and after an
    exception in it, there is no graph: it is false, and its methods raise LaunchError.
    """

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exception: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> bool: ...
    def replay(self, times: int = 1) -> None:
        """Runs the launches in order, with no Python in between.

        They come after the copies that fill the tensors. On a GPU they are queued as one.

        Args:
            times: How often to run all of them. Ctrl-C interrupts it between two rounds.

        Raises:
            KernelError: A kernel broke, the launches after it not having run; or, on a GPU, one
                launched before.
        """
    def nodes(self) -> list[GraphNode]:
        """The launches, in order, as they were captured."""
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...

@final
class GraphNode:
    """One launch of a graph, as a description."""

    @property
    def kernel(self) -> str:
        """The kernel's name."""
    @property
    def arguments(self) -> dict[str, tuple[str, tuple[int, ...]] | int | float | None]:
        """The arguments by parameter name: a number, None, or (dtype, shape) of a tensor."""

@final
class DispatchStats:
    """Counters of a controller since the start of the process."""

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __eq__(self, other: object, /) -> bool: ...
    @property
    def launches(self) -> int:
        """Kernels run, those of replays included."""
    @property
    def replays(self) -> int:
        """Graphs replayed."""
    @property
    def kernels(self) -> dict[str, int]:
        """How often each kernel ran, by name, for those that did."""

@final
class SchedulerConfig:
    """What bounds a scheduler.

    Args:
        pages: Pages of the cache: the quota.
        page_size: Positions in a page.
        step_tokens: Tokens that one step computes at most, of prompts and decoding requests.
        max_running: Requests that run at once, at most `step_tokens`.
        max_waiting: Requests that wait at once; more are refused.
        max_length: Tokens of a request at most, prompt and output together: the model's context.
        reserved_pages: Pages that stay free when a request is admitted beside others, for those to
            grow into; by default a 64th of all.
        cached_pages: Pages that are kept at most for others that begin alike while nobody uses
            them; by default any number.
        priority_boost: How many microseconds of waiting one level of priority is worth.
        max_overtakes: Requests that may be admitted before one that was first but didn't fit.

    Raises:
        ValueError: The bounds allow no work at all.
    """

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __new__(
        cls,
        *,
        pages: int,
        page_size: int,
        step_tokens: int = 512,
        max_running: int = 256,
        max_waiting: int = 1048576,
        max_length: int = 2147483647,
        reserved_pages: int | None = None,
        cached_pages: int | None = None,
        priority_boost: int = 600000000,
        max_overtakes: int = 32,
    ) -> Self: ...
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def pages(self) -> int:
        """Pages of the cache."""
    @property
    def page_size(self) -> int:
        """Positions in a page."""
    @property
    def step_tokens(self) -> int:
        """Tokens that one step computes at most."""
    @property
    def max_running(self) -> int:
        """Requests that run at once."""
    @property
    def max_waiting(self) -> int:
        """Requests that wait at once."""
    @property
    def capacity(self) -> int:
        """Tokens of a request at most: the context, or what all pages hold and one more."""

@final
class Scheduler:
    """Decides which tokens of which requests run in the next step of a model: continuous batching.

    It touches no device and no clock: the same calls always give the same decisions. Every running
    request whose next token is due decodes; the rest of the step's budget goes to prompts, in
    chunks, and to waiting requests: by turns between tenants, for each by priority and age. Keys
    and values lie in pages; when they run out, the running request of the last rank is computed
    again later. Requests that begin alike share pages.

    Steps run, and are completed, in the order of their plans; plans may be made before earlier
    steps are completed. Threads may share a scheduler.

    Args:
        config: Its bounds.
    """

    def __new__(cls, config: SchedulerConfig) -> Self: ...
    @property
    def config(self) -> SchedulerConfig:
        """Its bounds."""
    def submit(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        *,
        now: int,
        tenant: int = 0,
        priority: int = 0,
        deadline: int | None = None,
        variant: int = 0,
    ) -> int:
        """Takes a request.

        Args:
            prompt: Token ids, at least one.
            max_new_tokens: Tokens to generate at most, at least one.
            now: Microseconds since some moment.
            tenant: Whose request it is: tenants are served alike.
            priority: Among the requests of its tenant the higher goes first.
            deadline: When nobody wants the rest any more, in microseconds.
            variant: Pages are shared only within a variant of the model, whose keys and values of
                the same tokens are alike.

        Returns:
            The number of the request, never given to another.

        Raises:
            QueueFullError: As many are waiting as may.
            RequestRefusedError: It can never run, or nobody wants it any more.
        """
    def cancel(self, request: int, /) -> bool:
        """Ends a request, wherever it is. Returns whether it had not ended before."""
    def set_weight(self, tenant: int, weight: int) -> None:
        """From now on serves `tenant` `weight` tokens where others, of weight 1, are served one.

        Raises:
            ValueError: The weight is 0.
        """
    def provide(self, pages: int, /) -> None:
        """From now on hands out the first `pages` pages only: the others have no memory yet.

        It is at least as many as have ever been handed out.
        Until all are there, requests may have to wait for ever.
        """
    def clear(self) -> None:
        """Forgets everything: requests, steps under way, cached pages, weights and counters.

        All pages can be handed out again.
        """
    def schedule(self, now: int) -> StepPlan:
        """Chooses what runs in the next step.

        Args:
            now: Microseconds since the same moment as in `submit`.
        """
    def complete(
        self, step: int, tokens: Sequence[int], stops: Sequence[bool]
    ) -> list[tuple[int, str]]:
        """Takes what the oldest step under way has chosen, for each row that samples, in order.

        Args:
            step: The step of the plan.
            tokens: The ids.
            stops: Whether each ends its request.

        Returns:
            The requests that have ended, each with "stop" or "length".

        Raises:
            ValueError: It is another step, or there are more or fewer tokens; nothing has changed.
        """
    def pages(self, request: int, /) -> list[int]:
        """The pages of a request in the order of its positions; none while it waits."""
    @property
    def busy(self) -> bool:
        """Whether requests have not ended or steps are under way."""
    def stats(self) -> SchedulerStats:
        """What it holds and has done, as of now."""

@final
class SchedulerShare:
    """The schedulers of several models on one device.

    The quotas of all caches together never exceed the device's. Steps go by turns: next is the
    model that has computed the fewest tokens for its weight, among those with something to run.

    Args:
        bytes: What the caches may take together.
    """

    def __new__(cls, bytes: int, /) -> Self: ...
    def add(self, config: SchedulerConfig, page_bytes: int, *, weight: int = 1) -> Scheduler:
        """Adds a model.

        Args:
            config: The bounds of its scheduler.
            page_bytes: Bytes of a page: keys and values of all layers.
            weight: How many tokens it computes where one of weight 1 computes one.

        Returns:
            Its scheduler. Steps are planned by the share, or by the scheduler of the model whose
            `turn` it is.

        Raises:
            ValueError: Its pages don't fit beside the others', or the weight is 0.
        """
    def schedule(self, now: int) -> tuple[int, StepPlan] | None:
        """The next step and whose it is: the number of the model, in the order of adding.

        Returns:
            None if no model has anything to run or to tell.
        """
    def turn(self) -> int | None:
        """Whose turn it is to plan a step: the number of the model, in the order of adding.

        Returns:
            None if no model has requests or steps under way.
        """

@final
class StepPlan:
    """What one step runs."""

    @property
    def step(self) -> int:
        """The number of the step, for `Scheduler.complete`."""
    @property
    def rows(self) -> list[StepRow]:
        """What is computed: at most one row for each request, those that decode first.

        If there are none, there is nothing to complete.
        """
    @property
    def repeats(self) -> bool:
        """Whether the plan before had the same requests, and each row is one token.

        So the same program can run again.
        """
    @property
    def sampled(self) -> list[int]:
        """The requests that a token is chosen for, in the order of their rows."""
    @property
    def grown(self) -> list[tuple[int, int, int]]:
        """The rows whose requests have new pages: index, request, first new page's index."""
    @property
    def tokens(self) -> int:
        """How many tokens the rows compute."""
    @property
    def admitted(self) -> list[tuple[int, int]]:
        """The requests that have begun to run, and how many of their positions were cached."""
    @property
    def preempted(self) -> list[int]:
        """The requests that had to give up their pages; they wait again."""
    @property
    def expired(self) -> list[int]:
        """The requests that have ended because their deadline has passed."""

@final
class StepRow:
    """Consecutive positions of one request that a step computes."""

    @property
    def request(self) -> int:
        """Whose."""
    @property
    def start(self) -> int:
        """The first position."""
    @property
    def count(self) -> int:
        """How many, at least one."""
    @property
    def samples(self) -> bool:
        """Whether the token behind the last position is chosen."""
    @property
    def first_new_page(self) -> int:
        """From which index on the request's pages differ from when it last had a row."""
    @property
    def new_pages(self) -> int:
        """How many pages that are."""

@final
class SchedulerStats:
    """What a scheduler holds and has done."""

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __eq__(self, other: object, /) -> bool: ...
    @property
    def waiting(self) -> int:
        """Requests that wait."""
    @property
    def running(self) -> int:
        """Requests with pages."""
    @property
    def requests(self) -> int:
        """Requests that have not ended."""
    @property
    def pages_in_use(self) -> int:
        """Pages that requests use."""
    @property
    def pages_cached(self) -> int:
        """Pages that nobody uses but that are kept for requests that begin alike."""
    @property
    def preemptions(self) -> int:
        """Times that a request had to give up its pages."""
    @property
    def computed_tokens(self) -> int:
        """Tokens that plans have computed."""
    @property
    def cached_tokens(self) -> int:
        """Tokens that were found in the cache instead."""

def simulate(
    config: SchedulerConfig,
    arrivals: Sequence[tuple[int, int, int, int, int, int, int]],
    *,
    step: float,
    token: float = 0.0,
    position: float = 0.0,
) -> SimulationReport:
    """Replays traffic through a scheduler without a device.

    Args:
        config: The scheduler's bounds.
        arrivals: For each request, in the order of time, (at, prompt, output, shared, group,
            tenant, priority): when it comes in microseconds, tokens of its prompt and of its
            output, how many tokens of the prompt are the same for all of its group, the group, and
            whose it is.
        step: Microseconds that any step takes.
        token: Microseconds for each token that it computes.
        position: Microseconds for each cached position that its attention reads.

    Raises:
        ValueError: The arrivals aren't in order, or a time makes no sense.
    """

@final
class SimulationReport:
    """What became of simulated traffic; times are microseconds."""

    @property
    def finished(self) -> int:
        """Requests that got all their tokens."""
    @property
    def refused(self) -> int:
        """Requests that were refused."""
    @property
    def steps(self) -> int:
        """Steps that ran."""
    @property
    def end(self) -> int:
        """When the last of them ended."""
    @property
    def busy(self) -> int:
        """How long steps ran; the rest of the time there was nothing to do."""
    @property
    def preemptions(self) -> int:
        """Times that a request had to give up its pages."""
    @property
    def computed_tokens(self) -> int:
        """Tokens that were computed."""
    @property
    def cached_tokens(self) -> int:
        """Tokens that were found in the cache instead."""
    @property
    def first_token(self) -> Latencies:
        """From arrival to the first token."""
    @property
    def between_tokens(self) -> Latencies:
        """From one token of a request to its next."""
    @property
    def whole(self) -> Latencies:
        """From arrival to the last token."""

@final
class Latencies:
    """Many durations, in microseconds, to three digits."""

    @property
    def mean(self) -> float:
        """Their mean; 0.0 if there are none."""
    def percentile(self, percent: float, /) -> int:
        """The least duration that `percent` per cent don't exceed; 0 if there are none.

        Raises:
            ValueError: `percent` isn't from 0 to 100.
        """
    def __len__(self) -> int: ...
