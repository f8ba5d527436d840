//! What outlives a process: choices of kernels and the driver's compiled pipelines, in files of one device and driver. Takes a folder, gives
//! what was kept there. Never makes a load fail: a file that is damaged, of another version or cannot be written is as if it were not there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use wholestep_compiler::codegen::choice::TILES;

/// The files of one device.
pub struct Cache {
    folder: PathBuf,
    device: String,
    /// The checksum of the pipelines that were read or written last.
    pipelines: Mutex<u32>,
}

/// A choice by the name of its kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub name: String,
    pub choice: String,
    /// Not so where there was no time for it, and the table decided.
    pub is_timed: bool,
}

/// A choice to be kept.
pub struct New {
    pub kept: Kept,
    /// The choice that was not timed and computes the same bits, where there was one.
    pub from: Option<String>,
}

/// At the end of a line whose choice was not timed.
const UNTIMED: &str = "not timed";

impl Kept {
    fn read(line: &str) -> Option<Kept> {
        let mut parts = line.split('\t');
        let (name, choice) = (parts.next()?.to_string(), parts.next()?.to_string());
        Some(Kept { name, choice, is_timed: parts.next() != Some(UNTIMED) })
    }

    fn line(&self) -> String {
        let end = if self.is_timed { String::new() } else { format!("\t{UNTIMED}") };
        format!("{}\t{}{end}\n", self.name, self.choice)
    }
}

/// The most choices that are kept: a few hundred models. The oldest go first.
const MAX_CHOICES: usize = 10_000;
/// Larger files are neither read nor written.
const MAX_BYTES: u64 = 64 << 20;

impl Cache {
    pub fn new(folder: PathBuf, info: &wgpu::AdapterInfo) -> Cache {
        let wgpu::AdapterInfo { name, vendor, device, driver, driver_info, backend, .. } = info;
        let all = format!("{name} {vendor} {device} {driver} {driver_info} {backend:?}");
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = name.chars().map(plain).take(40).collect();
        Cache { folder, device: format!("{name}-{:08x}", crc32fast::hash(all.as_bytes())), pipelines: Mutex::new(0) }
    }

    fn path(&self, what: &str) -> PathBuf {
        self.folder.join(format!("{}.{what}", self.device))
    }

    /// What is kept, the oldest first.
    pub fn choices(&self) -> Vec<Kept> {
        let lines = read(&self.path("choices")).and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        lines.lines().filter_map(Kept::read).collect()
    }

    /// Keeps `new` beside what is there by now, and gives what is kept for the same names. Who comes first decides, so that processes that
    /// tune at the same time go on with the same choices. What was not timed makes room for what was, if that goes on from it.
    /// Errors: why it could not be written.
    pub fn add_choices(&self, new: &[New]) -> Result<Vec<Kept>, String> {
        let lock = self.path("lock");
        let file = std::fs::create_dir_all(&self.folder).and_then(|()| File::create(&lock));
        // Freed when it is dropped.
        let locked = file.and_then(|f| f.lock().map(|()| f)).map_err(|e| unwritten(&lock, &e))?;
        let mut all = self.choices();
        let at: BTreeMap<String, usize> = all.iter().enumerate().map(|(i, k)| (k.name.clone(), i)).collect();
        for New { kept, from } in new {
            match at.get(&kept.name) {
                None => all.push(kept.clone()),
                Some(&i) if !all[i].is_timed && from.as_ref() == Some(&all[i].choice) => all[i] = kept.clone(),
                Some(_) => {}
            }
        }
        let over = all.len().saturating_sub(MAX_CHOICES);
        let lines: String = all[over..].iter().map(Kept::line).collect();
        write(&self.path("choices"), lines.as_bytes())?;
        drop(locked);
        let names: BTreeSet<&String> = new.iter().map(|n| &n.kept.name).collect();
        all.retain(|k| names.contains(&k.name));
        Ok(all)
    }

    /// The driver's pipelines.
    pub fn pipelines(&self) -> Option<Vec<u8>> {
        let bytes = read(&self.path("pipelines"))?;
        *self.pipelines.lock().ok()? = crc32fast::hash(&bytes);
        Some(bytes)
    }

    /// Keeps the driver's pipelines if they are not what is there.
    /// Errors: why they could not be written.
    pub fn keep_pipelines(&self, bytes: &[u8]) -> Result<(), String> {
        let Ok(mut last) = self.pipelines.lock() else { return Ok(()) };
        let sum = crc32fast::hash(bytes);
        if *last == sum || bytes.len() as u64 > MAX_BYTES {
            return Ok(());
        }
        *last = sum;
        write(&self.path("pipelines"), bytes)
    }
}

/// "wholestep 0.1.0 5e6f7a8b 1a2b3c4d\n": a version, the tiles that it knows, and a checksum. What another version found out does not hold.
fn header(bytes: &[u8]) -> String {
    let tiles: String = TILES.iter().map(|r| format!("{:?}", r.tile)).collect();
    let [tiles, sum] = [tiles.as_bytes(), bytes].map(crc32fast::hash);
    format!("wholestep {} {tiles:08x} {sum:08x}\n", env!("CARGO_PKG_VERSION"))
}

fn read(path: &Path) -> Option<Vec<u8>> {
    if std::fs::metadata(path).ok()?.len() > MAX_BYTES {
        return None;
    }
    let bytes = std::fs::read(path).ok()?;
    let end = bytes.iter().position(|&b| b == b'\n')? + 1;
    (bytes[..end] == *header(&bytes[end..]).as_bytes()).then(|| bytes[end..].to_vec())
}

