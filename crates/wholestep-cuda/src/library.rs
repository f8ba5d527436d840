//! NVIDIA's libraries, which are looked for when they are first needed. Takes which one, gives whether its functions can be called and its version, or
//! what is missing and how to get it. Never links one, so that the crate builds and loads anywhere.

use crate::dnn::Dnn;
use crate::lt::Lt;
use crate::nvrtc::Nvrtc;
use cudarc::{cublaslt, cudnn, driver, nccl, nvrtc};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use wholestep_compiler::backend::DeviceError;

/// What of CUDA this crate calls, and what several GPUs would need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    Driver,
    Nvrtc,
    CublasLt,
    Cudnn,
    /// Nothing calls it yet: a step runs on one device.
    Nccl,
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Library::Driver => "driver",
            Library::Nvrtc => "NVRTC",
            Library::CublasLt => "cuBLASLt",
            Library::Cudnn => "cuDNN",
            Library::Nccl => "NCCL",
        })
    }
}

impl Library {
    pub const ALL: [Library; 5] = [Library::Driver, Library::Nvrtc, Library::CublasLt, Library::Cudnn, Library::Nccl];

    /// File names by which the bindings find it, the newest first.
    fn files(self) -> &'static [&'static str] {
        match (self, cfg!(windows)) {
            (Library::Driver, false) => &["libcuda.so.1"],
            (Library::Driver, true) => &["nvcuda.dll"],
            (Library::Nvrtc, false) => &["libnvrtc.so.13", "libnvrtc.so.12"],
            (Library::Nvrtc, true) => &["nvrtc64_130_0.dll"],
            (Library::CublasLt, false) => &["libcublasLt.so.13", "libcublasLt.so.12"],
            (Library::CublasLt, true) => &["cublasLt64_13.dll", "cublasLt64_12.dll"],
            (Library::Cudnn, false) => &["libcudnn.so.9"],
            (Library::Cudnn, true) => &["cudnn64_9.dll"],
            (Library::Nccl, false) => &["libnccl.so.2"],
            (Library::Nccl, true) => &["nccl.dll"],
        }
    }

    /// Whether the system's loader finds it, by itself or because it is open.
    pub fn is_present(self) -> bool {
        // SAFETY: these open and close a library by name, which runs what it does when it is loaded; NVIDIA's may be loaded at any time.
        unsafe {
            match self {
                Library::Driver => driver::sys::is_culib_present(),
                Library::Nvrtc => nvrtc::sys::is_culib_present(),
                Library::CublasLt => cublaslt::sys::is_culib_present(),
                Library::Cudnn => cudnn::sys::is_culib_present(),
                Library::Nccl => nccl::sys::is_culib_present(),
            }
        }
    }

    /// Makes its functions callable: a call of one whose library is missing would end the process.
    /// Errors: it is not there.
    pub fn open(self) -> Result<(), DeviceError> {
        if self.is_present() {
            return Ok(());
        }
        let folders = folders(&|name| std::env::var_os(name), Path::new("/"));
        let found = folders.iter().flat_map(|f| self.files().iter().map(move |file| f.join(file)));
        for path in found.filter(|p| p.is_file()) {
            if companions(&path).iter().chain([&path]).all(|p| keep_open(p)) && self.is_present() {
                return Ok(());
            }
        }
        Err(DeviceError::Absent(self.missing(&folders)))
    }

    /// Its version, of the driver that of the CUDA that it runs: "13.0".
    /// Errors: it is not there.
    pub fn version(self) -> Result<String, DeviceError> {
        self.open()?;
        let dotted = |n: usize| format!("{}.{}.{}", n / 10_000, n / 100 % 100, n % 100);
        Ok(match self {
            Library::Driver => {
                let mut version = 0;
                // SAFETY: the library is open and the place is one for a number. It fails for no driver that is there, which has a version.
                let _ = unsafe { driver::sys::cuDriverGetVersion(&mut version) };
                format!("{}.{}", version / 1000, version % 1000 / 10)
            }
            Library::Nvrtc => Nvrtc::open().map(|n| format!("{}.{}", n.version.0, n.version.1))?,
            Library::CublasLt => dotted(Lt::version()),
            Library::Cudnn => dotted(Dnn::version()),
            Library::Nccl => nccl::result::get_nccl_version()
                .map_or_else(|_| "of unknown version".to_string(), |n| dotted(n as usize)),
        })
    }

    /// Pip's packages of it; the driver comes in none.
    pub fn packages(self) -> &'static str {
        match self {
            Library::Driver => "none",
            Library::Nvrtc => "nvidia-cuda-nvrtc (CUDA 13) or nvidia-cuda-nvrtc-cu12",
            Library::CublasLt => "nvidia-cublas (CUDA 13) or nvidia-cublas-cu12",
            Library::Cudnn => "nvidia-cudnn-cu13 or, with CUDA 12, nvidia-cudnn-cu12",
            Library::Nccl => "nvidia-nccl-cu13 or, with CUDA 12, nvidia-nccl-cu12",
        }
    }

    /// What to tell whoever has not got it.
    fn missing(self, folders: &[PathBuf]) -> String {
        let what = self.files().join(" or ");
        if self == Library::Driver {
            return format!(
                "no NVIDIA driver was found ({what}); install the GPU's driver, and in a container start it with access to the GPU (docker run --gpus \
                 all)"
            );
        }
        let how = self.packages();
        let list = |p: &PathBuf| format!(", {}", p.display());
        let looked: String = folders.iter().filter(|f| f.is_dir()).map(list).collect();
        format!(
            "{what} was not found; install the CUDA toolkit, or by pip {how} into the active Python, or name its folder in LD_LIBRARY_PATH (looked \
             where the system's loader looks{looked})"
        )
    }
}

