//! From a name or a line to a job's payload.

use std::path::Path;

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use url::Url;

use crate::cli::select::Pattern;
use crate::cli::submit::Meta;
use crate::command::select::Selection;
use crate::failure::Failure;
use crate::job::{Job, LONGEST_ID};

/// What jobs are made by.
pub(super) struct Maker {
    /// Subject of the jobs.
    pub(super) subject: String,
    pub(super) only: Option<Pattern>,
    /// Selection of the files of folders and buckets.
    pub(super) selection: Selection,
    pub(super) model: Option<String>,
    pub(super) meta: Option<Meta>,
}

#[derive(Serialize)]
struct Payload<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    image: &'a str,
    #[serde(flatten)]
    more: More<'a>,
}

/// What the command line adds.
#[derive(Clone, Copy, Serialize)]
struct More<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<&'a RawValue>,
}

/// What a job says itself, if only that it is null.
#[derive(Default, Deserialize)]
struct Own {
    #[serde(default, deserialize_with = "there")]
    model: bool,
    #[serde(default, deserialize_with = "there")]
    meta: bool,
}

fn there<'de, D: Deserializer<'de>>(json: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(json).map(|_| true)
}

impl Maker {
    /// A job for the image there.
    pub(super) fn job(&self, name: &str, image: &str) -> Bytes {
        // A worker has another name for one it would refuse.
        let id = Some(name).filter(|name| name.len() <= LONGEST_ID);
        json(&Payload { id, image, more: self.more() })
    }

    /// The job of a line in a list: its own where it is a JSON object, else one for the image there. `None` where its name
    /// is not wanted.
    ///
    /// # Errors
    /// Where it is an object, but no job.
    pub(super) fn job_of_line(&self, line: &str) -> Result<Option<Bytes>, Failure> {
        let wanted = |name: &str| self.only.as_ref().is_none_or(|only| only.0.is_match(name));
        if line.starts_with('{') {
            let job = Job::parse(line.as_bytes())?;
            return Ok(wanted(&job.image).then(|| self.complete(line)));
        }
        if !wanted(line) {
            return Ok(None);
        }
        Ok(Some(self.job(line, &location(line))))
    }

    fn more(&self) -> More<'_> {
        More { model: self.model.as_deref(), meta: self.meta.as_ref().map(|Meta(json)| &**json) }
    }

    /// A job's own JSON, with what it leaves open.
    fn complete(&self, job: &str) -> Bytes {
        let own: Own = serde_json::from_str(job).unwrap_or_default();
        let mut more = self.more();
        more.model = more.model.filter(|_| !own.model);
        more.meta = more.meta.filter(|_| !own.meta);
        let mut added = json(&more).to_vec();
        if added == b"{}" {
            return Bytes::copy_from_slice(job.as_bytes());
        }
        // `{"model":"a"` and `,"image":…}`: a job is never an empty object.
        added.pop();
        added.push(b',');
        added.extend_from_slice(&job.as_bytes()[1..]);
        added.into()
    }
}

/// As a job names what stands in a list: a path is made absolute where it says that it is one, everything else is for the
/// worker to find.
fn location(line: &str) -> String {
    let path = Path::new(line);
    if !(path.is_absolute() || line.starts_with("./") || line.starts_with("../")) {
        return line.to_owned();
    }
    // It may be there only where the workers are.
    let absolute = path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned());
    Url::from_file_path(absolute).map_or_else(|()| line.to_owned(), |url| url.to_string())
}

fn json(value: &impl Serialize) -> Bytes {
    // Nothing in it can fail to be written: it is text, or came from JSON.
    serde_json::to_vec(value).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maker(only: Option<&str>, model: Option<&str>, meta: Option<&str>) -> Maker {
        Maker {
            subject: "tagmill.jobs".to_owned(),
            only: only.map(|only| only.parse().expect("a pattern")),
            selection: Selection::new(&crate::cli::select::SelectArgs::default()),
            model: model.map(str::to_owned),
            meta: meta.map(|meta| meta.parse().expect("JSON")),
        }
    }

    fn line(maker: &Maker, line: &str) -> Option<String> {
        maker.job_of_line(line).expect("a job").map(|job| String::from_utf8(job.to_vec()).expect("UTF-8"))
    }

    #[test]
    fn a_line_is_a_location_or_a_job() {
        let plain = maker(None, None, None);
        assert_eq!(line(&plain, "a/b.png").as_deref(), Some(r#"{"id":"a/b.png","image":"a/b.png"}"#));
        assert_eq!(
            line(&plain, "/no such/ä.png").as_deref(),
            Some(r#"{"id":"/no such/ä.png","image":"file:///no%20such/%C3%A4.png"}"#)
        );
        let job = r#"{"image":"a",  "meta":1.50}"#;
        assert_eq!(line(&plain, job).as_deref(), Some(job), "as it is");
        assert!(plain.job_of_line(r#"{"image":7}"#).expect_err("no job").message.contains("field `image`"));
        let long = "x".repeat(LONGEST_ID + 1);
        assert_eq!(line(&plain, &long), Some(format!(r#"{{"image":"{long}"}}"#)));
    }

    #[test]
    fn model_and_meta_are_put_in_where_the_job_leaves_them_open() {
        let with = maker(None, Some("m"), Some(r#"{"b":1.50}"#));
        assert_eq!(line(&with, "a").as_deref(), Some(r#"{"id":"a","image":"a","model":"m","meta":{"b":1.50}}"#));
        for (own, made) in [
            (r#"{"image":"a"}"#, r#"{"model":"m","meta":{"b":1.50},"image":"a"}"#),
            (r#"{"image":"a","model":null}"#, r#"{"meta":{"b":1.50},"image":"a","model":null}"#),
            (r#"{"image":"a","meta":1,"model":"n"}"#, r#"{"image":"a","meta":1,"model":"n"}"#),
            (r#"{"im\u0061ge":"a","meta":1}"#, r#"{"model":"m","im\u0061ge":"a","meta":1}"#),
        ] {
            let line = line(&with, own).expect("it is wanted");
            assert_eq!(line, made);
            Job::parse(line.as_bytes()).expect("still a job");
        }
    }

    #[test]
    fn a_pattern_chooses_lines() {
        let those = maker(Some("2024/*.{heic,txt}"), None, None);
        assert!(line(&those, "2024/x.txt").is_some() && line(&those, "x.txt").is_none());
        assert!(line(&those, r#"{"image":"2024/x.heic"}"#).is_some() && line(&those, r#"{"image":"x"}"#).is_none());
    }
}
