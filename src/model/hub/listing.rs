//! Listing of a repository, and selection of the files that a model needs. Synchronous and pure.

use serde::Deserialize;

use super::error::Error;
use super::file::{Digest, File};

/// Used fields of the hub's answer.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    /// Commit of the listing.
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: String,
    size: Option<u64>,
}

/// Role of a file in a model.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Onnx,
    /// Weights stored outside the ONNX file.
    Weights,
    /// Labels and metadata of the model.
    Labels,
}

impl File {
    /// File name, which it keeps in the model's folder.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Folder of the file, empty at the top level.
    fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    fn kind(&self) -> Option<Kind> {
        let name = self.name();
        let ends = |ending: &str| name.strip_suffix(ending).is_some_and(|stem| !stem.is_empty());
        if ends(".onnx") {
            Some(Kind::Onnx)
        } else if self.weights_of().is_some() {
            Some(Kind::Weights)
        } else if [".csv", ".json", ".txt"].into_iter().any(ends) || name == super::MANIFEST {
            Some(Kind::Labels)
        } else {
            None
        }
    }

    /// ONNX file of these weights: `model.onnx.data`, `model.onnx_data` and `model.onnx_data_1` belong to `model.onnx`.
    fn weights_of(&self) -> Option<&str> {
        let end = self.path.rfind(".onnx")? + ".onnx".len();
        let rest = &self.path[end..];
        let numbered =
            rest.strip_prefix("_data_").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        (numbered || rest == ".data" || rest == "_data").then(|| &self.path[..end])
    }
}

impl Listing {
    /// Commit of the listing, so that all files are of one commit even if the branch changes meanwhile.
    pub(super) fn commit(&self) -> Option<&str> {
        self.sha.as_deref().filter(|sha| sha.len() >= 40 && sha.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    /// Chooses the files to download. The ONNX file is last: without it, the folder is not a model.
    ///
    /// # Errors
    /// If no ONNX file can be chosen, or the listing is unsafe.
    pub(super) fn choose(&self, asked: Option<&str>, endpoint: &str) -> Result<Vec<File>, Error> {
        let files = self.files(endpoint)?;
        let of = |kind| files.iter().filter(move |file| file.kind() == Some(kind));
        let onnx = self.onnx(&of(Kind::Onnx).collect::<Vec<_>>(), asked)?;
        let beside = |file: &&File| file.folder() == onnx.folder();
        let weights = of(Kind::Weights).filter(beside).filter(|file| {
            // Weights that match no ONNX file by name may belong to any: the graph contains their name.
            file.weights_of() == Some(&onnx.path) || !of(Kind::Onnx).any(|onnx| file.weights_of() == Some(&onnx.path))
        });
        // Files beside the ONNX file take precedence over those at the top level.
        let labels = of(Kind::Labels).filter(beside).chain(of(Kind::Labels).filter(|file| file.folder().is_empty()));
        let mut chosen: Vec<File> = Vec::new();
        for file in labels.chain(weights).chain([onnx]) {
            if !chosen.iter().any(|other| other.name() == file.name()) {
                chosen.push(file.clone());
            }
        }
        Ok(chosen)
    }

    /// Chooses the ONNX file: the requested one; else `model.onnx` or the only file, at the top level if any file is there.
    fn onnx<'a>(&self, all: &[&'a File], asked: Option<&str>) -> Result<&'a File, Error> {
        let paths = |files: &[&File]| files.iter().map(|file| file.path.clone()).collect();
        if all.is_empty() {
            return Err(Error::NoOnnx(self.siblings.iter().map(|sibling| sibling.rfilename.clone()).collect()));
        }
        if let Some(asked) = asked {
            let found = all.iter().copied().find(|file| file.path == asked);
            return found.ok_or_else(|| Error::NoFile { asked: asked.to_owned(), there: paths(all) });
        }
        let top: Vec<_> = all.iter().copied().filter(|file| file.folder().is_empty()).collect();
        let candidates = if top.is_empty() { all } else { &top };
        let usual: Vec<_> = candidates.iter().copied().filter(|file| file.name() == "model.onnx").collect();
        match (usual[..].as_ref(), candidates) {
            ([one], _) | ([], [one]) => Ok(one),
            _ => Err(Error::Ambiguous(paths(all))),
        }
    }

    /// Files that a model may need. Checks every name, because it becomes a name on the local disk.
    fn files(&self, endpoint: &str) -> Result<Vec<File>, Error> {
        let mut files = Vec::new();
        for sibling in &self.siblings {
            let file = sibling.file();
            if file.kind().is_none() {
                continue;
            }
            let part = |part: &str| !part.is_empty() && part != "." && part != "..";
            if !file.path.split('/').all(part) || file.path.contains(|odd: char| odd == '\\' || odd.is_control()) {
                return Err(Error::UnsafeName(file.path));
            }
            if sibling.bytes().is_none() {
                let reason = format!("it gives no size for {}", file.path);
                return Err(Error::Listing { endpoint: endpoint.to_owned(), reason });
            }
            files.push(file);
        }
        Ok(files)
    }
}

