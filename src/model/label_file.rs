//! Label files of taggers: names and categories in the order of the output's columns.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Value;

use super::manifest::{Format, LabelRules};
use crate::model::category::{GENERAL, RATING};
use crate::model::labels::Label;
use crate::text::{NoText, decoded};

/// Default meaning of the category numbers in label files.
const CATEGORIES: [(&str, &str); 6] =
    [("0", GENERAL), ("1", "artist"), ("3", "copyright"), ("4", "character"), ("5", "meta"), ("9", RATING)];

/// Reasons that make a label file unusable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidLabels {
    /// The file is not CSV, or lacks the columns `name` and `category`.
    #[error("expected CSV with the columns name and category: {0}")]
    Csv(#[from] csv::Error),
    /// The file is not JSON, or of an unknown shape.
    #[error("expected JSON with names by index: {0}")]
    Json(String),
    /// The encoding is not supported.
    #[error(transparent)]
    Text(#[from] NoText),
    /// A category is unknown.
    #[error(
        "label {index} (`{name}`) has the category `{category}`; known are 0 general, 1 artist, 3 copyright, 4 character, \
         5 meta, 9 rating; name others under [labels.categories] in tagmill.toml"
    )]
    Category {
        /// Index of the label, from 0.
        index: usize,
        /// Name of the label.
        name: String,
        /// Its category.
        category: String,
    },
    /// The file has no rows.
    #[error("it has no labels")]
    Empty,
}

/// Label name and category as in the file.
struct Row {
    name: String,
    category: Option<String>,
}

/// Reads a label file.
///
/// # Errors
/// If the file is not of this format.
pub(crate) fn read(file: &[u8], format: Format, rules: &LabelRules) -> Result<Vec<Label>, InvalidLabels> {
    let text = decoded(file)?;
    let rows = match format {
        Format::Csv => csv_rows(&text)?,
        Format::Json => json_rows(&text)?,
        Format::Lines => lines(&text),
    };
    if rows.is_empty() {
        return Err(InvalidLabels::Empty);
    }
    rows.into_iter().enumerate().map(|(index, row)| label(index, row, rules)).collect()
}

fn label(index: usize, Row { name, category }: Row, rules: &LabelRules) -> Result<Label, InvalidLabels> {
    let prefixed = rules.rating_prefix.as_ref().is_some_and(|prefix| name.starts_with(prefix));
    let category = match category {
        _ if prefixed => RATING.to_owned(),
        None => GENERAL.to_owned(),
        Some(category) => {
            let known = CATEGORIES.iter().find(|(number, _)| *number == category).map(|(_, name)| (*name).to_owned());
            // A word names a category itself; a number does not.
            let word = || category.parse::<i64>().is_err().then(|| category.to_lowercase());
            let named = rules.categories.get(&category).cloned().or(known).or_else(word);
            named.ok_or_else(|| InvalidLabels::Category { index, name: name.clone(), category })?
        }
    };
    Ok(Label { name, category: category.into() })
}

fn csv_rows(text: &str) -> Result<Vec<Row>, InvalidLabels> {
    #[derive(Deserialize)]
    struct Columns {
        name: String,
        category: String,
    }
    let mut reader = csv::ReaderBuilder::new();
    reader.delimiter(delimiter(text)).trim(csv::Trim::Headers);
    let columns = reader.from_reader(text.as_bytes()).into_deserialize();
    columns
        .map(|row| row.map(|Columns { name, category }| Row { name, category: Some(category) }))
        .map(|row| Ok(row?))
        .collect()
}

/// Delimiter of columns, from the first line: spreadsheets of many countries write semicolons.
fn delimiter(text: &str) -> u8 {
    let head = text.lines().next().unwrap_or_default();
    [b',', b';', b'\t'].into_iter().find(|&delimiter| head.contains(char::from(delimiter))).unwrap_or(b',')
}

