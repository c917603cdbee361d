//! Lets this crate's tests find libtorch at run time. `rustc-link-arg` does not reach dependents; `gristmill-worker`
//! has its own.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // target/<profile>/deps/<test> to the link the Makefile makes.
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../../../.libtorch/lib");
}
