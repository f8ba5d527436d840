//! Values of any size on their way between host and device, as the device stores them. Takes bytes and a place in a buffer, moves them in pieces.
//! Never holds more of a large value beside it than two pieces.

use crate::adapter::Gpu;
use crate::memory;
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::caps::Caps;
use wholestep_compiler::ir::DType;

/// Bytes of a piece.
const PIECE: usize = 16 << 20;
/// Copies begin and end at multiples of this.
const WORD: usize = 4;

/// Copies `bytes` to `offset` in a buffer, before all that is submitted later. A last word that is not full is filled up with zeros: each
/// value has room to the end of its last word.
pub fn write(gpu: &Gpu, to: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
    let mut earlier = None;
    for (i, piece) in bytes.chunks(PIECE).enumerate() {
        let at = offset + (i * PIECE) as u64;
        let (words, rest) = piece.split_at(piece.len() / WORD * WORD);
        gpu.queue.write_buffer(to, at, words);
        if !rest.is_empty() {
            let mut word = [0; WORD];
            word[..rest.len()].copy_from_slice(rest);
            gpu.queue.write_buffer(to, at + words.len() as u64, &word);
        }
        // The queue keeps a copy of each piece until that piece is on the device.
        if piece.len() == PIECE
            && let Some(before) = earlier.replace(gpu.submit([]))
        {
            gpu.wait(Some(before))?;
        }
    }
    gpu.check()
}

/// Two buffers that values come back through: while the host copies out of one, the device fills the other.
#[derive(Default)]
pub struct ReadBack {
    turns: [Option<wgpu::Buffer>; 2],
}

/// A piece that the device was asked for.
struct Asked<'a> {
    submission: wgpu::SubmissionIndex,
    buffer: &'a wgpu::Buffer,
    bytes: &'a mut [u8],
}

impl ReadBack {
    /// Makes room for reading `bytes` bytes. Gives how many buffers that took, their bytes before and now.
    pub fn make_room(&mut self, gpu: &Gpu, bytes: usize) -> Result<(u64, u64, u64), DeviceError> {
        let wanted = bytes.min(PIECE).next_multiple_of(WORD) as u64;
        let mut taken = (0, 0, 0);
        for turn in self.turns.iter_mut().take(bytes.div_ceil(PIECE)) {
            let old = turn.as_ref().map_or(0, wgpu::Buffer::size);
            if old < wanted {
                let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
                let made = memory::buffer(gpu, wanted, usage, "reading a value")?;
                taken = (taken.0 + 1, taken.1 + old, taken.2 + made.size());
                *turn = Some(made);
            }
        }
        Ok(taken)
    }

    /// Copies what lies at `offset` in a buffer to the host, after all submitted work. There must be room.
    pub fn read(&self, gpu: &Gpu, from: &wgpu::Buffer, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let mut asked: Option<Asked> = None;
        for (i, piece) in bytes.chunks_mut(PIECE).enumerate() {
            let Some(buffer) = &self.turns[i % 2] else {
                return Err(DeviceError::Unsupported("bug: a value is read without room for it".to_string()));
            };
            let len = piece.len().next_multiple_of(WORD) as u64;
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            encoder.copy_buffer_to_buffer(from, offset + (i * PIECE) as u64, buffer, 0, len);
            let submission = gpu.submit([encoder.finish()]);
            buffer.slice(0..len).map_async(wgpu::MapMode::Read, |_| {});
            if let Some(before) = asked.replace(Asked { submission, buffer, bytes: piece }) {
                before.collect(gpu)?;
            }
        }
        asked.map_or(Ok(()), |last| last.collect(gpu))
    }
}

impl Asked<'_> {
    /// Waits for the piece and copies it out.
    fn collect(self, gpu: &Gpu) -> Result<(), DeviceError> {
        gpu.wait(Some(self.submission))?;
        let len = self.bytes.len().next_multiple_of(WORD) as u64;
        let mapped = self.buffer.slice(0..len).get_mapped_range().map_err(|e| DeviceError::Lost(e.to_string()))?;
        self.bytes.copy_from_slice(&mapped[..self.bytes.len()]);
        drop(mapped);
        self.buffer.unmap();
        Ok(())
    }
}

/// Elements as the device stores them: bytes become words, and `i64` becomes `i32`.
/// Errors: an `i64` that does not fit.
pub fn stored<'a>(
    bytes: &'a [u8],
    dtype: DType,
    caps: &Caps,
    words: &'a mut Vec<u32>,
    name: &str,
) -> Result<&'a [u8], DeviceError> {
    if caps.stored_bytes(dtype) == dtype.size_bytes() {
        return Ok(bytes);
    }
    words.clear();
    if dtype == DType::I64 {
        for (i, b) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let value = i64::from_le_bytes(*b);
            let Ok(small) = i32::try_from(value) else {
                return Err(DeviceError::Unsupported(format!(
                    "{name}: element {i} is {value}, and {} keeps i64 in 32 bits",
                    caps.name
                )));
            };
            words.push(small as u32);
        }
    } else {
        words.extend(bytes.iter().map(|&b| u32::from(b)));
    }
    Ok(bytemuck::cast_slice(words))
}

/// The reverse of [`stored`] for elements that take words on the device.
pub fn widen(words: &[u8], dtype: DType, bytes: &mut [u8]) {
    let size = dtype.size_bytes();
    // Hosts that wgpu runs on are little-endian.
    for (element, word) in bytes.chunks_mut(size).zip(words.as_chunks::<4>().0) {
        let value = i64::from(i32::from_le_bytes(*word));
        element.copy_from_slice(&value.to_le_bytes()[..size]);
    }
}
