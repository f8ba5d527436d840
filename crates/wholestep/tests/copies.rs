//! Values on their way between host, device and dtypes: to the bit where the type holds them, correctly rounded where it does not.

use wholestep::optim::Sgd;
use wholestep::{Array, Batch, Device, ErrorKind, F32, F64, I32, I64, Infer, Init, Scope, Shape, Step, Tensor, U8};
use wholestep_compiler::ir::SlotKind;
use wholestep_compiler::ops::ConvOptions;

fn cpu() -> Device {
    Device::cpu_with_threads(2)
}

/// Words that no rounding would leave alone.
fn words(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761) ^ (i >> 3)).collect()
}

#[test]
fn what_goes_to_the_device_comes_back_to_the_bit() {
    // 1 byte to 64 MiB, with sizes beside every power of two that a chunk could have.
    for n in [1usize, 3, 4, 5, 63, 64, 65, 1023, 4097, 65_535, 1_048_577, (64 << 20) - 3] {
        let bytes: Vec<u8> = words(n.div_ceil(4)).iter().flat_map(|w| w.to_le_bytes()).take(n).collect();
        let mut program = Infer::compile(&cpu(), 1, |s| {
            let held = s.slot("held", SlotKind::Buffer, U8, Shape::from([n]), Init::Const(0.0));
            held.slice(0, 0..1).cast(F32)
        })
        .unwrap();
        let sent = Array::from_vec(bytes);
        program.write("held", &sent).unwrap();
        assert!(program.read("held").unwrap() == sent, "{n} bytes");
    }
    // As an input of a step and an output of it, every bit pattern of f32 survives, NaN's too.
    for n in [1usize, 7, 4099] {
        let x = Array::from_vec(words(n).into_iter().map(f32::from_bits).collect());
        let mut program =
            Infer::compile(&cpu(), n, |s| s.input("x", (Batch,), F32).reshape((Batch, 1)).reshape((Batch,))).unwrap();
        let out = program.run(&[("x", &x)]).unwrap();
        let bits = |a: &Array| a.slice::<f32>().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
        assert_eq!(bits(&out), bits(&x), "{n} floats");
    }
}

/// f64 values around every case of rounding to f32, and the f32 that is nearest, ties to even.
const ROUNDED: [(f64, u32); 14] = [
    (1.0, 0x3f80_0000),
    (1.000_000_059_604_644_8, 0x3f80_0000),
    (1.000_000_059_604_645, 0x3f80_0001),
    (1.000_000_178_813_934_3, 0x3f80_0002),
    (0.1, 0x3dcc_cccd),
    (-0.1, 0xbdcc_cccd),
    (1.401_298_464_324_817e-45, 0x0000_0001),
    (7.006_492_321_624_085e-46, 0x0000_0000),
    (7.006_492_321_624_087e-46, 0x0000_0001),
    (1.175_494_280_757_364_4e-38, 0x0080_0000),
    (3.402_823_466_385_288_6e38, 0x7f7f_ffff),
    (-0.0, 0x8000_0000),
    (f64::INFINITY, 0x7f80_0000),
    (f64::NEG_INFINITY, 0xff80_0000),
];

fn cast_on_device(x: &Array, from: wholestep::DType, to: wholestep::DType) -> Array {
    let mut program = Infer::compile(&cpu(), x.len(), |s| s.input("x", (Batch,), from).cast(to)).unwrap();
    program.run(&[("x", x)]).unwrap()
}

#[test]
fn casts_round_to_nearest_even_on_the_host_and_on_the_device() {
    let wide = Array::from_vec(ROUNDED.iter().map(|r| r.0).collect());
    let want: Vec<u32> = ROUNDED.iter().map(|r| r.1).collect();
    let bits = |a: &Array| a.slice::<f32>().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
    assert_eq!(bits(&wide.cast::<f32>().unwrap()), want, "host");
    let on_device = bits(&cast_on_device(&wide, F64, F32));
    assert_eq!(on_device, want, "device");
    let nan = Array::from_vec(vec![f64::NAN]);
    assert!(nan.cast::<f32>().unwrap().slice::<f32>().unwrap()[0].is_nan());
    assert!(cast_on_device(&nan, F64, F32).slice::<f32>().unwrap()[0].is_nan());
    // Whole numbers that f32 cannot hold: refused on the host, rounded to even where a program asks for it.
    let whole = Array::from_vec(vec![(1i64 << 24) + 1, (1 << 24) + 3, -(1 << 24) - 1, 1 << 40]);
    assert!(whole.cast::<f32>().is_err());
    let got = cast_on_device(&whole, I64, F32).slice::<f32>().unwrap().to_vec();
    assert_eq!(got, [16_777_216.0, 16_777_220.0, -16_777_216.0, 1_099_511_627_776.0]);
    // f32 widens exactly, also below the smallest normal number.
    let narrow = Array::from_vec(vec![f32::from_bits(1), 0.1, -0.0, f32::MAX]);
    let exact: Vec<f64> = narrow.slice::<f32>().unwrap().iter().map(|&x| f64::from(x)).collect();
    assert_eq!(narrow.cast::<f64>().unwrap().slice::<f64>().unwrap(), exact);
    assert_eq!(cast_on_device(&narrow, F32, F64).slice::<f64>().unwrap(), exact);
    // Towards zero into whole numbers, as PyTorch's `to` does.
    let parts = Array::from_vec(vec![2.9f32, -2.9, 0.5, -0.5]);
    assert_eq!(cast_on_device(&parts, F32, I32).slice::<i32>().unwrap(), [2, -2, 0, 0]);
    assert!(parts.cast::<i32>().is_err(), "the host never drops a fraction");
}

