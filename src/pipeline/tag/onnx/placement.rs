//! Check of the device that a session ran on: ONNX Runtime's profile of its first runs names the provider of every node.
//!
//! Registering a provider without an error proves nothing: the runtime gives nodes that a provider does not take to the
//! CPU, without a message. Forbidding that (`session.disable_cpu_ep_fallback`) would refuse healthy models too, whose shape
//! arithmetic belongs on the CPU. So the nodes are counted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::pipeline::tag::device::Device;

/// Maximum nodes of other providers for each of TensorRT's, which replaces at least as many: a block of a tagger has more.
const PART: usize = 16;

/// Nodes by the provider that ran them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Placement(BTreeMap<String, BTreeSet<String>>);

/// Event of a profile. Only runs of nodes have a provider.
#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    name: String,
    #[serde(default)]
    args: Args,
}

#[derive(Default, Deserialize)]
struct Args {
    #[serde(default)]
    provider: String,
}

impl Placement {
    /// Reads a profile.
    ///
    /// # Errors
    /// If it is not a profile.
    pub(super) fn parse(profile: &[u8]) -> serde_json::Result<Self> {
        let events: Vec<Event> = serde_json::from_slice(profile)?;
        let mut nodes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for Event { name, args: Args { provider } } in events {
            if !provider.is_empty() {
                nodes.entry(provider).or_default().insert(name);
            }
        }
        Ok(Self(nodes))
    }

    fn on(&self, provider: &str) -> usize {
        self.0.get(provider).map_or(0, BTreeSet::len)
    }

    /// Number of nodes by provider, for the log: `CUDAExecutionProvider 412, CPUExecutionProvider 3`.
    pub(super) fn shown(&self) -> String {
        let nodes: Vec<String> = self.0.iter().map(|(provider, nodes)| format!("{provider} {}", nodes.len())).collect();
        nodes.join(", ")
    }

    /// Checks that the nodes ran on the device: CUDA has at least as many nodes as the CPU. TensorRT makes one of many, so
    /// that its nodes are few: it has at least one for every sixteen of the others.
    ///
    /// # Errors
    /// If they did not, with the number of nodes by provider.
    pub(super) fn is_on(&self, device: Device) -> Result<(), String> {
        let (cuda, tensorrt) = (self.on("CUDAExecutionProvider"), self.on("TensorrtExecutionProvider"));
        let fine = match device {
            Device::Auto | Device::Cpu => cuda + tensorrt == 0,
            Device::Cuda(_) => cuda > 0 && cuda >= self.on("CPUExecutionProvider"),
            Device::TensorRt(_) => tensorrt > 0 && cuda + self.on("CPUExecutionProvider") <= PART * tensorrt,
        };
        if fine {
            return Ok(());
        }
        Err(format!(
            "ONNX Runtime ran the model elsewhere, for the device does not know its operators (nodes by provider: {}); use \
             another device, or another export of the model",
            self.shown()
        ))
    }
}

/// Path for a session's profile: a unique name in the folder for temporary files, to which the runtime adds the time.
pub(super) fn file() -> PathBuf {
    std::env::temp_dir().join(format!("tagmill-{}-{:08x}", std::process::id(), rand::random::<u32>()))
}

/// Checks a session that should run on this device. Returns its nodes by provider, for the log.
///
/// # Errors
/// If it ran elsewhere, or its profile can't be read.
pub(super) fn check(file: &Path, device: Device) -> Result<String, String> {
    let placement = read(file).map_err(|error| {
        format!(
            "which nodes run on it can't be seen, for no profile of them could be read ({error}): set TMPDIR to a folder that \
             can be written to"
        )
    })?;
    placement.is_on(device)?;
    Ok(placement.shown())
}

/// Reads the profile of a session and removes it.
///
/// # Errors
/// If it can't be read.
pub(super) fn read(file: &Path) -> Result<Placement, String> {
    let profile = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let _ = std::fs::remove_file(file);
    Placement::parse(&profile).map_err(|error| format!("{}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_believed_where_there_is_no_profile() {
        let error = check(Path::new("/nowhere/profile.json"), Device::Cuda(0)).expect_err("there is none");
        assert!(error.contains("/nowhere/profile.json: ") && error.contains("set TMPDIR"), "{error}");
    }

    fn placement(nodes: &[(&str, &str)]) -> Placement {
        let events: Vec<String> = nodes
            .iter()
            .map(|(name, provider)| {
                format!(r#"{{"cat":"Node","name":"{name}_kernel_time","dur":1,"args":{{"op_name":"x","provider":"{provider}"}}}}"#)
            })
            .collect();
        let profile = format!(r#"[{{"cat":"Session","name":"model_loading","args":{{}}}},{}]"#, events.join(","));
        Placement::parse(profile.as_bytes()).expect("a profile")
    }

    #[test]
    fn a_node_counts_once_however_often_it_ran() {
        let placement = placement(&[("a", "CUDAExecutionProvider"), ("a", "CUDAExecutionProvider")]);
        assert_eq!(placement.shown(), "CUDAExecutionProvider 1");
    }

    #[test]
    fn a_session_that_fell_back_is_found_out() {
        let (cpu, cuda, tensorrt) = ("CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider");
        let whole = placement(&[("a", cuda), ("b", cuda), ("shape", cpu)]);
        assert_eq!(whole.is_on(Device::Cuda(0)), Ok(()));
        let error = placement(&[("a", cpu), ("b", cpu), ("cast", cuda)]).is_on(Device::Cuda(0)).expect_err("the CPU");
        assert!(error.contains("CPUExecutionProvider 2"), "{error}");
        assert!(whole.is_on(Device::TensorRt(0)).is_err() && whole.is_on(Device::Cpu).is_err());
        assert_eq!(placement(&[("a", tensorrt), ("b", cpu), ("c", cpu)]).is_on(Device::TensorRt(0)), Ok(()));
        let names: Vec<String> = (0..=PART).map(|number| number.to_string()).collect();
        let left: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), cuda)).collect();
        let mut crumb = vec![("cast", tensorrt)];
        crumb.extend(left);
        let error = placement(&crumb).is_on(Device::TensorRt(0)).expect_err("it took one node of many");
        assert!(error.contains("TensorrtExecutionProvider 1"), "{error}");
        assert_eq!(placement(&[("a", cpu)]).is_on(Device::Cpu), Ok(()));
    }
}
