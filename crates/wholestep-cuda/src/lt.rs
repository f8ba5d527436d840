//! cuBLASLt. Takes products, gives ways to make them and puts them on a stream. Never chooses: who asked times them.

use crate::driver::{Algorithm, ProductCall};
use crate::library::Library;
use crate::product::{Epilogue, Matrix, Product};
use cudarc::cublaslt::{result, sys};
use cudarc::driver::sys::CUstream;
use result::CublasError;
use std::collections::BTreeMap;
use std::ffi::c_void;
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::ir::DType;

/// The library with what it made of products so far.
pub struct Lt {
    handle: sys::cublasLtHandle_t,
    made: BTreeMap<Product, Made>,
}

/// A product in the library's words. Its matrices go column by column, so it makes the transposed result of transposed operands in turned order.
struct Made {
    what: sys::cublasLtMatmulDesc_t,
    lhs: sys::cublasLtMatrixLayout_t,
    rhs: sys::cublasLtMatrixLayout_t,
    result: sys::cublasLtMatrixLayout_t,
    /// The best by its own rules first.
    algorithms: Vec<Algorithm>,
}

const BIAS: sys::cublasLtMatmulDescAttributes_t =
    sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
const AUX: sys::cublasLtMatmulDescAttributes_t =
    sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER;
/// The version from which on it takes lists of addresses: that of CUDA 12.9.
const TAKES_LISTS: usize = 120_900;
/// Stands for an address while ways are asked for: it tells how addresses are aligned.
const SOME_ADDRESS: u64 = 256;

/// Ways that are asked for: so many cuBLASLt 13 has at most, and the last ones are the fastest now and then.
const MOST_ALGORITHMS: usize = 8;

impl Lt {
    /// The library, if it is there; the context is bound.
    pub fn open() -> Option<Lt> {
        Library::CublasLt.open().ok()?;
        Some(Lt { handle: result::create_handle().ok()?, made: BTreeMap::new() })
    }

    /// Loads the library into the process, if it is there, so that opening it later takes no time.
    pub fn load() {
        if Library::CublasLt.open().is_ok() {
            // The first call keeps it loaded.
            Lt::version();
        }
    }

    /// Whether it takes lists of addresses.
    pub fn takes_lists() -> bool {
        Lt::version() >= TAKES_LISTS
    }

    pub fn version() -> usize {
        // SAFETY: the library is open.
        unsafe { sys::cublasLtGetVersion() }
    }

    fn made(&mut self, product: &Product, workspace: u64) -> Result<&Made, DeviceError> {
        if !self.made.contains_key(product) {
            let made = make(self.handle, product, workspace).map_err(|e| failed(e, product))?;
            self.made.insert(product.clone(), made);
        }
        Ok(&self.made[product])
    }

    /// Ways to make a product with so much memory to work in, the likeliest first.
    pub fn algorithms(&mut self, product: &Product, workspace: u64) -> Result<Vec<Algorithm>, DeviceError> {
        Ok(self.made(product, workspace)?.algorithms.clone())
    }

