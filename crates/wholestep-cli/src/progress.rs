//! Progress of a training run. Takes batches and epochs as they end, gives a live bar on a terminal and plain lines
//! elsewhere (one for each epoch, and one each ten seconds inside long ones). Never waits for the device, and never fails
//! a run because nobody reads.

use crate::report::EpochRow;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two plain lines inside one epoch.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Shows how far a run is: call [`Progress::epoch_start`], [`Progress::batch`] for each batch, [`Progress::epoch_end`],
/// and [`Progress::finish`] at the end. Dropped early (an error), it leaves the terminal clean.
pub struct Progress {
    shown: Shown,
    clock: Box<dyn Fn() -> Duration>,
    n_epochs: u32,
    epoch: u32,
    epoch_started: Duration,
    last_line: Duration,
    /// Samples of this epoch: all of them, and those done.
    n_samples: u64,
    done: u64,
    loss: Option<f64>,
    accuracy: Option<f64>,
    finished: Finished,
}

/// What the epochs that ended add up to.
#[derive(Default)]
struct Finished {
    epochs: u32,
    time: Duration,
    samples: u64,
    /// Lowest finite validation loss and its epoch.
    best: Option<(f64, u32)>,
}

enum Shown {
    Bar(ProgressBar),
    Lines(Box<dyn Write>),
}

impl Progress {
    /// Progress on standard error: a bar where it is a terminal, lines where it is a file or a pipe.
    pub fn new(n_epochs: u32) -> Progress {
        let shown = match std::io::stderr().is_terminal() {
            true => Shown::Bar(bar(ProgressDrawTarget::stderr())),
            false => Shown::Lines(Box::new(std::io::stderr())),
        };
        let start = Instant::now();
        Progress::with(n_epochs, shown, Box::new(move || start.elapsed()))
    }

    fn with(n_epochs: u32, shown: Shown, clock: Box<dyn Fn() -> Duration>) -> Progress {
        let now = clock();
        Progress {
            shown,
            clock,
            n_epochs,
            epoch: 0,
            epoch_started: now,
            last_line: now,
            n_samples: 0,
            done: 0,
            loss: None,
            accuracy: None,
            finished: Finished::default(),
        }
    }

    /// Begins `epoch` (counted from 1) of `n_samples` training samples.
    pub fn epoch_start(&mut self, epoch: u32, n_samples: u64) {
        self.epoch = epoch;
        self.n_samples = n_samples;
        self.done = 0;
        self.epoch_started = (self.clock)();
        if let Shown::Bar(bar) = &self.shown {
            bar.set_length(n_samples);
            bar.set_position(0);
            bar.set_prefix(self.name());
            bar.set_message(self.state());
        }
    }

    /// `n_samples` more are done. `loss` and `accuracy` (0 to 1) are the latest known; `None` keeps the ones before, so
    /// that a caller need not wait for the device to show progress.
    pub fn batch(&mut self, n_samples: u64, loss: Option<f64>, accuracy: Option<f64>) {
        self.done += n_samples;
        self.loss = loss.or(self.loss);
        self.accuracy = accuracy.or(self.accuracy);
        match &self.shown {
            Shown::Bar(bar) => {
                bar.set_message(self.state());
                bar.set_position(self.done);
            }
            Shown::Lines(_) if (self.clock)() >= self.last_line + PLAIN_INTERVAL => {
                let line = format!("{}  {}/{} samples  {}", self.name(), self.done, self.n_samples, self.state());
                self.say(&line);
            }
            Shown::Lines(_) => {}
        }
    }

