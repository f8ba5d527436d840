//! cuDNN. Takes convolutions, gives ways to make them and puts them on a stream. Never chooses: who asked times them.

use crate::convolution::{Axis, Convolution, Form};
use crate::driver::{Algorithm, ProductCall};
use crate::library::Library;
use cudarc::cudnn::{result, sys};
use cudarc::driver::sys::CUstream;
use result::CudnnError;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use sys::cudnnConvolutionBwdDataAlgo_t as Data;
use sys::cudnnConvolutionBwdFilterAlgo_t as Filter;
use sys::cudnnConvolutionFwdAlgo_t as Forward;
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::ir::DType;

/// The library with what it made of convolutions so far.
pub struct Dnn {
    handle: sys::cudnnHandle_t,
    made: BTreeMap<Convolution, Made>,
}

/// A convolution in the library's words.
struct Made {
    x: sys::cudnnTensorDescriptor_t,
    w: sys::cudnnFilterDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    how: sys::cudnnConvolutionDescriptor_t,
    /// What each way needs: asking takes as long as a call.
    ways: Vec<(Way, u64)>,
}

/// A way that the library has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Forward(Forward),
    InputGrad(Data),
    WeightGrad(Filter),
}

/// Those that give the same bits each time, with that of the fewest conditions first.
const FORWARD: &[Forward] = &[
    Forward::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
    Forward::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
    Forward::CUDNN_CONVOLUTION_FWD_ALGO_GEMM,
    Forward::CUDNN_CONVOLUTION_FWD_ALGO_FFT,
    Forward::CUDNN_CONVOLUTION_FWD_ALGO_FFT_TILING,
    Forward::CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD,
    Forward::CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD_NONFUSED,
];
const INPUT_GRAD: &[Data] = &[
    Data::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1,
    Data::CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT,
    Data::CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT_TILING,
    Data::CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD,
    Data::CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD_NONFUSED,
];
const WEIGHT_GRAD: &[Filter] = &[
    Filter::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
    Filter::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT,
    Filter::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD_NONFUSED,
    Filter::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT_TILING,
];
/// The errors of an older version are other numbers.
const FIRST_VERSION: usize = 90_000;

impl Way {
    fn all(form: Form) -> Vec<Way> {
        match form {
            Form::Forward => FORWARD.iter().copied().map(Way::Forward).collect(),
            Form::InputGrad => INPUT_GRAD.iter().copied().map(Way::InputGrad).collect(),
            Form::WeightGrad => WEIGHT_GRAD.iter().copied().map(Way::WeightGrad).collect(),
        }
    }

    /// By the library's numbers.
    fn algorithm(self) -> Algorithm {
        let number = match self {
            Way::Forward(a) => a as u64,
            Way::InputGrad(a) => a as u64,
            Way::WeightGrad(a) => a as u64,
        };
        Algorithm { data: [number, 0, 0, 0, 0, 0, 0, 0] }
    }
}

impl Dnn {
    /// The library, if it is there; the context is bound.
    pub fn open() -> Option<Dnn> {
        Library::Cudnn.open().ok().filter(|()| Dnn::version() >= FIRST_VERSION)?;
        Some(Dnn { handle: result::create_handle().ok()?, made: BTreeMap::new() })
    }

    /// Of the library, which is open.
    pub fn version() -> usize {
        result::get_version()
    }

    fn made(&mut self, c: &Convolution) -> Result<&Made, DeviceError> {
        if !self.made.contains_key(c) {
            let made = Made::new(self.handle, c).map_err(|e| failed(e, c))?;
            self.made.insert(c.clone(), made);
        }
        Ok(&self.made[c])
    }

    /// Ways to make a convolution with so much memory to work in.
    pub fn algorithms(&mut self, c: &Convolution, workspace: u64) -> Result<Vec<Algorithm>, DeviceError> {
        Ok(self.ways(c, workspace)?.into_iter().map(Way::algorithm).collect())
    }

    fn ways(&mut self, c: &Convolution, workspace: u64) -> Result<Vec<Way>, DeviceError> {
        let fitting = self.made(c)?.ways.iter().filter(|(_, bytes)| *bytes <= workspace);
        Ok(fitting.map(|(way, _)| *way).collect())
    }

    /// A way that needs more memory at this batch size than there is gives its place to the first that does with it.
    pub fn enqueue(&mut self, c: &Convolution, call: &ProductCall, stream: CUstream) -> Result<(), DeviceError> {
        let ways = self.ways(c, call.workspace_bytes)?;
        let chosen = ways.iter().find(|way| Some(way.algorithm()) == call.algorithm);
        let Some(&way) = chosen.or(ways.first()) else {
            return Err(DeviceError::Unsupported(format!("a convolution that cuDNN has no way for: {c:?}")));
        };
        let handle = self.handle;
        let made = self.made(c)?;
        // SAFETY: the handle is this library's and the stream is of the context in which it was made.
        let done = unsafe { result::set_stream(handle, stream.cast()) }.and_then(|()| made.enqueue(handle, way, call));
        done.map_err(|e| failed(e, c))
    }
}

