use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use wholestep::data::loader::{Loading, OnError};
use wholestep::data::random::Philox;
use wholestep::data::{Array, Batch, Dataset, Loader, Sample};
use wholestep::{Error, ErrorKind, Result};

fn numbered(n: usize) -> Dataset {
    let x = Array::new((0..2 * n).map(|i| i as f32).collect(), [n, 2]).unwrap();
    Dataset::new([("x", x), ("y", Array::from_vec((0..n as u32).collect()))]).unwrap()
}

fn labels(batch: &Batch) -> Vec<u32> {
    batch.column("y").unwrap().slice::<u32>().unwrap().to_vec()
}

fn epoch(loader: &mut Loader) -> Vec<Batch> {
    loader.collect::<Result<_>>().unwrap()
}

fn noisy(sample: &mut Sample, seed: u64) -> Result<()> {
    let mut random = Philox::new(seed, 0);
    for v in sample.get_mut("x")?.as_mut_slice::<f32>().unwrap() {
        *v += random.unit() as f32;
    }
    Ok(())
}

#[test]
fn every_row_comes_once_with_its_own_label() {
    let mut loader = Loader::new(&numbered(10), Loading { batch_size: 4, ..Loading::default() }).unwrap();
    let batches = epoch(&mut loader);
    assert_eq!(batches.iter().map(Batch::rows).collect::<Vec<_>>(), [4, 4, 2]);
    let mut seen = Vec::new();
    for batch in &batches {
        assert_eq!(batch.column("x").unwrap().shape(), [batch.rows(), 2]);
        let x = batch.column("x").unwrap().slice::<f32>().unwrap().to_vec();
        let y = labels(batch);
        for (r, &label) in y.iter().enumerate() {
            assert_eq!(x[2 * r..2 * r + 2], [2.0 * label as f32, 2.0 * label as f32 + 1.0]);
        }
        seen.extend(y);
    }
    assert_ne!(seen, (0..10).collect::<Vec<_>>(), "the order was not shuffled");
    let first = seen.clone();
    seen.sort();
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
    let second: Vec<u32> = epoch(&mut loader).iter().flat_map(labels).collect();
    assert_ne!(second, first, "the second epoch has the order of the first");
}

/// The order is part of what a checkpoint means, so it may not change between versions. The numbers are those of a
/// second implementation of Philox4x32-10, Lemire's bound and Fisher-Yates in `make_golden.py`.
#[test]
fn the_order_of_a_seed_and_an_epoch_is_fixed() {
    let loading = Loading { batch_size: 10, seed: 42, ..Loading::default() };
    let mut loader = Loader::new(&numbered(10), loading).unwrap();
    let orders: Vec<Vec<u32>> = (0..2).map(|_| labels(&epoch(&mut loader)[0])).collect();
    let golden = std::fs::read_to_string(crate::golden("orders.txt")).unwrap();
    let golden: Vec<Vec<u32>> = golden.lines().map(|l| l.split(' ').map(|w| w.parse().unwrap()).collect()).collect();
    assert_eq!(orders, golden);
}

#[test]
fn without_shuffle_and_with_drop_last() {
    let loading = Loading { batch_size: 4, shuffle: false, drop_last: true, ..Loading::default() };
    let mut loader = Loader::new(&numbered(10), loading).unwrap();
    assert_eq!(loader.batches_per_epoch(), 2);
    let got: Vec<Vec<u32>> = epoch(&mut loader).iter().map(labels).collect();
    assert_eq!(got, [[0, 1, 2, 3], [4, 5, 6, 7]]);
}

#[test]
fn threads_and_batch_size_do_not_change_a_sample() {
    let rows_of = |workers: usize, batch_size: usize| {
        let loading = Loading { batch_size, seed: 5, workers, prefetch: 3, ..Loading::default() };
        let mut loader = Loader::with_map(&numbered(53), loading, noisy).unwrap();
        let mut rows = Vec::new();
        for _ in 0..3 {
            for batch in epoch(&mut loader) {
                rows.extend(batch.column("x").unwrap().slice::<f32>().unwrap().to_vec());
            }
        }
        rows
    };
    let want = rows_of(0, 8);
    assert_eq!(want.len(), 3 * 106);
    for (workers, batch_size) in [(1, 8), (4, 8), (3, 5)] {
        assert_eq!(rows_of(workers, batch_size), want, "{workers} workers, batches of {batch_size}");
    }
    // The seed of a sample changes with the epoch: its noise in the first epoch is not that in the second.
    let noise = |rows: &[f32]| {
        let mut noise: Vec<(u32, f32)> = rows.chunks(2).map(|r| (r[0] as u32 / 2, r[0].fract())).collect();
        noise.sort_by_key(|n| n.0);
        noise
    };
    assert_ne!(noise(&want[..106]), noise(&want[106..212]));
}

