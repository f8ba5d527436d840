//! Shaders in the languages of drivers, made by naga as wgpu makes them: SPIR-V for Vulkan, MSL for Metal, HLSL for DX12. Takes shaders or whole
//! plans, gives what does not translate. Never needs a device: this is as near to Metal and DX12 as a machine without them gets.

use naga::ShaderStage;
use naga::back::{self, hlsl, msl, spv};
use naga::valid::{Capabilities, SubgroupOperationSet, ValidationFlags, Validator};
use std::collections::BTreeMap;
use std::sync::Mutex;
use wholestep_compiler::backend::{Backend, DeviceError, Executable, Unrun};
use wholestep_compiler::caps::{Caps, Language, Workgroups};
use wholestep_compiler::codegen::wgsl::beside::{self, Neighbour};
use wholestep_compiler::codegen::wgsl::{self, whole};
use wholestep_compiler::codegen::{self, Shader, choice, together};
use wholestep_compiler::ir::DType;
use wholestep_compiler::kernel::Kernel;
use wholestep_compiler::plan::{BufferId, Layout, Plan, Space};

/// The batch size for which tiles are offered.
const BATCH: usize = 64;
/// One at which launches are small.
const SMALL_BATCH: usize = 4;

/// What a shader becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    Vulkan,
    Metal,
    Dx12,
}

impl Driver {
    pub const ALL: [Driver; 3] = [Driver::Vulkan, Driver::Metal, Driver::Dx12];

    /// A usual device behind this driver: an NVIDIA GPU, an Apple one, and one of which only that is asked which WebGPU promises everywhere.
    pub fn caps(self) -> Caps {
        let usual = Workgroups {
            language: Language::Wgsl,
            threads: 1024,
            shared_bytes: 32_768,
            per_axis: 65_535,
            subgroup: Some((32, 32)),
            f16: true,
            long: true,
            tiles: Vec::new(),
        };
        let (max_args, workgroups) = match self {
            Driver::Vulkan => (40, Workgroups { shared_bytes: 49_152, tiles: vec![[16, 16, 16]], ..usual }),
            Driver::Metal => (30, Workgroups { tiles: vec![[8, 8, 8]], ..usual }),
            Driver::Dx12 => (
                40,
                Workgroups { threads: 256, shared_bytes: 16_384, subgroup: None, f16: false, long: false, ..usual },
            ),
        };
        Caps {
            name: format!("any GPU of {self:?}"),
            dtypes: vec![DType::F32, DType::F16, DType::BF16, DType::I32, DType::U32, DType::U8, DType::Bool],
            memory_bytes: None,
            align_bytes: 256,
            max_row_elems: 16_384,
            contract_scratch_bytes: wgsl::contract_scratch_bytes,
            max_args,
            byte_bytes: 4,
            long_bytes: 4,
            max_buffer_bytes: 1 << 30,
            loops: true,
            workgroups: Some(workgroups),
        }
    }

    /// Writes a shader in the driver's language.
    /// Errors: it is no WGSL that a device of [`Driver::caps`] takes, or the language cannot say it.
    pub fn translate(self, shader: &Shader) -> Result<String, String> {
        let module = naga::front::wgsl::parse_str(&shader.source).map_err(|e| e.emit_to_string(&shader.source))?;
        let mut may = Capabilities::SUBGROUP | Capabilities::SUBGROUP_BARRIER;
        let caps = self.caps();
        let Some(workgroups) = caps.workgroups else { return Err("no workgroups".to_string()) };
        may.set(Capabilities::SHADER_FLOAT16, workgroups.f16);
        may.set(Capabilities::SHADER_INT64, workgroups.long);
        may.set(Capabilities::COOPERATIVE_MATRIX, !workgroups.tiles.is_empty());
        // Every device packs two halves into a word.
        may |= Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        let mut validator = Validator::new(ValidationFlags::all(), may);
        validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
        let info = validator.validate(&module).map_err(|e| e.emit_to_string(&shader.source))?;
        let entry = || Some((ShaderStage::Compute, "main".to_string()));
        match self {
            Driver::Vulkan => {
                let options = spv::Options { lang_version: (1, 3), ..Default::default() };
                let words = spv::write_vec(&module, &info, &options, None).map_err(|e| format!("SPIR-V: {e}"))?;
                Ok(format!("{} words of SPIR-V", words.len()))
            }
            Driver::Metal => {
                let options = msl::Options { lang_version: (3, 0), fake_missing_bindings: true, ..Default::default() };
                let pipeline = msl::PipelineOptions { entry_point: entry(), ..Default::default() };
                let (text, _) =
                    msl::write_string(&module, &info, &options, &pipeline).map_err(|e| format!("MSL: {e}"))?;
                // Metal has matrices of 8x8 only, and naga writes any.
                match text.split("simdgroup_").skip(1).find(|rest| is_other_tile(rest)) {
                    Some(rest) => Err(format!("MSL: simdgroup_{} is a tile that Metal lacks", first_word(rest))),
                    None => Ok(text),
                }
            }
            Driver::Dx12 => {
                let options = hlsl::Options {
                    shader_model: hlsl::ShaderModel::V6_0,
                    fake_missing_bindings: true,
                    ..Default::default()
                };
                let mut text = String::new();
                let pipeline = back::hlsl::PipelineOptions { entry_point: entry() };
                let mut writer = hlsl::Writer::new(&mut text, &options, &pipeline);
                writer.write(&module, &info, None).map_err(|e| format!("HLSL: {e}"))?;
                Ok(text)
            }
        }
    }
}