impl Drop for Dnn {
    fn drop(&mut self) {
        self.made.clear();
        // SAFETY: it was made by `open` and is used no more. What fails here fails because the device is lost.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

fn failed(e: CudnnError, c: &Convolution) -> DeviceError {
    DeviceError::Unsupported(format!("a convolution by cuDNN: {:?}, {c:?}", e.0))
}

impl Made {
    fn new(handle: sys::cudnnHandle_t, c: &Convolution) -> Result<Made, CudnnError> {
        let dtype = match c.dtype {
            DType::F32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
            DType::F16 => sys::cudnnDataType_t::CUDNN_DATA_HALF,
            DType::BF16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
            DType::F64 | DType::I64 | DType::I32 | DType::U32 | DType::U8 | DType::Bool => {
                panic!("bug: a convolution of {}", c.dtype)
            }
        };
        let each = |of: fn(&Axis) -> u64| c.axes.iter().map(|a| of(a) as c_int).collect::<Vec<_>>();
        let mut made = Made {
            x: result::create_tensor_descriptor()?,
            w: result::create_filter_descriptor()?,
            y: result::create_tensor_descriptor()?,
            how: result::create_convolution_descriptor()?,
            ways: Vec::new(),
        };
        let kernel = [vec![c.c_out as c_int, (c.c_in / c.groups) as c_int], each(|a| a.kernel)].concat();
        let (pad, stride, dilation) = (each(|a| a.pad), each(|a| a.stride), each(|a| a.dilation));
        let math = match (c.dtype, c.tf32) {
            (DType::F32, false) => sys::cudnnMathType_t::CUDNN_FMA_MATH,
            _ => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        };
        // SAFETY: all descriptors were just made, and the lists are as long as they are said to be.
        unsafe {
            image(made.x, dtype, c.n, &each(|a| a.input), c.c_in)?;
            image(made.y, dtype, c.n, &each(|a| a.out), c.c_out)?;
            let order = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
            result::set_filternd_descriptor(made.w, dtype, order, kernel.len() as c_int, kernel.as_ptr())?;
            result::set_convolutionnd_descriptor(
                made.how,
                pad.len() as c_int,
                pad.as_ptr(),
                stride.as_ptr(),
                dilation.as_ptr(),
                sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION,
                sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
            )?;
            result::set_convolution_group_count(made.how, c.groups as c_int)?;
            result::set_convolution_math_type(made.how, math)?;
        }
        let needs = |way: Way| Some((way, made.workspace_bytes(handle, way)?));
        made.ways = Way::all(c.form).into_iter().filter_map(needs).collect();
        Ok(made)
    }

    /// What a way needs; `None` for one that the library has not for this convolution.
    fn workspace_bytes(&self, handle: sys::cudnnHandle_t, way: Way) -> Option<u64> {
        let &Made { x, w, y, how, .. } = self;
        let mut bytes = 0_usize;
        // SAFETY: the handle is the library's, all descriptors were set, and the place is one for a number.
        let status = unsafe {
            match way {
                Way::Forward(a) => sys::cudnnGetConvolutionForwardWorkspaceSize(handle, x, w, how, y, a, &mut bytes),
                Way::InputGrad(a) => {
                    sys::cudnnGetConvolutionBackwardDataWorkspaceSize(handle, w, y, how, x, a, &mut bytes)
                }
                Way::WeightGrad(a) => {
                    sys::cudnnGetConvolutionBackwardFilterWorkspaceSize(handle, x, y, how, w, a, &mut bytes)
                }
            }
        };
        status.result().ok().map(|()| bytes as u64)
    }

    fn enqueue(&self, handle: sys::cudnnHandle_t, way: Way, call: &ProductCall) -> Result<(), CudnnError> {
        let &Made { x, w, y, how, .. } = self;
        let (one, zero) = (1.0_f32, 0.0_f32);
        let (one, zero): (*const c_void, *const c_void) =
            (std::ptr::from_ref(&one).cast(), std::ptr::from_ref(&zero).cast());
        let (lhs, rhs, out) = (call.lhs as *const c_void, call.rhs as *const c_void, call.result as *mut c_void);
        let (space, bytes) = (call.workspace as *mut c_void, call.workspace_bytes as usize);
        // SAFETY: all descriptors were set; operands, result and workspace are ranges of the queue's memory that hold what the descriptors say, and
        // the factors are of the type in which sums are made.
        let status = unsafe {
            match way {
                Way::Forward(a) => {
                    sys::cudnnConvolutionForward(handle, one, x, lhs, w, rhs, how, a, space, bytes, zero, y, out)
                }
                Way::InputGrad(a) => {
                    sys::cudnnConvolutionBackwardData(handle, one, w, rhs, y, lhs, how, a, space, bytes, zero, x, out)
                }
                Way::WeightGrad(a) => {
                    sys::cudnnConvolutionBackwardFilter(handle, one, x, lhs, y, rhs, how, a, space, bytes, zero, w, out)
                }
            }
        };
        status.result()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // SAFETY: they were made by `new` and are used no more.
        unsafe {
            let _ = result::destroy_tensor_descriptor(self.x);
            let _ = result::destroy_filter_descriptor(self.w);
            let _ = result::destroy_tensor_descriptor(self.y);
            let _ = result::destroy_convolution_descriptor(self.how);
        }
    }
}

/// Lets a descriptor say an image with its channels last.
///
/// # Safety
/// It was made and not given back.
unsafe fn image(
    of: sys::cudnnTensorDescriptor_t,
    dtype: sys::cudnnDataType_t,
    n: u64,
    pixels: &[c_int],
    channels: u64,
) -> Result<(), CudnnError> {
    let channels = channels as c_int;
    let extents = [&[n as c_int, channels], pixels].concat();
    let mut strides = vec![1; extents.len()];
    let mut stride = channels;
    for (at, pixels) in strides[2..].iter_mut().zip(pixels).rev() {
        *at = stride;
        stride *= pixels;
    }
    strides[0] = stride;
    // SAFETY: the caller's, and both lists are as long as is said.
    unsafe { result::set_tensornd_descriptor(of, dtype, extents.len() as c_int, extents.as_ptr(), strides.as_ptr()) }
}
