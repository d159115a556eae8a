//! Flags of other taggers' scripts: who gives one is told ours.

use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

/// Their names without dashes, hyphens for underscores, and what to give instead.
const KNOWN: [(&[&str], &str); 20] = [
    (&["undesired-tags", "exclude-tags", "tags-to-exclude", "blacklist"], "--exclude-tag TAG, once for each"),
    (
        &["thresh", "score-threshold", "min-probability"],
        "--threshold SCORE, or --general-threshold and --character-threshold",
    ),
    (&["general-thresh"], "--general-threshold SCORE"),
    (&["character-thresh", "char-threshold"], "--character-threshold SCORE"),
    (&["recursive", "recurse"], "nothing: folders in folders are looked through by default"),
    (
        &["caption-extension", "caption-extention", "output-extension", "ext"],
        "--sidecar txt, and --sidecar-extension EXTENSION",
    ),
    (&["caption-separator", "tag-separator"], "--separator TEXT"),
    (
        &["remove-underscore", "replace-underscore", "rawtag"],
        "nothing: captions have spaces, with --underscores as they are",
    ),
    (&["always-first-tags", "first-tags"], "--first-tag TAG, once for each"),
    (&["tag-replacement", "replace-tags"], "--replace-tag TAG=TEXT, once for each"),
    (&["character-tags-first", "characters-first"], "--character-first"),
    (&["character-tag-expand", "expand-character"], "--expand-characters"),
    (&["use-rating-tags", "add-rating-tags-to-first", "rating"], "--rating-tag first"),
    (&["use-rating-tags-as-last-tag", "add-rating-tags-to-last"], "--rating-tag last"),
    (&["append-tags"], "--append"),
    (&["frequency-tags", "tags-frequency"], "--frequencies FILE"),
    (&["cpu", "force-use-cpu"], "--device cpu"),
    (&["not-overwrite", "no-overwrite"], "nothing: a sidecar that exists is kept"),
    (&["train-data-dir", "dir", "file", "input"], "the path alone, without a flag"),
    (
        &["repo-id", "onnx", "force-download", "model-dir", "model-name", "models-save-path"],
        "`tagmill models pull REPOSITORY` once, then --model NAME",
    ),
];

/// Names our flag in the error about another tagger's.
pub(super) fn with_hint(mut error: Error) -> Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidArg) else { return error };
    let Some(hint) = hint(given) else { return error };
    error.remove(ContextKind::SuggestedArg);
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint.into()]));
    error
}

fn hint(given: &str) -> Option<String> {
    let name = given.trim_start_matches('-').split('=').next()?.replace('_', "-");
    let (_, ours) = KNOWN.iter().find(|(theirs, _)| theirs.contains(&name.as_str()))?;
    Some(format!("instead of {given}, give {ours}"))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn flags_of_other_scripts_lead_to_ours() {
        for (given, ours) in [
            ("--undesired_tags", "--exclude-tag"),
            ("--thresh=0.3", "--threshold"),
            ("--general_threshold", "--general-threshold"),
            ("--recursive", "by default"),
            ("--always_first_tags", "--first-tag"),
        ] {
            let error = Cli::try_parse_from(["tagmill", "tag", given, "x"]).expect_err("it is not ours");
            let said = with_hint(error).to_string();
            assert!(said.contains(ours), "{given}: {said}");
        }
    }

    #[test]
    fn every_flag_that_is_named_is_one() {
        let tag = Cli::command().find_subcommand("tag").expect("it is there").clone();
        let flags: Vec<_> = tag.get_arguments().filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect();
        for (theirs, ours) in KNOWN {
            for flag in ours.split([' ', ',']).filter(|word| word.starts_with("--")) {
                assert!(flags.contains(&flag.to_owned()), "{theirs:?}: {flag}");
            }
            assert!(theirs.iter().all(|name| !flags.contains(&format!("--{name}"))), "{theirs:?}");
        }
    }
}