    /// Ends the epoch with one line of its numbers; `row.seconds` is measured here when it is not given.
    pub fn epoch_end(&mut self, row: &EpochRow) {
        let measured = (self.clock)().saturating_sub(self.epoch_started);
        let time = row.seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()).unwrap_or(measured);
        self.finished.epochs += 1;
        self.finished.time += time;
        self.finished.samples += self.done;
        let mut parts = vec![self.name(), format!("loss {}", number(row.train_loss))];
        let mut push = |name: &str, value: Option<String>| parts.extend(value.map(|value| format!("{name} {value}")));
        push("acc", row.train_acc.map(percent));
        push("val loss", row.val_loss.map(number));
        push("val acc", row.val_acc.map(percent));
        push("lr", row.lr.map(|lr| format!("{lr:.3e}")));
        push("norm", row.grad_norm.map(number));
        push("noise", row.noise_scale.map(number));
        parts.extend(rate(self.done, time));
        parts.push(clock_text(time));
        let loss = row.val_loss.filter(|loss| loss.is_finite());
        if let Some(loss) = loss.filter(|loss| self.finished.best.is_none_or(|(best, _)| *loss < best)) {
            self.finished.best = Some((loss, row.epoch));
            parts.push("best".to_string());
        }
        self.say(&parts.join("  "));
        // What the batches of this epoch showed is not the next one's.
        (self.loss, self.accuracy) = (None, None);
    }

    /// Removes the bar and writes the run in one line, then `lines` as they are.
    pub fn finish(mut self, lines: &[String]) {
        if let Shown::Bar(bar) = &self.shown {
            bar.set_length(0);
        }
        let f = &self.finished;
        let epochs = if f.epochs == 1 { "1 epoch".to_string() } else { format!("{} epochs", f.epochs) };
        let mut text = format!("{epochs} in {}", clock_text(f.time));
        if let Some(rate) = rate(f.samples, f.time) {
            text += &format!(", {rate}");
        }
        if let Some((loss, epoch)) = f.best {
            text += &format!("; lowest validation loss {} in epoch {epoch}", number(loss));
        }
        self.say(&text);
        for line in lines {
            self.say(line);
        }
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }

    /// `epoch  3/20`, as wide in the first epoch as in the last.
    fn name(&self) -> String {
        let total = self.n_epochs.to_string();
        format!("epoch {:>width$}/{total}", self.epoch, width = total.len())
    }

    /// Loss, accuracy, speed and time left, as far as they are known.
    fn state(&self) -> String {
        let elapsed = (self.clock)().saturating_sub(self.epoch_started);
        let mut parts = Vec::new();
        parts.extend(self.loss.map(|loss| format!("loss {}", number(loss))));
        parts.extend(self.accuracy.map(|accuracy| format!("acc {}", percent(accuracy))));
        parts.extend(rate(self.done, elapsed));
        parts.extend(self.left(elapsed).map(|left| format!("left {}", clock_text(left))));
        parts.join("  ")
    }

    /// Time left of the whole run: from the epochs that ended, as they include validation, and in this one from the share of samples
    /// done where that is more.
    fn left(&self, elapsed: Duration) -> Option<Duration> {
        let elapsed = elapsed.as_secs_f64();
        let by_share = (self.done > 0).then(|| elapsed * self.n_samples as f64 / self.done as f64);
        let by_epochs = match self.finished.epochs {
            0 => None,
            n => Some(self.finished.time.as_secs_f64() / f64::from(n)),
        };
        let epoch_time = by_epochs.or(by_share)?;
        let after_this = f64::from(self.n_epochs.saturating_sub(self.epoch));
        let this = epoch_time.max(by_share.unwrap_or(0.0)) - elapsed;
        Duration::try_from_secs_f64(after_this * epoch_time + this.max(0.0)).ok()
    }

    fn say(&mut self, line: &str) {
        self.last_line = (self.clock)();
        match &mut self.shown {
            Shown::Bar(bar) => bar.println(line),
            // A closed pipe is no reason to end a training run.
            Shown::Lines(out) => drop(writeln!(out, "{line}").and_then(|()| out.flush())),
        }
    }
}

fn bar(target: ProgressDrawTarget) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {bar:24} {wide_msg}")
        .unwrap_or_else(|error| panic!("bug: the template of the progress bar: {error}"));
    let bar = ProgressBar::with_draw_target(Some(0), target).with_finish(ProgressFinish::AndClear);
    bar.set_style(style.progress_chars("━╸ "));
    bar
}

fn rate(samples: u64, time: Duration) -> Option<String> {
    let rate = samples as f64 / time.as_secs_f64();
    (rate.is_finite() && samples > 0).then(|| match rate {
        rate if rate >= 10.0 => format!("{rate:.0} samples/s"),
        rate => format!("{rate:.2} samples/s"),
    })
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || (1e-3..1e5).contains(&size) || !size.is_finite() => format!("{value:.4}"),
        _ => format!("{value:.3e}"),
    }
}

fn percent(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}

