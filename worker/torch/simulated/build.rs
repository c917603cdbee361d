//! Compiles the accelerator against the libtorch that the tests use.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/accelerator.cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let libtorch = PathBuf::from(std::env::var_os("LIBTORCH").expect("LIBTORCH is set: see .cargo/config.toml"));
    let include = libtorch.join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .includes([include.join("torch/csrc/api/include"), include])
        .warnings(false)
        .file("src/accelerator.cpp")
        .compile("gristmill_simulated");
    println!("cargo:rustc-link-search=native={}", libtorch.join("lib").display());
    println!("cargo:rustc-link-lib=c10");
    println!("cargo:rustc-link-lib=torch_cpu");
}
