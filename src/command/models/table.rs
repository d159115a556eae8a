//! Reports on models as a table for a person to read.

use bytesize::ByteSize;

use super::report::Report;

/// A line per model under a head, in columns as wide as what stands in them; errors and warnings on lines of their own.
pub(super) fn of(reports: &[Report]) -> Vec<String> {
    let head = ["MODEL", "ALIASES", "INPUT", "LABELS", "THRESHOLDS", "SIZE", "SHA256", "STATE"].map(str::to_owned);
    let rows: Vec<[String; 8]> = reports.iter().map(row).collect();
    let widths: [usize; 8] = std::array::from_fn(|column| {
        std::iter::once(&head).chain(&rows).map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    let mut lines = vec![line(&head, widths)];
    for (row, report) in rows.iter().zip(reports) {
        lines.push(line(row, widths));
        for (what, note) in [("error", report.error.as_deref()), ("warning", report.warning)] {
            if let Some(note) = note {
                lines.push(format!("  {what}: {note}"));
            }
        }
    }
    if let Some(loaded) = reports.iter().find_map(|report| report.loaded.as_ref()) {
        lines.extend([String::new(), format!("ONNX Runtime {}", loaded.onnxruntime)]);
    }
    lines
}

fn line(row: &[String; 8], widths: [usize; 8]) -> String {
    let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

fn row(report: &Report) -> [String; 8] {
    let input = report.loaded.as_ref().map(|loaded| {
        let batch = loaded.batch.map(|batch| format!(" batch {batch}")).unwrap_or_default();
        format!("{} {}{batch} on {}", loaded.layout, loaded.side, loaded.device)
    });
    let categories = report.categories.iter().map(|(category, count)| format!("{count} {category}"));
    let labels = report.labels.map(|count| format!("{count}: {}", categories.collect::<Vec<_>>().join(", ")));
    let thresholds = report.thresholds.iter().map(|(category, threshold)| format!("{category} {threshold}"));
    let thresholds = thresholds.collect::<Vec<_>>().join(", ");
    let shown = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        report.name.clone(),
        shown(Some(report.aliases.join(", ")).filter(|aliases| !aliases.is_empty())),
        shown(input),
        shown(labels),
        shown(Some(thresholds).filter(|thresholds| !thresholds.is_empty())),
        shown(report.bytes.map(|bytes| ByteSize(bytes).to_string())),
        shown(report.sha256.as_ref().map(|hash| hash.chars().take(12).collect())),
        match (report.ok, &report.loaded) {
            (false, _) => "broken",
            // Not known to work: the graph was not looked at.
            (true, None) => "found",
            (true, Some(_)) => "ok",
        }
        .to_owned(),
    ]
}
