//! The lines of a list.

use std::io::{BufRead, Read};

use anyhow::{Context, bail};

use super::{Feed, Place, Stopped};
use crate::json::BYTE_ORDER_MARK;

/// Bytes a line has at most: as many as a NATS server takes in one message, whatever its settings.
const LONGEST: u64 = 64 * 1024 * 1024;

pub(super) fn feed(mut list: impl BufRead, name: &str, feed: &Feed) -> Result<(), Stopped> {
    let mut lines = Lines { list: &mut list, name, number: 0, line: Vec::new() };
    while let Some(line) = lines.next()? {
        let (line, number) = (line.to_owned(), lines.number);
        let job = feed.maker.job_of_line(&line).with_context(|| format!("line {number} of {name}"))?;
        if let Some(job) = job {
            // Of what a list names, no version is known; what it says in full tells two jobs apart.
            feed.send_blocking(job, "", Place::Line(number))?;
        }
    }
    Ok(())
}

struct Lines<'a, R> {
    list: &'a mut R,
    name: &'a str,
    /// Of the line read last, from 1.
    number: u64,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<'_, R> {
    /// The next line that is not blank.
    fn next(&mut self) -> anyhow::Result<Option<&str>> {
        while self.read()? {
            if !self.line.trim_ascii().is_empty() {
                let line = std::str::from_utf8(&self.line);
                return line.map(|line| Some(line.trim())).with_context(|| {
                    format!(
                        "line {} of {} is not UTF-8 text; a list has a path, key, location or job on each line",
                        self.number, self.name
                    )
                });
            }
        }
        Ok(None)
    }

    fn read(&mut self) -> anyhow::Result<bool> {
        self.line.clear();
        let read = self.list.by_ref().take(LONGEST + 1).read_until(b'\n', &mut self.line);
        let read = read.with_context(|| format!("{} can't be read", self.name))?;
        if self.number == 0 && self.line.starts_with(BYTE_ORDER_MARK) {
            self.line.drain(..BYTE_ORDER_MARK.len());
        }
        self.number += u64::from(read > 0);
        if self.line.len() as u64 > LONGEST {
            bail!("line {} of {} has more than {LONGEST} bytes", self.number, self.name);
        }
        Ok(read > 0)
    }
}
