use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("integration/ lies in the root")
}

/// A binary of this workspace, as built by the Makefile in the profile that `GRISTMILL_PROFILE` names: `release` unless it is set,
/// or `dist`, which ships.
///
/// # Panics
/// If it was not built.
pub fn binary(name: &str) -> PathBuf {
    let profile = std::env::var("GRISTMILL_PROFILE").unwrap_or_else(|_| "release".to_owned());
    let path = root().join("target").join(&profile).join(name);
    assert!(path.exists(), "{} is missing: `make build` and `make dist` build them", path.display());
    path
}

/// A models directory with links to the named test models (see `integration/models/build.py`).
///
/// # Panics
/// If they were not built.
pub fn models_with(names: &[&str]) -> TempDir {
    linked(names.iter().map(|name| root().join("target/models/packages").join(name)))
}

/// A directory with links to these.
pub(crate) fn linked(packages: impl Iterator<Item = PathBuf>) -> TempDir {
    let dir = TempDir::new().expect("a temporary directory can be made");
    for package in packages {
        assert!(package.exists(), "{} is missing: run the tests through `make test`", package.display());
        let name = package.file_name().expect("a package has a name");
        std::os::unix::fs::symlink(&package, dir.path().join(name)).expect("a link can be made in a fresh directory");
    }
    dir
}

/// PyTorch's own rows: `x` or `y` of the test model `mlp`.
///
/// # Panics
/// If they were not built.
pub fn samples(name: &str) -> Vec<f32> {
    let path = root().join("target/models/samples").join(format!("{name}.f32"));
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    crate::floats(&bytes)
}
