//! Kernels of whole plans as machine code, on a machine without a GPU. Takes plans, gives what NVRTC refuses of their texts. Never runs anything.

use crate::backend::caps;
use crate::gpu::Facts;
use crate::nvrtc::Nvrtc;
use crate::units::unit;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread::available_parallelism;
use wholestep_compiler::backend::{Backend, DeviceError, Executable, Unrun};
use wholestep_compiler::caps::Caps;
use wholestep_compiler::codegen::{self, Shader, small, together};
use wholestep_compiler::kernel::Kernel;
use wholestep_compiler::plan::{Layout, Plan};

/// A batch size at which launches are small.
const SMALL_BATCH: usize = 4;
/// Texts in one compilation.
const PER_UNIT: usize = 64;

/// What a usual device of compute capability 9.0 can do.
pub fn usual_caps() -> Caps {
    caps(&Facts::h100())
}

/// What a device of a compute capability (90 for 9.0) can do whose blocks share so many bytes.
fn caps_of(arch: u32, shared_bytes: u32) -> Caps {
    caps(&Facts { name: "any".to_string(), arch, shared_bytes, overlaps: arch >= 90, ..Facts::h100() })
}

/// A device that keeps the kernel texts of each plan, to compile them, and runs none.
pub struct Translator {
    nvrtc: Nvrtc,
    caps: Caps,
    arch: u32,
    /// Whether loops are written for several segments too, and small kernels for one workgroup too.
    all_forms: bool,
    seen: Mutex<BTreeSet<String>>,
}

impl Translator {
    /// For a usual device of compute capability 9.0. Nothing without NVRTC, unless `REQUIRE_NVRTC` is set.
    pub fn open() -> Option<Translator> {
        let Facts { arch, shared_bytes, .. } = Facts::h100();
        Translator::open_for(arch, shared_bytes)
    }

    /// As [`Translator::open`], for a device of another compute capability (75 for 7.5), whose blocks share so many bytes.
    pub fn open_for(arch: u32, shared_bytes: u32) -> Option<Translator> {
        let nvrtc = match Nvrtc::open() {
            Ok(nvrtc) => nvrtc,
            Err(DeviceError::Absent(why)) if std::env::var_os("REQUIRE_NVRTC").is_none() => {
                println!("skipped: no nvrtc ({why})");
                return None;
            }
            Err(e) => panic!("REQUIRE_NVRTC is set and it does not open: {e}"),
        };
        let caps = caps_of(arch, shared_bytes);
        Some(Translator { nvrtc, caps, arch, all_forms: false, seen: Mutex::default() })
    }

    /// The same, which also looks at the forms of kernels that a plan may take at other sizes.
    pub fn with_all_forms(mut self) -> Translator {
        self.all_forms = true;
        self
    }

    /// Keeps the texts of a plan.
    /// Errors: a kernel has none.
    pub fn translate(&self, plan: &Plan) -> Result<(), DeviceError> {
        for launch in plan.launches() {
            let kernels: Vec<Kernel> = launch.segments.iter().map(|s| plan.kernel_of(s)).collect();
            let kernel = &together(&kernels).kernel;
            let n = launch.segments.len();
            let also = self.all_forms && matches!(kernel, Kernel::Loop(_)) && n == 1;
            for n in if also { vec![1, 3] } else { vec![n] } {
                self.see(codegen::shaders(kernel, n, &self.caps).map_err(DeviceError::Unsupported)?)?;
            }
            if let (true, Some(workgroups)) = (small::work(&kernels[0], SMALL_BATCH).is_some(), &self.caps.workgroups) {
                self.see(vec![small::shader(&kernels[0], workgroups)])?;
            }
        }
        Ok(())
    }

    /// Keeps the texts of shaders.
    /// Errors: one wants more memory than a block of the device shares.
    pub fn see(&self, shaders: Vec<Shader>) -> Result<(), DeviceError> {
        let most = self.caps.workgroups.as_ref().map_or(0, |w| w.shared_bytes);
        if let Some(shader) = shaders.iter().find(|s| s.shared_bytes > most) {
            let (wanted, source) = (shader.shared_bytes, &shader.source);
            return Err(DeviceError::Unsupported(format!(
                "a block shares {most} bytes and {wanted} are wanted by\n{source}"
            )));
        }
        let lost = |_| DeviceError::Lost("a translation panicked".to_string());
        self.seen.lock().map_err(lost)?.extend(shaders.into_iter().map(|shader| shader.source));
        Ok(())
    }

    /// How many texts hold these words.
    pub fn count(&self, words: &str) -> usize {
        self.seen.lock().map_or(0, |seen| seen.iter().filter(|text| text.contains(words)).count())
    }

    /// Compiles all texts, or the first one of so many; gives their number.
    /// Errors: what NVRTC says of the first compilation that it refuses, with its texts.
    pub fn verdict(&self, one_of: usize) -> Result<usize, String> {
        let seen = self.seen.lock().map_err(|_| "a translation panicked".to_string())?;
        let texts: Vec<&String> = seen.iter().step_by(one_of).collect();
        let at_once = available_parallelism().map_or(1, |n| n.get());
        let units: Vec<String> = texts
            .chunks(PER_UNIT.min(texts.len().div_ceil(at_once).max(1)))
            .map(|of| unit(of.iter().copied()))
            .collect();
        for some in units.chunks(at_once) {
            let made = self.nvrtc.compile(some, self.arch, None);
            made.map_err(|e| format!("{e}\nin one of\n{}", some.join("\n")))?;
        }
        Ok(texts.len())
    }
}

impl Backend for Translator {
    fn caps(&self) -> Caps {
        self.caps.clone()
    }

    fn load(&self, plan: &Plan, _layout: &Layout) -> Result<Box<dyn Executable>, DeviceError> {
        self.translate(plan)?;
        Ok(Box::new(Unrun::new(plan)))
    }
}