impl Sibling {
    fn bytes(&self) -> Option<u64> {
        self.lfs.as_ref().and_then(|lfs| lfs.size).or(self.size)
    }

    fn file(&self) -> File {
        let digest = match (&self.lfs, &self.blob_id) {
            (Some(lfs), _) => Digest::Sha256(lfs.sha256.to_ascii_lowercase()),
            (None, Some(id)) if id.len() == 40 => Digest::GitBlob(id.to_ascii_lowercase()),
            (None, _) => Digest::Unknown,
        };
        File { path: self.rfilename.clone(), size: self.bytes().unwrap_or_default(), digest }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn listing(paths: &[&str]) -> Listing {
        let siblings: Vec<_> = paths.iter().map(|path| json!({ "rfilename": path, "size": 1 })).collect();
        serde_json::from_value(json!({ "siblings": siblings })).expect("a listing")
    }

    fn chosen(paths: &[&str], asked: Option<&str>) -> Result<Vec<String>, String> {
        let files = listing(paths).choose(asked, "the hub").map_err(|error| error.to_string())?;
        Ok(files.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn a_wd_tagger_is_its_graph_and_its_labels_and_the_graph_comes_last() {
        let paths = [".gitattributes", "README.md", "config.json", "model.msgpack", "model.onnx", "model.safetensors"];
        let paths =
            [&paths[..], &["selected_tags.csv", "sw_jax_cv_config.json", "tagmill.toml", "sub/other.csv"]].concat();
        let expected = ["config.json", "selected_tags.csv", "sw_jax_cv_config.json", "tagmill.toml", "model.onnx"];
        assert_eq!(chosen(&paths, None).expect("a model"), expected);
    }

    #[test]
    fn of_several_graphs_model_onnx_is_taken_or_the_one_asked_for() {
        assert_eq!(chosen(&["a.onnx", "model.onnx"], None), Ok(vec!["model.onnx".into()]));
        assert_eq!(chosen(&["a.onnx", "model.onnx"], Some("a.onnx")), Ok(vec!["a.onnx".into()]));
        assert_eq!(chosen(&["only.onnx", "onnx/model.onnx"], None), Ok(vec!["only.onnx".into()]));
        assert_eq!(chosen(&["onnx/fp16.onnx", "onnx/model.onnx"], None), Ok(vec!["onnx/model.onnx".into()]));
        for (paths, asked, named) in [
            (&["a.onnx", "b.onnx"][..], None, "--file: a.onnx, b.onnx"),
            (&["v1/model.onnx", "v2/model.onnx"], None, "--file: v1/model.onnx, v2/model.onnx"),
            (&["model.onnx"], Some("other.onnx"), "\"other.onnx\" (--file), but model.onnx"),
            (&["model.safetensors", "selected_tags.csv"], None, "only model.safetensors, selected_tags.csv"),
            (&[], None, "only nothing"),
        ] {
            let error = chosen(paths, asked).expect_err("no choice");
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn weights_go_with_their_graph_and_labels_beside_it_before_those_at_the_top() {
        let paths =
            ["tags.json", "top.csv", "v1/model.onnx", "v2/model.onnx", "v2/model.onnx_data", "v2/model.onnx_data_1"];
        let paths =
            [&paths[..], &["v2/weights.onnx.data", "v2/tags.json", "v2/small.onnx", "v2/small.onnx_data"]].concat();
        let expected =
            ["v2/tags.json", "top.csv", "v2/model.onnx_data", "v2/model.onnx_data_1", "v2/weights.onnx.data"];
        let files = chosen(&paths, Some("v2/model.onnx")).expect("a model");
        assert_eq!(files, [&expected[..], &["v2/model.onnx"]].concat());
    }

    #[test]
    fn a_name_that_could_lead_elsewhere_spoils_the_whole_listing() {
        for name in ["../x.csv", "/etc/x.csv", "a/../../x.json", "a//x.csv", "./x.csv", "..\\x.csv", "x\u{1b}[2J.csv"] {
            let error = chosen(&["model.onnx", name], None).expect_err("not safe");
            assert!(error.contains("no safe name") && !error.contains('\u{1b}'), "{error}");
        }
    }
}