fn lines(text: &str) -> Vec<Row> {
    let names = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
    names.map(|name| Row { name: name.to_owned(), category: None }).collect()
}

/// Reads one of the shapes in use: a list of names or of objects; an object from index to name or object; or `idx_to_tag`
/// with `tag_to_category`, possibly some levels deep.
fn json_rows(json: &str) -> Result<Vec<Row>, InvalidLabels> {
    let json: Value = serde_json::from_str(json).map_err(|error| InvalidLabels::Json(error.to_string()))?;
    let (names, categories) = match mapping(&json) {
        Some(mapping) => (&mapping["idx_to_tag"], mapping.get("tag_to_category")),
        None => (&json, None),
    };
    let entries: Vec<&Value> = match names {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => in_order(map.iter())?,
        _ => return Err(InvalidLabels::Json("it is neither a list nor an object".into())),
    };
    let categories: HashMap<&str, &Value> = categories
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    let rows = entries.into_iter().enumerate().map(|(index, entry)| {
        let name = entry.as_str().or_else(|| ["tag", "name"].iter().find_map(|key| entry[*key].as_str()));
        let name = name.ok_or_else(|| InvalidLabels::Json(format!("label {index} has no name")))?;
        let category = categories.get(name).copied().or_else(|| entry.get("category"));
        Ok(Row { name: name.to_owned(), category: category.map(text) })
    });
    rows.collect()
}

/// Finds the object with `idx_to_tag`, at most three levels down.
fn mapping(json: &Value) -> Option<&Value> {
    fn search(json: &Value, levels: u8) -> Option<&Value> {
        if json.get("idx_to_tag").is_some() {
            return Some(json);
        }
        let deeper = json.as_object().filter(|_| levels > 0)?;
        deeper.values().find_map(|value| search(value, levels - 1))
    }
    search(json, 3)
}

