//! Choices of kernels: timed once, kept on disk by device, made the same again. Without an adapter these say that they were skipped, unless
//! `REQUIRE_WGPU` is set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wholestep_compiler::backend::{Backend, Choices, DeviceError, Origin};
use wholestep_compiler::codegen::choice;
use wholestep_compiler::compile;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{Batch, DType, Init, Scope};
use wholestep_compiler::kernel::Kernel;
use wholestep_compiler::plan::{Layout, Plan};
use wholestep_wgpu::{Config, Tune, WgpuBackend};

const ROWS: usize = 33;
const INNER: usize = 96;
const COLS: usize = 40;

fn open(config: Config) -> Option<WgpuBackend> {
    match WgpuBackend::with(0, config) {
        Ok(backend) => Some(backend),
        Err(DeviceError::Absent(why)) if std::env::var_os("REQUIRE_WGPU").is_none() => {
            println!("skipped: no wgpu adapter ({why})");
            None
        }
        Err(e) => panic!("REQUIRE_WGPU is set and the device does not open: {e}"),
    }
}

fn tuning(folder: &Path) -> Config {
    Config { cache: Some(folder.to_path_buf()), tune: Tune::Always, budget: Duration::from_secs(600) }
}

/// One product with a ReLU after it.
fn plan(backend: &WgpuBackend) -> Plan {
    let s = Scope::root(Mode::Infer);
    let x = s.input("x", (Batch, INNER), DType::F32);
    let w = s.param("w", [INNER, COLS], Init::Const(0.0));
    s.output("y", &x.matmul(&w).relu());
    let graph = s.graph().borrow().clone();
    compile(&graph, &backend.caps(), &mut |_| ()).expect("the product compiles").plan
}

/// Loads the plan, runs it, holds its result to the definition; gives the choices, how many were timed, and the bits of the result.
fn run(backend: &WgpuBackend, recorded: &BTreeMap<String, String>) -> (Choices, u64, Vec<u8>) {
    let plan = plan(backend);
    let layout = Layout::new(&plan, &backend.caps(), ROWS);
    let mut exe = backend.load_as(&plan, &layout, recorded).expect("the plan loads");
    let number = |i: usize| (i * 37 % 101) as f32 / 100.0 - 0.5;
    let x: Vec<f32> = (0..ROWS * INNER).map(number).collect();
    let w: Vec<f32> = (0..INNER * COLS).map(|i| number(i + 7)).collect();
    let order = &plan.slots[0].order;
    let stored: Vec<f32> = match order.as_slice() {
        [1, 0] => (0..INNER * COLS).map(|i| w[i % INNER * COLS + i / INNER]).collect(),
        _ => w.clone(),
    };
    exe.write_slot(wholestep_compiler::ir::SlotId(0), bytemuck::cast_slice(&stored)).unwrap();
    exe.run(ROWS, 1, &[bytemuck::cast_slice(&x)]).unwrap();
    let mut bytes = vec![0; 4 * ROWS * COLS];
    exe.read_output(0, &mut bytes).unwrap();
    for (i, y) in bytemuck::pod_collect_to_vec::<u8, f32>(&bytes).into_iter().enumerate() {
        let sum: f32 = (0..INNER).map(|k| x[i / COLS * INNER + k] * w[k * COLS + i % COLS]).sum();
        assert!((y - sum.max(0.0)).abs() < 1e-4, "element {i}: {y}, expected {}", sum.max(0.0));
    }
    (exe.choices(), exe.counters().timings, bytes)
}

fn file(folder: &Path, ending: &str) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?.map(|f| f.unwrap().path());
    files.into_iter().find(|f| f.extension().is_some_and(|e| e == ending))
}

#[test]
fn a_first_run_times_and_writes_and_a_second_reads_and_makes_the_same_choice() {
    let folder = tempfile::tempdir().unwrap();
    let Some(first) = open(tuning(folder.path())) else { return };
    let (cold, timings, bits) = run(&first, &BTreeMap::new());
    assert_eq!((cold.made.len(), timings), (1, 1), "{cold:?}");
    assert_eq!(cold.made[0].origin, Origin::Timed);
    assert!(cold.notes.iter().any(|n| n.starts_with("timed 1 contractions in ")), "{:?}", cold.notes);
    let (name, choice) = (&cold.made[0].name, &cold.made[0].choice);
    let kept = std::fs::read_to_string(file(folder.path(), "choices").expect("the choice is kept")).unwrap();
    assert!(kept.ends_with(&format!("\n{name}\t{choice}\n")), "{kept}");
    // In this process and in a later one.
    for backend in [&first, &open(tuning(folder.path())).unwrap()] {
        let (warm, timings, again) = run(backend, &BTreeMap::new());
        assert_eq!(timings, 0);
        assert_eq!((&warm.made[0].choice, warm.made[0].origin), (choice, Origin::Cached));
        assert_eq!(again, bits);
    }
}

