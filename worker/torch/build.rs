//! Compiles what tch lacks against the same libtorch, and lets this crate's tests find it at run time.
//! `rustc-link-arg` does not reach dependents; `gristmill-worker` has its own.

use std::path::PathBuf;

fn main() {
    let sources = ["src/accelerator.cpp", "src/code.cpp", "src/streams.cpp"];
    for path in ["build.rs", "src/caught.h"].iter().chain(&sources) {
        println!("cargo:rerun-if-changed={path}");
    }
    // Set for torch-sys in .cargo/config.toml.
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let libtorch = PathBuf::from(std::env::var_os("LIBTORCH").expect("LIBTORCH is set: see .cargo/config.toml"));
    let include = libtorch.join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .includes([include.join("torch/csrc/api/include"), include])
        .warnings(false)
        .files(sources)
        .compile("gristmill_shim");
    println!("cargo:rustc-link-lib=c10");
    println!("cargo:rustc-link-lib=torch_cpu");
    // target/<profile>/deps/<test> to the link the Makefile makes.
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../../../.libtorch/lib");
}