    pub fn enqueue(&mut self, product: &Product, call: &ProductCall, stream: CUstream) -> Result<(), DeviceError> {
        let handle = self.handle;
        let made = self.made(product, call.workspace_bytes)?;
        let first = made.algorithms.first().copied();
        if product.listed && call.algorithm.or(first).is_none() {
            return self.enqueue(&Product { listed: false, ..product.clone() }, call, stream);
        }
        let Some(algorithm) = call.algorithm.or(first) else {
            return Err(DeviceError::Unsupported(format!("a product that cuBLASLt has no way for: {product:?}")));
        };
        let algo = sys::cublasLtMatmulAlgo_t { data: algorithm.data };
        let (one, zero) = (1.0_f32, 0.0_f32);
        let (one_64, zero_64) = (1.0_f64, 0.0_f64);
        let wide = product.lhs.dtype == DType::F64;
        let pointer = |narrow: &f32, long: &f64| -> *const c_void {
            if wide { std::ptr::from_ref(long).cast() } else { std::ptr::from_ref(narrow).cast() }
        };
        for (attribute, at) in [(BIAS, call.bias), (AUX, call.aux)] {
            let Some(at) = at else { continue };
            // SAFETY: the description is this handle's and the value is of the attribute's type.
            let put =
                unsafe { result::set_matmul_desc_attribute(made.what, attribute, std::ptr::from_ref(&at).cast(), 8) };
            put.map_err(|e| failed(e, product))?;
        }
        let Product { outer, batch, lhs, rhs, result, result_strides, .. } = product;
        // Three lists, one after the other.
        let lists = call.lists.filter(|_| product.listed).map(|at| [0, 1, 2].map(|i| at + i * 8 * outer * batch));
        let n_calls = if lists.is_some() { 1 } else { *outer };
        let after = |at: u64, stride: u64, dtype: DType, i: u64| at + i * stride * dtype.size_bytes() as u64;
        for i in 0..n_calls {
            let [lhs_at, rhs_at, result_at] = lists.unwrap_or([
                after(call.lhs, lhs.outer_stride, lhs.dtype, i),
                after(call.rhs, rhs.outer_stride, rhs.dtype, i),
                after(call.result, result_strides[0], *result, i),
            ]);
            let [lhs_at, rhs_at] = [lhs_at, rhs_at].map(|at| at as *const c_void);
            let result_at = result_at as *mut c_void;
            // SAFETY: descriptions are this handle's; operands, result and workspace are ranges of the queue's memory that hold what the
            // descriptions say, and the factors are of the type that was declared.
            let done = unsafe {
                result::matmul(
                    handle,
                    made.what,
                    pointer(&one, &one_64),
                    pointer(&zero, &zero_64),
                    rhs_at,
                    made.rhs,
                    lhs_at,
                    made.lhs,
                    result_at,
                    made.result,
                    result_at,
                    made.result,
                    &algo,
                    call.workspace as *mut c_void,
                    call.workspace_bytes as usize,
                    stream.cast(),
                )
            };
            done.map_err(|e| failed(e, product))?;
        }
        Ok(())
    }
}

impl Drop for Lt {
    fn drop(&mut self) {
        // SAFETY: all of it was made by this handle and is used no more. What fails here fails because the device is lost.
        unsafe {
            for made in self.made.values() {
                for layout in [made.lhs, made.rhs, made.result] {
                    let _ = result::destroy_matrix_layout(layout);
                }
                let _ = result::destroy_matmul_desc(made.what);
            }
            let _ = result::destroy_handle(self.handle);
        }
    }
}

fn failed(e: CublasError, product: &Product) -> DeviceError {
    let Product { outer, batch, m, n, k, .. } = product;
    DeviceError::Unsupported(format!("a product {outer}x{batch}x{m}x{n}x{k} by cuBLASLt: {:?}", e.0))
}

fn kind(dtype: DType) -> sys::cudaDataType {
    match dtype {
        DType::F32 => sys::cudaDataType::CUDA_R_32F,
        DType::F64 => sys::cudaDataType::CUDA_R_64F,
        DType::F16 => sys::cudaDataType::CUDA_R_16F,
        DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
        DType::I64 | DType::I32 | DType::U32 | DType::U8 | DType::Bool => panic!("bug: a product of {dtype}"),
    }
}

/// A layout of a matrix of `rows` rows, as columns of the length that follows each other in memory.
fn layout(
    dtype: DType,
    [length, count]: [u64; 2],
    stride: u64,
    batch: u64,
    batch_stride: u64,
    listed: bool,
) -> Result<sys::cublasLtMatrixLayout_t, CublasError> {
    use sys::cublasLtMatrixLayoutAttribute_t as A;
    let made = result::create_matrix_layout(kind(dtype), length, count, stride as i64)?;
    let (batch, between) = (batch as i32, batch_stride as i64);
    // SAFETY: the layout was just made, and the values are of the types that the attributes have.
    unsafe {
        let count = A::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT;
        result::set_matrix_layout_attribute(made, count, std::ptr::from_ref(&batch).cast(), size_of_val(&batch))?;
        if listed {
            let mode = sys::cublasLtBatchMode_t::CUBLASLT_BATCH_MODE_POINTER_ARRAY;
            let attribute = A::CUBLASLT_MATRIX_LAYOUT_BATCH_MODE;
            result::set_matrix_layout_attribute(made, attribute, std::ptr::from_ref(&mode).cast(), size_of_val(&mode))?;
            return Ok(made);
        }
        let offset = A::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
        result::set_matrix_layout_attribute(made, offset, std::ptr::from_ref(&between).cast(), size_of_val(&between))?;
    }
    Ok(made)
}

