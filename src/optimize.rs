//! Rewrites a model's graph once, so that a run takes fewer and better kernels: attention, normalizations and activations
//! each as one operator of ONNX Runtime's, preprocessing in the first weights, half precision.
//!
//! ONNX Runtime fuses some of this itself when it loads a model, but never the attention of a graph that `PyTorch` exported.
//! [`probe`] runs the graph for the facts that the others need, [`settle`] makes constants of what shapes decide; what is not
//! understood stays as it is. Whether the new model is as good as the old one is for its user's pictures to show.

mod activation;
mod attention;
mod beginning;
mod file;
mod graph;
mod int8;
mod linear;

mod norm;
mod precision;
mod probe;
mod rotation;
mod settle;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Serialize;

use crate::model::{ModelFiles, Unusable};
use crate::pipeline::tag::onnx::CannotLoad;
use graph::Graph;
pub(crate) use graph::Tally;

/// Numbers that a new model computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Precision {
    /// Single precision, as the old one.
    Fp32,
    /// Half precision, for GPUs.
    Fp16,
    /// Products in eight bits, for CPUs.
    Int8,
}

impl Precision {
    /// Its name, as on the command line.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
        }
    }
}

/// Why a model can't be rewritten.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CannotOptimize {
    /// Its file.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Content of its file.
    #[error("cannot optimize {}: {reason}", path.display())]
    Graph {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// The new file.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// ONNX Runtime could not run it.
    #[error("cannot run the graph: {0}")]
    Runtime(ort::Error),
    /// ONNX Runtime, or the model as it is.
    #[error(transparent)]
    Load(#[from] CannotLoad),
}

impl From<Unusable> for CannotOptimize {
    fn from(error: Unusable) -> Self {
        Self::Load(error.into())
    }
}

/// Result of a rewrite.
#[derive(Debug)]
pub(crate) struct Rewritten {
    /// Nodes before and after.
    pub(crate) nodes: [usize; 2],
    /// Nodes after, by operator.
    pub(crate) operators: BTreeMap<String, usize>,
    /// Fusions, by what is fused.
    pub(crate) fused: Vec<(&'static str, Tally)>,
    /// Operators before the first convolution that are gone, or the reason why they are there.
    pub(crate) preprocessing: Result<Vec<String>, &'static str>,
    /// Casts in the graph.
    pub(crate) casts: usize,
}

/// Reads a model's graph and writes what becomes of it to `target`.
///
/// # Errors
/// If it can't be read, run or written.
pub(crate) fn rewrite(files: &ModelFiles, precision: Precision, target: &Path) -> Result<Rewritten, CannotOptimize> {
    let path = &files.onnx;
    let bytes = std::fs::read(path).map_err(|source| CannotOptimize::Read { path: path.clone(), source })?;
    let about = |reason| CannotOptimize::Graph { path: path.clone(), reason };
    let (model, graph) = file::read(bytes.into()).map_err(about)?;
    let before = graph.nodes.len();
    let mut graph = Graph::new(model, graph);
    let facts = probe::run(&graph, files, target.parent().unwrap_or(Path::new(".")))?;
    settle::settle(&mut graph, &facts);
    let preprocessing = beginning::fuse(&mut graph, &facts);
    let mut fused = vec![
        ("attention", attention::fuse(&mut graph, &facts)),
        ("activation, with its bias", activation::fuse(&mut graph)),
        ("normalization in pieces", norm::fuse(&mut graph, &facts)),
        ("normalization with the sum before it", norm::with_sum(&mut graph, &facts)),
    ];
    match precision {
        Precision::Fp32 => {}
        Precision::Fp16 => precision::convert(&mut graph).map_err(about)?,
        Precision::Int8 => fused.push(("product in eight bits", int8::convert(&mut graph))),
    }
    let (model, file) = graph.file();
    probe::write(target, &model, &file)?;
    let mut operators = BTreeMap::new();
    for node in &file.nodes {
        *operators.entry(node.operator.clone()).or_default() += 1;
    }
    let casts = operators.get("Cast").copied().unwrap_or(0);
    Ok(Rewritten { nodes: [before, file.nodes.len()], operators, fused, preprocessing, casts })
}
