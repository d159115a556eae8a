//! The models in a folder and their names: those of the folders, and aliases of manifests and of the operator.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::{ModelFiles, Unusable};
use crate::failure::Failure;

/// Additional name of a model, from `--alias`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alias {
    /// The additional name.
    pub name: String,
    /// The model's own name.
    pub model: String,
}

/// Error for text other than `NAME=MODEL`.
#[derive(Debug, thiserror::Error)]
#[error("expected NAME=MODEL")]
pub(crate) struct InvalidAlias;

impl FromStr for Alias {
    type Err = InvalidAlias;

    fn from_str(text: &str) -> Result<Self, InvalidAlias> {
        match text.trim().split_once('=') {
            Some((name, model)) if !name.is_empty() && !model.is_empty() => {
                Ok(Self { name: name.to_owned(), model: model.to_owned() })
            }
            _ => Err(InvalidAlias),
        }
    }
}

/// Reasons that no model is found or chosen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoModel {
    /// The folder is missing or can't be read.
    #[error("the models folder `{}` can't be read (--models): {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The folder contains no model.
    #[error(
        "no model in `{}` (--models): a model is a folder in it with an ONNX file and a label file, such as model.onnx and \
         selected_tags.csv; `tagmill models pull` gets one", .0.display()
    )]
    Empty(PathBuf),
    /// The folder is a model itself, not a folder of models.
    #[error(
        "`{}` is a model itself, and --models is the folder that models are in: `--models {} --model {}`",
        .0.display(), .0.parent().unwrap_or(.0).display(), .0.file_name().unwrap_or_default().display()
    )]
    Model(PathBuf),
    /// There are several models, and none was named.
    #[error("there are several models ({0}); name one with --model")]
    Ambiguous(String),
    /// There is no model of this name.
    #[error("no model `{name}` (--model); there are: {known}")]
    Unknown {
        /// Requested name.
        name: String,
        /// Existing names.
        known: String,
    },
    /// The bucket of models can't be read.
    #[error("the models can't be fetched (--models): {0}")]
    Store(#[from] Failure),
    /// The chosen model is broken.
    #[error(transparent)]
    Broken(#[from] Unusable),
    /// An alias that is a model's name, that two models have, or that names no model.
    #[error("the alias `{name}` can't stand for `{model}` (--alias, or aliases in its tagmill.toml): {reason}")]
    Alias {
        /// The alias.
        name: String,
        /// Model it was to stand for.
        model: String,
        /// The cause.
        reason: String,
    },
}

/// Models of a folder.
#[derive(Clone, Debug)]
pub(crate) struct Catalog {
    folder: PathBuf,
    models: BTreeMap<Arc<str>, Result<ModelFiles, Unusable>>,
    aliases: BTreeMap<String, Arc<str>>,
}

/// A version of a model in a folder of its own.
pub(crate) struct Version {
    /// The folder.
    pub(crate) folder: PathBuf,
    /// Lock that prevents its removal.
    pub(crate) in_use: Arc<File>,
}

impl Catalog {
    /// Reads the models of a folder.
    ///
    /// # Errors
    /// If the folder can't be read or contains no model, or an alias names two models.
    pub(crate) fn read(folder: &Path, aliases: &[Alias]) -> Result<Self, NoModel> {
        let failed = |source| NoModel::Folder { path: folder.to_owned(), source };
        let mut models = BTreeMap::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            // A hidden folder is incomplete or out of use.
            let name = name.filter(|name| !name.starts_with('.')).map(Arc::from);
            if let (Some(name), Some(model)) = (name, ModelFiles::open(&path)) {
                models.insert(name, model);
            }
        }
        Self::new(folder, models, aliases)
    }

    /// Reads the models in these folders. The catalog's locks prevent their removal.
    ///
    /// # Errors
    /// As [`Catalog::read`].
    pub(crate) fn of_versions(root: &Path, versions: Vec<Version>, aliases: &[Alias]) -> Result<Self, NoModel> {
        let mut models = BTreeMap::new();
        for Version { folder, in_use } in versions {
            let name = folder.file_name().and_then(|name| name.to_str()).map(Arc::from);
            if let (Some(name), Some(model)) = (name, ModelFiles::open(&folder)) {
                models.insert(name, model.map(|files| files.kept_by(in_use)));
            }
        }
        Self::new(root, models, aliases)
    }

    fn new(
        folder: &Path,
        models: BTreeMap<Arc<str>, Result<ModelFiles, Unusable>>,
        aliases: &[Alias],
    ) -> Result<Self, NoModel> {
        let failed = |source| NoModel::Folder { path: folder.to_owned(), source };
        if models.is_empty() {
            // By its full path, because `.` has no name.
            let whole = folder.canonicalize().map_err(failed)?;
            let is_model = ModelFiles::open(&whole).is_some();
            return Err(if is_model { NoModel::Model(whole) } else { NoModel::Empty(folder.to_owned()) });
        }
        let mut catalog = Self { folder: folder.to_owned(), models, aliases: BTreeMap::new() };
        let manifests: Vec<Alias> = catalog.models.values().flatten().flat_map(own_aliases).collect();
        for alias in aliases {
            catalog.add(alias)?;
        }
        // A model's own alias never replaces a name in use here.
        for alias in &manifests {
            if let Err(error) = catalog.add(alias) {
                tracing::warn!(%error, "an alias is left out");
            }
        }
        Ok(catalog)
    }

    fn add(&mut self, Alias { name, model }: &Alias) -> Result<(), NoModel> {
        let refused = |reason: String| NoModel::Alias { name: name.clone(), model: model.clone(), reason };
        if self.models.contains_key(name.as_str()) {
            return Err(refused("there is a model of that name".into()));
        }
        let Some((own, _)) = self.models.get_key_value(model.as_str()) else {
            return Err(refused(format!("there is no such model, only {}", self.names())));
        };
        match self.aliases.get(name) {
            Some(other) if other != own => Err(refused(format!("it already stands for `{other}`"))),
            _ => {
                let own = Arc::clone(own);
                self.aliases.insert(name.clone(), own);
                Ok(())
            }
        }
    }

    /// Every model by name, including broken ones.
    pub(crate) fn models(&self) -> impl Iterator<Item = (&Arc<str>, &Result<ModelFiles, Unusable>)> {
        self.models.iter()
    }

    /// Finds a model by its own name.
    #[must_use]
    pub(crate) fn get(&self, name: &str) -> Option<&Result<ModelFiles, Unusable>> {
        self.models.get(name)
    }

    /// Aliases of a model.
    pub(crate) fn aliases_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.aliases.iter().filter(move |(_, model)| ***model == *name).map(|(alias, _)| alias.as_str())
    }

    /// Own name of the model with this name or alias.
    #[must_use]
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<str>> {
        self.models.get_key_value(name).map(|(own, _)| own).or_else(|| self.aliases.get(name))
    }

    /// All names and aliases, for messages.
    #[must_use]
    pub(crate) fn names(&self) -> String {
        self.models
            .keys()
            .map(|name| &**name)
            .chain(self.aliases.keys().map(String::as_str))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Chooses the default model of jobs: the named one, else the only one.
    ///
    /// # Errors
    /// If there is none, if several exist and none is named, or if it is broken.
    pub(crate) fn choose(&self, name: Option<&str>) -> Result<&ModelFiles, NoModel> {
        let chosen = match name {
            Some(name) => {
                self.find(name).ok_or_else(|| NoModel::Unknown { name: name.to_owned(), known: self.names() })?
            }
            None if self.models.len() == 1 => {
                self.models.keys().next().ok_or_else(|| NoModel::Empty(self.folder.clone()))?
            }
            None => return Err(NoModel::Ambiguous(self.names())),
        };
        match &self.models[chosen] {
            Ok(model) => Ok(model),
            Err(broken) => Err(broken.clone().into()),
        }
    }
}