/// A loop that was left goes on where it was left; after a restart the next one has all batches of the next epoch, with workers, too.
#[test]
fn a_loop_that_was_left_goes_on_and_a_restart_begins_an_epoch() {
    for workers in [0, 2] {
        let loading = Loading { batch_size: 8, seed: 9, workers, ..Loading::default() };
        let mut whole = Loader::with_map(&numbered(20), loading.clone(), noisy).unwrap();
        let epochs: Vec<Vec<Batch>> = (0..3).map(|_| epoch(&mut whole)).collect();
        for n_seen in 0..=3 {
            let mut loader = Loader::with_map(&numbered(20), loading.clone(), noisy).unwrap();
            let mut seen = Vec::new();
            for batch in loader.by_ref().take(n_seen) {
                seen.push(batch.unwrap());
            }
            assert_eq!(seen, epochs[0][..n_seen]);
            if n_seen < 3 {
                let mut going_on = Loader::with_map(&numbered(20), loading.clone(), noisy).unwrap();
                going_on.seek(&loader.current_position()).unwrap();
                assert_eq!(epoch(&mut going_on), epochs[0][n_seen..]);
            }
            // Of an epoch of which nothing was seen there is nothing to leave out.
            let next = usize::from(n_seen > 0);
            (0..2).for_each(|_| loader.restart());
            assert_eq!(epoch(&mut loader), epochs[next], "{workers} workers, after {n_seen} batches");
            loader.restart();
            assert_eq!(epoch(&mut loader), epochs[next + 1], "a whole epoch is none to leave out");
        }
    }
}

#[test]
fn resume_gives_the_batches_that_would_have_followed() {
    for workers in [0, 2] {
        let loading = Loading { batch_size: 8, seed: 9, workers, ..Loading::default() };
        let make = || Loader::with_map(&numbered(53), loading.clone(), noisy).unwrap();
        let mut whole = make();
        let mut flat = epoch(&mut whole);
        flat.extend(epoch(&mut whole));
        // Stops after each number of batches, including those at the end of an epoch.
        for (stop, want) in flat.iter().enumerate() {
            let mut first = make();
            let mut n = 0;
            while n < stop {
                n += usize::from(first.next().is_some_and(|b| b.is_ok()));
            }
            let mut second = make();
            second.next().unwrap().unwrap();
            second.seek(&first.current_position()).unwrap();
            assert_eq!(second.current_position(), first.current_position());
            let next = second.next().or_else(|| second.next()).unwrap().unwrap();
            assert_eq!(&next, want, "{workers} workers, stopped after {stop}");
        }
    }
}

#[test]
fn a_position_of_other_data_is_refused() {
    let of = |n, seed| Loader::new(&numbered(n), Loading { seed, ..Loading::default() }).unwrap();
    let position = of(100, 1).current_position();
    assert!(of(100, 1).seek(&position).is_ok());
    assert!(of(100, 2).seek(&position).is_err());
    let e = of(99, 1).seek(&position).unwrap_err();
    assert_eq!(
        e.to_string(),
        "loader: the stored position is Position { epoch: 0, batch: 0, rows: 100, batch_size: 32, seed: 1, \
         shuffle: true, drop_last: false }, this loader has Position { epoch: 0, batch: 0, rows: 99, batch_size: 32, \
         seed: 1, shuffle: true, drop_last: false } and 4 batches in an epoch; resume with the same data, batch size, \
         seed and order"
    );
}

#[test]
fn errors_and_panics_of_a_map_come_out_of_their_batch() {
    for workers in [0, 2] {
        let loading = Loading { batch_size: 4, shuffle: false, workers, ..Loading::default() };
        let map = |sample: &mut Sample, _| match sample.row() {
            5 => Err(Error::new(ErrorKind::Data, "no picture")),
            9 => panic!("row nine"),
            13 => {
                sample.set("x", Array::from_vec(vec![0f32]));
                Ok(())
            }
            17 => sample.remove("y").map(|_| ()),
            0.. => Ok(()),
        };
        let loader = Loader::with_map(&numbered(24), loading, map).unwrap();
        let got: Vec<String> =
            loader.map(|b| b.map_or_else(|e| e.to_string(), |b| format!("{:?}", labels(&b)))).collect();
        assert_eq!(
            got,
            [
                "[0, 1, 2, 3]",
                "map of row 5: no picture",
                "map of row 9: it panicked: row nine",
                "map of row 13: expected column \"x\" f32[2] as from row 12, f32[1] came; give every sample the same \
                 type and shape",
                "map of row 17: expected columns [\"x\", \"y\"] as from row 16, [\"x\"] came; give every sample the \
                 same columns",
                "[20, 21, 22, 23]",
            ]
        );
    }
}

