//! Units of compilation. Takes texts, gives machine code in pieces of several kernels, and what was kept of each text. A compiler spends 10 ms and more
//! on each unit that its threads cannot share, so that short texts go together; what a program needs of earlier ones is looked up by text.

use crate::cache::Cache;
use crate::nvrtc::Nvrtc;
use crate::texts::Text;
use std::collections::BTreeMap;
use std::thread::available_parallelism;
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::codegen::cuda;

/// Machine code with the kernels in it that are wanted: the number of the text and the kernel's name.
pub struct Code {
    pub cubin: Vec<u8>,
    pub kernels: Vec<(usize, String)>,
}

/// Bytes of texts in a unit at least, if there are so many, and at most.
const UNIT_BYTES: [usize; 2] = [2 << 10, 16 << 10];

/// The unit of the sources of texts, the n-th of which has the kernel [`name`] of n.
pub fn unit<'a>(sources: impl IntoIterator<Item = &'a String>) -> String {
    let one = |(i, source): (usize, &String)| {
        format!("#define BODY body{i}\n#define KERNEL {}\n{source}#undef BODY\n#undef KERNEL\n", name(i))
    };
    cuda::PRELUDE.to_string() + &sources.into_iter().enumerate().map(one).collect::<String>()
}

/// The name of kernel `i` of a unit.
pub fn name(i: usize) -> String {
    format!("kernel{i}")
}

/// Machine code of texts for compute capability `arch`, and how many of them were compiled.
/// Errors: what the compiler says of a text that it refuses.
pub fn machine_code(
    nvrtc: &Nvrtc,
    texts: &[Text],
    arch: u32,
    cache: Option<&Cache>,
) -> Result<(Vec<Code>, u64), DeviceError> {
    let kept_under = |text: &Text| format!("kernel of {}", nvrtc.key(&unit([&text.source]), arch));
    let mut kept: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
    let mut new = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        match cache.and_then(|c| place(&c.read(&kept_under(text))?)) {
            Some((unit, name)) => kept.entry(unit).or_default().push((i, name)),
            None => new.push(i),
        }
    }
    let mut all = Vec::new();
    for (unit, kernels) in kept {
        match cache.and_then(|c| c.read(&unit)) {
            Some(cubin) => all.push(Code { cubin, kernels }),
            None => new.extend(kernels.iter().map(|(i, _)| *i)),
        }
    }
    new.sort_unstable();
    let threads = available_parallelism().map_or(1, usize::from);
    let groups = groups(texts, &new, threads);
    let sources: Vec<String> = groups.iter().map(|of| unit(of.iter().map(|&i| &texts[i].source))).collect();
    let (cubins, _) = nvrtc.compile(&sources, arch, cache)?;
    for ((group, source), cubin) in groups.iter().zip(&sources).zip(cubins) {
        let kernels: Vec<(usize, String)> = group.iter().enumerate().map(|(n, &i)| (i, name(n))).collect();
        if let Some(cache) = cache {
            let unit = nvrtc.key(source, arch);
            kernels.iter().for_each(|(i, n)| cache.write(&kept_under(&texts[*i]), format!("{n}\n{unit}").as_bytes()));
        }
        all.push(Code { cubin, kernels });
    }
    Ok((all, new.len() as u64))
}

/// The unit in which a text's kernel is, and its name there.
fn place(kept: &[u8]) -> Option<(String, String)> {
    let (name, unit) = std::str::from_utf8(kept).ok()?.split_once('\n')?;
    Some((unit.to_string(), name.to_string()))
}