/// Writes beside `path` and renames, so that no process reads a part. What a power cut leaves the checksum finds.
fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("{}-{number}.part", std::process::id()));
    let written = std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).and_then(|()| {
        let mut file = File::create(&temporary)?;
        file.write_all(header(bytes).as_bytes())?;
        file.write_all(bytes)?;
        drop(file);
        std::fs::rename(&temporary, path)
    });
    written.map_err(|e| {
        // What is left of a failed attempt only takes space.
        let _ = std::fs::remove_file(&temporary);
        unwritten(path, &e)
    })
}

fn unwritten(path: &Path, e: &std::io::Error) -> String {
    format!("{} could not be written ({e}); set WHOLESTEP_CACHE to another folder or to off", path.display())
}

#[cfg(test)]
mod tests {
    use super::{Cache, Kept, MAX_CHOICES, New};
    use std::path::PathBuf;
    use std::sync::Mutex;

    fn cache(folder: &tempfile::TempDir) -> Cache {
        Cache { folder: folder.path().join("a/b"), device: "gpu-1".to_string(), pipelines: Mutex::new(0) }
    }

    fn kept(names: &[&str], choice: &str) -> Vec<Kept> {
        names.iter().map(|n| Kept { name: n.to_string(), choice: choice.to_string(), is_timed: true }).collect()
    }

    fn new(names: &[&str], choice: &str) -> Vec<New> {
        kept(names, choice).into_iter().map(|kept| New { kept, from: None }).collect()
    }

    #[test]
    fn what_is_kept_comes_back_and_the_first_counts() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(&folder);
        assert!(cache.choices().is_empty() && cache.pipelines().is_none());
        cache.add_choices(&new(&["a", "b"], "old")).unwrap();
        let found = cache.add_choices(&new(&["b", "c"], "new")).unwrap();
        assert_eq!(found, [kept(&["b"], "old"), kept(&["c"], "new")].concat());
        assert_eq!(cache.choices(), [kept(&["a", "b"], "old"), kept(&["c"], "new")].concat());
        cache.keep_pipelines(b"machine\ncode").unwrap();
        assert_eq!(cache.pipelines().unwrap(), b"machine\ncode");
        let files: Vec<PathBuf> = std::fs::read_dir(&cache.folder).unwrap().map(|f| f.unwrap().path()).collect();
        assert_eq!(files.len(), 3, "choices, pipelines and a lock, and nothing is left behind: {files:?}");
    }

    #[test]
    fn what_was_not_timed_makes_room_only_for_what_goes_on_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(&folder);
        let of = |choice: &str, is_timed, from: Option<&str>| {
            let kept = Kept { name: "a".to_string(), choice: choice.to_string(), is_timed };
            [New { kept, from: from.map(str::to_string) }]
        };
        let add = |new: &[New]| {
            let kept = cache.add_choices(new).unwrap();
            assert_eq!(cache.choices(), kept);
            (kept[0].choice.clone(), kept[0].is_timed)
        };
        let table = ("table".to_string(), false);
        assert_eq!(add(&of("table", false, None)), table);
        // Of a process that began before the table's choice was kept, and so may compute other bits.
        assert_eq!(add(&of("fast", true, None)), table);
        assert_eq!(add(&of("fast", true, Some("another table"))), table);
        assert_eq!(add(&of("alike", true, Some("table"))), ("alike".to_string(), true));
        assert_eq!(add(&of("later", true, Some("table"))), ("alike".to_string(), true));
    }

    #[test]
    fn damaged_files_are_as_if_absent_and_are_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(&folder);
        cache.add_choices(&new(&["a"], "x")).unwrap();
        let path = cache.path("choices");
        let whole = std::fs::read(&path).unwrap();
        for i in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[i] ^= 4;
            std::fs::write(&path, &bytes).unwrap();
            assert!(cache.choices().is_empty(), "byte {i}");
            std::fs::write(&path, &whole[..i]).unwrap();
            assert!(cache.choices().is_empty(), "{i} bytes");
        }
        let other = String::from_utf8(whole).unwrap().replace(env!("CARGO_PKG_VERSION"), "0.0.0");
        std::fs::write(&path, other).unwrap();
        assert!(cache.choices().is_empty(), "another version");
        cache.add_choices(&new(&["b"], "y")).unwrap();
        assert_eq!(cache.choices(), kept(&["b"], "y"));
    }

    #[test]
    fn many_at_once_agree_and_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let add = |thread: usize| {
            let own = format!("own {thread}");
            cache(&folder).add_choices(&new(&["shared", &own], &format!("of {thread}"))).unwrap()
        };
        let kept: Vec<Vec<Kept>> = std::thread::scope(|threads| {
            let started: Vec<_> = (0..16).map(|i| threads.spawn(move || add(i))).collect();
            started.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let all = cache(&folder).choices();
        assert_eq!(all.len(), 17);
        assert!(kept.iter().all(|k| k.len() == 2 && k[0] == all[0] && all.contains(&k[1])), "{kept:?}");
    }

    #[test]
    fn the_file_stays_small() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(&folder);
        let names: Vec<String> = (0..MAX_CHOICES + 3).map(|i| format!("k{i}")).collect();
        cache.add_choices(&new(&names.iter().map(String::as_str).collect::<Vec<_>>(), "x")).unwrap();
        let kept = cache.choices();
        assert_eq!((kept.len(), kept[0].name.as_str()), (MAX_CHOICES, "k3"));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_told_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "a file where a folder should be").unwrap();
        let fault = cache(&folder).add_choices(&new(&["a"], "x")).unwrap_err();
        assert!(fault.contains("gpu-1.lock could not be written") && fault.contains("WHOLESTEP_CACHE"), "{fault}");
    }
}
