//! CUDA C to machine code. Takes texts and a device's architecture, gives cubins, from memory of earlier runs where it can. Never gives PTX: a
//! driver takes a hundred times as long to load it.

use crate::cache::Cache;
use crate::library::Library;
use cudarc::nvrtc::{result, sys};
use sha2::{Digest, Sha256};
use std::ffi::{CStr, CString, c_char};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;
use wholestep_compiler::backend::DeviceError;

/// What texts are compiled with beside the architecture. Sums and products may become one rounding, as on the other devices; nothing else about
/// numbers is left to the compiler.
const OPTIONS: [&str; 2] = ["--std=c++17", "--fmad=true"];
/// Leaves out textures and the runtime's functions; who calls one declares it (`ask.cuh`): a third of the time of the front, which is of one thread at a time.
const MINIMAL: &str = "--minimal";
/// The first version that has it.
const MINIMAL_FROM: (i32, i32) = (12, 4);

/// NVRTC, found.
#[derive(Clone, Copy, Debug)]
pub struct Nvrtc {
    pub version: (i32, i32),
}

impl Nvrtc {
    /// Errors: it is not there.
    pub fn open() -> Result<Nvrtc, DeviceError> {
        Library::Nvrtc.open()?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the library is open and both are places for a number.
        unsafe { sys::nvrtcVersion(&mut major, &mut minor) }.result().map_err(|e| fault(&e.to_string()))?;
        Ok(Nvrtc { version: (major, minor) })
    }

    /// The compute capability to compile for, so that a device of compute capability `arch` runs it: the newest that is known, of the same major
    /// version and no newer than the device.
    /// Errors: there is none.
    pub fn target(&self, arch: u32) -> Result<u32, DeviceError> {
        let mut n = 0;
        // SAFETY: the library is open and the place is one for a number.
        unsafe { sys::nvrtcGetNumSupportedArchs(&mut n) }.result().map_err(|e| fault(&e.to_string()))?;
        let mut known = vec![0; usize::try_from(n).unwrap_or(0)];
        // SAFETY: the library writes as many numbers as it said.
        unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) }.result().map_err(|e| fault(&e.to_string()))?;
        let known: Vec<u32> = known.into_iter().filter_map(|a| u32::try_from(a).ok()).collect();
        let newest = known.iter().copied().filter(|&a| a / 10 == arch / 10 && a <= arch).max();
        newest.ok_or_else(|| {
            let dotted = |a: u32| format!("{}.{}", a / 10, a % 10);
            let ends = [known.iter().min(), known.iter().max()].map(|a| a.map_or("none".to_string(), |&a| dotted(a)));
            let (major, minor) = self.version;
            DeviceError::Absent(format!(
                "the GPU is of compute capability {} and NVRTC {major}.{minor} compiles for {} to {}; install {} CUDA toolkit, or by pip {} into the \
                 active Python",
                dotted(arch),
                ends[0],
                ends[1],
                if known.iter().all(|&a| a < arch) { "a newer" } else { "an older" },
                Library::Nvrtc.packages()
            ))
        })
    }

    fn options(&self) -> Vec<&'static str> {
        OPTIONS.into_iter().chain((self.version >= MINIMAL_FROM).then_some(MINIMAL)).collect()
    }

    /// What the machine code of a text is kept under.
    pub fn key(&self, source: &str, arch: u32) -> String {
        let digest: String = Sha256::digest(source).iter().map(|b| format!("{b:02x}")).collect();
        format!("nvrtc {:?} sm_{arch} {:?} {digest}", self.version, self.options())
    }

    /// Machine code of each text for compute capability `arch` (90 for 9.0), in parallel; what `cache` holds is not compiled. Gives how many
    /// were compiled, too.
    /// Errors: what the compiler says of the first text that it refuses.
    pub fn compile(
        &self,
        sources: &[String],
        arch: u32,
        cache: Option<&Cache>,
    ) -> Result<(Vec<Vec<u8>>, u64), DeviceError> {
        let one = |source: &String| self.compile_kept(source, arch, cache);
        // Whoever is done takes the next: texts differ much in how long they take.
        let next = AtomicUsize::new(0);
        let work = || {
            let turns = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)));
            turns.map_while(|i| Some((i, one(sources.get(i)?)))).collect::<Vec<_>>()
        };
        let n_threads = available_parallelism().map_or(1, usize::from).min(sources.len());
        let mut all: Vec<_> = std::thread::scope(|threads| {
            let started: Vec<_> = (0..n_threads).map(|_| threads.spawn(work)).collect();
            started.into_iter().flat_map(|t| t.join().expect("bug: a thread that compiles panicked")).collect()
        });
        all.sort_by_key(|(i, _)| *i);
        let all = all.into_iter().map(|(_, made)| made).collect::<Result<Vec<(Vec<u8>, u64)>, DeviceError>>()?;
        let compiled = all.iter().map(|(_, n)| n).sum();
        Ok((all.into_iter().map(|(cubin, _)| cubin).collect(), compiled))
    }

    /// Machine code of one text, and 1 if it was compiled or 0 if it was kept.
    /// Errors: as [`Nvrtc::compile`].
    pub fn compile_kept(&self, source: &str, arch: u32, cache: Option<&Cache>) -> Result<(Vec<u8>, u64), DeviceError> {
        let key = self.key(source, arch);
        if let Some(cubin) = cache.and_then(|c| c.read(&key)) {
            return Ok((cubin, 0));
        }
        let cubin = self.compile_one(source, arch)?;
        if let Some(cache) = cache {
            cache.write(&key, &cubin);
        }
        Ok((cubin, 1))
    }

    fn compile_one(&self, source: &str, arch: u32) -> Result<Vec<u8>, DeviceError> {
        let text = CString::new(source).map_err(|_| fault("bug: a text with a zero in it"))?;
        let program = result::create_program(&text, Some(c"step.cu")).map_err(|e| fault(&e.to_string()))?;
        let options: Vec<String> =
            self.options().iter().map(|o| o.to_string()).chain([format!("--gpu-architecture=sm_{arch}")]).collect();
        // SAFETY: the program was made above and is destroyed once, at the end; each buffer has the size that the library asks for.
        let made = unsafe {
            let compiled = result::compile_program(program, &options);
            let made = compiled.map_err(|e| e.to_string()).and_then(|()| cubin(program).map_err(|e| e.to_string()));
            let log = result::get_program_log(program).unwrap_or_default();
            let destroyed = result::destroy_program(program).map_err(|e| e.to_string());
            made.map_err(|e| format!("{e}: {}", text_of(&log))).and_then(|cubin| destroyed.map(|()| cubin))
        };
        made.map_err(|e| {
            let (major, minor) = self.version;
            fault(&format!("NVRTC {major}.{minor} for sm_{arch} says {e}"))
        })
    }
}