fn make(handle: sys::cublasLtHandle_t, p: &Product, workspace: u64) -> Result<Made, CublasError> {
    use sys::cublasComputeType_t as C;
    use sys::cublasLtMatmulDescAttributes_t as A;
    let (compute, scale) = match (p.lhs.dtype, p.tf32) {
        (DType::F64, _) => (C::CUBLAS_COMPUTE_64F, DType::F64),
        (DType::F32, true) => (C::CUBLAS_COMPUTE_32F_FAST_TF32, DType::F32),
        _ => (C::CUBLAS_COMPUTE_32F, DType::F32),
    };
    let what = result::create_matmul_desc(compute, kind(scale))?;
    let turned = |m: &Matrix| i32::from(m.by_columns);
    for (attribute, value) in
        [(A::CUBLASLT_MATMUL_DESC_TRANSA, turned(&p.rhs)), (A::CUBLASLT_MATMUL_DESC_TRANSB, turned(&p.lhs))]
    {
        // SAFETY: the description was just made, and the value is of the attribute's type.
        unsafe { result::set_matmul_desc_attribute(what, attribute, std::ptr::from_ref(&value).cast(), 4)? };
    }
    put_epilogue(what, p)?;
    let n_matrices = if p.listed { p.outer * p.batch } else { p.batch };
    let operand = |m: &Matrix, [rows, columns]: [u64; 2]| {
        let size = if m.by_columns { [rows, columns] } else { [columns, rows] };
        layout(m.dtype, size, m.stride, n_matrices, m.batch_stride, p.listed)
    };
    let (lhs, rhs) = (operand(&p.lhs, [p.m, p.k])?, operand(&p.rhs, [p.k, p.n])?);
    let result_layout = layout(p.result, [p.n, p.m], p.row_stride, n_matrices, p.result_strides[1], p.listed)?;
    let preference = result::create_matmul_pref()?;
    // Parts of a sum are added as sums and not as results, which are rounded once.
    let reduction = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK;
    let in_sums = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
    let mut found: Vec<sys::cublasLtMatmulHeuristicResult_t> = Vec::with_capacity(MOST_ALGORITHMS);
    let mut n = 0;
    // SAFETY: all descriptions were made above; the list has room for as many as are asked for, and holds as many as the library says.
    unsafe {
        let most = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        result::set_matmul_pref_attribute(preference, most, std::ptr::from_ref(&workspace).cast(), 8)?;
        if p.result.size_bytes() == 2 {
            result::set_matmul_pref_attribute(preference, reduction, std::ptr::from_ref(&in_sums).cast(), 4)?;
        }
        let (list, wanted) = (found.as_mut_ptr(), MOST_ALGORITHMS as i32);
        let asked = sys::cublasLtMatmulAlgoGetHeuristic(
            handle,
            what,
            rhs,
            lhs,
            result_layout,
            result_layout,
            preference,
            wanted,
            list,
            &mut n,
        );
        let _ = result::destroy_matmul_pref(preference);
        // Where it has none it says so by an error.
        if asked != sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED {
            asked.result()?;
        }
        found.set_len(n as usize);
    }
    let works = found.iter().filter(|f| f.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
    let algorithms = works.map(|f| Algorithm { data: f.algo.data }).collect();
    Ok(Made { what, lhs, rhs, result: result_layout, algorithms })
}

/// Says in a description what is done with each sum.
fn put_epilogue(what: sys::cublasLtMatmulDesc_t, p: &Product) -> Result<(), CublasError> {
    use sys::cublasLtEpilogue_t as E;
    use sys::cublasLtMatmulDescAttributes_t as A;
    let epilogue = match p.epilogue {
        Epilogue::None => return Ok(()),
        Epilogue::Bias => E::CUBLASLT_EPILOGUE_BIAS,
        Epilogue::BiasRelu => E::CUBLASLT_EPILOGUE_RELU_BIAS,
        Epilogue::BiasGelu => E::CUBLASLT_EPILOGUE_GELU_BIAS,
        Epilogue::BiasGeluAux => E::CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
    };
    // SAFETY: the caller has made the description, and each value is of its attribute's type.
    unsafe {
        result::set_matmul_desc_attribute(
            what,
            A::CUBLASLT_MATMUL_DESC_EPILOGUE,
            std::ptr::from_ref(&epilogue).cast(),
            4,
        )?;
        result::set_matmul_desc_attribute(what, BIAS, std::ptr::from_ref(&SOME_ADDRESS).cast(), 8)?;
        if p.epilogue == Epilogue::BiasGeluAux {
            let length = A::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD;
            result::set_matmul_desc_attribute(what, AUX, std::ptr::from_ref(&SOME_ADDRESS).cast(), 8)?;
            result::set_matmul_desc_attribute(what, length, std::ptr::from_ref(&(p.n as i64)).cast(), 8)?;
        }
    }
    Ok(())
}
