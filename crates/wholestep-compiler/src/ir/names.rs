//! Names that nothing has. Takes the wrong one and those that there are, gives the end of an error: a list short enough to read, and the name that was
//! most likely meant.

/// So many names are listed.
const MOST: usize = 16;

/// "w, step, lr", with the number of those that are left out behind the first few; then, where one is near, "; did you mean w?".
pub fn known<S: AsRef<str>>(wrong: &str, known: &[S]) -> String {
    let known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    let some = &known[..known.len().min(MOST)];
    let more = match known.len() - some.len() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let near = nearest(wrong, &known).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    format!("{}{more}{}", some.join(", "), near)
}

/// The known name that a mistyped one was most likely meant to be. A dot, which divides PyTorch's names, is as good as a slash.
pub fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let wrong = wrong.replace('.', "/");
    let score = |name: &str| strsim::jaro_winkler(&wrong, &name.replace('.', "/"));
    let best = known.iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) > 0.7).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::known;

    #[test]
    fn names_of_pytorch_find_those_of_a_model_with_many() {
        let all: Vec<String> = (0..40).map(|i| format!("block{i}/fc/weight")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let said = known("block31.fc.weight", &all);
        assert!(said.starts_with("block0/fc/weight, block1/fc/weight, "), "{said}");
        assert!(said.ends_with("block15/fc/weight and 24 more; did you mean block31/fc/weight?"), "{said}");
        assert_eq!(known("y", &["w", "lr"]), "w, lr");
    }
}