/// # Safety
/// The program is compiled.
unsafe fn cubin(program: sys::nvrtcProgram) -> Result<Vec<u8>, result::NvrtcError> {
    let mut size = 0;
    // SAFETY: the caller's program is compiled, and the buffer has the size that the library gives.
    unsafe {
        sys::nvrtcGetCUBINSize(program, &mut size).result()?;
        let mut bytes = vec![0u8; size];
        sys::nvrtcGetCUBIN(program, bytes.as_mut_ptr().cast::<c_char>()).result()?;
        Ok(bytes)
    }
}

fn text_of(log: &[c_char]) -> String {
    let bytes: Vec<u8> = log.iter().map(|&c| c as u8).collect();
    CStr::from_bytes_until_nul(&bytes).map(|c| c.to_string_lossy().trim().to_string()).unwrap_or_default()
}

fn fault(what: &str) -> DeviceError {
    DeviceError::Unsupported(format!("what was made for it: {what}"))
}

#[cfg(test)]
mod tests {
    use super::Nvrtc;
    use crate::cache::Cache;
    use wholestep_compiler::backend::DeviceError;

    /// NVRTC, if it is there or must be.
    fn nvrtc() -> Option<Nvrtc> {
        match Nvrtc::open() {
            Ok(nvrtc) => Some(nvrtc),
            Err(DeviceError::Absent(why)) if std::env::var_os("REQUIRE_NVRTC").is_none() => {
                println!("skipped: no nvrtc ({why})");
                None
            }
            Err(e) => panic!("REQUIRE_NVRTC is set and it does not open: {e}"),
        }
    }

    fn text(number: u32) -> String {
        format!("extern \"C\" __global__ void k{number}(float* y) {{ y[threadIdx.x] = {number}.0f; }}\n")
    }

    #[test]
    fn texts_become_machine_code_in_order_and_once() {
        let Some(nvrtc) = nvrtc() else { return };
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("kept"));
        let sources: Vec<String> = (0..5).map(text).collect();
        let (cold, compiled) = nvrtc.compile(&sources, 90, Some(&cache)).unwrap();
        assert_eq!(compiled, 5);
        for (i, cubin) in cold.iter().enumerate() {
            assert_eq!(&cubin[..4], b"\x7fELF");
            let name = format!("k{i}");
            assert!(cubin.windows(name.len()).any(|w| w == name.as_bytes()), "{name} is not in its cubin");
        }
        let (warm, compiled) = nvrtc.compile(&sources, 90, Some(&cache)).unwrap();
        assert_eq!((&warm, compiled), (&cold, 0));
        // For another architecture the same text is another's code.
        let (other, compiled) = nvrtc.compile(&sources[..1], 80, Some(&cache)).unwrap();
        assert!(compiled == 1 && other[0] != cold[0]);
        let (without, compiled) = nvrtc.compile(&sources[..2], 90, None).unwrap();
        assert_eq!((&without[..], compiled), (&cold[..2], 2));
    }

    #[test]
    fn what_the_compiler_refuses_is_told_with_its_line() {
        let Some(nvrtc) = nvrtc() else { return };
        let sources = [text(1), "\nextern \"C\" __global__ void broken(float* y) { y[0] = nothing(1); }".to_string()];
        let error = nvrtc.compile(&sources, 90, None).unwrap_err().to_string();
        assert!(error.contains("step.cu(2): error: identifier \"nothing\" is undefined"), "{error}");
        let error = nvrtc.compile(&sources[..1], 1, None).unwrap_err().to_string();
        assert!(error.contains("for sm_1 says"), "{error}");
    }

    #[test]
    fn a_device_that_the_compiler_does_not_know_gets_code_of_its_major_version_or_an_error() {
        let Some(nvrtc) = nvrtc() else { return };
        assert_eq!([75, 80, 89, 90].map(|arch| nvrtc.target(arch).unwrap()), [75, 80, 89, 90]);
        // No compiler knows a 9.9.
        assert_eq!(nvrtc.target(99).unwrap(), 90);
        let told = |arch: u32| nvrtc.target(arch).unwrap_err().to_string();
        let (old, new) = (told(30), told(1000));
        assert!(old.contains("of compute capability 3.0") && old.contains("an older CUDA toolkit"), "{old}");
        assert!(new.contains("of compute capability 100.0") && new.contains("a newer CUDA toolkit"), "{new}");
        assert!(old.contains("nvidia-cuda-nvrtc"), "{old}");
    }
}
