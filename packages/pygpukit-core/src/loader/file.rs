//! One weight file in memory: mapped, or read whole.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::error::LoadError;

/// The first bytes of every Git LFS pointer file.
const LFS_MAGIC: &[u8] = b"version https://git-lfs.github.com/spec/";

/// How weight files are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Map the file (nothing is read until a tensor is touched), rather than read it into memory.
    ///
    /// A mapped file must not be changed or truncated while it is in use. Read it instead where that
    /// can't be promised, or from a file system on which mapping is slow.
    pub mmap: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions { mmap: true }
    }
}

/// An open weight file.
#[derive(Debug)]
pub(crate) struct WeightFile {
    path: PathBuf,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    Mapped(Mmap),
    Buffered(Vec<u8>),
}

impl WeightFile {
    /// Opens the file at `path`; a Git LFS pointer is refused.
    pub(crate) fn open(path: &Path, options: LoadOptions) -> Result<WeightFile, LoadError> {
        let io_error = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => LoadError::MissingFile { path: path.into() },
            _ => LoadError::Io { path: path.into(), source },
        };
        if fs::metadata(path).map_err(io_error)?.is_dir() {
            return Err(LoadError::IsFolder { path: path.into() });
        }
        let storage = if options.mmap {
            let file = File::open(path).map_err(io_error)?;
            // SAFETY: the mapping is read-only and private to this value, which only ever hands out
            // shared slices of it. That nobody changes the file meanwhile can't be enforced from
            // here; `LoadOptions::mmap` asks it of the caller, as every mapping loader does.
            Storage::Mapped(unsafe { Mmap::map(&file) }.map_err(io_error)?)
        } else {
            Storage::Buffered(fs::read(path).map_err(io_error)?)
        };
        let file = WeightFile { path: path.into(), storage };
        if file.bytes().starts_with(LFS_MAGIC) {
            return Err(LoadError::LfsPointer { path: path.into() });
        }
        Ok(file)
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.storage {
            Storage::Mapped(mapping) => mapping,
            Storage::Buffered(bytes) => bytes,
        }
    }

    /// Lets go of the memory that holds the whole pages within `range`; later reads fetch them from
    /// the file again. Does nothing for a file that was read, or where the system has no such call.
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Storage::Mapped(mapping) = &self.storage {
            release_pages(mapping, range);
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

#[cfg(unix)]
fn release_pages(mapping: &Mmap, range: Range<usize>) {
    // SAFETY: sysconf reads a constant of the system and touches no memory of ours.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let (start, end) = (range.start.next_multiple_of(page), range.end / page * page);
    if start >= end {
        return;
    }
    // SAFETY: the mapping is a read-only one of a file, so that a page dropped here reads the same
    // when it is next touched: no slice of it can be seen to change.
    let released = unsafe {
        mapping.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
    };
    // Only memory is at stake, never what is read: a system that refuses keeps the pages.
    let _ = released;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_opening_give_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let content: Vec<u8> = (0..40_000u32).map(|i| (i % 251) as u8).collect();
        fs::write(&path, &content).unwrap();
        for mmap in [true, false] {
            let file = WeightFile::open(&path, LoadOptions { mmap }).unwrap();
            assert_eq!(file.bytes(), content);
            file.release(100..39_999);
            assert_eq!(file.bytes(), content);
        }
    }

    #[test]
    fn an_empty_file_has_no_bytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for mmap in [true, false] {
            assert!(
                WeightFile::open(file.path(), LoadOptions { mmap }).unwrap().bytes().is_empty()
            );
        }
    }

    #[test]
    fn missing_files_folders_and_lfs_pointers_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let open = |path: &Path| WeightFile::open(path, LoadOptions::default()).unwrap_err();
        assert!(matches!(open(&folder.path().join("x")), LoadError::MissingFile { .. }));
        assert!(matches!(open(folder.path()), LoadError::IsFolder { .. }));
        let pointer = folder.path().join("model.safetensors");
        fs::write(&pointer, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
            .unwrap();
        let error = open(&pointer);
        assert!(error.to_string().contains("Git LFS pointer"), "{error}");
    }
}