/// Values of an object whose keys are the numbers from 0 on.
fn in_order<'a>(entries: impl Iterator<Item = (&'a String, &'a Value)>) -> Result<Vec<&'a Value>, InvalidLabels> {
    let mut by_index = BTreeMap::new();
    for (key, value) in entries {
        let index: usize = key.parse().map_err(|_| InvalidLabels::Json(format!("`{key}` is no index")))?;
        by_index.insert(index, value);
    }
    if let Some(missing) = (0..by_index.len()).find(|index| !by_index.contains_key(index)) {
        return Err(InvalidLabels::Json(format!("index {missing} is missing")));
    }
    Ok(by_index.into_values().collect())
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as(format: Format, file: &str, rules: &LabelRules) -> Vec<(String, String)> {
        let labels = read(file.as_bytes(), format, rules).expect(file);
        labels.into_iter().map(|label| (label.name, label.category.to_string())).collect()
    }

    fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, category)| ((*name).to_owned(), (*category).to_owned())).collect()
    }

    #[test]
    fn csv_is_read_as_csv() {
        let file = "tag_id,name,category,count,ips\n\
            1,general,9,1,\n2,\"don't_say_\"\"lazy\"\"\",3,1,\"[\"\"x\"\"]\"\n3,a\\b_(c),0,1,\n4,\"a,b\",4,1,\n";
        let expected = pairs([
            ("general", "rating"),
            ("don't_say_\"lazy\"", "copyright"),
            ("a\\b_(c)", "general"),
            ("a,b", "character"),
        ]);
        assert_eq!(read_as(Format::Csv, file, &LabelRules::default()), expected);
    }

    #[test]
    fn every_shape_of_json_is_read_in_the_order_of_its_indices() {
        let expected = pairs([("a", "general"), ("b", "character"), ("c", "rating")]);
        for file in [
            r#"{"10":{"tag":"x","category":"General"},"0":{"tag":"a","category":"General"},"1":{"tag":"b","category":"Character"},
                "2":{"tag":"c","category":"Rating"},"3":"x","4":"x","5":"x","6":"x","7":"x","8":"x","9":"x"}"#,
            r#"{"idx_to_tag":{"0":"a","2":"c","1":"b"},"tag_to_category":{"a":"general","b":"character","c":"rating"}}"#,
            r#"{"dataset_info":{"n":3,"tag_mapping":{"idx_to_tag":{"0":"a","1":"b","2":"c"},
                "tag_to_category":{"a":"general","b":"character","c":"rating"}}}}"#,
            r#"[{"name":"a","category":0},{"name":"b","category":4},{"name":"c","category":9}]"#,
        ] {
            assert_eq!(read_as(Format::Json, file, &LabelRules::default())[..3], expected, "{file}");
        }
        assert_eq!(read_as(Format::Json, r#"["a"]"#, &LabelRules::default()), pairs([("a", "general")]));
    }

    #[test]
    fn lines_are_names_and_ratings_can_be_told_by_how_they_start() {
        let rules = LabelRules { rating_prefix: Some("rating:".into()), ..LabelRules::default() };
        let labels = read_as(Format::Lines, "1girl\r\nlong_hair\n\nrating:safe\n", &rules);
        assert_eq!(labels, pairs([("1girl", "general"), ("long_hair", "general"), ("rating:safe", "rating")]));
    }

    #[test]
    fn files_are_read_as_editors_and_spreadsheets_save_them() {
        let expected = pairs([("general", "rating"), ("1girl", "general")]);
        let csv = "tag_id,name,category\r\n9,general,9\r\n1,1girl,0\r\n";
        for file in [csv.to_owned(), format!("\u{feff}{csv}"), csv.replace(',', ";"), csv.replace(',', "\t")] {
            assert_eq!(read_as(Format::Csv, &file, &LabelRules::default()), expected, "{file:?}");
        }
        let rules = LabelRules { rating_prefix: Some("general".into()), ..LabelRules::default() };
        let lines = "\u{feff}general\r\n1girl\r\n";
        assert_eq!(read_as(Format::Lines, lines, &rules), expected);
        assert_eq!(read_as(Format::Json, "\u{feff}[\"general\", \"1girl\"]", &rules), expected);
        let wide = lines.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let labels = read(&wide, Format::Lines, &rules).expect("UTF-16 with its mark");
        assert_eq!(labels[0].name, "general");
        let refused = read(&wide[2..], Format::Lines, &rules).expect_err("no mark").to_string();
        assert!(refused.contains("UTF-16") && refused.contains("save it as UTF-8"), "{refused}");
    }

    #[test]
    fn a_manifest_names_the_categories_of_its_family() {
        let categories = BTreeMap::from([("5".into(), "species".into()), ("7".into(), "meta".into())]);
        let rules = LabelRules { categories, ..LabelRules::default() };
        let labels = read_as(Format::Csv, "name,category\nwolf,5\nhi_res,7\n", &rules);
        assert_eq!(labels, pairs([("wolf", "species"), ("hi_res", "meta")]));
    }

    #[test]
    fn what_is_no_label_file_is_refused() {
        let refused =
            |format, file: &str| read(file.as_bytes(), format, &LabelRules::default()).expect_err(file).to_string();
        assert!(refused(Format::Csv, "").contains("no labels"));
        assert!(refused(Format::Csv, "a,b\n1,2\n").contains("name"));
        assert!(refused(Format::Csv, "name,category\nx,7\n").contains("`7`"));
        assert!(refused(Format::Json, "{").contains("JSON"));
        assert!(refused(Format::Json, r#"{"0":"a","2":"b"}"#).contains("index 1 is missing"));
        assert!(refused(Format::Json, r#"{"a":"b"}"#).contains("`a` is no index"));
        assert!(refused(Format::Json, r#"[{"x":1}]"#).contains("label 0"));
        assert!(refused(Format::Lines, "\n\n").contains("no labels"));
    }
}
