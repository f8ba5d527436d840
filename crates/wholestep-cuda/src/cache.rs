//! Machine code and choices that outlive a process. Takes all that one was made from, gives what an earlier run made. Never makes a load fail: a
//! file that is damaged or cannot be written is as if it were not there.

use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder with a file for each piece of code or choice, by what it was made from.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

/// Bytes of a digest, which stands before the code.
const DIGEST: usize = 32;

impl Cache {
    pub fn new(folder: PathBuf) -> Cache {
        Cache { folder }
    }

    fn path(&self, key: &str) -> PathBuf {
        let name: String = Sha256::digest(key).iter().map(|b| format!("{b:02x}")).collect();
        self.folder.join(format!("{}.kept", &name[..40]))
    }

    /// What was kept for a key.
    pub fn read(&self, key: &str) -> Option<Vec<u8>> {
        let mut bytes = std::fs::read(self.path(key)).ok()?;
        let code = bytes.split_off(DIGEST.min(bytes.len()));
        (bytes == Sha256::digest(&code)[..]).then_some(code)
    }

    /// Keeps code for a key.
    pub fn write(&self, key: &str, code: &[u8]) {
        self.put(key, code, |temporary, path| std::fs::rename(temporary, path));
    }

    /// Keeps code for a key unless there is some; gives what is kept. Who comes first decides, so that processes that begin at the same time go on
    /// with the same.
    pub fn add(&self, key: &str, code: &[u8]) -> Vec<u8> {
        self.put(key, code, |temporary, path| match self.read(key) {
            Some(_) => std::fs::remove_file(temporary),
            // It fails where there is one. One that cannot be read makes room; some file systems have no links.
            None => match std::fs::hard_link(temporary, path) {
                Ok(()) => std::fs::remove_file(temporary),
                Err(_) if self.read(key).is_some() => std::fs::remove_file(temporary),
                Err(_) => std::fs::rename(temporary, path),
            },
        });
        self.read(key).unwrap_or_else(|| code.to_vec())
    }

    /// Writes a file beside its place and moves it there, so that no process reads a part.
    fn put(&self, key: &str, code: &[u8], place: impl Fn(&Path, &Path) -> std::io::Result<()>) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = self.path(key);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{}-{number}.part", std::process::id()));
        let bytes = [&Sha256::digest(code)[..], code].concat();
        let written = std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))
            .and_then(|()| std::fs::write(&temporary, bytes))
            .and_then(|()| place(&temporary, &path));
        if written.is_err() {
            // What is left of a failed attempt only takes space; the next run compiles again.
            let _ = std::fs::remove_file(&temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cache;

    #[test]
    fn what_is_kept_comes_back_and_damage_is_as_if_absent() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("a/b"));
        assert_eq!(cache.read("key"), None);
        cache.write("key", b"code");
        cache.write("other", b"");
        assert_eq!(cache.read("key").as_deref(), Some(&b"code"[..]));
        assert_eq!(cache.read("other").as_deref(), Some(&b""[..]));
        let path = cache.path("key");
        let whole = std::fs::read(&path).unwrap();
        for i in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[i] ^= 4;
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(cache.read("key"), None, "byte {i}");
            std::fs::write(&path, &whole[..i]).unwrap();
            assert_eq!(cache.read("key"), None, "{i} bytes");
        }
        // What cannot be read makes room, and what can stays.
        assert_eq!(cache.add("key", b"first"), b"first");
        assert_eq!(cache.add("key", b"second"), b"first");
        cache.write("key", b"anew");
        assert_eq!(cache.read("key").as_deref(), Some(&b"anew"[..]));
        assert_eq!(std::fs::read_dir(folder.path().join("a/b")).unwrap().count(), 2, "nothing is left behind");
    }

    #[test]
    fn of_many_at_once_all_keep_what_came_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_path_buf());
        let start = std::sync::Barrier::new(8);
        let one = |i: u8| {
            start.wait();
            cache.add("key", &[i; 100])
        };
        let kept: Vec<Vec<u8>> = std::thread::scope(|s| {
            let all: Vec<_> = (0..8).map(|i| s.spawn(move || one(i))).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(kept.iter().all(|k| *k == kept[0] && k.len() == 100), "{kept:?}");
        assert_eq!(cache.read("key").as_ref(), Some(&kept[0]));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_folder_that_cannot_be_written_keeps_nothing_and_does_not_fail() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "a file where a folder should be").unwrap();
        let cache = Cache::new(folder.path().join("a"));
        cache.write("key", b"code");
        assert_eq!(cache.read("key"), None);
    }
}