/// [`half`] makes the bytes of 16-bit slots; its rounding is ours.
#[test]
fn sixteen_bits_round_to_nearest_even() {
    use half::{bf16, f16};
    let cases: [(f32, u16, u16); 9] = [
        (1.0, 0x3c00, 0x3f80),
        (1.000_488_3, 0x3c00, 0x3f80),
        (1.001_464_8, 0x3c02, 0x3f80),
        (65_504.0, 0x7bff, 0x4780),
        (65_520.0, 0x7c00, 0x4780),
        (5.960_464_5e-8, 0x0001, 0x3380),
        (2.980_232_2e-8, 0x0000, 0x3300),
        (f32::INFINITY, 0x7c00, 0x7f80),
        (f32::NEG_INFINITY, 0xfc00, 0xff80),
    ];
    for (x, as_f16, as_bf16) in cases {
        assert_eq!((f16::from_f32(x).to_bits(), bf16::from_f32(x).to_bits()), (as_f16, as_bf16), "{x}");
    }
    assert!(f16::from_f32(f32::NAN).is_nan() && bf16::from_f32(f32::NAN).is_nan());
    assert!(bf16::from_f32(f32::from_bits(0x7f80_0001)).is_nan(), "a NaN whose upper bits are zero stays one");
}

/// A convolution's weight is stored in the order in which it is read; a program that reads it otherwise holds it as it was declared.
#[test]
fn a_weight_that_another_program_stores_in_another_order_is_turned_on_its_way() {
    const SHAPE: [usize; 4] = [4, 3, 2, 5];
    let weight = |s: &Scope| s.sub("conv").param("weight", SHAPE, Init::Const(0.0));
    let conv = |s: &Scope| s.input("x", (Batch, 3, 8, 8), F32).conv2d(&weight(s), None, &ConvOptions::default());
    let mut step = Step::compile(&cpu(), Sgd::new(0.1), |s| conv(s).square().mean(..)).unwrap();
    let values = Array::new((0..120).map(|i| i as f32).collect(), SHAPE).unwrap();
    step.write("conv/weight", &values).unwrap();
    let mut plain = Infer::compile(&cpu(), 1, |s| weight(s) * 2.0).unwrap();
    plain.copy_from(&mut step).unwrap();
    let doubled: Vec<f32> = (0..120).map(|i| 2.0 * i as f32).collect();
    assert_eq!(plain.run(&[]).unwrap().slice::<f32>().unwrap(), doubled);
    assert_eq!(plain.read("conv/weight").unwrap(), values);
    assert_eq!(step.read("conv/weight").unwrap(), values);
}

fn dense(s: &Scope) -> Tensor {
    wholestep::nn::Linear::new(&s.sub("fc"), 5, 3).forward(&s.input("x", (Batch, 5), F32))
}

#[test]
fn a_copy_onto_itself_and_a_permuted_weight_keep_every_bit() {
    let mut step = Step::options().compile(&cpu(), Sgd::new(0.1), |s| dense(s).square().mean(..)).unwrap();
    let before = step.snapshot().unwrap();
    let weight = step.read("fc/weight").unwrap();
    step.write("fc/weight", &weight).unwrap();
    assert!(step.snapshot().unwrap() == before);
    step.restore(&before).unwrap();
    assert!(step.snapshot().unwrap() == before);
    // Another program may hold the weight in another order; what is read is what was written, element by element.
    let mut program = Infer::compile(&cpu(), 4, dense).unwrap();
    program.copy_from(&mut step).unwrap();
    assert_eq!(program.read("fc/weight").unwrap(), weight);
    let other = Array::new((0..15).map(|i| i as f32).collect(), [3, 5]).unwrap();
    program.write("fc/weight", &other).unwrap();
    assert_eq!(program.read("fc/weight").unwrap(), other);
    let e = program.write("fc/weight", &Array::new(vec![0f64; 15], [3, 5]).unwrap()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Input);
    assert_eq!(program.read("fc/weight").unwrap(), other);
    // Nothing is copied for nothing: an empty selection, an empty array.
    assert_eq!(other.take_rows(&[]).unwrap().shape(), [0, 5]);
    assert_eq!(Array::from_vec(Vec::<f32>::new()).cast::<f64>().unwrap().len(), 0);
}
