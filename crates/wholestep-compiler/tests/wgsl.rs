//! The text of kernels other than loops: every one translates to SPIR-V, to Metal's language and to HLSL, and short ones stand here as text.
//! What the text computes is tested where a device runs it.

#[path = "wgsl/kernels.rs"]
mod kernels;

use kernels::{contract, conv, geometry, in_half, matmul, with_bias};
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use wholestep_compiler::caps::{Language, Workgroups};
use wholestep_compiler::codegen::choice::{self, Choice, TILES};
use wholestep_compiler::codegen::contract as contractions;
use wholestep_compiler::codegen::wgsl::coop;
use wholestep_compiler::codegen::{Shader, Word, scan, scatter, sort, window};
use wholestep_compiler::ir::{Batch, DType, Dim};
use wholestep_compiler::kernel::{Access, Contract, Contraction, Scan, Scatter, Sort, WindowOp};

/// What Vulkan, Metal and the weakest device of each allow, with as much workgroup memory as the largest tile takes.
fn workgroups() -> Workgroups {
    Workgroups {
        language: Language::Wgsl,
        threads: 1024,
        shared_bytes: 49152,
        per_axis: 65535,
        subgroup: Some((32, 32)),
        long: false,
        f16: false,
        tiles: vec![],
    }
}

/// Translates a shader for every API; gives the text for Metal.
fn translate(source: &str, what: &str) -> String {
    let fail = |e: String| -> String { panic!("{what}: {e}\n{source}") };
    let module = naga::front::wgsl::parse_str(source).unwrap_or_else(|e| panic!("{}", fail(e.emit_to_string(source))));
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
    validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    let info = validator.validate(&module).unwrap_or_else(|e| panic!("{}", fail(e.emit_to_string(source))));
    let spirv = naga::back::spv::Options { lang_version: (1, 3), ..Default::default() };
    naga::back::spv::write_vec(&module, &info, &spirv, None).unwrap_or_else(|e| panic!("{}", fail(e.to_string())));
    let metal = naga::back::msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
    let (text, _) = naga::back::msl::write_string(&module, &info, &metal, &Default::default())
        .unwrap_or_else(|e| panic!("{}", fail(e.to_string())));
    // Naga writes no cooperative matrices for DirectX, which has none.
    if !source.contains("coop_mat") {
        let options = naga::back::hlsl::Options { fake_missing_bindings: true, ..Default::default() };
        let mut out = String::new();
        naga::back::hlsl::Writer::new(&mut out, &options, &Default::default())
            .write(&module, &info, None)
            .unwrap_or_else(|e| panic!("{}", fail(e.to_string())));
    }
    text
}

fn translate_all(shaders: &[Shader], what: &str) {
    for shader in shaders {
        translate(&shader.source, what);
        assert!(shader.params.iter().all(|w| matches!(w, Word::Dim(_) | Word::Bits(_))), "{what}: {:?}", shader.params);
    }
}

#[test]
fn products_of_every_tile_and_layout_translate() {
    let mut n_texts = 0;
    for (m, n, k) in [(Batch, 128, Dim::fixed(64)), (Dim::fixed(5), 7, Dim::fixed(11)), (Dim::fixed(64), 10, Batch)] {
        for (lhs_t, rhs_t) in [(false, false), (true, false), (false, true)] {
            for rated in TILES {
                for (parts, bias) in [(1, false), (1, true), (3, true)] {
                    let (c, axes) = matmul(&[], [m, Dim::fixed(n), k], lhs_t, rhs_t);
                    let kernel = if bias { with_bias(c, &axes) } else { contract(c) };
                    let shaders =
                        contractions::shaders_with(&kernel, &workgroups(), Choice { tile: rated.tile, parts });
                    assert_eq!(shaders.len(), if parts > 1 { 2 } else { 1 });
                    translate_all(&shaders, &format!("{m} {n} {k} {lhs_t} {rhs_t} {rated:?} {parts}"));
                    n_texts += shaders.len();
                }
            }
        }
    }
    assert!(n_texts > 200);
}

#[test]
fn sums_that_only_the_epilogue_reads_are_not_stored() {
    let (c, axes) = matmul(&[], [Dim::fixed(64), Dim::fixed(64), Dim::fixed(4096)], false, false);
    let mut kernel = with_bias(c, &axes);
    let epilogue = kernel.epilogue.as_mut().unwrap();
    // The biased sums would overwrite the sums.
    epilogue.stores.retain(|store| store.arg != 2);
    assert!(!epilogue.stores.is_empty());
    for parts in [1, 4] {
        for (access, is_stored) in [(Access::Write, true), (Access::Scratch, false)] {
            kernel.args[2].access = access;
            let choice = Choice { tile: TILES[3].tile, parts };
            let last = contractions::shaders_with(&kernel, &workgroups(), choice).pop().unwrap();
            assert_eq!(
                (last.args.contains(&2), last.source.contains("a2[")),
                (is_stored, is_stored),
                "{}",
                last.source
            );
        }
    }
}