#[test]
fn a_map_may_change_shape_and_columns() {
    let map = |sample: &mut Sample, _| {
        let x = sample.get("x")?.slice::<f32>()?.to_vec();
        sample.set("sum", Array::scalar(x[0] + x[1]));
        sample.set("x", Array::new([x.clone(), x].concat(), [2, 2])?);
        sample.remove("y").map(|_| ())
    };
    let loading = Loading { batch_size: 2, shuffle: false, ..Loading::default() };
    let batch = Loader::with_map(&numbered(2), loading, map).unwrap().next().unwrap().unwrap();
    assert_eq!(batch.columns().map(|(n, _)| n).collect::<Vec<_>>(), ["x", "sum"]);
    assert_eq!(batch.column("x").unwrap(), &Array::new(vec![0f32, 1., 0., 1., 2., 3., 2., 3.], [2, 2, 2]).unwrap());
    assert_eq!(batch.column("sum").unwrap(), &Array::from_vec(vec![1f32, 5.0]));
}

#[test]
fn dropping_a_loader_ends_its_threads_and_work_ahead_is_bounded() {
    let n_done = Arc::new(AtomicUsize::new(0));
    let counter = n_done.clone();
    let loading = Loading { batch_size: 1, workers: 2, prefetch: 3, ..Loading::default() };
    let map = move |_: &mut Sample, _| {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    let mut loader = Loader::with_map(&numbered(1000), loading, map).unwrap();
    loader.next().unwrap().unwrap();
    drop(loader);
    // The map is owned by the threads and the loader alone, so one owner left means that all of them have ended.
    assert_eq!(Arc::strong_count(&n_done), 1);
    assert!((1..=3).contains(&n_done.load(Ordering::SeqCst)), "{n_done:?} samples for a bound of 3");
}

#[test]
fn memory_of_a_dropped_batch_is_used_again_and_of_a_kept_one_is_not() {
    for workers in [0, 1] {
        let loading = Loading { batch_size: 4, workers, prefetch: 1, ..Loading::default() };
        let mut loader = match workers {
            0 => Loader::new(&numbered(40), loading).unwrap(),
            1.. => Loader::with_map(&numbered(40), loading, noisy).unwrap(),
        };
        let address = |b: &Batch| b.column("x").unwrap().slice::<f32>().unwrap().as_ptr() as usize;
        let kept = loader.next().unwrap().unwrap();
        let copy = kept.column("x").unwrap().slice::<f32>().unwrap().to_vec();
        let mut places = Vec::new();
        // Memory that went back to the allocator would be taken by these, and the next batch would lie elsewhere.
        let mut takers = Vec::new();
        for batch in &mut loader {
            places.push(address(&batch.unwrap()));
            takers.extend((0..64).map(|_| vec![0f32; 8]));
        }
        assert!(!places.contains(&address(&kept)));
        assert_eq!(kept.column("x").unwrap().slice::<f32>().unwrap(), copy);
        places.sort();
        places.dedup();
        assert!(places.len() <= 2, "{} buffers for 9 batches", places.len());
    }
}

#[test]
fn settings_that_give_no_batch_are_refused() {
    let text_of = |n, loading| Loader::new(&numbered(n), loading).err().unwrap().to_string();
    assert_eq!(
        text_of(3, Loading { batch_size: 0, ..Loading::default() }),
        "loader: batches of 0 from 3 rows came; both must be at least 1"
    );
    assert_eq!(
        text_of(3, Loading { batch_size: 4, drop_last: true, ..Loading::default() }),
        "loader: 3 rows do not fill one batch of 4 and drop_last leaves nothing; use a smaller batch"
    );
}

/// [`noisy`], and some samples take longer than others, so that later batches are made before earlier ones.
fn slow_and_noisy(sample: &mut Sample, seed: u64) -> Result<()> {
    if sample.row().is_multiple_of(8) {
        std::thread::sleep(Duration::from_millis(1));
    }
    noisy(sample, seed)
}

/// The bytes of three epochs, in the order in which they come.
fn stream(workers: usize, batch_size: usize) -> Vec<u8> {
    let loading = Loading { batch_size, seed: 5, workers, prefetch: 2 * workers, ..Loading::default() };
    let mut loader = Loader::with_map(&numbered(211), loading, slow_and_noisy).unwrap();
    let mut bytes = Vec::new();
    for _ in 0..3 {
        for batch in epoch(&mut loader) {
            bytes.extend(batch.column("x").unwrap().slice::<f32>().unwrap().iter().flat_map(|v| v.to_le_bytes()));
            bytes.extend(labels(&batch).iter().flat_map(|v| v.to_le_bytes()));
        }
    }
    bytes
}

#[test]
fn one_two_and_seven_workers_give_the_same_bytes() {
    let want = stream(0, 4);
    for workers in [1, 2, 7] {
        assert!(stream(workers, 4) == want, "{workers} workers");
    }
}

/// A worker makes the next batch while what takes batches is busy: both times overlap instead of adding up, to 1.15 of the longer.
#[test]
fn the_next_batch_is_made_while_a_step_runs() {
    const EACH: Duration = Duration::from_millis(20);
    const BATCHES: u32 = 24;
    let time = |workers: usize| {
        let loading = Loading { batch_size: 1, workers, prefetch: 2, ..Loading::default() };
        let slow = |_: &mut Sample, _: u64| {
            std::thread::sleep(EACH);
            Ok(())
        };
        let mut loader = Loader::with_map(&numbered(1 + BATCHES as usize), loading, slow).unwrap();
        loader.next().unwrap().unwrap();
        let began = Instant::now();
        for batch in loader {
            batch.unwrap();
            // As long as a step that takes as long as its batch.
            std::thread::sleep(EACH);
        }
        began.elapsed()
    };
    assert!(time(0) >= 2 * BATCHES * EACH, "without a worker the times add up");
    // Other work on the machine only makes it longer.
    let together = (0..4).map(|_| time(1)).find(|t| *t <= (BATCHES * EACH).mul_f64(1.15));
    assert!(together.is_some(), "with a worker they still do");
}

/// Loader, staging, step: 64 threads make batches, a step sums each, and the sums are those of the rows in their order.
#[test]
fn sixty_four_threads_lose_and_reorder_nothing_on_the_way_into_a_step() {
    let checksum = |row: u32, seed: u64| Philox::new(seed, u64::from(row)).next_u32() >> 12;
    let map = move |sample: &mut Sample, seed: u64| {
        let row = sample.get("y")?.slice::<u32>()?[0];
        // Later rows are often ready sooner.
        std::thread::sleep(std::time::Duration::from_micros(u64::from(row * 7 % 11) * 20));
        sample.set("check", Array::scalar(checksum(row, seed)));
        sample.remove("x").map(|_| ())
    };
    let run = |workers: usize| {
        let loading = Loading { batch_size: 3, seed: 8, workers, prefetch: 2 * workers, ..Loading::default() };
        let mut loader = Loader::with_map(&numbered(1000), loading, map).unwrap();
        let mut program = wholestep::Infer::compile(&wholestep::Device::cpu_with_threads(2), 3, |s| {
            let y = s.input("y", (wholestep::Batch,), wholestep::U32);
            let check = s.input("check", (wholestep::Batch,), wholestep::U32);
            (&y * s.constant(7919.0, wholestep::U32) + check).sum(..)
        })
        .unwrap();
        let (mut sums, mut rows) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            for batch in epoch(&mut loader) {
                let output = program.run(&batch.columns().collect::<Vec<_>>()).unwrap();
                sums.push(output.slice::<u32>().unwrap()[0]);
                rows.extend(labels(&batch));
            }
        }
        for half in [0, 1] {
            let mut seen = rows[half * 1000..(half + 1) * 1000].to_vec();
            seen.sort();
            assert_eq!(seen, (0..1000).collect::<Vec<u32>>(), "{workers} workers lost or doubled a row");
        }
        sums
    };
    assert_eq!(run(64), run(0));
}

