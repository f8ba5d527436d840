//! Text of a plan: one line a launch, one a buffer. Takes a plan, gives text. Never prints an address or a time.

use super::{Item, Plan, Size};
use std::fmt;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_items(f, self, &self.items, 0)?;
        for (i, b) in self.buffers.iter().enumerate() {
            let size = match &b.size {
                Size::Elements(shape) => shape.to_string(),
                Size::Scratch { kernel } => format!("scratch of k{kernel}"),
            };
            writeln!(f, "b{i} {:?} {size} {} live {}..={}", b.space, b.dtype, b.first, b.last)?;
        }
        for o in &self.outputs {
            writeln!(f, "output {} = b{} {} {}", o.name, o.buffer.0, o.shape, o.dtype)?;
        }
        Ok(())
    }
}

fn write_items(f: &mut fmt::Formatter<'_>, plan: &Plan, items: &[Item], depth: usize) -> fmt::Result {
    for item in items {
        match item {
            Item::Launch(l) => {
                let kind = plan.kernels[l.kernel as usize].kind();
                write!(f, "{:depth$}k{} {kind}", "", l.kernel)?;
                for s in &l.segments {
                    let args: Vec<String> = s.args.iter().map(|b| format!("b{}", b.0)).collect();
                    let own = if s.kernel == l.kernel { String::new() } else { format!("k{}", s.kernel) };
                    write!(f, " {own}({})", args.join(" "))?;
                }
                writeln!(f, "  # {} {}", l.scope, l.ops)?;
            }
            Item::Region(r) => {
                writeln!(f, "{:depth$}while b{} at most {} times", "", r.predicate.0, r.max_trips)?;
                write_items(f, plan, &r.items, depth + 2)?;
            }
        }
    }
    Ok(())
}