/// Opens a library for the rest of the process, so that whoever knows it by name only finds it from now on.
fn keep_open(path: &Path) -> bool {
    // SAFETY: NVIDIA's libraries may be loaded at any time.
    let library = unsafe { libloading::Library::new(path) };
    library.map(std::mem::forget).is_ok()
}

/// What a library opens by name when it is used: NVRTC has a part of its own beside it.
fn companions(library: &Path) -> Vec<PathBuf> {
    let entries = library.parent().and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let is_nvrtc = starts_with(library, "libnvrtc.");
    entries.map(|e| e.path()).filter(|p| is_nvrtc && starts_with(p, "libnvrtc-builtins.so.")).collect()
}

/// Folders that may hold libraries though the system's loader does not look there, the likeliest first: of the active Python's packages, then of
/// toolkits. `root` stands for the top of the file system.
fn folders(env: &dyn Fn(&str) -> Option<OsString>, root: &Path) -> Vec<PathBuf> {
    let mut prefixes: Vec<PathBuf> =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|v| env(v)).map(PathBuf::from).collect();
    // python3 lies in the folder bin of its prefix.
    let on_path = env("PATH").map(|p| std::env::split_paths(&p).collect::<Vec<_>>()).unwrap_or_default();
    if let Some(bin) = on_path.iter().find(|f| f.join("python3").is_file()) {
        prefixes.extend(bin.parent().map(Path::to_path_buf));
    }
    prefixes.extend(env("HOME").map(|home| Path::new(&home).join(".local")));
    prefixes.extend([root.join("usr/local"), root.join("usr")]);
    let mut all = Vec::new();
    for prefix in &prefixes {
        for python in subfolders(&prefix.join("lib")).iter().filter(|f| starts_with(f, "python3")) {
            for packages in ["site-packages", "dist-packages"] {
                let wheels = subfolders(&python.join(packages).join("nvidia"));
                all.extend(wheels.iter().map(|w| w.join("lib")));
            }
        }
        all.push(prefix.join("Lib").join("site-packages").join("nvidia"));
    }
    all.extend(env("CONDA_PREFIX").map(|p| Path::new(&p).join("lib")));
    let homes = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"].iter().filter_map(|v| env(v)).map(PathBuf::from);
    let local = subfolders(&root.join("usr/local")).into_iter().rev().filter(|f| starts_with(f, "cuda"));
    for toolkit in homes.chain(local) {
        all.extend(["lib64", "lib", "bin", "targets/x86_64-linux/lib"].map(|f| toolkit.join(f)));
    }
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|f| seen.insert(f.clone()));
    all
}

fn starts_with(folder: &Path, start: &str) -> bool {
    folder.file_name().is_some_and(|n| n.to_string_lossy().starts_with(start))
}

/// In the order of their names.
fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = entries.map(|e| e.path()).filter(|p| p.is_dir()).collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::{Library, folders};
    use std::ffi::OsString;
    use std::path::PathBuf;

    #[test]
    fn packages_of_the_active_python_come_before_those_of_the_system_and_toolkits() {
        let root = tempfile::tempdir().unwrap();
        let path = |p: &str| root.path().join(p);
        let venv = "work/venv/lib/python3.11/site-packages/nvidia/cu13/lib";
        let system = "usr/lib/python3.11/dist-packages/nvidia/cuda_nvrtc/lib";
        let toolkits = ["usr/local/cuda-13.0/lib64", "usr/local/cuda-12.4/lib64"];
        for folder in [venv, system].into_iter().chain(toolkits) {
            std::fs::create_dir_all(path(folder)).unwrap();
        }
        let env = |name: &str| match name {
            "VIRTUAL_ENV" => Some(OsString::from(path("work/venv"))),
            _ => None,
        };
        let found: Vec<PathBuf> = folders(&env, root.path()).into_iter().filter(|f| f.is_dir()).collect();
        assert_eq!(found, [venv, system, toolkits[0], toolkits[1]].map(path));
        let without: Vec<PathBuf> = folders(&|_| None, root.path()).into_iter().filter(|f| f.is_dir()).collect();
        assert_eq!(without, found[1..]);
    }

    #[test]
    fn the_python_on_the_path_is_the_active_one() {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("opt/py/bin");
        let wheel = root.path().join("opt/py/lib/python3.12/site-packages/nvidia/cublas/lib");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(&wheel).unwrap();
        let env = |name: &str| (name == "PATH").then(|| OsString::from(&bin));
        assert!(!folders(&env, root.path()).contains(&wheel), "no python3 lies there");
        std::fs::write(bin.join("python3"), "").unwrap();
        assert_eq!(folders(&env, root.path())[0], wheel);
    }

    #[test]
    fn what_is_missing_is_named_with_how_to_get_it() {
        let root = tempfile::tempdir().unwrap();
        let text = Library::Nvrtc.missing(&[root.path().to_path_buf(), root.path().join("none")]);
        assert!(text.contains("nvidia-cuda-nvrtc-cu12") && text.contains("LD_LIBRARY_PATH"), "{text}");
        assert!(text.ends_with(&format!("looks, {})", root.path().display())), "{text}");
        assert!(Library::Driver.missing(&[]).contains("install the GPU's driver"));
    }
}
