//! Counts the calls of the allocator while kernels run: there must be none, on any thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use wholestep_cpu::conv::*;
use wholestep_cpu::matmul::{MatmulSpec, Rect, matmul, matmul_scratch_elems};
use wholestep_cpu::pool::Pool;
use wholestep_cpu::simd::Isa;

struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's contract is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is handed on.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn kernels_never_allocate() {
    let (pool, isa) = (Pool::new(3), Isa::detect());
    let p = pool.n_threads();
    let a_t = MatmulSpec { a_rs: 1, a_cs: 200, ..MatmulSpec::dense(200, 300, 150) };
    let split = MatmulSpec { b_rs: 1, b_cs: 9000, ..MatmulSpec::dense(20, 30, 9000) };
    let products = [MatmulSpec::dense(8, 16, 10), MatmulSpec::dense(200, 300, 700), a_t, split];
    let conv = |ci, co, groups, stride: usize| ConvSpec {
        n: 2,
        h: 16,
        w: 16,
        ci,
        oh: (16 - 1) / stride + 1,
        ow: (16 - 1) / stride + 1,
        co,
        kh: 3,
        kw: 3,
        stride: [stride; 2],
        dilation: [1; 2],
        pad: [1; 2],
        groups,
        depth: Depth::FLAT,
        accumulate: false,
    };
    let convs = [conv(3, 32, 1, 1), conv(64, 130, 1, 2), conv(32, 32, 32, 1)];
    let most = products.iter().map(|s| matmul_scratch_elems(s, p)).chain(convs.iter().flat_map(|s| {
        [conv_forward_scratch_elems(s, p), conv_input_grad_scratch_elems(s, p), conv_weight_grad_scratch_elems(s, p)]
    }));
    let mut scratch = vec![0.0f32; most.max().unwrap_or(0)];
    let (a, b, mut c) = (vec![1.0f32; 1 << 20], vec![1.0f32; 1 << 20], vec![0.0f32; 1 << 20]);
    let rows = AtomicUsize::new(0);
    let epilogue = |r: Rect| {
        rows.fetch_add(r.rows, Ordering::Relaxed);
    };
    let mut run = || {
        let (a, b, c, scratch) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), scratch.as_mut_ptr());
        for s in &products {
            // SAFETY: every buffer is larger than any of the specs needs.
            unsafe { matmul(&pool, isa, s, a, b, c, scratch, Some(&epilogue)) };
        }
        for s in &convs {
            // SAFETY: as above.
            unsafe {
                conv_forward(&pool, isa, s, a, b, c, scratch, Some(&epilogue));
                conv_input_grad(&pool, isa, s, a, b, c, scratch, Some(&epilogue));
                conv_weight_grad(&pool, isa, s, a, b, c, scratch);
            }
        }
    };
    run();
    let before = CALLS.load(Ordering::SeqCst);
    (0..20).for_each(|_| run());
    assert_eq!(CALLS.load(Ordering::SeqCst) - before, 0, "allocations in the kernels");
    drop(std::hint::black_box(Box::new(rows)));
    assert!(CALLS.load(Ordering::SeqCst) > before, "the counter counts");
}