/// `3.42s`, `1:05`, `2:03:07`.
fn clock_text(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match time.as_secs_f64() {
        s if s < 10.0 => format!("{s:.2}s"),
        s if s < 59.5 => format!("{s:.0}s"),
        s if s < 3599.5 => format!("{}:{:02}", seconds / 60, seconds % 60),
        _ => format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::InMemoryTerm;
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    /// A clock that a test turns by hand.
    #[derive(Clone, Default)]
    struct HandClock(Rc<Cell<Duration>>);

    impl HandClock {
        fn forward(&self, millis: u64) {
            self.0.set(self.0.get() + Duration::from_millis(millis));
        }

        fn clock(&self) -> Box<dyn Fn() -> Duration> {
            let now = self.0.clone();
            Box::new(move || now.get())
        }
    }

    #[derive(Clone, Default)]
    struct Page(Rc<RefCell<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).unwrap()
        }
    }

    fn row(epoch: u32, train_loss: f64, val_loss: f64) -> EpochRow {
        EpochRow { epoch, train_loss, val_loss: Some(val_loss), val_acc: Some(0.9712), ..EpochRow::default() }
    }

    #[test]
    fn without_a_terminal_there_is_a_line_for_each_epoch_and_each_ten_seconds() {
        let (hand, page) = (HandClock::default(), Page::default());
        let mut progress = Progress::with(12, Shown::Lines(Box::new(page.clone())), hand.clock());
        progress.epoch_start(1, 1000);
        for i in 0..10 {
            hand.forward(2500);
            progress.batch(100, (i == 2).then_some(0.5), Some(0.25));
        }
        progress.epoch_end(&row(1, 0.75, 0.5));
        progress.epoch_start(2, 1000);
        hand.forward(9_000);
        progress.batch(1000, Some(f64::NAN), None);
        progress.epoch_end(&EpochRow { epoch: 2, train_loss: f64::NAN, lr: Some(1e-3), ..EpochRow::default() });
        progress.finish(&["saved to runs/1".to_string()]);
        let want = "\
epoch  1/12  400/1000 samples  loss 0.5000  acc 25.00%  40 samples/s  left 4:50
epoch  1/12  800/1000 samples  loss 0.5000  acc 25.00%  40 samples/s  left 4:40
epoch  1/12  loss 0.7500  val loss 0.5000  val acc 97.12%  40 samples/s  25s  best
epoch  2/12  loss NaN  lr 1.000e-3  111 samples/s  9.00s
2 epochs in 34s, 59 samples/s; lowest validation loss 0.5000 in epoch 1
saved to runs/1
";
        assert_eq!(page.text(), want);
    }

    #[test]
    fn on_a_terminal_the_bar_stays_below_the_finished_epochs_and_goes_at_the_end() {
        let (hand, terminal) = (HandClock::default(), InMemoryTerm::new(10, 110));
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 255);
        let mut progress = Progress::with(2, Shown::Bar(bar(target)), hand.clock());
        progress.epoch_start(1, 200);
        hand.forward(1_000);
        progress.batch(100, Some(0.5), None);
        let shown = terminal.contents();
        assert!(shown.starts_with("epoch 1/2 ━━━━━━━━━━━━"), "{shown}");
        assert!(shown.ends_with("loss 0.5000  100 samples/s  left 3.00s"), "{shown}");
        progress.epoch_end(&row(1, 0.5, 0.4));
        progress.epoch_start(2, 200);
        progress.batch(200, Some(0.25), Some(1.0));
        let shown = terminal.contents();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 2, "{shown}");
        assert_eq!(lines[0], "epoch 1/2  loss 0.5000  val loss 0.4000  val acc 97.12%  100 samples/s  1.00s  best");
        assert!(lines[1].starts_with("epoch 2/2 ━━━━━━━━━━━━━━━━━━━━━━━━"), "{shown}");
        hand.forward(1_000);
        progress.epoch_end(&row(2, 0.25, 0.45));
        progress.finish(&[]);
        let shown = terminal.contents();
        assert!(
            shown.ends_with("2 epochs in 2.00s, 150 samples/s; lowest validation loss 0.4000 in epoch 1"),
            "{shown}"
        );
        assert!(!shown.contains('━'), "{shown}");
    }

    #[test]
    fn a_run_that_stops_early_leaves_no_bar_behind() {
        let (hand, terminal) = (HandClock::default(), InMemoryTerm::new(10, 80));
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 255);
        let mut progress = Progress::with(1, Shown::Bar(bar(target)), hand.clock());
        progress.epoch_start(1, 10);
        progress.batch(5, Some(1.0), None);
        assert!(terminal.contents().contains('━'));
        drop(progress);
        assert_eq!(terminal.contents(), "");
    }

    /// An epoch that takes longer than those before it, on a machine that became busy, still takes what its samples take.
    #[test]
    fn what_is_left_of_a_slower_epoch_is_not_nothing() {
        let (hand, page) = (HandClock::default(), Page::default());
        let mut progress = Progress::with(2, Shown::Lines(Box::new(page.clone())), hand.clock());
        progress.epoch_start(1, 100);
        hand.forward(4_000);
        progress.batch(100, None, None);
        progress.epoch_end(&row(1, 0.5, 0.4));
        progress.epoch_start(2, 100);
        hand.forward(20_000);
        progress.batch(25, None, None);
        assert!(page.text().ends_with("epoch 2/2  25/100 samples  1.25 samples/s  left 1:00\n"), "{}", page.text());
    }

    #[test]
    fn times_read_as_a_clock() {
        let texts = [0.0, 3.424, 59.4, 59.6, 3599.4, 3599.6, 7387.0].map(|s| clock_text(Duration::from_secs_f64(s)));
        assert_eq!(texts, ["0.00s", "3.42s", "59s", "1:00", "59:59", "1:00:00", "2:03:07"]);
    }
}