/// Numbers of texts by unit, the longest first, since long ones take long: about two units for each of `threads`.
fn groups(texts: &[Text], new: &[usize], threads: usize) -> Vec<Vec<usize>> {
    let bytes = |i: usize| texts[i].source.len();
    let [least, most] = UNIT_BYTES;
    let share = (new.iter().map(|&i| bytes(i)).sum::<usize>() / (2 * threads)).clamp(least, most);
    let mut order = new.to_vec();
    order.sort_by_key(|&i| (std::cmp::Reverse(bytes(i)), i));
    let (alone, joined): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|&i| !texts[i].joins);
    let mut groups: Vec<Vec<usize>> = alone.into_iter().map(|i| vec![i]).collect();
    let mut room = 0;
    for i in joined {
        match groups.last_mut() {
            Some(group) if bytes(i) <= room => group.push(i),
            _ => {
                groups.push(vec![i]);
                room = share;
            }
        }
        room = room.saturating_sub(bytes(i));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::{groups, machine_code};
    use crate::cache::Cache;
    use crate::nvrtc::Nvrtc;
    use crate::texts::Text;

    fn text(number: usize, comment: usize) -> Text {
        let source = format!(
            "static __device__ float BODY() {{ return {number}.0f; }} // {}\nextern \"C\" __global__ void KERNEL(float* y) {{ y[0] = BODY(); }}\n",
            "-".repeat(comment)
        );
        Text { source, shared_bytes: 0, joins: number != 0 }
    }

    #[test]
    fn short_texts_are_compiled_together_and_long_ones_and_those_that_do_not_join_apart() {
        let texts: Vec<Text> = (0..6).map(|i| text(i, if i == 4 { 20_000 } else { 600 })).collect();
        // 4 KB a unit: two short texts are 1.4.
        let units = groups(&texts, &[0, 1, 2, 3, 4, 5], 3);
        assert_eq!(units, [vec![0], vec![4], vec![1, 2, 3, 5]]);
        assert_eq!(groups(&texts, &[1, 3], 1000), [[1, 3]]);
        assert!(groups(&texts, &[], 4).is_empty());
    }

    #[test]
    fn a_text_that_was_compiled_with_others_is_found_alone() {
        let nvrtc = match Nvrtc::open() {
            Ok(nvrtc) => nvrtc,
            Err(e) if std::env::var_os("REQUIRE_NVRTC").is_none() => return println!("skipped: no nvrtc ({e})"),
            Err(e) => panic!("REQUIRE_NVRTC is set and it does not open: {e}"),
        };
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("kept"));
        let texts: Vec<Text> = (0..6).map(|i| text(i, 0)).collect();
        let (cold, compiled) = machine_code(&nvrtc, &texts, 90, Some(&cache)).unwrap();
        assert_eq!((compiled, cold.iter().map(|c| c.kernels.len()).sum::<usize>()), (6, 6));
        assert!(cold.len() == 2 && cold.iter().all(|c| c.cubin.starts_with(b"\x7fELF")));
        for code in &cold {
            for (i, name) in &code.kernels {
                assert!(code.cubin.windows(name.len()).any(|w| w == name.as_bytes()));
                let (warm, compiled) = machine_code(&nvrtc, &texts[*i..=*i], 90, Some(&cache)).unwrap();
                assert_eq!(compiled, 0);
                assert_eq!((&warm[0].cubin, &warm[0].kernels), (&code.cubin, &vec![(0, name.clone())]));
            }
        }
        // Others are not, and where the code is lost the texts are compiled again.
        assert_eq!(machine_code(&nvrtc, &[text(9, 0)], 90, Some(&cache)).unwrap().1, 1);
        assert_eq!(machine_code(&nvrtc, &texts[2..3], 80, Some(&cache)).unwrap().1, 1);
        let is_code = |path: &std::path::Path| std::fs::metadata(path).unwrap().len() > 1000;
        let files = std::fs::read_dir(folder.path().join("kept")).unwrap().map(|f| f.unwrap().path());
        files.filter(|path| is_code(path)).for_each(|path| std::fs::remove_file(path).unwrap());
        let (again, compiled) = machine_code(&nvrtc, &texts, 90, Some(&cache)).unwrap();
        assert_eq!((again.len(), compiled), (2, 6));
    }
}
