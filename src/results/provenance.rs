//! Where and with what a trial ran.

use std::process::Command;
use std::time::SystemTime;

use super::record::Provenance;

/// Crates whose versions can change a number or its timing.
const CRATES: [&str; 5] = ["candle-core", "candle-nn", "rayon", "polars", "pulp"];

impl Provenance {
    /// Describes this program on this machine, now. `device` is `cpu` or the GPU's name, `kernels`
    /// the instruction set chosen, `data_checksum` the SHA-256 of the images and labels used.
    pub fn collect(device: &str, kernels: &str, threads: u32, data_checksum: &str) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: env!("DEEPZERO_COMMIT").into(),
            crates: crate_versions(include_str!("../../Cargo.lock")),
            cpu: cpu_name(),
            device: device.into(),
            kernels: kernels.into(),
            threads,
            data_checksum: data_checksum.into(),
            finished_at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        }
    }
}

/// The versions in a lock file, such as `candle-core 0.11.1, rayon 1.12.0`; a crate that is there in
/// two versions is listed twice.
fn crate_versions(lock: &str) -> String {
    let field = |line: &str, name: &str| {
        let value = line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"')?;
        Some(value.to_owned())
    };
    let mut found = Vec::new();
    let mut lines = lock.lines().peekable();
    while let Some(line) = lines.next() {
        let name = field(line, "name");
        let version = lines.peek().and_then(|line| field(line, "version"));
        if let (Some(name), Some(version)) = (name, version)
            && let Some(rank) = CRATES.iter().position(|known| *known == name)
        {
            found.push((rank, format!("{name} {version}")));
        }
    }
    found.sort();
    found.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(", ")
}

/// The processor as the system names it, or else its architecture.
pub(crate) fn cpu_name() -> String {
    let linux = || {
        let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
        let keys = ["model name", "Model", "Hardware", "cpu model"];
        keys.iter().find_map(|key| {
            let line = text.lines().find(|line| line.split(':').next().is_some_and(|k| k.trim() == *key))?;
            line.split_once(':').map(|(_, name)| name.trim().to_owned())
        })
    };
    let mac = || {
        let output = Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"]).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let name = if cfg!(target_os = "macos") { mac() } else { linux() };
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: a lock file written for the test.
    #[test]
    fn versions_come_from_the_lock_file() {
        let lock = "[[package]]\nname = \"rayon\"\nversion = \"1.2.3\"\n\n[[package]]\nname = \"other\"\n\
                    version = \"9.9.9\"\n\n[[package]]\nname = \"candle-core\"\nversion = \"0.1.0\"\n\
                    dependencies = [\n \"rayon\",\n]\n";
        assert_eq!(crate_versions(lock), "candle-core 0.1.0, rayon 1.2.3");
    }

    /// Oracle: the crates this package depends on.
    #[test]
    fn all_crates_are_found() {
        let found = crate_versions(include_str!("../../Cargo.lock"));
        for name in CRATES {
            assert!(found.contains(&format!("{name} ")), "{name} is missing from {found}");
        }
    }

    #[test]
    fn provenance_is_complete() {
        let provenance = Provenance::collect("cpu", "avx2", 2, "abc");
        assert!(!provenance.cpu.is_empty());
        assert!(!provenance.commit.is_empty());
        assert!(humantime::parse_rfc3339(&provenance.finished_at).is_ok());
    }
}
