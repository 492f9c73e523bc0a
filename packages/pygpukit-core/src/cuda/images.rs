//! The files that kernels are compiled to: `<source>.<target>.cubin` and `<source>.<target>.ptx`.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use crate::device::DeviceError;

/// An image on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) path: PathBuf,
    target: Target,
}

/// What an image was compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Target {
    kind: Kind,
    capability: (u32, u32),
    /// Only GPUs of just this capability run it: an `a` target.
    exact: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Machine code.
    Cubin,
    /// Text that the driver compiles.
    Ptx,
}

/// The images of one folder by source.
type Folder = HashMap<String, Vec<Image>>;

/// In the order of registration.
static FOLDERS: RwLock<Vec<(PathBuf, Folder)>> = RwLock::new(Vec::new());

/// Makes the images in `folder` known. Where two folders have images of one source, those of the folder
/// registered last are used. An image that has been loaded already stays.
///
/// # Errors
/// [`DeviceError::KernelFolder`] when the folder can't be read.
pub fn register_images(folder: &Path) -> Result<(), DeviceError> {
    let images = read_folder(folder).map_err(|error| DeviceError::KernelFolder {
        folder: folder.to_owned(),
        reason: error.to_string(),
    })?;
    let mut folders = FOLDERS.write().unwrap_or_else(PoisonError::into_inner);
    folders.retain(|(other, _)| other != folder);
    folders.push((folder.to_owned(), images));
    Ok(())
}

/// The images of `source` that run on a GPU of that compute capability, the best one first.
///
/// # Errors
/// Where was looked, and what was found.
pub(super) fn find(source: &str, capability: (u32, u32)) -> Result<Vec<Image>, String> {
    let folders = FOLDERS.read().unwrap_or_else(PoisonError::into_inner);
    let Some(images) = folders.iter().rev().find_map(|(_, folder)| folder.get(source)) else {
        return Err(not_found(source, folders.iter().map(|(path, _)| path.as_path())));
    };
    let suitable = choose(images, capability);
    if suitable.is_empty() {
        let targets: Vec<_> = images.iter().map(|image| image.path.display().to_string()).collect();
        return Err(format!("none of these runs on it: {}", targets.join(", ")));
    }
    Ok(suitable)
}

fn not_found<'a>(source: &str, folders: impl Iterator<Item = &'a Path>) -> String {
    let folders: Vec<_> = folders.map(|folder| folder.display().to_string()).collect();
    match folders.join(", ") {
        empty if empty.is_empty() => {
            format!(
                "looking for {source:?}, but no folder of kernels is registered: import pygpukit.kernels"
            )
        }
        folders => format!("no image of {source:?} in {folders}"),
    }
}

fn read_folder(folder: &Path) -> std::io::Result<Folder> {
    let mut images = Folder::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if let Some((source, target)) = parse(&path) {
            images.entry(source).or_default().push(Image { path, target });
        }
    }
    Ok(images)
}

/// Source and target of a file name, if it is one of an image.
fn parse(path: &Path) -> Option<(String, Target)> {
    let kind = match path.extension().and_then(OsStr::to_str)? {
        "cubin" => Kind::Cubin,
        "ptx" => Kind::Ptx,
        _ => return None,
    };
    let (source, target) = path.file_stem()?.to_str()?.rsplit_once('.')?;
    let version = match kind {
        Kind::Cubin => target.strip_prefix("sm_")?,
        Kind::Ptx => target.strip_prefix("compute_")?,
    };
    let (version, exact) = match version.strip_suffix('a') {
        Some(version) => (version, true),
        None => (version, false),
    };
    let version: u32 = version.parse().ok()?;
    let capability = (version / 10, version % 10);
    Some((source.to_owned(), Target { kind, capability, exact }))
}

/// The images that run on a GPU of that capability, the best first: machine code before text, the newest
/// target, and of one target the variant for just that GPU.
fn choose(images: &[Image], capability: (u32, u32)) -> Vec<Image> {
    let runs = |image: &&Image| image.target.runs_on(capability);
    let mut suitable: Vec<_> = images.iter().filter(runs).cloned().collect();
    suitable.sort_by_key(|Image { target, .. }| {
        (target.kind, Reverse(target.capability), Reverse(target.exact))
    });
    suitable
}

impl Target {
    fn runs_on(self, capability: (u32, u32)) -> bool {
        match self.kind {
            _ if self.exact => self.capability == capability,
            Kind::Cubin => self.capability.0 == capability.0 && self.capability.1 <= capability.1,
            Kind::Ptx => self.capability <= capability,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 8] = [
        "gemv.sm_80.cubin",
        "gemv.sm_86.cubin",
        "gemv.sm_90a.cubin",
        "gemv.sm_120.cubin",
        "gemv.compute_80.ptx",
        "gemv.compute_90a.ptx",
        "gemv.sm_100f.cubin",
        "gemv.sm_90.cubin.partial",
    ];

    fn chosen(capability: (u32, u32)) -> Vec<String> {
        let images: Vec<_> = FILES
            .iter()
            .filter_map(|file| {
                let (source, target) = parse(Path::new(file))?;
                assert_eq!(source, "gemv");
                Some(Image { path: file.into(), target })
            })
            .collect();
        let name = |image: Image| image.path.to_string_lossy().replace("gemv.", "");
        choose(&images, capability).into_iter().map(name).collect()
    }

    #[test]
    fn machine_code_comes_first_and_text_is_for_newer_gpus() {
        assert_eq!(chosen((8, 0)), ["sm_80.cubin", "compute_80.ptx"]);
        assert_eq!(chosen((8, 9)), ["sm_86.cubin", "sm_80.cubin", "compute_80.ptx"]);
        assert_eq!(chosen((9, 0)), ["sm_90a.cubin", "compute_90a.ptx", "compute_80.ptx"]);
        assert_eq!(chosen((10, 0)), ["compute_80.ptx"]);
        assert_eq!(chosen((12, 1)), ["sm_120.cubin", "compute_80.ptx"]);
        assert!(chosen((7, 5)).is_empty());
    }

    #[test]
    fn the_folder_registered_last_wins_and_errors_name_what_there_is() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [one, two] = folders.each_ref().map(|folder| folder.path());
        fs::write(one.join("images_test_a.sm_80.cubin"), "").unwrap();
        fs::write(one.join("images_test_b.compute_80.ptx"), "").unwrap();
        fs::write(two.join("images_test_a.compute_80.ptx"), "").unwrap();
        register_images(one).unwrap();
        register_images(two).unwrap();
        let found = |source| find(source, (8, 0)).map(|images| images[0].path.clone());
        assert_eq!(found("images_test_a").unwrap(), two.join("images_test_a.compute_80.ptx"));
        assert_eq!(found("images_test_b").unwrap(), one.join("images_test_b.compute_80.ptx"));
        register_images(one).unwrap();
        assert_eq!(found("images_test_a").unwrap(), one.join("images_test_a.sm_80.cubin"));

        let error = found("images_test_c").unwrap_err();
        assert!(
            error.contains("images_test_c") && error.contains(one.to_str().unwrap()),
            "{error}"
        );
        let error = find("images_test_a", (7, 5)).unwrap_err();
        assert!(error.contains("images_test_a.sm_80.cubin"), "{error}");
        let missing = register_images(&one.join("missing")).unwrap_err().to_string();
        assert!(missing.contains("missing"), "{missing}");
    }
}