#[test]
fn damage_makes_it_time_anew() {
    let folder = tempfile::tempdir().unwrap();
    let Some(backend) = open(tuning(folder.path())) else { return };
    run(&backend, &BTreeMap::new());
    for ending in ["choices", "pipelines"] {
        let Some(path) = file(folder.path(), ending) else { continue };
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let damaged = std::fs::read(file(folder.path(), "choices").unwrap()).unwrap();
    let (choices, timings, _) = run(&open(tuning(folder.path())).unwrap(), &BTreeMap::new());
    assert_eq!((choices.made[0].origin, timings), (Origin::Timed, 1));
    assert_ne!(std::fs::read(file(folder.path(), "choices").unwrap()).unwrap(), damaged, "it is written anew");
}

#[test]
fn choices_of_an_earlier_run_come_first() {
    let folder = tempfile::tempdir().unwrap();
    let Some(backend) = open(tuning(folder.path())) else { return };
    let plan = plan(&backend);
    let contracts = plan.kernels.iter().filter_map(|k| if let Kernel::Contract(k) = k { Some(k) } else { None });
    let (k, caps) = (contracts.into_iter().next().unwrap(), backend.caps());
    let workgroups = caps.workgroups.as_ref().unwrap();
    let name = choice::key(k, ROWS);
    for c in choice::candidates(k, workgroups, ROWS) {
        let recorded = BTreeMap::from([(name.clone(), c.to_string())]);
        let (choices, timings, _) = run(&backend, &recorded);
        assert_eq!((&choices.made[0].choice, choices.made[0].origin, timings), (&c.to_string(), Origin::Recorded, 0));
        assert!(choices.unlike.is_empty(), "{choices:?}");
    }
    assert!(file(folder.path(), "choices").is_none(), "they are not this machine's findings");
    // What this version does not know means nothing, and it is said that the bits may differ.
    let unknown = "9x9x9 of 3x3, 1 slice, 1 stage, unroll 8, 1 part";
    let (choices, timings, _) = run(&backend, &BTreeMap::from([(name.clone(), unknown.to_string())]));
    assert_eq!((choices.made[0].origin, timings), (Origin::Timed, 1));
    assert_eq!(choices.unlike, [format!("{name}: by {unknown}, which is not made here")]);
}

#[test]
fn what_there_was_no_time_for_is_timed_later_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let Some(backend) = open(Config { budget: Duration::ZERO, ..tuning(folder.path()) }) else { return };
    let kept = || std::fs::read_to_string(file(folder.path(), "choices").expect("the choice is kept")).unwrap();
    let (choices, timings, bits) = run(&backend, &BTreeMap::new());
    assert_eq!((choices.made[0].origin, timings), (Origin::Table, 0));
    assert!(choices.notes.iter().any(|n| n.starts_with("1 of 1 contractions are made as")), "{choices:?}");
    assert!(kept().ends_with("\tnot timed\n"), "{}", kept());
    // Without time once more.
    let (again, timings, same) = run(&backend, &BTreeMap::new());
    assert_eq!((again.made[0].origin, timings), (Origin::Cached, 0));
    assert_eq!((&again.made[0].choice, &same), (&choices.made[0].choice, &bits));
    assert!(kept().ends_with("\tnot timed\n"), "{}", kept());
    // With time enough.
    let (_, _, same) = run(&open(tuning(folder.path())).unwrap(), &BTreeMap::new());
    assert_eq!(same, bits);
    assert!(!kept().contains("not timed"), "{}", kept());
    // Then it stays.
    let (last, timings, same) = run(&open(tuning(folder.path())).unwrap(), &BTreeMap::new());
    assert_eq!((last.made[0].origin, timings), (Origin::Cached, 0));
    assert_eq!(same, bits);
}

#[test]
fn off_times_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("cache");
    let off = [Config::default(), Config { tune: Tune::Never, ..tuning(&inside) }];
    for (i, config) in off.into_iter().enumerate() {
        let Some(backend) = open(config) else { return };
        let (choices, timings, _) = run(&backend, &BTreeMap::new());
        assert_eq!((choices.made[0].origin, timings), (Origin::Table, 0));
        let caps = backend.caps();
        let plan = plan(&backend);
        let Kernel::Contract(k) = &plan.kernels[choices.made[0].kernel] else { panic!("{choices:?}") };
        assert_eq!(choices.made[0].choice, choice::table(k, caps.workgroups.as_ref().unwrap()).to_string());
        assert!(file(&inside, "choices").is_none(), "{i}");
    }
}
