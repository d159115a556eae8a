//! Each promise of `docs/security.md` has a test, by name.

use crate::support::repository;

#[test]
fn every_promise_of_the_threat_model_names_a_test_that_there_is() {
    let page = std::fs::read_to_string(repository("docs/security.md")).expect("it is committed");
    let model = page.split("## Threat model").nth(1).expect("the section");
    let model = model.split("\n## ").next().expect("its text");
    let rows: Vec<&str> = model.lines().filter(|line| line.starts_with("| ") && !line.contains("---")).collect();
    let mut promises = 0;
    for row in rows.iter().filter(|row| !row.starts_with("| can, can't")) {
        let named: Vec<&str> = row.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect();
        assert!(!named.is_empty(), "no test: {row}");
        for name in named {
            let (file, test) = name.rsplit_once("::").expect("a path");
            let path = file.replace("::", "/");
            let source = ["tests/it", "src"]
                .iter()
                .find_map(|root| std::fs::read_to_string(repository(root).join(format!("{path}.rs"))).ok());
            let source = source.unwrap_or_else(|| panic!("no file of {name}"));
            assert!(source.contains(&format!("fn {test}(")), "no test {name}");
        }
        promises += 1;
    }
    assert!(promises > 20, "{promises}");
}
