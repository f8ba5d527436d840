//! Copies from buffer to buffer. Takes two places, copies large values by a shader, since the copy commands of some drivers reach a third of what
//! memory does, and small ones by the command. Never looks at what it copies.

use crate::adapter::Gpu;
use crate::pipeline::{bind_group_layout, entry, fold, pipeline};
use wholestep_compiler::codegen::{Count, Grid, Shader, Word};

/// From so many bytes on a dispatch is worth its while.
const LEAST_BYTES: u64 = 1 << 16;
/// Bytes of a vector, and of all vectors of a workgroup.
const VECTOR_BYTES: u64 = 16;
const WORKGROUP_BYTES: u64 = 256 * VECTOR_BYTES;

/// A place in a buffer. Places begin at multiples of what a binding's offset must be, and have room to the end of their last vector.
#[derive(Clone, Copy)]
pub struct At<'a> {
    pub buffer: &'a wgpu::Buffer,
    pub offset: u64,
}

/// The shader that copies, on one device.
pub struct Copier {
    layout: wgpu::BindGroupLayout,
    pipeline: wgpu::ComputePipeline,
}

impl Copier {
    pub fn new(gpu: &Gpu) -> Copier {
        let source = "
@group(0) @binding(0) var<storage, read_write> held: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> made: array<vec4<u32>>;
@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + local;
    if (i < arrayLength(&held)) {
        made[i] = held[i];
    }
}";
        let shader = Shader {
            source: source.to_string(),
            parts: None,
            args: vec![0, 1],
            workgroup: [256, 1, 1],
            params: vec![],
            grid: Grid::Line(Count { of: vec![Word::Bits(1)], per: 1 }),
            shared_bytes: 0,
            wants_registers: false,
            scratch: None,
        };
        let layout = bind_group_layout(gpu, &shader, &[]);
        let pipeline = pipeline(gpu, &shader, &layout, None);
        Copier { layout, pipeline }
    }

    /// Copies in pieces of at most `most` bytes, each a binding.
    fn encode(&self, gpu: &Gpu, encoder: &mut wgpu::CommandEncoder, [from, to]: [At; 2], bytes: u64, most: u64) {
        let bytes = bytes.next_multiple_of(VECTOR_BYTES);
        let most = most / WORKGROUP_BYTES * WORKGROUP_BYTES;
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline);
        for at in (0..bytes).step_by(most as usize) {
            let n = most.min(bytes - at);
            let entries = [entry(0, from.buffer, from.offset + at, n), entry(1, to.buffer, to.offset + at, n)];
            let descriptor = wgpu::BindGroupDescriptor { label: None, layout: &self.layout, entries: &entries };
            pass.set_bind_group(0, &gpu.device.create_bind_group(&descriptor), &[]);
            let per_axis = u64::from(gpu.limits.max_compute_workgroups_per_dimension);
            let [x, y, z] = fold(n.div_ceil(WORKGROUP_BYTES), per_axis).expect("bug: a binding has too many vectors");
            pass.dispatch_workgroups(x, y, z);
        }
    }
}

/// The commands that copy `bytes`, in another buffer than they come from.
pub fn copy(gpu: &Gpu, places: [At; 2], bytes: u64) -> wgpu::CommandBuffer {
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    if bytes < LEAST_BYTES {
        let [from, to] = places;
        // Commands copy whole words.
        let bytes = bytes.next_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT);
        encoder.copy_buffer_to_buffer(from.buffer, from.offset, to.buffer, to.offset, bytes);
    } else {
        let copier = gpu.copier.get_or_init(|| Copier::new(gpu));
        copier.encode(gpu, &mut encoder, places, bytes, gpu.limits.max_storage_buffer_binding_size);
    }
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::{At, Copier, LEAST_BYTES, VECTOR_BYTES, WORKGROUP_BYTES, copy};
    use crate::adapter::test_backend;
    use crate::memory;
    use crate::transfer::{self, ReadBack};
    use crate::tune::Config;

    #[test]
    fn values_of_every_length_are_copied_to_the_end_of_their_last_vector_and_no_further() {
        let Some(gpu) = test_backend(Config::default()).map(|backend| backend.gpu) else { return };
        let room = 5 * LEAST_BYTES;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let [a, b] = [0, 1].map(|_| memory::buffer(&gpu, room, usage, "a test").unwrap());
        let pattern: Vec<u8> = (0..room as u32 / 4).flat_map(|i| i.wrapping_mul(2_654_435_761).to_ne_bytes()).collect();
        transfer::write(&gpu, &a, 0, &pattern).unwrap();
        let places = [At { buffer: &a, offset: 256 }, At { buffer: &b, offset: 512 }];
        let copier = Copier::new(&gpu);
        for bytes in [4, LEAST_BYTES - 4, LEAST_BYTES, LEAST_BYTES + 4, 3 * LEAST_BYTES + 16, 4 * LEAST_BYTES] {
            for most in [None, Some(WORKGROUP_BYTES), Some(2 * LEAST_BYTES + 16)] {
                transfer::write(&gpu, &b, 0, &vec![7; room as usize]).unwrap();
                let commands = match most {
                    None => copy(&gpu, places, bytes),
                    Some(most) => {
                        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                        copier.encode(&gpu, &mut encoder, places, bytes, most);
                        encoder.finish()
                    }
                };
                gpu.submit([commands]);
                let mut got = vec![0; room as usize];
                let mut back = ReadBack::default();
                back.make_room(&gpu, got.len()).unwrap();
                back.read(&gpu, &b, 0, &mut got).unwrap();
                let n = bytes as usize;
                assert!(got[512..512 + n] == pattern[256..256 + n], "{bytes} bytes, pieces of {most:?}");
                let rest = 512 + bytes.next_multiple_of(VECTOR_BYTES) as usize;
                assert!(got[..512].iter().chain(&got[rest..]).all(|b| *b == 7), "{bytes} bytes, pieces of {most:?}");
            }
        }
    }
}
