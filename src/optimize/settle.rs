//! Sizes and factors that a graph computes from shapes become constants: an exporter writes a dozen nodes for each.

use super::file::Node;
use super::graph::Graph;
use super::probe::Facts;

/// Replaces values that do not depend on pixels.
pub(super) fn settle(graph: &mut Graph, facts: &Facts) {
    let mut nodes = std::mem::take(&mut graph.nodes);
    for node in &mut nodes {
        for place in 0..node.inputs.len() {
            let Some([one, other]) = facts.values.get(&node.inputs[place]) else { continue };
            if one == other {
                node.inputs[place] = graph.add("settled", one.clone());
            } else if let Some(target) = reshaped(node, place, facts) {
                node.inputs[place] = graph.add_integers("shape", &target);
                // A zero keeps a size.
                node.attributes.retain(|attribute| attribute.name != "allowzero");
            }
        }
    }
    graph.nodes = nodes;
    graph.tidy();
}

/// The target of a `Reshape` with the size that depends on the batch left open.
fn reshaped(node: &Node, place: usize, facts: &Facts) -> Option<Vec<i64>> {
    if !node.is("Reshape") || place != 1 {
        return None;
    }
    let (target, input) = (facts.shape(node.output())?, facts.shape(node.input(0))?);
    let open = target.iter().filter(|size| **size < 0).count();
    let kept = target.first() == Some(&-1) && input.first() == Some(&-1);
    match open {
        1 if kept && same_batch(node, facts) => Some(std::iter::once(0).chain(target[1..].iter().copied()).collect()),
        1 => Some(target),
        _ => None,
    }
}

/// Returns `true` where the first size stays what it is.
fn same_batch(node: &Node, facts: &Facts) -> bool {
    facts.first_sizes(node.input(0)).is_some_and(|sizes| facts.first_sizes(node.output()) == Some(sizes))
}
