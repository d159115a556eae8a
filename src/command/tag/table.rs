//! Results as CSV: a row for each tag and rating of an image; one without a tag for an image that has none, or that failed.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, bail};

use crate::atomic;
use crate::failure::Failure;
use crate::model::category::RATING;
use crate::tags::Tags;

/// The first row.
const COLUMNS: [&str; 5] = ["image", "tag", "category", "score", "error"];

/// Returns `true` if a file of this name is a table.
pub(super) fn is_table(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"))
}

/// Opens a table for more rows, and shows `see` the images that it has, with `true` for one that failed. Of one whose last row was never finished, the last
/// image goes. Nobody else adds to the file while it is open.
///
/// # Errors
/// If it can't be read and written, another run has it, or it holds something else.
pub(super) fn open(path: &Path, mut see: impl FnMut(&str, bool)) -> anyhow::Result<File> {
    if path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        // As a pipe: nothing that it held can be seen again.
        let mut pipe = OpenOptions::new().write(true).open(path)?;
        pipe.write_all(&row(&COLUMNS)?)?;
        return Ok(pipe);
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    // A file system without locks goes without.
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        bail!("another run writes to it");
    }
    if file.metadata()?.len() == 0 {
        file.write_all(&row(&COLUMNS)?)?;
        return Ok(file);
    }
    let torn = !ends_with_a_line(&mut file)?;
    let mut rows = csv::ReaderBuilder::new().flexible(true).from_reader(io::BufReader::new(&file));
    if rows.headers().is_ok_and(|columns| *columns != COLUMNS[..]) {
        bail!("it holds something else than a table with the columns {}", COLUMNS.join(", "));
    }
    let (mut record, mut last, mut begins) = (csv::StringRecord::new(), None::<(String, bool)>, rows.position().byte());
    loop {
        let at = rows.position().byte();
        let more = match rows.read_record(&mut record) {
            Err(_) if torn => false,
            read => read.context("it is no table")?,
        };
        if !more {
            break;
        }
        let image = record.get(0).unwrap_or_default();
        if last.as_ref().is_none_or(|(last, failed)| last != image || *failed) {
            if let Some((last, failed)) = &last {
                see(last, *failed);
            }
            (last, begins) = (Some((image.to_owned(), is_failure(&record))), at);
        }
    }
    drop(rows);
    if torn {
        file.set_len(begins)?;
    } else if let Some((last, failed)) = &last {
        see(last, *failed);
    }
    Ok(file)
}

fn is_failure(row: &csv::StringRecord) -> bool {
    row.get(COLUMNS.len() - 1).is_some_and(|error| !error.is_empty())
}

/// Removes the rows of failures that later rows of their images replace; `key` is the same for all names of an image. The file
/// is as it was or complete, whatever happens meanwhile.
///
/// # Errors
/// If it can't be read or written.
pub(super) fn tidy(path: &Path, key: impl Fn(&str) -> u64) -> io::Result<()> {
    let rows = || csv::ReaderBuilder::new().has_headers(false).flexible(true).from_path(path);
    let key = |row: &csv::StringRecord| key(row.get(0).unwrap_or_default());
    let mut last = HashMap::new();
    for (number, row) in rows()?.into_records().enumerate() {
        last.insert(key(&row?), number);
    }
    atomic::write_with(path, |to| {
        let mut to = csv::WriterBuilder::new().flexible(true).from_writer(to);
        for (number, row) in rows()?.into_records().enumerate() {
            let row = row?;
            if number == 0 || !is_failure(&row) || last.get(&key(&row)) == Some(&number) {
                to.write_record(&row)?;
            }
        }
        to.flush()
    })
}

fn ends_with_a_line(file: &mut File) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    file.rewind()?;
    Ok(last == *b"\n")
}

/// The rows of one image.
///
/// # Errors
/// None that is known.
pub(super) fn rows(image: &str, tags: &Tags) -> anyhow::Result<Vec<u8>> {
    let mut rows = Vec::new();
    for (name, score) in &tags.rating {
        rows.extend(row(&[image, name, RATING, &score.to_string(), ""])?);
    }
    for tag in &tags.tags {
        rows.extend(row(&[image, &tag.name, &tag.category, &tag.score.to_string(), ""])?);
    }
    if rows.is_empty() {
        rows.extend(row(&[image, "", "", "", ""])?);
    }
    Ok(rows)
}

/// The row of an image that failed.
///
/// # Errors
/// None that is known.
pub(super) fn failure(image: &str, failure: &Failure) -> anyhow::Result<Vec<u8>> {
    row(&[image, "", "", "", &format!("{}: {failure}", failure.code)])
}

fn row(fields: &[&str; 5]) -> anyhow::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(fields)?;
    Ok(writer.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Code;
    use crate::tags::Tag;

    fn tags(names: &[&str]) -> Tags {
        let tag = |name: &&str| Tag { name: (*name).to_owned(), category: "general".to_owned(), score: 0.5 };
        Tags { rating: Vec::new(), tags: names.iter().map(tag).collect(), text: String::new() }
    }

    /// The images that a table with this text has, and the text once it is open for more.
    fn opened(text: &str) -> Result<(Vec<String>, String), String> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        let mut images = Vec::new();
        let see = |image: &str, failed| images.push(format!("{image}{}", if failed { " failed" } else { "" }));
        open(file.path(), see).map_err(|error| error.to_string())?;
        Ok((images, std::fs::read_to_string(file.path()).expect("text")))
    }

    #[test]
    fn a_table_is_added_to_after_the_last_whole_image() {
        let header = "image,tag,category,score,error\n";
        assert_eq!(opened(""), Ok((vec![], header.to_owned())));
        let rows =
            |image: &str, names: &[&str]| String::from_utf8(rows(image, &tags(names)).expect("rows")).expect("text");
        let (first, second) = (rows("a, b\n\".jpg", &["cat", "1,2"]), rows("c.jpg", &[]));
        assert_eq!(second, "c.jpg,,,,\n");
        let both = format!("{header}{first}{second}");
        let names =
            |count: usize| ["a, b\n\".jpg", "c.jpg"][..count].iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(opened(&both), Ok((names(2), both.clone())));
        for cut in 1..second.len() {
            let torn = &both[..both.len() - cut];
            assert_eq!(opened(torn), Ok((names(1), format!("{header}{first}"))), "{torn}");
        }
        assert!(opened("name,score\n1,2\n").is_err_and(|error| error.contains("columns image, tag")));
    }

    #[test]
    fn rows_of_failures_are_told_apart_and_replaced() {
        let failed = failure("a.jpg", &Failure::new(Code::ImageUndecodable, "no \"image\", it is")).expect("a row");
        let failed = String::from_utf8(failed).expect("text");
        assert_eq!(failed, "a.jpg,,,,\"image_undecodable: no \"\"image\"\", it is\"\n");
        let (header, tagged) = ("image,tag,category,score,error\n", "a.jpg,cat,general,0.5,\na.jpg,dog,general,0.4,\n");
        let other = "b.jpg,,,,gone: no file\n";
        let text = format!("{header}{failed}{other}{tagged}");
        let seen = ["a.jpg failed", "b.jpg failed", "a.jpg"].map(str::to_owned).to_vec();
        assert_eq!(opened(&text), Ok((seen, text.clone())));
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), format!("{header}{failed}{failed}{tagged}{other}")).expect("written");
        let key = |name: &str| name.bytes().map(u64::from).sum();
        tidy(file.path(), key).expect("it is written");
        assert_eq!(std::fs::read_to_string(file.path()).expect("text"), format!("{header}{tagged}{other}"));
    }
}
