//! What pip installed of ONNX Runtime around a library: which packages, of which version.
//!
//! The packages for CPUs and for GPUs write one folder, and no installer notices. Both
//! list the library in their `RECORD`, which is how they are told here.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The oldest version that offers what the binary asks of the library.
const OLDEST: [u32; 3] = [1, 24, 1];

/// The packages of a Python environment that brought its ONNX Runtime.
pub(crate) struct RuntimePackages {
    folder: PathBuf,
    /// Name and version, by name.
    found: Vec<(String, String)>,
}

impl RuntimePackages {
    /// Those around `library`, if it lies where such a package puts it.
    pub(crate) fn around(library: &Path) -> Option<RuntimePackages> {
        let capi = library.parent().filter(|capi| capi.ends_with("onnxruntime/capi"))?;
        let folder = capi.parent()?.parent()?.to_owned();
        let mut found: Vec<(String, String)> = std::fs::read_dir(&folder)
            .ok()?
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let (package, version) = name.strip_suffix(".dist-info")?.split_once('-')?;
                let record = std::fs::read_to_string(entry.path().join("RECORD")).ok()?;
                let brought = record.lines().any(|line| line.starts_with("onnxruntime/capi/libonnxruntime."));
                brought.then(|| (package.replace('_', "-"), version.to_owned()))
            })
            .collect();
        found.sort();
        Some(RuntimePackages { folder, found })
    }

    /// Whether a package for GPUs is among them.
    pub(crate) fn for_gpu(&self) -> bool {
        self.found.iter().any(|(name, _)| name == "onnxruntime-gpu")
    }

    /// Their names and versions; nothing where no package says that the library is its own.
    ///
    /// # Errors
    /// Two packages in one folder, or one that is too old; says what to run.
    pub(crate) fn check(&self) -> Result<String> {
        let told = |(name, version): &(String, String)| format!("{name} {version}");
        let all = self.found.iter().map(told).collect::<Vec<_>>().join(" and ");
        if let [(_, _), .., (last, _)] = &self.found[..] {
            let names = self.found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ");
            let keep = if self.for_gpu() { "onnxruntime-gpu[cuda,cudnn]" } else { last };
            bail!(
                "{all} are both installed in {} and overwrite each other's files; keep one: `pip uninstall -y {names} && pip install 'onnxruntime>=1.24.1'`, or '{keep}'",
                self.folder.display(),
            );
        }
        for (name, version) in &self.found {
            if numbers(version) < OLDEST {
                bail!("{name} {version} is too old, nobat needs 1.24.1 or later; run `pip install -U {name}`");
            }
        }
        Ok(all)
    }
}

/// The first three numbers of a version.
fn numbers(version: &str) -> [u32; 3] {
    let mut all = version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok());
    std::array::from_fn(|_| all.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder as pip leaves it, with these packages; the library in it is no library.
    fn around(packages: &[(&str, &str)]) -> (tempfile::TempDir, RuntimePackages) {
        let folder = tempfile::tempdir().expect("a folder");
        let capi = folder.path().join("onnxruntime/capi");
        std::fs::create_dir_all(&capi).expect("made");
        for (name, version) in packages {
            let told = folder.path().join(format!("{}-{version}.dist-info", name.replace('-', "_")));
            std::fs::create_dir(&told).expect("made");
            let file = match *name {
                "onnxruntime-extensions" => "onnxruntime_extensions/_ortcustomops.so".to_owned(),
                _ => format!("onnxruntime/capi/libonnxruntime.so.{version}"),
            };
            std::fs::write(told.join("RECORD"), format!("{file},sha256=x,1\nonnxruntime/LICENSE,,\n"))
                .expect("written");
        }
        let found = RuntimePackages::around(&capi.join("libonnxruntime.so.1.31.0")).expect("a package's folder");
        (folder, found)
    }

    #[test]
    fn one_package_that_is_new_enough_is_well() {
        let (_folder, found) = around(&[("onnxruntime", "1.31.0"), ("onnxruntime-extensions", "0.14.0")]);
        assert_eq!(found.check().expect("well"), "onnxruntime 1.31.0");
        assert!(!found.for_gpu());
        let (_folder, found) = around(&[("onnxruntime-gpu", "1.24.1")]);
        assert!(found.for_gpu() && found.check().is_ok());
        let (_folder, found) = around(&[("onnxruntime", "2.0")]);
        assert!(found.check().is_ok());
    }

    #[test]
    fn two_packages_in_one_folder_are_both_named() {
        let (folder, found) = around(&[("onnxruntime-gpu", "1.31.1"), ("onnxruntime", "1.32.0")]);
        let said = found.check().expect_err("both").to_string();
        assert!(said.starts_with("onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1 are both installed"), "{said}");
        assert!(said.contains(&folder.path().display().to_string()), "{said}");
        assert!(said.contains("pip uninstall -y onnxruntime onnxruntime-gpu && pip install"), "{said}");
        assert!(said.contains("'onnxruntime-gpu[cuda,cudnn]'"), "{said}");
    }

    #[test]
    fn one_that_is_too_old_is_told_with_what_to_run() {
        for (name, version) in [("onnxruntime", "1.23.2"), ("onnxruntime-gpu", "1.24.0"), ("onnxruntime", "1.9")] {
            let (_folder, found) = around(&[(name, version)]);
            let said = found.check().expect_err("old").to_string();
            assert!(said.starts_with(&format!("{name} {version} is too old")), "{said}");
            assert!(said.ends_with(&format!("`pip install -U {name}`")), "{said}");
        }
    }

    #[test]
    fn a_library_elsewhere_is_no_package_s() {
        assert!(RuntimePackages::around(Path::new("/opt/nobat/libonnxruntime.so")).is_none());
    }
}
