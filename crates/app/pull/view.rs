//! How a pull is shown: bars on a terminal, a line now and then elsewhere, JSON for programs.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use harmonium_hub::{Event, Pulled, Wanted};
use indicatif::{DecimalBytes, HumanDuration, MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;

use crate::progress::harmless;

/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows events.
pub(crate) struct View {
    what: String,
    form: Form,
    files: Vec<Wanted>,
    fetched: u64,
    to_fetch: u64,
    started: Instant,
    spoke: Instant,
}

enum Form {
    Bars { all: MultiProgress, total: ProgressBar, bars: Vec<ProgressBar> },
    Lines,
    Json,
}

impl View {
    /// A view of a pull of `what`.
    pub(crate) fn new(is_json: bool, what: &str) -> Self {
        let form = match (is_json, io::stderr().is_terminal()) {
            (true, _) => Form::Json,
            (false, false) => Form::Lines,
            (false, true) => Form::Bars {
                all: MultiProgress::new(),
                total: ProgressBar::hidden(),
                bars: Vec::new(),
            },
        };
        let now = Instant::now();
        Self {
            what: what.to_owned(),
            form,
            files: Vec::new(),
            fetched: 0,
            to_fetch: 0,
            started: now,
            spoke: now,
        }
    }

    /// Shows events until there are no more.
    pub(crate) async fn show(mut self, mut events: Receiver<Event>) -> io::Result<()> {
        while let Some(event) = events.recv().await {
            match self.form {
                Form::Json => line(&mut io::stdout().lock(), &self.json(&event))?,
                Form::Lines => self.plain(&event),
                Form::Bars { .. } => self.draw(&event),
            }
            self.count(event);
        }
        if let Form::Bars { total, .. } = &self.form {
            total.finish();
        }
        if !matches!(self.form, Form::Json) && self.fetched > 0 {
            let (fetched, speed) = (DecimalBytes(self.fetched), DecimalBytes(self.speed() as u64));
            let time = HumanDuration(self.started.elapsed());
            say(&format!("{fetched} fetched in {time}, {speed}/s"));
        }
        Ok(())
    }

    fn count(&mut self, event: Event) {
        match event {
            Event::Listed { files, .. } => {
                self.to_fetch = files.iter().map(|file| file.missing).sum();
                self.files = files;
            }
            Event::Bytes { count, .. } => self.fetched += count,
            Event::Wrong { lost, .. } => self.to_fetch += lost,
            _ => {}
        }
    }

    /// Bytes a second so far.
    fn speed(&self) -> f64 {
        self.fetched as f64 / self.started.elapsed().as_secs_f64().max(1e-3)
    }

    fn name(&self, file: usize) -> &str {
        &self.files[file].path
    }

    /// One line on what is wanted.
    fn headline(&self, commit: &str, files: &[Wanted]) -> String {
        let total = files.iter().map(|file| file.len).sum();
        let missing = files.iter().map(|file| file.missing).sum();
        format!(
            "pulling {} (commit {:.8}): {} files, {}, {} to fetch",
            self.what,
            commit,
            files.len(),
            DecimalBytes(total),
            DecimalBytes(missing)
        )
    }

    fn plain(&mut self, event: &Event) {
        let text = match event {
            Event::Listed { commit, files } => self.headline(commit, files),
            Event::Bytes { .. } if self.spoke.elapsed() < LINE_EVERY => return,
            Event::Bytes { .. } => {
                self.spoke = Instant::now();
                let speed = self.speed();
                let left = self.to_fetch.saturating_sub(self.fetched) as f64 / speed.max(1.0);
                format!(
                    "{} of {}, {}/s, {} left",
                    DecimalBytes(self.fetched),
                    DecimalBytes(self.to_fetch),
                    DecimalBytes(speed as u64),
                    HumanDuration(Duration::from_secs_f64(left))
                )
            }
            Event::Retry { file, message } => {
                format!("{}: {message}; trying again", self.name(*file))
            }
            Event::Verifying { .. } => return,
            Event::Done { file } => format!("{} done", self.name(*file)),
            Event::Wrong { file, lost } => self.wrong(*file, *lost),
        };
        say(&text);
    }

    fn wrong(&self, file: usize, lost: u64) -> String {
        let (name, lost) = (self.name(file), DecimalBytes(lost));
        format!("{name}: wrong digest; fetching {lost} of it again")
    }

    fn draw(&mut self, event: &Event) {
        let headline = match event {
            Event::Listed { commit, files } => Some(self.headline(commit, files)),
            Event::Retry { file, message } => {
                Some(format!("{}: {message}; trying again", self.name(*file)))
            }
            Event::Wrong { file, lost } => Some(self.wrong(*file, *lost)),
            _ => None,
        };
        let Form::Bars { all, total, bars } = &mut self.form else { return };
        if let Some(text) = headline {
            all.suspend(|| say(&text));
        }
        match event {
            Event::Listed { files, .. } => {
                let style = |template: &str| {
                    ProgressStyle::with_template(template).expect("the template is well formed")
                };
                for file in files {
                    let bar =
                        all.add(ProgressBar::new(file.len).with_position(file.len - file.missing));
                    bar.set_style(style("{msg:40!} {bar:30} {decimal_bytes:>10}"));
                    bar.set_message(harmless(&file.path));
                    bars.push(bar);
                }
                let missing = files.iter().map(|file| file.missing).sum();
                *total = all.add(ProgressBar::new(missing));
                total.set_style(style(
                    "total {bar:48} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left",
                ));
            }
            Event::Bytes { file, count } => {
                bars[*file].inc(*count);
                total.inc(*count);
            }
            Event::Verifying { file } => bars[*file].set_message("verifying"),
            Event::Done { file } => {
                bars[*file].set_message(harmless(&self.files[*file].path));
                bars[*file].finish();
            }
            Event::Wrong { file, lost } => {
                bars[*file].set_message(harmless(&self.files[*file].path));
                bars[*file].dec(*lost);
                total.inc_length(*lost);
            }
            Event::Retry { .. } => {}
        }
    }

    fn json(&self, event: &Event) -> Value {
        match event {
            Event::Listed { commit, files } => {
                let file = |file: &Wanted| json!({"path": file.path, "bytes": file.len, "missing_bytes": file.missing});
                json!({"event": "listed", "commit": commit, "files": files.iter().map(file).collect::<Vec<_>>()})
            }
            Event::Bytes { file, count } => {
                json!({"event": "bytes", "path": self.name(*file), "bytes": count})
            }
            Event::Retry { file, message } => {
                json!({"event": "retry", "path": self.name(*file), "message": message})
            }
            Event::Verifying { file } => json!({"event": "verifying", "path": self.name(*file)}),
            Event::Done { file } => json!({"event": "done", "path": self.name(*file)}),
            Event::Wrong { file, lost } => {
                json!({"event": "wrong_digest", "path": self.name(*file), "lost_bytes": lost})
            }
        }
    }
}

/// The last line of `--json` where all went well.
pub(crate) fn pulled(pulled: &Pulled) -> Value {
    json!({
        "event": "pulled",
        "snapshot": pulled.snapshot,
        "commit": pulled.commit,
        "fetched_bytes": pulled.fetched,
        "moved_to": pulled.moved_to,
    })
}

/// The last line of `--json` where it did not.
pub(crate) fn failed(message: &str) -> Value {
    json!({"event": "failed", "message": message})
}

/// A line of JSON, seen at once.
pub(crate) fn line(out: &mut impl Write, value: &Value) -> io::Result<()> {
    writeln!(out, "{value}")?;
    out.flush()
}

fn say(text: &str) {
    // Progress is a courtesy: if nobody can read it, the work goes on.
    let _ = writeln!(io::stderr().lock(), "{}", harmless(text));
}