#[test]
fn all_forms_of_convolutions_translate() {
    for (rank, groups, stride, dilation, ci, co) in [
        (1, 1, 1, 1, 8, 12),
        (2, 1, 2, 1, 3, 16),
        (2, 2, 2, 2, 16, 32),
        (3, 1, 3, 2, 4, 8),
        (2, 8, 2, 1, 8, 16),
        (2, 1, 1, 1, 64, 64),
    ] {
        let s = conv(rank, groups, stride, dilation, [ci, co]);
        for c in [Contraction::Conv, Contraction::ConvInputGrad, Contraction::ConvWeightGrad].map(|f| f(s.clone())) {
            let shaders = contractions::shaders(&contract(c.clone()), &workgroups(), None).unwrap();
            translate_all(&shaders, &format!("{c:?}"));
            let axes = kernels::result_axes(&c);
            translate_all(
                &contractions::shaders(&with_bias(c.clone(), &axes), &workgroups(), None).unwrap(),
                &format!("{c:?}"),
            );
        }
    }
}

/// Translates a contraction on matrix units by every tile; gives the number of texts.
fn translate_on_units(kernel: &Contract, unit: u32, parts: u32) -> usize {
    let device = Workgroups { f16: true, tiles: vec![[unit; 3]], ..workgroups() };
    assert!(coop::choose(kernel, &device).is_some(), "{:?}", kernel.contraction);
    let mut n_texts = 0;
    for rated in coop::tiles(unit, 32) {
        for shader in coop::shaders(kernel, &device, &rated.tile, parts) {
            let metal = translate(&shader.source, &format!("{rated:?} {:?}", kernel.contraction));
            // Metal has matrices of 8 by 8 only, although naga would write others.
            assert_eq!(metal.contains("simdgroup_half8x8"), shader.source.contains("coopLoad") && unit == 8);
            assert!(unit != 8 || !metal.contains("16x16"));
            n_texts += 1;
        }
    }
    n_texts
}

#[test]
fn contractions_on_matrix_units_translate() {
    let mut n_texts = 0;
    let fixed = |sizes: [usize; 3]| sizes.map(Dim::fixed);
    for unit in [16, 8] {
        for sizes in [fixed([256, 256, 64]), fixed([40, 24, 72]), [Batch, Dim::fixed(96), Dim::fixed(64)]] {
            let fits = sizes[0] != Batch;
            for (lhs_t, rhs_t) in [(false, false), (false, true), (fits, false), (fits, true)] {
                for (batch, parts, bias) in [(&[][..], 1, false), (&[3], 1, true), (&[], 3, true)] {
                    let (c, axes) = matmul(batch, sizes, lhs_t, rhs_t);
                    let kernel = in_half(if bias { with_bias(c, &axes) } else { contract(c) });
                    n_texts += translate_on_units(&kernel, unit, parts);
                }
            }
        }
        for (rank, groups, stride, dilation) in [(1, 1, 1, 1), (2, 1, 2, 1), (2, 2, 1, 2), (3, 1, 3, 2)] {
            let s = conv(rank, groups, stride, dilation, [16, 32]);
            for c in [Contraction::Conv, Contraction::ConvInputGrad, Contraction::ConvWeightGrad].map(|f| f(s.clone()))
            {
                let axes = kernels::result_axes(&c);
                n_texts += translate_on_units(&in_half(with_bias(c, &axes)), unit, 1);
            }
        }
    }
    assert!(n_texts >= 300, "{n_texts}");
}

#[test]
fn products_go_to_matrix_units_where_these_fit() {
    let with = |tiles: Vec<[u32; 3]>| Workgroups { f16: true, tiles, ..workgroups() };
    let product = |sizes: [usize; 3]| contract(matmul(&[], sizes.map(Dim::fixed), false, false).0);
    let chosen = |k: &Contract, w: &Workgroups| coop::choose(k, w).map(|(tile, parts)| (tile.unit, tile.rows, parts));
    let (large, nvidia) = (in_half(product([4096; 3])), with(vec![[16, 16, 16], [16, 8, 16]]));
    assert!(matches!(chosen(&large, &nvidia), Some((16, 128 | 256, 1))));
    assert!(matches!(chosen(&large, &with(vec![[8; 3]])), Some((8, _, 1))));
    // Operands of f32, rows that are no whole vectors, devices without such units or with subgroups of any size.
    assert_eq!(chosen(&product([4096; 3]), &nvidia), None);
    assert_eq!(chosen(&in_half(product([64, 10, 64])), &nvidia), None);
    assert_eq!(chosen(&large, &with(vec![[16, 8, 16]])), None);
    assert_eq!(chosen(&large, &Workgroups { subgroup: Some((8, 32)), ..nvidia.clone() }), None);
    let little = Workgroups { threads: 128, shared_bytes: 32768, ..nvidia };
    let (tile, _) = coop::choose(&large, &little).unwrap();
    assert!(tile.shared_bytes() <= 32768 && tile.threads() <= 128);
}

