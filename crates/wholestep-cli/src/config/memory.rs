//! Amounts of memory as people write them: "2 GiB", "1500 MB", "800000000". Takes text, gives bytes; keeps the text, so that a file comes back as
//! it was written. Never rounds.

use serde::{Deserialize, Serialize};

/// An amount of memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Memory {
    text: String,
    pub bytes: u64,
}

const UNITS: [(&str, u64); 8] = [
    ("", 1),
    ("B", 1),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

impl TryFrom<String> for Memory {
    type Error = String;

    fn try_from(text: String) -> Result<Memory, String> {
        let fault = || format!("need an amount like \"2 GiB\", \"1.5 GB\" or \"800 MiB\", got {text:?}");
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (text[..end].parse::<f64>(), text[end..].trim());
        let found = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
        match (number, found) {
            (Ok(n), Some((_, factor))) if n > 0.0 && n * (*factor as f64) < 1e18 => {
                let bytes = (n * *factor as f64) as u64;
                Ok(Memory { text, bytes })
            }
            _ => Err(fault()),
        }
    }
}

impl From<Memory> for String {
    fn from(memory: Memory) -> String {
        memory.text
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;

    #[test]
    fn amounts_are_read_and_come_back_as_written() {
        let cases =
            [("2 GiB", 2 << 30), ("1.5GB", 1_500_000_000), ("800 mib", 800 << 20), ("123", 123), ("7 kB", 7000)];
        for (text, bytes) in cases {
            let memory = Memory::try_from(text.to_string()).unwrap();
            assert_eq!(memory.bytes, bytes);
            assert_eq!(String::from(memory), text);
        }
        for text in ["", "GiB", "2 GiBs", "0", "-1 MB", "1.2.3 MB", "9999999999 GB", "2 TiBi"] {
            let fault = Memory::try_from(text.to_string()).unwrap_err();
            assert!(fault.contains(&format!("{text:?}")), "{fault}");
        }
    }
}
