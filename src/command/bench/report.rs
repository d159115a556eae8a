//! Output of `tagmill bench`: tables for people, JSON for programs.

use std::io::{self, Write};
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Serialize, Serializer};

use super::advice::Bound;
use super::{decoding, session, whole};
use crate::command::how_many;
use crate::terminal::{self, Lines};

/// All measurements, and the conclusions.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Name of the model.
    pub(super) model: String,
    /// Device of the model.
    pub(super) device: String,
    /// Number of images used.
    pub(super) images: usize,
    /// Number of images that can't be decoded.
    pub(super) unreadable: usize,
    /// Model alone, by batch size.
    pub(super) session: Vec<session::Measured>,
    /// Decoders alone, by threads.
    pub(super) decoding: Vec<decoding::Measured>,
    /// Everything together, by batch size.
    pub(super) whole: Vec<whole::Measured>,
    /// Conclusions.
    pub(super) advice: Advice,
}

/// Recommended flags for the machine.
#[derive(Debug, Serialize)]
pub(super) struct Advice {
    /// Bottleneck.
    pub(super) bound: Bound,
    /// `--batch-size`.
    pub(super) batch_size: usize,
    /// `--window`.
    #[serde(serialize_with = "as_flag")]
    pub(super) window: Duration,
    /// `--decode-threads`.
    pub(super) decode_threads: usize,
    /// Number of sessions on the processor: how often `--device` names it.
    pub(super) sessions: usize,
    /// `--infer-threads`, if the model runs on the processor.
    pub(super) infer_threads: Option<usize>,
}

fn as_flag<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}

impl Advice {
    /// Flags as on a command line.
    fn flags(&self) -> String {
        let Self { batch_size, window, decode_threads, sessions, .. } = self;
        // A batch of one image never waits.
        let window =
            if *batch_size > 1 { format!(" --window {}", humantime::format_duration(*window)) } else { String::new() };
        let devices =
            if *sessions > 1 { format!(" --device {}", vec!["cpu"; *sessions].join(",")) } else { String::new() };
        let infer =
            self.infer_threads.map(|threads| format!("{devices} --infer-threads {threads}")).unwrap_or_default();
        format!("--batch-size {batch_size}{window} --decode-threads {decode_threads}{infer}")
    }
}

impl Report {
    /// Writes the report to standard output.
    ///
    /// # Errors
    /// If standard output can't be written to.
    pub(super) fn show(&self, json: bool) -> io::Result<()> {
        if json {
            let mut out = terminal::exact();
            serde_json::to_writer(&mut out, self)?;
            return writeln!(out);
        }
        let mut text = Vec::new();
        self.write(&mut text)?;
        let mut out = Lines::open();
        String::from_utf8_lossy(&text).lines().try_for_each(|line| out.line(line))
    }

    fn write(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let unreadable =
            if self.unreadable > 0 { format!(", {} of them unreadable", self.unreadable) } else { String::new() };
        writeln!(out, "model {} on {}, {} images{unreadable}\n", self.model, self.device, self.images)?;
        self.parts(out)?;
        self.together(out)?;
        writeln!(out, "\nbound by {}\n\nrecommended: {}", self.advice.bound, self.advice.flags())?;
        let rate = self.whole.iter().find(|whole| whole.batch == self.advice.batch_size).map(|whole| whole.rate);
        let time = rate.and_then(|rate| Duration::try_from_secs_f64(100_000.0 / rate).ok());
        let time = time.map(|time| humantime::format_duration(Duration::from_mins(time.as_secs() / 60 + 1)));
        let time = time.map(|time| format!("; 100,000 such images take about {time}")).unwrap_or_default();
        writeln!(out, "(the smallest batch within 5 % of the fastest{time})")
    }

    fn parts(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{:<12}{:>10}{:>12}{:>12}{:>12}", "THE MODEL", "images/s", "batch p50", "batch p99", "resident")?;
        let several = self.session.iter().any(|measured| measured.split != self.session[0].split);
        let mut split = None;
        for measured in &self.session {
            if several && split.replace(measured.split) != Some(measured.split) {
                writeln!(out, "{}:", measured.split)?;
            }
            let batch = format!("batch {}", measured.batch);
            match (measured.rate, measured.seconds) {
                (Some(rate), Some(seconds)) => writeln!(
                    out,
                    "{batch:<12}{rate:>10.1}{:>12}{:>12}{:>12}",
                    millis(seconds.p50),
                    millis(seconds.p99),
                    size(measured.resident)
                )?,
                _ => writeln!(out, "{batch:<12}  does not fit the device's memory")?,
            }
        }
        writeln!(out, "\n{:<12}{:>10}{:>12}{:>12}", "DECODING", "images/s", "image p50", "image p99")?;
        for decoding::Measured { threads, rate, seconds } in &self.decoding {
            let threads = how_many(*threads, "thread");
            writeln!(out, "{threads:<12}{rate:>10.1}{:>12}{:>12}", millis(seconds.p50), millis(seconds.p99))?;
        }
        Ok(())
    }

    fn together(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "\n{:<12}{:>10}{:>12}{:>12}{:>12}{:>12}    where an image's time goes",
            "TOGETHER", "images/s", "a batch has", "image p50", "image p99", "resident"
        )?;
        for whole::Measured { batch, filled, rate, seconds, parts, resident, device_memory: _ } in &self.whole {
            let (batch, resident) = (format!("batch {batch}"), size(*resident));
            let (p50, p99) = (millis(seconds.p50), millis(seconds.p99));
            writeln!(
                out,
                "{batch:<12}{rate:>10.1}{filled:>12.1}{p50:>12}{p99:>12}{resident:>12}    fetch {}, decode {}, wait {}, infer {}",
                millis(parts.fetch),
                millis(parts.decode),
                millis(parts.wait),
                millis(parts.infer)
            )?;
        }
        Ok(())
    }
}

fn millis(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}

fn size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "?".to_owned(), |bytes| ByteSize(bytes).to_string())
}