#[test]
fn windows_scatters_sorts_and_scans_translate() {
    let w = workgroups();
    let arg = kernels::arg;
    use {Access::Read, Access::Write, DType::F32, DType::I32, DType::U32};
    for op in [WindowOp::ArgMax, WindowOp::Take, WindowOp::Put, WindowOp::Sum, WindowOp::Spread] {
        translate(&window::shader(&kernels::window(op), &w).source, &format!("{op:?}"));
    }
    for (n_index, along) in [(Dim::fixed(4), true), (Dim::fixed(40), false), (Dim::fixed(500), false), (Batch, false)] {
        let args = vec![arg(F32, Read), arg(U32, Read), arg(F32, Write)];
        let [outer, len, inner] = [2, 9, 5].map(Dim::fixed);
        let k = Scatter { outer, n_index, len, inner, along, replaces: false, dtype: F32, index_dtype: U32, args };
        let shaders = scatter::shaders(&k, &w);
        shaders.iter().for_each(|s| drop(translate(&s.source, &format!("{k:?}"))));
    }
    for (dtype, len) in [(F32, Dim::fixed(9)), (I32, Dim::fixed(2048)), (U32, Dim::fixed(2049)), (F32, Batch)] {
        for flag in [false, true] {
            let [outer, inner] = [Batch, Dim::fixed(3)];
            let args = vec![arg(dtype, Read), arg(I32, Write)];
            let k = Sort { outer: Dim::fixed(4), len, inner, descending: flag, dtype, args };
            translate(&sort::shader(&k, &w).source, &format!("{k:?}"));
            let args = vec![arg(dtype, Read), arg(dtype, Write)];
            let k = Scan { outer, len: Dim::fixed(70), inner, reverse: flag, dtype, args };
            translate(&scan::shader(&k, &w).source, &format!("{k:?}"));
        }
    }
}