fn own_aliases(model: &ModelFiles) -> Vec<Alias> {
    let alias = |name: &String| Alias { name: name.clone(), model: model.name.clone() };
    model.manifest.aliases.iter().map(alias).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a folder with models of these names and manifests.
    fn folder(models: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, manifest) in models {
            let model = folder.path().join(name);
            std::fs::create_dir(&model).expect("a folder");
            for (file, text) in [("model.onnx", ""), ("selected_tags.csv", ""), ("tagmill.toml", *manifest)] {
                std::fs::write(model.join(file), text).expect("a file");
            }
        }
        folder
    }

    fn alias(text: &str) -> Vec<Alias> {
        vec![text.parse().expect("an alias")]
    }

    #[test]
    fn a_model_is_known_by_its_folder_and_its_aliases() {
        let folder = folder(&[("vit", "aliases = [\"wd\"]"), ("eva", "")]);
        let catalog = Catalog::read(folder.path(), &alias("old=eva")).expect("a catalog");
        for (name, model) in [("vit", "vit"), ("wd", "vit"), ("eva", "eva"), ("old", "eva")] {
            assert_eq!(catalog.find(name).map(|name| &**name), Some(model));
        }
        assert!(catalog.find("else").is_none());
        assert_eq!(catalog.choose(Some("wd")).expect("a model").name, "vit");
        assert!(matches!(catalog.choose(None), Err(NoModel::Ambiguous(names)) if names == "eva, vit, old, wd"));
    }

    #[test]
    fn an_alias_means_one_thing() {
        let models = folder(&[("a", "aliases = [\"x\"]"), ("b", "")]);
        for wrong in ["a=b", "y=c"] {
            assert!(matches!(Catalog::read(models.path(), &alias(wrong)), Err(NoModel::Alias { .. })), "{wrong}");
        }
        let twice = [alias("y=a"), alias("y=b")].concat();
        assert!(matches!(Catalog::read(models.path(), &twice), Err(NoModel::Alias { .. })));
        let catalog = Catalog::read(models.path(), &alias("x=b")).expect("a catalog");
        assert_eq!(catalog.find("x").map(|name| &**name), Some("b"), "the operator's word counts, not the manifest's");
    }

    #[test]
    fn a_broken_manifest_breaks_its_own_model_only() {
        let folder = folder(&[("good", ""), ("bad", "nonsense")]);
        std::fs::create_dir(folder.path().join("other")).expect("a folder");
        let catalog = Catalog::read(folder.path(), &[]).expect("a catalog");
        assert_eq!(catalog.models().count(), 2);
        assert!(catalog.choose(Some("good")).is_ok());
        let error = catalog.choose(Some("bad")).expect_err("broken").to_string();
        assert!(error.contains("bad/tagmill.toml") && error.contains("nonsense"), "{error}");
    }

    #[test]
    fn a_model_is_no_folder_of_models() {
        let folder = folder(&[("vit", "")]);
        let error = Catalog::read(&folder.path().join("vit"), &[]).expect_err("a model").to_string();
        let folder = folder.path().canonicalize().expect("it is there");
        assert!(error.ends_with(&format!("`--models {} --model vit`", folder.display())), "{error}");
    }

    #[test]
    fn files_outside_the_folder_are_no_model_files() {
        let folder = folder(&[("a", "[files]\nlabels = \"../b/selected_tags.csv\""), ("b", "")]);
        assert!(Catalog::read(folder.path(), &[]).expect("a catalog").choose(Some("a")).is_err());
    }
}