/// Two shaders as one, with bindings of their own, if they fit.
fn side_by_side(two: [&Shader; 2]) -> Option<Shader> {
    let n_bindings = two.iter().map(|shader| shader.args.len()).sum::<usize>();
    if !beside::fits(&two) || n_bindings > Shader::PARAMS as usize {
        return None;
    }
    let mut bindings = 0..;
    let neighbours =
        two.map(|shader| Neighbour { shader, bindings: bindings.by_ref().take(shader.args.len()).collect() });
    Some(Shader { source: beside::source(&neighbours), ..two[0].clone() })
}

/// Whether what follows `simdgroup_` is the type of a matrix of another size than 8x8: `float16x16`.
fn is_other_tile(rest: &str) -> bool {
    let size = first_word(rest).trim_start_matches(|c: char| c.is_ascii_alphabetic());
    size.contains('x') && size != "8x8"
}

fn first_word(rest: &str) -> &str {
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
    &rest[..end]
}

/// A device that translates the shaders of each plan and runs none: slots keep what is written to them, outputs are zero.
pub struct Translator {
    driver: Driver,
    caps: Caps,
    /// The fault of each text, or none.
    seen: Mutex<BTreeMap<String, Option<String>>>,
}

impl Translator {
    pub fn new(driver: Driver) -> Translator {
        Translator { driver, caps: driver.caps(), seen: Mutex::default() }
    }

    /// Translates all shaders of a plan that were not seen before: of each contraction every text among which a device chooses, and all small
    /// launches as parts of one workgroup's text; beside each launch the one before, where their texts fit.
    pub fn translate(&self, plan: &Plan) -> Result<(), DeviceError> {
        let Some(workgroups) = &self.caps.workgroups else { return Ok(()) };
        let (mut parts, mut before) = (Vec::new(), None);
        for launch in plan.launches() {
            let kernels: Vec<Kernel> = launch.segments.iter().map(|s| plan.kernel_of(s)).collect();
            let kernel = &together(&kernels).kernel;
            let choices =
                if let Kernel::Contract(k) = kernel { choice::candidates(k, workgroups, BATCH) } else { Vec::new() };
            for choice in std::iter::once(None).chain(choices.into_iter().map(Some)) {
                let texts = codegen::chosen_shaders(kernel, launch.segments.len(), &self.caps, choice);
                self.see(&texts.map_err(DeviceError::Unsupported)?)?;
            }
            let alone =
                codegen::shaders(kernel, launch.segments.len(), &self.caps).map_err(DeviceError::Unsupported)?;
            if let Some(first) = before.replace(alone[0].clone()) {
                self.see(side_by_side([&first, &alone[0]]).as_slice())?;
            }
            if whole::work(&kernels[0], SMALL_BATCH).is_some() {
                let piece = |id: &BufferId| match plan.buffers[id.0 as usize].space {
                    Space::Input(_) => 0,
                    Space::Slot(_) => 1,
                    Space::Transient => 2,
                };
                let pieces = launch.segments[0].args.iter().map(piece).collect();
                // Some in rounds with others.
                let waits = parts.len().is_multiple_of(3);
                parts.push(whole::Part { kernel: kernels[0].clone(), pieces, waits });
            }
        }
        if !parts.is_empty() {
            self.see(&[false, true].map(|repeats| whole::shader(&parts, repeats, workgroups, SMALL_BATCH).0))?;
        }
        Ok(())
    }

    fn see(&self, shaders: &[Shader]) -> Result<(), DeviceError> {
        let lost = |_| DeviceError::Lost("a translation panicked".to_string());
        let mut seen = self.seen.lock().map_err(lost)?;
        for shader in shaders {
            let fault = || self.driver.translate(shader).err().map(|e| format!("{e}\nin\n{}", shader.source));
            seen.entry(shader.source.clone()).or_insert_with(fault);
        }
        Ok(())
    }

    /// How many different shaders were translated.
    /// Errors: those that could not be, with their texts.
    pub fn verdict(&self) -> Result<usize, String> {
        let seen = self.seen.lock().map_err(|_| "a translation panicked".to_string())?;
        let faults: Vec<&str> = seen.values().flatten().map(String::as_str).collect();
        if faults.is_empty() {
            return Ok(seen.len());
        }
        Err(format!("{} of {} shaders for {:?}:\n{}", faults.len(), seen.len(), self.driver, faults.join("\n")))
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