#[test]
fn a_sample_that_fails_is_left_out_counted_and_named_when_asked() {
    for workers in [0, 3] {
        let loading = Loading { batch_size: 4, shuffle: false, workers, on_error: OnError::Skip, ..Loading::default() };
        let map = |sample: &mut Sample, _| match sample.row() {
            2 | 8..12 => Err(Error::new(ErrorKind::Data, format!("pictures/{}.png: no picture", sample.row()))),
            5 => panic!("row five"),
            0.. => Ok(()),
        };
        let mut loader = Loader::with_map(&numbered(14), loading, map).unwrap();
        let rows: Vec<Vec<u32>> = epoch(&mut loader).iter().map(labels).collect();
        // The third batch has no row left, so it does not come.
        assert_eq!(rows, [vec![0, 1, 3], vec![4, 6, 7], vec![12, 13]], "{workers} workers");
        let skipped: Vec<(usize, &str)> = loader.skipped().iter().map(|s| (s.row, s.why.as_str())).collect();
        let no = |row: usize| format!("map of row {row}: pictures/{row}.png: no picture");
        let texts = [no(2), "map of row 5: it panicked: row five".to_string(), no(8), no(9), no(10), no(11)];
        let want: Vec<(usize, &str)> = [2, 5, 8, 9, 10, 11].into_iter().zip(texts.iter().map(String::as_str)).collect();
        assert_eq!(skipped, want, "{workers} workers");
        assert_eq!(loader.n_skipped(), 6);
        epoch(&mut loader);
        assert_eq!(loader.n_skipped(), 12, "each epoch is counted");
    }
}