/// Compares with a file under `tests/wgsl`; `WGSL_REWRITE=1` writes it anew.
fn golden(name: &str, text: &str) {
    let path = format!("{}/tests/wgsl/{name}.wgsl", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("WGSL_REWRITE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "{name} differs from {path}; WGSL_REWRITE=1 writes it anew:\n{text}");
    assert!(text.lines().count() < 60, "{name} is too long to be read");
}

#[test]
fn short_texts_read_as_they_did() {
    let w = workgroups();
    golden("window_put", &window::shader(&kernels::window(WindowOp::Put), &w).source);
    let args = vec![kernels::arg(DType::F32, Access::Read), kernels::arg(DType::I32, Access::Write)];
    let [outer, len, inner] = [Batch, Dim::fixed(9), Dim::ONE];
    golden("sort", &sort::shader(&Sort { outer, len, inner, descending: false, dtype: DType::F32, args }, &w).source);
    let c = Contraction::Conv(conv(2, 8, 1, 1, [8, 8]));
    let axes = kernels::result_axes(&c);
    golden("depthwise_bias", &contractions::shaders(&with_bias(c, &axes), &w, None).unwrap()[0].source);
    let (c, axes) = matmul(&[], [Dim::fixed(64), Dim::fixed(64), Dim::fixed(4096)], false, false);
    let choice = Choice { tile: TILES[3].tile, parts: 4 };
    golden("join_parts", &contractions::shaders_with(&with_bias(c, &axes), &w, choice)[1].source);
}

#[test]
fn the_table_gives_large_tiles_to_large_products_and_parts_to_deep_ones() {
    let choose = |c: Contraction| choice::table(&contract(c), &workgroups());
    let fixed = |sizes: [usize; 3]| matmul(&[], sizes.map(Dim::fixed), false, false).0;
    let large = choose(fixed([4096, 4096, 4096]));
    assert_eq!((large.tile.rows, large.tile.cols, large.parts), (128, 128, 1));
    let small = choose(fixed([64, 10, 256]));
    assert_eq!((small.tile.rows, small.parts), (16, 1));
    assert!(small.tile.slices > 1);
    let deep = choose(Contraction::ConvWeightGrad(geometry(Batch, [56, 56], 3, [64, 64])));
    assert!(deep.parts > 32, "{deep:?}");
    // Devices with little workgroup memory get what fits it.
    let little = Workgroups { threads: 256, shared_bytes: 16384, ..workgroups() };
    let choice = choice::table(&contract(fixed([4096, 4096, 4096])), &little);
    assert!(choice.tile.shared_bytes() <= 16384 && choice.tile.threads() <= 256);
}

#[test]
fn candidates_begin_with_the_table_and_are_read_back_from_their_names() {
    let w = workgroups();
    let product = |b: Dim| contract(matmul(&[], [b, Dim::fixed(512), Dim::fixed(784)], false, false).0);
    let deep = contract(Contraction::ConvWeightGrad(geometry(Batch, [56, 56], 3, [64, 64])));
    let strided = contract(Contraction::ConvInputGrad(conv(2, 1, 2, 1, [64, 64])));
    let mut n_found = 0;
    for k in [product(Batch), product(Dim::fixed(64)), deep.clone(), strided.clone()] {
        let found = choice::candidates(&k, &w, 32);
        assert!(!found.is_empty() && found.len() <= 4, "{found:?}");
        n_found += found.len();
        assert_eq!(found[0], choice::table(&k, &w));
        for (i, c) in found.iter().enumerate() {
            assert_eq!(Choice::read(&c.to_string(), &k, &w), Some(*c));
            assert!(!found[..i].contains(c), "{c} twice");
            assert!(choice::estimated_us(&k, *c, 32).is_finite());
        }
    }
    assert!(n_found > 6, "{n_found} for four contractions");
    // Names of choices that nothing makes, or not of this contraction or on this device.
    let text = choice::table(&deep, &w).to_string();
    assert!(Choice::read(&text, &strided, &w).is_none(), "{text}");
    let large = Choice { tile: TILES[0].tile, parts: 1 }.to_string();
    assert!(Choice::read(&large, &deep, &w).is_some());
    assert!(Choice::read(&large, &deep, &Workgroups { shared_bytes: 16384, ..w.clone() }).is_none());
    for text in ["", "parts", &large.replace("128x128", "127x128"), &large.replace("1 part", "0 parts"), &large[1..]] {
        assert!(Choice::read(text, &deep, &w).is_none(), "{text}");
    }
    assert!(Choice::read(&large.replace("1 part", "257 parts"), &deep, &w).is_none());
    let depthwise = contract(Contraction::Conv(conv(2, 8, 1, 1, [8, 8])));
    assert!(choice::candidates(&depthwise, &w, 32).is_empty() && Choice::read(&large, &depthwise, &w).is_none());
}

#[test]
fn contractions_of_other_speed_have_other_names() {
    let key = |c: Contraction, batch: usize| choice::key(&contract(c), batch);
    let product = |m: Dim, lhs_t: bool| matmul(&[], [m, Dim::fixed(512), Dim::fixed(784)], lhs_t, false).0;
    assert_eq!(
        key(product(Batch, false), 33),
        "matmul B x 512 x 784, lhs [784, 1], rhs [512, 1], f32 f32 f32, at most 64"
    );
    let s = conv(2, 1, 1, 1, [8, 20]);
    let mut dilated = s.clone();
    dilated.geometry.dilation = vec![2, 1];
    let keys = [
        key(product(Batch, false), 64),
        key(product(Batch, false), 65),
        key(product(Batch, true), 64),
        key(product(Dim::fixed(64), false), 64),
        key(Contraction::Conv(s.clone()), 64),
        key(Contraction::ConvInputGrad(s.clone()), 64),
        key(Contraction::ConvWeightGrad(s), 64),
        key(Contraction::Conv(dilated), 64),
    ];
    for (i, a) in keys.iter().enumerate() {
        assert!(!a.contains('\n') && !keys[..i].contains(a), "{a}");
    }
    let (c, axes) = matmul(&[], [Batch, Dim::fixed(512), Dim::fixed(784)], false, false);
    let biased = choice::key(&with_bias(c, &axes), 64);
    let (name, hash) = biased.split_once(", then ").expect("an epilogue is a part of the name");
    assert!(name == keys[0] && hash.len() == 16, "{biased}");
}

#[test]
fn scratch_holds_all_parts() {
    let (c, axes) = matmul(&[3], [Dim::fixed(64), Dim::fixed(32), Dim::fixed(4096)], false, true);
    let choice = Choice { tile: TILES[4].tile, parts: 5 };
    let shaders = contractions::shaders_with(&with_bias(c, &axes), &workgroups(), choice);
    for shader in &shaders {
        assert_eq!(shader.scratch.as_ref().unwrap().at(1, &[]), 3 * 64 * 32 * 5);
    }
}
